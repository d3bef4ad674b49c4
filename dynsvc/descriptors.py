"""Descriptors: what an algorithm declares about itself. The models; files are read by others."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator
from pydantic_core import PydanticCustomError

from dynsvc.commands import Placeholders, expand, parameters_in, placeholders_of
from dynsvc.errors import InvalidOrder, OutputMissing
from dynsvc.parameters import Parameter
from dynsvc.regions import Region
from dynsvc.runtime import Keep, Limits

__all__ = [
    "Algorithm",
    "Device",
    "InputPicture",
    "Outputs",
    "ResourceLimits",
    "RunMode",
    "Tiling",
    "json_schema",
]

#: A name below a folder, in which no part is ``.`` or ``..``.
_PART_OF_NAME = r"([^/\\.]|\.[^/\\.])[^/\\]*"
_NAME = rf"^{_PART_OF_NAME}(/{_PART_OF_NAME})*$"
#: A file in the output folder, or a pattern of several.
FilePattern = Annotated[str, Field(pattern=_NAME, max_length=200)]
FileName = Annotated[str, Field(pattern=_NAME, max_length=200)]
Mode = Literal["oneshot", "shim", "warm"]

_SURVEYED = re.compile(r"\{survey\.([A-Za-z][A-Za-z0-9_]*)\}")
_SUFFIXES = {"png": ".png", "jpeg": ".jpg", "tiff": ".tif"}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)


class ResourceLimits(_Part):
    """What one run may use."""

    timeout_s: float = Field(3600, gt=0)
    memory_mib: int = Field(4096, ge=16)
    cpus: float = Field(1, gt=0)
    pids: int = Field(256, ge=1)
    tmp_mib: int = Field(512, ge=1)
    #: Memory on the one GPU, shared with other runs that fit; 0 for whole GPUs.
    gpu_memory_mib: int = Field(0, ge=0)
    network: bool = False
    #: Run once more with twice the memory where the first run was ended by its memory limit.
    memory_retry: bool = False


class Device(_Part):
    """Where the algorithm runs."""

    kind: Literal["cpu", "gpu"] = "cpu"
    gpus: int = Field(0, ge=0, le=16)

    @model_validator(mode="after")
    def _kind_and_number_agree(self) -> Self:
        if (self.kind == "gpu") != (self.gpus > 0):
            raise ValueError("expected gpus of at least 1 for kind gpu, and 0 for kind cpu")
        return self


class RunMode(_Part):
    """How the algorithm is started."""

    #: ``oneshot``: a container for each run. ``shim``: the same command, in a container that is kept.
    #: ``warm``: one message to a program that stays.
    mode: Mode = "oneshot"
    #: Argument list of the program that stays, taken literally.
    command_warm: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    #: A kept container is replaced when it was unused for so long, after so many runs, or when its memory has
    #: grown by so much.
    idle_s: float = Field(300, gt=0, le=86400)
    max_uses: int = Field(1000, ge=1)
    max_growth_mib: int = Field(512, ge=1)

    @model_validator(mode="after")
    def _warm_has_a_command(self) -> Self:
        if (self.mode == "warm") != bool(self.command_warm):
            raise ValueError("expected command_warm for mode warm, and only there")
        return self


class Tiling(_Part):
    """How the algorithm does a slide in tiles. The tiles' size is that of its input picture."""

    #: Command of one run over a sample of the slide's tiles, which lie in the input folder without halo. What
    #: it writes into ``survey.json`` (a flat object) is handed to the run of every tile.
    survey: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    #: So many tiles are surveyed at most, spread evenly over the tissue.
    survey_tiles: int = Field(64, ge=1, le=10_000)
    #: What the command of a tile has beyond that of a region. ``{survey.NAME}`` is a value of the survey.
    arguments: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    #: What a warm program is told of a tile beside what it is told of a region, and the survey's values.
    request: dict[str, JsonValue] = {}
    #: A tile that fails is run again so often.
    tries: int = Field(2, ge=1, le=10)
    #: What follows when it fails every time: the order fails, or the result has a hole there, and says so.
    on_failure: Literal["fail", "hole"] = "fail"

    def surveyed(self, survey: Mapping[str, object], algorithm: str) -> tuple[str, ...]:
        """Return the arguments with the survey's values.

        Raises
        ------
        OutputMissing
            The survey does not tell one of them (permanent).
        """
        filled = []
        for argument in self.arguments:
            name = _SURVEYED.fullmatch(argument)
            if name and name[1] not in survey:
                raise OutputMissing(algorithm, f"{name[1]} in survey.json", ", ".join(survey) or "nothing")
            filled.append(str(survey[name[1]]) if name else argument)
        return tuple(filled)

    @model_validator(mode="after")
    def _survey_is_made(self) -> Self:
        placeholders_of(self.survey)
        if not self.survey and any(_SURVEYED.fullmatch(argument) for argument in self.arguments):
            raise ValueError("expected survey with {survey.NAME} in arguments")
        return self


class InputPicture(_Part):
    """The picture that the algorithm reads."""

    #: Converted to this, where it is something else. ``any``: JPEG or PNG, as it was fetched.
    format: Literal["any", "png", "jpeg", "tiff"] = "any"
    #: Its name below the input folder; by default ``tile`` with the suffix of its format.
    name: FileName | None = None
    #: A larger region is refused.
    max_px: int | None = Field(None, ge=1)
    #: Micrometres per pixel that the algorithm was made for. Recorded only.
    mpp: float | None = Field(None, ge=0.01, le=100)
    #: Side of a tile and its overlap for regions that are processed in tiles; None for "in one piece".
    tile_px: int | None = Field(None, ge=16)
    halo_px: int = Field(0, ge=0)
    #: JSON files beside the picture, by name. ``"{name}"`` becomes the value of a placeholder.
    files: dict[FileName, JsonValue] = {}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.name and self.format == "any":
            raise ValueError("expected format png, jpeg or tiff with name")
        if self.halo_px and (self.tile_px is None or 2 * self.halo_px >= self.tile_px):
            raise ValueError("expected tile_px above twice halo_px")
        if self.name and any(self.name == file or file.startswith(f"{self.name}/") for file in self.files):
            raise ValueError(f"expected another name than {self.name} for each of files")
        return self

    def file_name(self, suffix: str) -> str:
        """Return the picture's name below the input folder, for a picture fetched with *suffix*."""
        return self.name or f"tile{_SUFFIXES.get(self.format, suffix)}"


def _matching(names: Iterable[str], pattern: str | None) -> list[str]:
    return sorted(name for name in names if pattern and fnmatch.fnmatchcase(name, pattern))


class Outputs(_Part):
    """What the algorithm writes into its output folder."""

    #: Each pattern needs a file that is not empty, or the run has failed.
    required: tuple[FilePattern, ...] = Field(min_length=1)
    optional: tuple[FilePattern, ...] = ()
    #: A zip that the algorithm writes itself; it is unpacked and checked.
    archive: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", max_length=100)] | None = None
    #: Which of the files is the mask, the table with one row for each object, the metadata.
    mask: FilePattern | None = None
    table: FilePattern | None = None
    metadata: FilePattern | None = None
    #: Put the input picture into the result too, as ``<order id>.<FORMAT>``.
    include_input: bool = True

    def require(self, sizes: Mapping[str, int], algorithm: str) -> None:
        """Check that each required pattern has a file with content.

        Parameters
        ----------
        sizes
            Size in bytes of each file in the output folder, by name.
        algorithm
            For the error.

        Raises
        ------
        OutputMissing
            A file is missing or empty (permanent).
        """
        for pattern in self.required:
            names = _matching(sizes, pattern)
            if not any(sizes[name] for name in names):
                written = ", ".join(sorted(sizes)[:10]) or "nothing"
                raise OutputMissing(algorithm, pattern, f"an empty {names[0]}" if names else written)

    def masks_of(self, names: Iterable[str]) -> list[str]:
        """Return those of *names* that are masks, sorted."""
        return _matching(names, self.mask)

    def tables_of(self, names: Iterable[str]) -> list[str]:
        """Return those of *names* that are tables of objects, sorted."""
        return _matching(names, self.table)

    def metadata_of(self, names: Iterable[str]) -> list[str]:
        """Return those of *names* that are metadata: JSON files, and the same as ``.csv``; sorted."""
        names = list(names)
        documents = _matching(names, self.metadata)
        twins = {f"{document.removesuffix('.json')}.csv" for document in documents} & set(names)
        return sorted({*documents, *twins})


def _texts(value: object) -> list[str]:
    """Return those texts in a JSON value that are one placeholder."""
    if isinstance(value, Mapping):
        return [text for entry in value.values() for text in _texts(entry)]
    if isinstance(value, list | tuple):
        return [text for entry in value for text in _texts(entry)]
    return [value] if isinstance(value, str) and re.fullmatch(r"\{[A-Za-z0-9_.-]+\}", value) else []


def _disagreement(place: tuple[str, ...], text: str) -> PydanticCustomError:
    """Return an error of the whole descriptor that says in which field to look."""
    return PydanticCustomError("disagreement", "{text}", {"text": text, "place": place})


class Algorithm(_Part):
    """One algorithm, as its descriptor declares it."""

    schema_number: Literal[1] = Field(alias="schema")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)
    title: str = Field(min_length=1, max_length=200)
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=64)
    description: str = ""
    #: Container image; without one the algorithm is only a program.
    image: str | None = Field(None, pattern=r"^[A-Za-z0-9][^\s]*$", max_length=300)
    command: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    #: Patterns of the names under which orders ask for it.
    match: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = ()
    #: Micrometres per pixel where neither slide nor order knows.
    default_mpp: float | None = Field(None, ge=0.01, le=100)
    parameters: dict[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,39}$")], Parameter] = {}
    limits: ResourceLimits = ResourceLimits()
    device: Device = Device()
    run: RunMode = RunMode()
    input: InputPicture = InputPicture()
    tiling: Tiling = Tiling()
    outputs: Outputs

    @field_validator("command")
    @classmethod
    def _template_is_known(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        used = placeholders_of(command)
        if placeholders_of(command[:1]):
            raise ValueError("expected a program without placeholders as the first element")
        if used.count("parameters") > 1:
            raise ValueError("expected {parameters} at most once")
        return command

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        named = {*parameters_in(self.command), *parameters_in(_texts(self.input.files))}
        if unknown := named - set(self.parameters):
            used = min(unknown)
            where = "command" if used in parameters_in(self.command) else "input"
            raise _disagreement((where,), f"expected parameter {used} with {{parameters.{used}}}")
        known: set[str] = set()
        for name, parameter in self.parameters.items():
            place = ("parameters", name)
            if parameter.flag and "{parameters}" not in self.command:
                raise _disagreement(
                    ("command",), "expected {parameters} in command, since there are parameters"
                )
            if parameter.flag is None and name not in named:
                raise _disagreement(place, f"expected a flag, or {{parameters.{name}}} in command")
            if name in named and parameter.default is None and not parameter.required:
                raise _disagreement(
                    place, f"expected a default or required = true, since {{parameters.{name}}} is used"
                )
            for word in (name, *parameter.aliases):
                if word in known:
                    raise _disagreement(
                        place, f"expected each name and alias of a parameter once, found {word!r} again"
                    )
                known.add(word)
        if self.limits.gpu_memory_mib and self.device.gpus != 1:
            raise _disagreement(("device",), "expected gpus = 1 with limits.gpu_memory_mib")
        return self

    @property
    def run_limits(self) -> Limits:
        """The limits as a runtime takes them."""
        return Limits(**self.limits.model_dump(exclude={"memory_retry"}), gpus=self.device.gpus)

    @property
    def mode(self) -> Mode:
        """How a runtime starts it."""
        return self.run.mode

    @property
    def keep(self) -> Keep:
        """When a runtime replaces a kept container."""
        return Keep(
            idle_s=self.run.idle_s, max_uses=self.run.max_uses, max_growth_mib=self.run.max_growth_mib
        )

    def request(self, placeholders: Placeholders, values: Mapping[str, str]) -> dict[str, Any]:
        """Return what a warm program is told of one run beside its folders: JSON values.

        Parameters
        ----------
        placeholders
            As for :meth:`command_line`.
        values
            Of the parameters, from :func:`dynsvc.parameters.fill`.
        """
        told = ("case_id", "subject_id", "analysis_id", "description", "mpp")
        return {
            "parameters": {
                name: parameter.typed(values[name])
                for name, parameter in self.parameters.items()
                if name in values
            },
            "region": {side: getattr(placeholders, side) for side in ("x", "y", "width", "height")},
            **{name: getattr(placeholders, name) for name in told},
        }

    def check_region(self, region: Region, order_id: str) -> None:
        """Check that the picture of *region* is not larger than this algorithm takes.

        Raises
        ------
        InvalidOrder
            It is (permanent).
        """
        limit_px = self.input.max_px
        if limit_px is not None and region.width_px * region.height_px > limit_px:
            found = f"{region.width_px} x {region.height_px} px"
            raise InvalidOrder(order_id, "data.order.roi", found, f"at most {limit_px} px for {self.name}")

    def answers_to(self, name: str) -> int:
        """Return how well *name* matches: 0 not at all, more for a pattern with more literal characters."""
        fitting = (pattern for pattern in self.match if fnmatch.fnmatchcase(name, pattern))
        return max((1 + len(re.sub(r"\[[^\]]*\]|[*?]", "", pattern)) for pattern in fitting), default=0)

    def command_line(self, placeholders: Placeholders, values: Mapping[str, str]) -> tuple[str, ...]:
        """Return the argument list of one run; its first element is the program.

        Parameters
        ----------
        placeholders
            What ``{input}``, ``{x}`` … stand for.
        values
            Of the parameters, from :func:`dynsvc.parameters.fill`.

        Raises
        ------
        InvalidOrder
            A value would be taken for a flag (permanent).
        """
        return expand(self.command, placeholders, self.parameters, values)

    def tile_command(
        self, placeholders: Placeholders, values: Mapping[str, str], survey: Mapping[str, object]
    ) -> tuple[str, ...]:
        """Return the argument list for one tile, as :meth:`command_line`, with what the survey told."""
        return self.command_line(placeholders, values) + self.tiling.surveyed(survey, self.name)

    def survey_command(self, placeholders: Placeholders, values: Mapping[str, str]) -> tuple[str, ...]:
        """Return the argument list of the survey, as :meth:`command_line`."""
        return expand(self.tiling.survey, placeholders, self.parameters, values)


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a descriptor, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Algorithm.model_json_schema(by_alias=True),
    }
