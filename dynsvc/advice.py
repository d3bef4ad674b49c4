"""What to do about each error: the one place where that is written."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["ADVICE", "advice_for", "error_name"]

#: By class name of the error.
ADVICE: Final = {
    "AlgorithmFailed": (
        "Read the last output above: the program itself gave up. `dynsvc run ORDER.json` repeats the "
        "order on this machine without Kue."
    ),
    "AlgorithmUnavailable": (
        "Build or pull the image, or install the program, on the host that is named; `dynsvc check` "
        "there tells what is missing. Where it needs more CPUs or memory than the host has, lower limits"
        " in its descriptor, raise DYNSVC_HOST_CPUS or DYNSVC_HOST_MEMORY_MIB, or use a larger host."
    ),
    "ArtifactCorrupt": (
        "The artifact store changed the bytes of a file. Look at its disk; then place the order again."
    ),
    "ArtifactMissing": (
        "Workers of several hosts need one artifact store: set DYNSVC_ARTIFACTS to the same place on "
        "all. A file is also gone after DYNSVC_KEEP_S."
    ),
    "AttemptEnded": "Nothing: the order was taken back, removed or given to another worker.",
    "Cancelled": "Nothing: somebody cancelled the order.",
    "DeliveryUnknown": (
        "All bytes were sent and no answer came. Look at the loader whether the result is there before "
        "you place the order again: it would store every object twice."
    ),
    "DependencyMissing": "Install the extra that is named, on the host that is named.",
    "DescriptorInvalid": (
        "Mend the line that is named; `dynsvc algorithms check DIR` tells whether it is right."
    ),
    "DeviceUnavailable": (
        "Run a worker on a host with such a GPU, or list its GPUs in DYNSVC_GPUS; `nvidia-smi -L` there "
        "shows them. It is never run on the CPU instead."
    ),
    "EngineUnavailable": (
        "The container engine was away, or the host ran out of memory and ended the algorithm. `dynsvc "
        "check` on the host tells; then place the order again."
    ),
    "InternalError": "A mistake in dynsvc. Report it with the text above.",
    "InvalidOrder": (
        "Correct the field that is named and place the order again; docs/reference/order.md has all fields."
    ),
    "LoaderFailed": "The loader took the zip and failed. Its own job's error is above; look at its log.",
    "OrderOverdue": (
        "The whole order took longer than DYNSVC_ORDER_LIMIT_S. Look at the steps which one took so "
        "long; where it waited for its turn, add workers or hosts."
    ),
    "OutOfMemory": (
        "Raise limits.memory_mib in the algorithm's descriptor, or set limits.memory_retry there, or "
        "order a smaller region."
    ),
    "OutputMissing": (
        "The program ended well and did not write what its descriptor requires: look at the last output,"
        " and at outputs.required."
    ),
    "OutputRefused": (
        "The algorithm wrote links, devices or more than DYNSVC_MAX_RESULT_BYTES. Mend the algorithm."
    ),
    "PeerRefused": (
        "The server that is named answered no. Its text tells why; `dynsvc check` tries all servers."
    ),
    "PeerUnavailable": (
        "The server that is named was away for longer than DYNSVC_RETRY_LIMIT_S. Place the order again."
    ),
    "PictureWrong": (
        "The image server gave another picture than was asked for: look at its log for this slide."
    ),
    "RegionOutsideSlide": "Order a region on the slide.",
    "RegionTooLarge": "Order a smaller region, or raise the limit that is named.",
    "SettingsInvalid": (
        "Correct the setting that is named, on the host that is named; `dynsvc check` tries it."
    ),
    "SlideAmbiguous": "The location service has several records of this case. Remove all but one there.",
    "SlideNotFound": (
        "Check the case id, and that the slide is registered at the location service or mounted."
    ),
    "SlideSizeUnknown": "Order the region in pixels, or enter the slide's size at the location service.",
    "SlideUnreadable": (
        "The slide's file is damaged or of a kind that cannot be read. Try it in the viewer."
    ),
    "StorageUnavailable": (
        "A disk was full or away. Make room where it is named, then place the order again."
    ),
    "TimeLimitExceeded": "Raise limits.timeout_s in the algorithm's descriptor, or order a smaller region.",
    "UnknownAlgorithm": (
        "`dynsvc algorithms` lists what there is. Correct the name, or set DYNSVC_DEFAULT_ALGORITHM."
    ),
    "WorkerLost": (
        "The worker's process or host died. Look at its log at that time (out of memory?). Repeated on "
        "one order: the algorithm takes the host down."
    ),
}

_OTHER = "dynsvc has no advice for this error: the text above is all that is known."


def error_name(error: str) -> str:
    """Return the name with which the text that Kue stores of a failure begins, or an empty text."""
    match = re.match(r"([A-Z][A-Za-z]+): ", error)
    return match[1] if match else ""


def advice_for(error: str) -> str:
    """Return what to do about a failure, from the text that Kue stores of it."""
    return ADVICE.get(error_name(error), _OTHER)
