"""Every error of dynsvc, in one tree.

::

    DynsvcError
    ├── Transient                    may pass by itself; the step tries again
    │   ├── PeerUnavailable          no connection, time-out, 5xx, 429, truncated body
    │   │   └── DeliveryUnknown      all bytes were sent, and the answer never came
    │   ├── EngineUnavailable        the container engine does not answer
    │   ├── StorageUnavailable       disk full, artifact store away
    │   └── WorkerLost               the process that ran the step died
    ├── SettingsInvalid              configuration
    ├── InvalidOrder                 the order's document
    ├── UnknownAlgorithm · DescriptorInvalid
    ├── SlideNotFound · SlideAmbiguous · SlideUnreadable · SlideSizeUnknown
    ├── RegionOutsideSlide · RegionTooLarge
    ├── PeerRefused                  a peer answered, and the answer is no
    ├── PictureWrong                 pixels that are not the ones asked for
    ├── AlgorithmFailed              non-zero exit status or a signal
    │   └── OutOfMemory · TimeLimitExceeded
    ├── AlgorithmUnavailable         image or program missing
    ├── DeviceUnavailable            a GPU was asked for and there is none
    ├── OutputMissing · OutputRefused
    ├── ArtifactCorrupt · ArtifactMissing
    ├── OrderOverdue                 the whole order took longer than an order may
    ├── LoaderFailed                 the loader's own job failed
    ├── DependencyMissing            an optional part is not installed
    └── AttemptEnded                 not a failure: this attempt no longer owns the order
        └── Cancelled

The class answers "retry?": :attr:`DynsvcError.transient`. Facts are attributes; the text is composed in
``__str__``. Every constructor argument goes to ``super().__init__``, so that an error survives pickling
(prefork children) and :func:`to_document` / :func:`from_document` (JSON).
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "AlgorithmFailed",
    "AlgorithmUnavailable",
    "ArtifactCorrupt",
    "ArtifactMissing",
    "AttemptEnded",
    "Cancelled",
    "DeliveryUnknown",
    "DependencyMissing",
    "DescriptorInvalid",
    "DeviceUnavailable",
    "DynsvcError",
    "EngineUnavailable",
    "InvalidOrder",
    "LoaderFailed",
    "OrderOverdue",
    "OutOfMemory",
    "OutputMissing",
    "OutputRefused",
    "PeerRefused",
    "PeerUnavailable",
    "PictureWrong",
    "RegionOutsideSlide",
    "RegionTooLarge",
    "SettingsInvalid",
    "SlideAmbiguous",
    "SlideNotFound",
    "SlideSizeUnknown",
    "SlideUnreadable",
    "StorageUnavailable",
    "TimeLimitExceeded",
    "Transient",
    "UnknownAlgorithm",
    "WorkerLost",
    "from_document",
    "shown",
    "to_document",
]

_SHOWN_CHARACTERS = 120


def shown(value: object) -> str:
    """Return *value* as a short quoted text for a message: one line, at most 120 characters."""
    if value is None:  # absent and null are the same to who reads the message
        return "missing"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}… ({len(text)} characters)"


class DynsvcError(Exception):
    """Base of all errors of dynsvc. Permanent unless the class says otherwise."""

    #: Whether the same step may succeed later without anybody changing anything.
    transient: ClassVar[bool] = False

    @property
    def headline(self) -> str:
        """``<ErrorName>: <sentence>``, the first line of what Kue stores."""
        return f"{type(self).__name__}: {self}"


class Transient(DynsvcError):
    """May pass by itself."""

    transient = True


class PeerUnavailable(Transient):
    """A server did not give a complete answer."""

    def __init__(self, peer: str, detail: str) -> None:
        super().__init__(peer, detail)
        self.peer, self.detail = peer, detail

    def __str__(self) -> str:
        return f"{self.peer}: {self.detail}"


class DeliveryUnknown(PeerUnavailable):
    """Everything was sent and no answer came: the peer may have taken it. Sending again may do it twice."""


class EngineUnavailable(Transient):
    """The container engine does not answer or broke off."""

    def __init__(self, engine: str, detail: str) -> None:
        super().__init__(engine, detail)
        self.engine, self.detail = engine, detail

    def __str__(self) -> str:
        return f"{self.engine}: {self.detail}"


class StorageUnavailable(Transient):
    """A file could not be written or read: disk full, share away."""

    def __init__(self, place: str, detail: str) -> None:
        super().__init__(place, detail)
        self.place, self.detail = place, detail

    def __str__(self) -> str:
        return f"{self.place}: {self.detail}"


class WorkerLost(Transient):
    """The process that held the order's lease stopped renewing it."""

    def __init__(self, order_id: str, step: str, lease_s: float) -> None:
        super().__init__(order_id, step, lease_s)
        self.order_id, self.step, self.lease_s = order_id, step, lease_s

    def __str__(self) -> str:
        # A worker tells with its lease which step it is at: the step may have begun since.
        heard = f"when last heard of, it ran {self.step}"
        return f"order {self.order_id}: its worker gave no sign of life for {self.lease_s:g} s; {heard}"


class SettingsInvalid(DynsvcError):
    """The configuration cannot be used."""

    def __init__(self, name: str, found: str, expected: str) -> None:
        super().__init__(name, found, expected)
        self.name, self.found, self.expected = name, found, expected

    def __str__(self) -> str:
        return f"{self.name} is {self.found}, expected {self.expected}"


class InvalidOrder(DynsvcError):
    """The order's document breaks its schema."""

    def __init__(self, order_id: str, field: str, found: object, expected: str) -> None:
        super().__init__(order_id, field, found, expected)
        self.order_id, self.field, self.found, self.expected = order_id, field, found, expected

    def __str__(self) -> str:
        return f"order {self.order_id}: {self.field} is {shown(self.found)}, expected {self.expected}"


class UnknownAlgorithm(DynsvcError):
    """No descriptor answers to the name in the order."""

    def __init__(self, order_id: str, name: str, suggestion: str | None) -> None:
        super().__init__(order_id, name, suggestion)
        self.order_id, self.name, self.suggestion = order_id, name, suggestion

    def __str__(self) -> str:
        hint = f"; did you mean {shown(self.suggestion)}?" if self.suggestion else ""
        return f"order {self.order_id}: no algorithm {shown(self.name)}{hint} (dynsvc algorithms lists all)"


class DescriptorInvalid(DynsvcError):
    """An algorithm's descriptor cannot be used."""

    def __init__(self, path: str, field: str, found: object, expected: str) -> None:
        super().__init__(path, field, found, expected)
        self.path, self.field, self.found, self.expected = path, field, found, expected

    def __str__(self) -> str:
        return f"{self.path}: {self.field} is {shown(self.found)}, expected {self.expected}"


class SlideNotFound(DynsvcError):
    """The location service or image source knows no such slide."""

    def __init__(self, peer: str, slide: str) -> None:
        super().__init__(peer, slide)
        self.peer, self.slide = peer, slide

    def __str__(self) -> str:
        return f"{self.peer} knows no slide {shown(self.slide)}"


class SlideAmbiguous(DynsvcError):
    """The location service knows several slides under one case id."""

    def __init__(self, peer: str, slide: str, count: int) -> None:
        super().__init__(peer, slide, count)
        self.peer, self.slide, self.count = peer, slide, count

    def __str__(self) -> str:
        return f"{self.peer} knows {self.count} different slides {shown(self.slide)}, expected exactly one"


class SlideUnreadable(DynsvcError):
    """The slide's file is there but cannot be decoded."""

    def __init__(self, slide: str, detail: str) -> None:
        super().__init__(slide, detail)
        self.slide, self.detail = slide, detail

    def __str__(self) -> str:
        return f"slide {shown(self.slide)} cannot be read: {self.detail}"


class SlideSizeUnknown(DynsvcError):
    """The region depends on the slide's size, which nobody knows."""

    def __init__(self, region: str) -> None:
        super().__init__(region)
        self.region = region

    def __str__(self) -> str:
        return (
            f"region {self.region} needs the slide's size, "
            "which neither the location service nor the image source knows; order the region in pixels"
        )


class RegionOutsideSlide(DynsvcError):
    """No pixel of the region lies on the slide. The size is None where it is unknown."""

    def __init__(self, region: str, slide_width_px: int | None, slide_height_px: int | None) -> None:
        super().__init__(region, slide_width_px, slide_height_px)
        self.region, self.slide_width_px, self.slide_height_px = region, slide_width_px, slide_height_px

    def __str__(self) -> str:
        size = f" of {self.slide_width_px} x {self.slide_height_px} px" if self.slide_width_px else ""
        return f"region {self.region} lies outside the slide{size}"


class RegionTooLarge(DynsvcError):
    """The region has more pixels than this installation takes as one piece."""

    def __init__(self, width_px: int, height_px: int, limit_px: int) -> None:
        super().__init__(width_px, height_px, limit_px)
        self.width_px, self.height_px, self.limit_px = width_px, height_px, limit_px

    def __str__(self) -> str:
        return (
            f"region of {self.width_px} x {self.height_px} px has {self.width_px * self.height_px} px, "
            f"expected at most {self.limit_px} (DYNSVC_MAX_REGION_PX)"
        )


class PeerRefused(DynsvcError):
    """A peer answered, and the answer is no (4xx, a Bindaas error status, an error document)."""

    def __init__(self, peer: str, detail: str) -> None:
        super().__init__(peer, detail)
        self.peer, self.detail = peer, detail

    def __str__(self) -> str:
        return f"{self.peer}: {self.detail}"


class PictureWrong(DynsvcError):
    """The answer is no picture, or not the picture that was asked for."""

    def __init__(self, peer: str, found: str, expected: str) -> None:
        super().__init__(peer, found, expected)
        self.peer, self.found, self.expected = peer, found, expected

    def __str__(self) -> str:
        return f"{self.peer} answered {self.found}, expected {self.expected}"


class AlgorithmFailed(DynsvcError):
    """The algorithm ended with a non-zero exit status or by a signal."""

    def __init__(self, algorithm: str, outcome: str, last_lines: str) -> None:
        super().__init__(algorithm, outcome, last_lines)
        self.algorithm, self.outcome, self.last_lines = algorithm, outcome, last_lines

    def __str__(self) -> str:
        last = self.last_lines.strip().splitlines()
        return f"{self.algorithm} {self.outcome}" + (f'. Last line: "{last[-1].strip()}"' if last else "")


class OutOfMemory(AlgorithmFailed):
    """The algorithm was ended by its memory limit."""


class TimeLimitExceeded(AlgorithmFailed):
    """The algorithm was ended by its time limit."""


class AlgorithmUnavailable(DynsvcError):
    """The image or the program does not exist on this host, or cannot be started."""

    def __init__(self, algorithm: str, detail: str) -> None:
        super().__init__(algorithm, detail)
        self.algorithm, self.detail = algorithm, detail

    def __str__(self) -> str:
        return f"{self.algorithm}: {self.detail}"


class DeviceUnavailable(DynsvcError):
    """A device was asked for that this host does not have. Never answered by a silent CPU run."""

    def __init__(self, device: str, detail: str) -> None:
        super().__init__(device, detail)
        self.device, self.detail = device, detail

    def __str__(self) -> str:
        return f"{self.device} is not available on this host: {self.detail}"


class OutputMissing(DynsvcError):
    """The algorithm ended well but a required file is missing or empty."""

    def __init__(self, algorithm: str, missing: str, found: str) -> None:
        super().__init__(algorithm, missing, found)
        self.algorithm, self.missing, self.found = algorithm, missing, found

    def __str__(self) -> str:
        return f"{self.algorithm} wrote {self.found}, expected {self.missing}"


class OutputRefused(DynsvcError):
    """The algorithm wrote something that must not leave its folder: links, devices, too much."""

    def __init__(self, algorithm: str, name: str, reason: str) -> None:
        super().__init__(algorithm, name, reason)
        self.algorithm, self.name, self.reason = algorithm, name, reason

    def __str__(self) -> str:
        return f"{self.algorithm} wrote {shown(self.name)}, which is refused: {self.reason}"


class ArtifactCorrupt(DynsvcError):
    """An artifact's bytes are not the ones that were stored."""

    def __init__(self, key: str, found: str, expected: str) -> None:
        super().__init__(key, found, expected)
        self.key, self.found, self.expected = key, found, expected

    def __str__(self) -> str:
        return f"artifact {self.key} has {self.found}, expected {self.expected}"


class ArtifactMissing(DynsvcError):
    """An artifact is not in the store."""

    def __init__(self, key: str, store: str) -> None:
        super().__init__(key, store)
        self.key, self.store = key, store

    def __str__(self) -> str:
        return (
            f"artifact {self.key} is not in {self.store}. "
            "Hosts that share orders need one artifact store (DYNSVC_ARTIFACTS)"
        )


class OrderOverdue(DynsvcError):
    """The order took longer than an order may, whatever its steps were doing."""

    def __init__(self, order_id: str, step: str, limit_s: float) -> None:
        super().__init__(order_id, step, limit_s)
        self.order_id, self.step, self.limit_s = order_id, step, limit_s

    def __str__(self) -> str:
        limit = f"limit {self.limit_s:g} s (DYNSVC_ORDER_LIMIT_S)"
        return f"order {self.order_id}: not done in time, ended during {self.step}; {limit}"


class LoaderFailed(DynsvcError):
    """The annotation loader took the zip, but its job failed."""

    def __init__(self, loader_job_id: str, detail: str) -> None:
        super().__init__(loader_job_id, detail)
        self.loader_job_id, self.detail = loader_job_id, detail

    def __str__(self) -> str:
        return f"annotation loader's job {self.loader_job_id} failed: {self.detail}"


class DependencyMissing(DynsvcError):
    """An optional part of dynsvc is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(what, extra)
        self.what, self.extra = what, extra

    def __str__(self) -> str:
        return f"{self.what} is not installed; pip install 'dynsvc[{self.extra}]'"


class AttemptEnded(DynsvcError):
    """This attempt no longer owns the order; whatever it still does must have no effect."""

    def __init__(self, order_id: str, reason: str) -> None:
        super().__init__(order_id, reason)
        self.order_id, self.reason = order_id, reason

    def __str__(self) -> str:
        return f"order {self.order_id}: attempt ended: {self.reason}"


class Cancelled(AttemptEnded):
    """Somebody removed or cancelled the order."""


def _concrete(root: type[DynsvcError]) -> dict[str, type[DynsvcError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found.update(_concrete(child))
    return found


def to_document(error: DynsvcError) -> dict[str, Any]:
    """Return *error* as a JSON document: its class name and constructor arguments."""
    return {"error": type(error).__name__, "args": list(error.args)}


def from_document(document: dict[str, Any]) -> DynsvcError:
    """Rebuild an error written by :func:`to_document`.

    Raises
    ------
    KeyError
        The document names no error of this tree.
    """
    return _concrete(DynsvcError)[document["error"]](*document["args"])
