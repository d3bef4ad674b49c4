"""Where results go. One file for each implementation of :class:`ResultSink`."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict

__all__ = ["Delivery", "Receipt", "ResultSink"]


class Delivery(BaseModel):
    """What is delivered: a result zip and what the receiver needs to know of it."""

    model_config = ConfigDict(frozen=True)

    order_id: str
    case_id: str
    execution_id: str
    zip_path: Path


class Receipt(BaseModel):
    """What the receiver answered."""

    model_config = ConfigDict(frozen=True)

    #: Where the result is now, for people: a path or ``loader job 17``.
    place: str
    #: The loader's own job, whose outcome is the order's outcome; None when delivery is all there is.
    loader_job_id: str | None = None


class ResultSink(Protocol):
    """Takes results."""

    def deliver(self, delivery: Delivery) -> Receipt:
        """Hand over one result zip.

        Raises
        ------
        PeerRefused
            The receiver does not want it (permanent).
        PeerUnavailable, StorageUnavailable
            It certainly did not arrive, or it is unknown whether it did (transient).
        """
        ...
