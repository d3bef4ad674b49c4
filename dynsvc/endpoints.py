"""Where servers are: the parts of the configuration that name a peer."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

__all__ = ["Endpoint", "Host", "ImageServer", "Port", "RedisServer", "Section"]

Port = Annotated[int, Field(ge=1, le=65535)]


def _without_scheme(value: object) -> object:
    """Take ``http://host`` where a host name is wanted: sites wrote both into the original's file."""
    if isinstance(value, str) and "://" in value:
        return urlsplit(value).hostname or value
    return value.strip() if isinstance(value, str) else value


Host = Annotated[str, BeforeValidator(_without_scheme), Field(min_length=1)]


class Section(BaseModel):
    """A part of the configuration."""

    # Unknown keys are kept out, not refused: config.json files in the field carry comments and leftovers.
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class RedisServer(Section):
    """A Redis server, as ``orders.redis`` and ``annotations.redis`` name it."""

    host: Host = "127.0.0.1"
    port: Port = 6379
    db: int = Field(0, ge=0)
    username: str | None = None
    password: SecretStr | None = None
    tls: bool = False
    #: Read from the original's file and not needed: the channel follows from the key head.
    channel: str = "q:events"

    def url(self, *, db: int | None = None) -> str:
        """Return the URL, password included: never print it."""
        secret = self.password.get_secret_value() if self.password else ""
        login = f"{quote(self.username or '', safe='')}:{quote(secret, safe='')}@" if secret else ""
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}://{login}{self.host}:{self.port}/{self.db if db is None else db}"

    def __str__(self) -> str:
        return f"{'rediss' if self.tls else 'redis'}://{self.host}:{self.port}/{self.db}"


class Endpoint(Section):
    """An HTTP endpoint given as host, port and path."""

    scheme: Literal["http", "https"] = "http"
    host: Host
    port: Port
    path: str = "/"

    @property
    def url(self) -> str:
        """The endpoint's URL, without any secret."""
        return f"{self.scheme}://{self.host}:{self.port}/{self.path.lstrip('/')}"

    def __str__(self) -> str:
        return self.url


class ImageServer(Section):
    """An IIIF image server; the scheme may be missing, as in the original's file."""

    url: str = Field(min_length=1)
    format: str = "JPEG"

    @property
    def base(self) -> str:
        """The URL with a scheme and without a slash at its end."""
        url = self.url.strip().rstrip("/")
        return url if "://" in url else f"http://{url}"
