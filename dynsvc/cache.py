"""Results that are delivered again: same image, same command, same pixels.

A result lies under ``cache/`` in the artifact store, as the zip that was delivered. Its ``provenance.json``
tells the rest. It goes by age as all artifacts do; each use makes it young again. Failures are never kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from dynsvc import archive, provenance
from dynsvc.algorithms import Algorithm
from dynsvc.artifacts import ArtifactStore
from dynsvc.errors import ArtifactCorrupt, ArtifactMissing, OutputMissing, OutputRefused
from dynsvc.outputs import OutputLimits, ResultFile
from dynsvc.runtime import Identifying, Run, Runtime

__all__ = ["Kept", "ResultCache", "key_of"]

log = structlog.get_logger(__name__)

_DOCUMENT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The result of an earlier run, unpacked: what the algorithm made, without picture and provenance."""

    files: Mapping[str, ResultFile]
    #: Sections of its provenance.
    result: Mapping[str, Any]
    run: Mapping[str, Any]
    executed: str
    stated: Mapping[str, str]

    @property
    def objects(self) -> int | None:
        """Number of objects, as :class:`dynsvc.messages.Result` has it."""
        return self.result.get("objects")

    @property
    def origin(self) -> dict[str, Any]:
        """Which order it was made for, where and when."""
        return {name: self.run.get(name) for name in ("order_id", "host", "ended_at")}


def key_of(algorithm: Algorithm, run: Run, runtime: Runtime, facts: Mapping[str, Any]) -> str | None:
    """Return the key of the result of *run*, or None where nothing tells what exactly would be executed.

    Parameters
    ----------
    run
        With its input folder filled: every file in it counts.
    facts
        From :func:`dynsvc.provenance.facts`; the arguments in it hold the ids where a command uses them.

    Raises
    ------
    AlgorithmUnavailable
        There is no such image or program (permanent).
    """
    identity = runtime.identity(run) if isinstance(runtime, Identifying) else None
    if identity is None:
        return None
    told = facts["input"]
    parts = {
        "executed": identity,
        "dynsvc": facts["dynsvc"],
        "descriptor": algorithm.model_dump(mode="json", by_alias=True),
        "argv": facts["algorithm"]["argv"],
        # Only a program that stays is told it; its ids are no reason to run any other again.
        "request": dict(run.request) if run.mode == "warm" else None,
        # The slide's size and mpp are written into the metadata.
        "slide": [told[name] for name in ("slide_width_px", "slide_height_px", "mpp_um", "mpp_from")],
        "region": told["region"],
        "picture": told["picture"],
        "input": {
            path.relative_to(run.input_dir).as_posix(): _sha256(path)
            for path in sorted(run.input_dir.rglob("*"))
            if path.is_file()
        },
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class ResultCache:
    """The results in one artifact store.

    Parameters
    ----------
    limits
        For what is unpacked.
    """

    def __init__(self, artifacts: ArtifactStore, limits: OutputLimits) -> None:
        self._artifacts, self._limits = artifacts, limits

    def find(self, key: str, algorithm: str, folder: Path) -> Kept | None:
        """Return the result kept under *key*, unpacked below *folder*; None where there is none.

        Raises
        ------
        StorageUnavailable
            The store does not answer, or *folder* cannot be written (transient).
        """
        artifact = self._artifacts.find(_place(key))
        if artifact is None:
            return None
        try:
            zip_path = self._artifacts.get(artifact, folder / "kept.zip")
            unpacked = archive.unpack(zip_path, folder / "kept", algorithm, self._limits)
            return _read({file.name: file for file in unpacked})
        except (
            ArtifactCorrupt,
            ArtifactMissing,
            OutputMissing,
            OutputRefused,
            ValueError,
            KeyError,
        ) as error:
            # Swept or replaced in between, or damaged: the algorithm runs, and its result takes the place.
            log.warning("kept result not usable", key=key, error=f"{type(error).__name__}: {error}")
            return None

    def keep(self, key: str, zip_path: Path) -> None:
        """Keep a result under *key*.

        Raises
        ------
        StorageUnavailable
            The store takes no more (transient).
        """
        self._artifacts.put(zip_path, _place(key))


def _read(files: dict[str, ResultFile]) -> Kept:
    told = files.pop(provenance.NAME)
    with told.open() as stream:
        document = json.loads(stream.read(_DOCUMENT_BYTES))
    if document["schema"] != provenance.SCHEMA:
        raise ValueError(f"provenance of schema {document['schema']}")
    # The picture is packed again, under the name of the order that gets it now.
    files.pop(document["run"].get("picture") or "", None)
    return Kept(
        files=files,
        result=document["result"],
        run=document["run"],
        executed=document["algorithm"]["executed"],
        stated=document["algorithm"].get("stated", {}),
    )


def _place(key: str) -> str:
    return f"cache/{key[:2]}/{key}.zip"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
