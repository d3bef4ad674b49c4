"""What travels between the steps: one growing JSON document, and the names both sides share.

Tasks exchange ids, names and digests. Pixels, masks and zips lie in the artifact store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from dynsvc.artifacts import Artifact
from dynsvc.orders import Order
from dynsvc.regions import Region
from dynsvc.slides import Slide
from dynsvc.tiles import Grid

__all__ = [
    "CPU",
    "FETCH_ORDER",
    "FETCH_ROI",
    "GPU",
    "IO",
    "MERGE_TILES",
    "RUN_ALGORITHM",
    "RUN_TILES",
    "SCHEMA",
    "STEPS",
    "TOKEN_PREFIX",
    "UPLOAD_ZIP",
    "Batch",
    "Input",
    "Message",
    "Plan",
    "Result",
    "Tiles",
    "following",
    "shown",
]

#: Number of the document's shape. A worker refuses newer ones; they are sent again and reach a newer worker.
SCHEMA: Final = 1

FETCH_ORDER: Final = "dynsvc.fetch_order"
FETCH_ROI: Final = "dynsvc.fetch_roi"
RUN_ALGORITHM: Final = "dynsvc.run_algorithm"
UPLOAD_ZIP: Final = "dynsvc.upload_zip"
#: The steps of an order, in their order.
STEPS: Final = (FETCH_ORDER, FETCH_ROI, RUN_ALGORITHM, UPLOAD_ZIP)

#: A batch of a slide's tiles; any number of them run side by side between two steps of their order.
RUN_TILES: Final = "dynsvc.run_tiles"
#: What follows when all tiles are done.
MERGE_TILES: Final = "dynsvc.merge_tiles"

#: Every attempt's token begins so; jobs of other workers are left alone.
TOKEN_PREFIX: Final = "dynsvc:"  # noqa: S105

IO: Final = "io"
CPU: Final = "cpu"
GPU: Final = "gpu"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Plan(_Part):
    """What ``fetch_order`` decided: which slide, which region, which algorithm with which parameters."""

    order: Order
    slide: Slide
    region: Region
    algorithm: str
    algorithm_version: str
    device: str
    parameters: dict[str, str]
    #: Micrometres per pixel of level 0, from the slide, else the order, else the descriptor.
    mpp_um: float
    mpp_from: str
    #: The tiles, where the region is not taken in one piece.
    grid: Grid | None = None


class Input(_Part):
    """What ``fetch_roi`` stored."""

    picture: Artifact
    suffix: str
    width_px: int
    height_px: int


class Result(_Part):
    """What ``run_algorithm`` stored."""

    archive: Artifact
    #: Number of objects, 0 for "nothing found", None where the algorithm has no table.
    objects: int | None = None
    #: The image's digest or the program's path.
    executed: str
    #: Where, and whether it was kept from an earlier order.
    host: str = ""
    cached: bool = False


class Tiles(_Part):
    """How a region is done in tiles: what ``fetch_roi`` planned, and what ``run_algorithm`` measured."""

    #: Places in the grid, ``[[column, row], …]``, as JSON; a tile's number is its place in this list.
    listing: Artifact
    count: int
    #: Tiles of the region that were left out, because they have no tissue.
    empty: int
    #: The slide made small, and the level-0 pixels in one of its pixels.
    thumbnail: Artifact
    thumbnail_scale: float
    #: How tissue was told from glass.
    tissue: str
    #: What the algorithm's survey told about the whole slide.
    survey: dict[str, str | float | int | bool | None] = {}
    #: What each tile is executed with: the image's digest or the program's path; None where nothing tells.
    executed: str | None = None
    #: The finished tiles lie below this in the artifact store.
    prefix: str = ""


class Message(_Part):
    """The document that a step receives and, grown, hands on."""

    schema_number: int = Field(SCHEMA, alias="schema", le=SCHEMA)
    order_id: str
    job_type: str
    #: The attempt: the fencing token, and Kue's ``workerId`` while the attempt owns the job.
    token: str
    plan: Plan | None = None
    input: Input | None = None
    tiles: Tiles | None = None
    result: Result | None = None
    #: When the order has taken too long, seconds since the epoch; set when it is claimed.
    expires_at_s: float | None = None
    #: Seconds spent in each finished step.
    timings_s: dict[str, float] = {}

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    @property
    def algorithm(self) -> str | None:
        """Name of the algorithm; None before ``fetch_order`` has chosen it."""
        return self.plan.algorithm if self.plan else None

    def to_document(self) -> dict[str, Any]:
        """Return the JSON document."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Message:
        """Read a document written by :meth:`to_document`.

        Raises
        ------
        pydantic.ValidationError
            The document is not one of ours.
        """
        return cls.model_validate(document)


def shown(args: Sequence[Any] | None) -> str:
    """Return what monitors show of a task with these arguments: whose it is, not what only steps need.

    Parameters are left out: what an order may carry is not for everybody who watches the queue.
    """
    document = args[0] if args else None
    if not isinstance(document, dict) or "order_id" not in document:
        return "()"
    words = [f"order {document['order_id']}"]
    if plan := document.get("plan"):
        words += [plan["order"]["case_id"], f"{plan['algorithm']} {plan['algorithm_version']}"]
        words.append(f"region {Region.model_validate(plan['region'])}")
    if "batch" in document:
        words.append(f"tiles {document['first']} to {document['last'] - 1}")
    return f"({', '.join([*words, document.get('token', '')])})"


class Batch(_Part):
    """The document of ``run_tiles``: some tiles of an order, whose message the ledger holds."""

    schema_number: int = Field(SCHEMA, alias="schema", le=SCHEMA)
    order_id: str
    token: str
    #: Name of the batch, unique to it.
    batch: str
    #: Queue of the algorithm.
    device: str
    #: Numbers of the first tile and of the one behind the last.
    first: int
    last: int

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    def to_document(self) -> dict[str, Any]:
        """Return the JSON document."""
        return self.model_dump(mode="json", by_alias=True)


def queue_of(step: str, device: str | None) -> str:
    """Return the queue of *step*, for an algorithm of this *device*; None where that is not known yet."""
    if step in (RUN_ALGORITHM, RUN_TILES):
        return device or CPU
    return IO


def following(step: str) -> tuple[str, ...]:
    """Return the steps that come after *step*, in their order."""
    if step == MERGE_TILES:
        return (UPLOAD_ZIP,)
    return STEPS[STEPS.index(step) + 1 :]
