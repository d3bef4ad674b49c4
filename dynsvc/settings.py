"""One frozen :class:`Settings`, from the original's config.json and ``DYNSVC_*`` variables.

``DYNSVC_CONFIG`` names the JSON file. Every key in it can be overridden by a variable: the key's path in
upper case, joined by two underscores, for example ``DYNSVC_ORDERS__REDIS__HOST``. Secrets are masked wherever
settings are printed.
"""

from __future__ import annotations

import difflib
import json
import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)

from dynsvc.endpoints import Endpoint, Host, ImageServer, Port, RedisServer, Section
from dynsvc.errors import SettingsInvalid

__all__ = [
    "PREFIX",
    "Endpoint",
    "ImageServer",
    "RedisServer",
    "Settings",
]

PREFIX = "DYNSVC_"

#: Environment names with our prefix that are not settings of the service itself.
_NOT_SETTINGS = frozenset({"DYNSVC_CONFIG"})


def _words(value: object) -> object:
    return (
        tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value
    )


Words = Annotated[tuple[str, ...], BeforeValidator(_words)]


class Orders(Section):
    """Where orders come from: Kue's Redis, and Kue's HTTP API."""

    redis: RedisServer = RedisServer()
    kue: Endpoint | None = None


class Images(Section):
    """Where slides are found and read."""

    location: Endpoint | None = None
    image_server: ImageServer | None = Field(
        None, validation_alias=AliasChoices("imageServer", "imageserver", "image_server")
    )
    api_key_file: Path | None = None
    api_key: SecretStr | None = None


class Annotations(Section):
    """Where results go: the loader's upload, and the loader's own Kue."""

    server: Endpoint | None = None
    redis: RedisServer | None = None
    #: The loader's Kue over HTTP, polled when its Redis is not reachable. Not in the original's file.
    kue: Endpoint | None = None
    #: The loader reports a job whose program printed anything on stderr as failed (error ``E2…``), although
    #: the data may be loaded. ``warn`` completes such an order with the text in its log.
    on_stderr: Literal["fail", "warn"] = "fail"


def _default_algorithms() -> Path:
    return Path(__file__).resolve().parent.parent / "algorithms"


def _default_scratch() -> Path:
    return Path(tempfile.gettempdir()) / f"dynsvc-{os.getuid()}"


class Settings(BaseModel):
    """Everything that can be configured, validated once at start."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    orders: Orders = Orders()
    images: Images = Images()
    annotations: Annotations = Annotations()

    #: The Celery broker. Default: the orders' Redis, database 1.
    broker_url: SecretStr | None = None
    #: Artifact store: an fsspec URI. A folder of this host by default; several hosts need a shared one.
    artifacts: str = ""
    #: Working space of this host for running steps.
    scratch: Path = Field(default_factory=_default_scratch)
    #: What the container engine's host calls ``scratch``, where a worker in a container cannot find it out.
    host_scratch: Path | None = None
    #: Folder of the ledger of what this host's runs use: one for all workers of a host.
    host_ledger: Path | None = None
    #: What algorithms of this host may use together. Default: its processors, and the memory that is free
    #: while no algorithm runs, less a reserve.
    host_cpus: float | None = Field(None, gt=0)
    host_memory_mib: int | None = Field(None, ge=16)
    #: UUIDs of the GPUs of this host that algorithms may use, each with ``=`` and its memory in MiB if it is
    #: to be shared; ``none`` for no GPU. Default: those that the driver lists.
    gpus: Words | None = None
    #: Whether a result is kept and delivered again for the same image, parameters and pixels.
    cache: bool = False
    #: Name of this host; it must outlive a restart, which a container's host name does not.
    host: str = Field(default_factory=socket.gethostname, min_length=1)
    #: Folder of algorithm descriptors.
    algorithms: Path = Field(default_factory=_default_algorithms)
    default_algorithm: str = "pathomics"
    #: ``q:`` for Kue on the redis client, ``{q}:`` for Kue on ioredis.
    kue_head: str = "q:"
    job_types: Words = ("analysisJob", "order")
    #: Where the order's document is read: Kue's Redis, or Kue's HTTP API as the original did.
    order_source: Literal["redis", "http"] = "redis"
    #: What executes algorithms: an entry point of ``dynsvc.runtimes``; by default docker, where an engine is.
    runtime: str | None = None
    #: Images of the runtime apptainer. Default: ``sif`` in the scratch folder.
    sif_folder: Path | None = None
    #: Whose runs may meet in one kept container: those of all orders here, of one patient, or none at all.
    share_containers: Literal["site", "subject", "none"] = "site"
    #: Root of mounted slides; files outside it are never opened.
    slides: Path | None = None
    #: Where results go: ``loader`` where annotations.server is configured, else ``directory``.
    sink: Literal["loader", "directory"] | None = None
    #: Folder of the directory sink.
    results: Path | None = None

    #: Orders handed to Celery at the same time, over all bridges.
    window: int = Field(64, ge=1, le=100_000)
    #: How often the bridge looks at Kue's indices without being woken.
    poll_s: float = Field(1.0, gt=0, le=3600)
    #: A running step renews its lease several times within this; after it the worker counts as lost.
    lease_s: float = Field(8.0, ge=1, le=3600)
    #: A message that no worker has begun for this long is sent again (then after twice as long, and so on).
    resend_s: float = Field(10.0, ge=0.1)
    #: A broker sends a message again that is not acknowledged for this long. Leases notice it sooner; this
    #: must be longer than any step, and the same for all processes on one broker.
    visibility_timeout_s: int = Field(24 * 3600, ge=1)
    #: Attempts given back to Kue without counting, when the infrastructure and not the order was at fault.
    infrastructure_retries: int = Field(3, ge=0)
    #: How long the loader may take for its job after the upload.
    loader_timeout_s: float = Field(3600.0, gt=0)
    #: How long a whole order may take, from its claim to its delivery. The algorithm has a limit of its own.
    order_limit_s: float = Field(24 * 3600.0, gt=0)
    #: How long a worker that is told to stop lets running steps go on before it hands them back.
    stop_limit_s: float = Field(60.0, ge=0)
    #: Limit for the retries of one step against peers that are away.
    retry_limit_s: float = Field(120.0, ge=0)
    #: Largest region taken as one piece, in pixels of the slide's level 0.
    max_region_px: int = Field(150_000_000, ge=1)
    #: A larger region is done in tiles by an algorithm that says how; whole slides and polygons always are.
    one_piece_px: int = Field(4096 * 4096, ge=1)
    #: A batch of tiles is made so large that it takes about this long.
    batch_s: float = Field(5.0, gt=0)
    #: Batches of one slide that wait for a worker at the same time. Each batch that begins sends another.
    batches_waiting: int = Field(4, ge=1, le=1000)
    #: Largest result, unpacked.
    max_result_bytes: int = Field(4 * 1024**3, ge=1)
    #: Artifacts and leftovers older than this are removed.
    keep_s: float = Field(7 * 24 * 3600.0, gt=0)
    #: Where a bridge or a worker answers /metrics, /healthz and /readyz; without a port nowhere. One process,
    #: one port.
    metrics_host: Host = "127.0.0.1"
    metrics_port: Port | None = None
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("kue_head")
    @classmethod
    def _head_ends_with_colon(cls, value: str) -> str:
        if not value.endswith(":") or len(value) < 2:
            raise ValueError("expected a key head that ends with a colon, q: or {q}:")
        return value

    @field_validator("job_types")
    @classmethod
    def _at_least_one_type(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("expected at least one Kue job type, for example analysisJob,order")
        return value

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read config.json and the environment.

        Parameters
        ----------
        environ
            The variables to read; the process's own by default.

        Raises
        ------
        SettingsInvalid
            The file cannot be read, a value is out of range, or a variable with our prefix has no meaning.
        """
        environ = os.environ if environ is None else environ
        document: dict[str, Any] = {}
        folder = Path.cwd()
        if path := environ.get("DYNSVC_CONFIG"):
            document = _read_config(Path(path))
            folder = Path(path).resolve().parent
        for name, value in environ.items():
            # Empty is not set: compose files pass on variables that nobody has given a value.
            if name.startswith(PREFIX) and name not in _NOT_SETTINGS and value:
                _put(document, name, value)
        key_file = (
            document.get("images", {}).get("api_key_file")
            if isinstance(document.get("images"), dict)
            else None
        )
        if key_file:
            document["images"]["api_key_file"] = folder / str(key_file)
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            found = "missing" if first["type"] == "missing" else repr(first["input"])
            if any(word in name.lower() for word in ("password", "api_key", "broker_url")):
                found = "not usable"
            raise SettingsInvalid(f"setting {name}", found, first["msg"]) from None

    @property
    def broker(self) -> str:
        """The broker's URL, password included: never print it."""
        return self.broker_url.get_secret_value() if self.broker_url else self.orders.redis.url(db=1)

    @property
    def artifacts_uri(self) -> str:
        """Where artifacts are stored."""
        return self.artifacts or str(self.scratch / "artifacts")

    @property
    def host_folder(self) -> Path:
        """Where the workers of this host keep account of what its runs use."""
        return self.host_ledger or self.scratch / "host"

    @property
    def sink_kind(self) -> Literal["loader", "directory"]:
        """Which sink takes results."""
        return self.sink or ("loader" if self.annotations.server else "directory")

    @property
    def results_folder(self) -> Path:
        """Folder of the directory sink."""
        return self.results or self.scratch / "results"

    def api_key(self) -> SecretStr | None:
        """Return the Bindaas key from the setting or the key file, or None where the site uses none.

        Raises
        ------
        SettingsInvalid
            The key file is named but cannot be used.
        """
        if self.images.api_key:
            return self.images.api_key
        path = self.images.api_key_file
        if path is None:
            return None
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingsInvalid(
                "images.api_key_file", f"{path} ({type(error).__name__})", "a readable JSON file"
            ) from error
        key = document.get("api_key") if isinstance(document, dict) else None
        if not isinstance(key, str) or not key.strip():
            raise SettingsInvalid(
                "images.api_key_file", f"{path} without an api_key text", '{"api_key": "…"}'
            )
        return SecretStr(key.strip())


def _read_config(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsInvalid(
            "DYNSVC_CONFIG", f"{path} ({error.strerror})", "a readable JSON file"
        ) from error
    except ValueError as error:
        raise SettingsInvalid("DYNSVC_CONFIG", f"{path} ({error})", "valid JSON") from error
    if not isinstance(document, dict):
        raise SettingsInvalid("DYNSVC_CONFIG", f"{path} with a {type(document).__name__}", "a JSON object")
    # The original's file has a few top-level names that are settings of ours with another type.
    return {name: value for name, value in document.items() if name in Settings.model_fields}


def _children(model: type[BaseModel]) -> dict[str, tuple[str, type[BaseModel] | None]]:
    """Map the environment's lower-case word to (document key, sub-model) for each field of *model*."""
    known: dict[str, tuple[str, type[BaseModel] | None]] = {}
    for name, field in model.model_fields.items():
        key = "imageServer" if name == "image_server" else name
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        known[key.lower()] = (key, section)
    return known


def _put(document: dict[str, Any], name: str, value: str) -> None:
    """Write the variable *name* into *document*, which has the shape of config.json."""
    words = name.removeprefix(PREFIX).lower().split("__")
    model: type[BaseModel] | None = Settings
    for position, word in enumerate(words):
        known = _children(model) if model else {}
        last = position == len(words) - 1
        if word not in known or last != (known[word][1] is None):
            close = difflib.get_close_matches(word, known, n=1)
            path = "__".join([*words[:position], close[0]]).upper() if close else ""
            raise SettingsInvalid(
                name,
                "no setting of dynsvc",
                f"a known name; did you mean {PREFIX}{path}?" if close else "a known name",
            )
        key, model = known[word]
        if last:
            document[key] = value
        else:
            if not isinstance(document.get(key), dict):
                document[key] = {}
            document = document[key]
