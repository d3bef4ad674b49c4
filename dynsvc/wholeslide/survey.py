"""What an algorithm wants to know of a whole slide before its first tile: measured once, told to every tile.

And the name under which finished tiles are kept: it follows from everything that a tile's result depends on,
and from nothing else, so that another attempt or another order finds what is there already.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from dynsvc.algorithms import Algorithm
from dynsvc.errors import AttemptEnded, OutputMissing
from dynsvc.execution import execute
from dynsvc.messages import Message, Plan, Tiles
from dynsvc.outputs import OutputLimits, collect
from dynsvc.runtime import Identifying
from dynsvc.steps import (
    ALGORITHM_FROM,
    Attempt,
    Ports,
    disk_errors,
    places,
    planned,
    run_of,
    workspace,
)
from dynsvc.tiles import Tile
from dynsvc.wholeslide.pixels import picture_of, scale_of
from dynsvc.wholeslide.tissue import TissueMask

__all__ = ["identity_of", "prepare"]

#: Number of the parts' shape.
_SCHEMA: Final = 1
_FILE: Final = "survey.json"
#: Side of a window that is surveyed, in pixels of the working plane.
_WINDOW_PX: Final = 1024
_SURVEY_BYTES: Final = 1 << 20


def prepare(message: Message, ports: Ports, attempt: Attempt) -> Message:
    """Survey the slide, name the place of its tiles, and return the message with what tiles have to know."""
    plan, tiles, grid = planned(message), message.tiles, planned(message).grid
    if tiles is None or grid is None:
        raise OutputMissing("fetch_roi", "a list of tiles", "nothing")
    algorithm = ports.catalog.choose(plan.algorithm, "", plan.order.job_id)
    with workspace(ports, message) as folder, disk_errors(folder):
        executed = identity_of(algorithm, message, ports)
        slide = _slide_key(plan, tiles)
        base = {
            "schema": _SCHEMA,
            # Where nothing tells, tiles are kept for further attempts of this order only.
            "executed": executed or f"for order {message.order_id}",
            "descriptor": algorithm.model_dump(mode="json", by_alias=True),
            "parameters": dict(plan.parameters),
            "mpp_um": plan.mpp_um,
            "slide": slide,
            "grid": grid.model_dump(mode="json"),
        }
        survey: dict[str, Any] = {}
        if algorithm.tiling.survey:
            # Of the whole slide, whatever part of it was ordered: overlapping orders have tiles in common.
            place = f"surveys/{_digest(base)}.json"
            known = ports.artifacts.find(place)
            if known is None:
                attempt.report(ALGORITHM_FROM, f"surveys up to {algorithm.tiling.survey_tiles} tiles")
                sample = _sample(ports, plan, tiles, algorithm.tiling.survey_tiles, folder)
                path = _surveyed(message, ports, attempt, algorithm, sample=sample, folder=folder)
                known = ports.artifacts.put(path, place)
            survey = json.loads(ports.artifacts.get(known, folder / "known.json").read_text())
            for warning in survey.pop("warnings", None) or []:
                attempt.report(ALGORITHM_FROM, str(warning))
    prefix = _digest({**base, "survey": survey})
    update = {"survey": survey, "executed": executed, "prefix": f"tiles/{prefix[:2]}/{prefix}"}
    return message.model_copy(update={"tiles": tiles.model_copy(update=update)})


def _digest(parts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _slide_key(plan: Plan, tiles: Tiles) -> list[Any]:
    """Return what tells this slide from all others, and from itself with other pixels."""
    slide = plan.slide
    return [slide.origin, slide.location, slide.width_px, slide.height_px, tiles.thumbnail.sha256]


def identity_of(algorithm: Algorithm, message: Message, ports: Ports) -> str | None:
    """Return what a run would execute on this host, where that can be told: see Runtime's identity."""
    runtime = ports.runtime()
    nowhere = Path("/nonexistent")
    run = run_of(
        algorithm,
        message,
        ports,
        argv=algorithm.command,
        request={},
        input_dir=nowhere,
        output_dir=nowhere,
    )
    return runtime.identity(run) if isinstance(runtime, Identifying) else None


def _sample(ports: Ports, plan: Plan, tiles: Tiles, count: int, folder: Path) -> list[Tile]:
    """Return windows of the whole slide that have tissue, evenly spaced over them.

    They are the same whatever the size of the tiles: so the survey is, and so are the objects.
    """
    slide = plan.slide
    assert plan.grid is not None  # noqa: S101 - the caller has looked
    grid = plan.grid.model_copy(update={"tile_px": _WINDOW_PX, "halo_px": 0})
    with Image.open(ports.artifacts.get(tiles.thumbnail, folder / "thumbnail.png")) as opened:
        mask = TissueMask.of(np.asarray(opened.convert("RGB")), tiles.thumbnail_scale)
    size = slide.width_px or 1, slide.height_px or 1
    every = [tile for tile in grid.tiles() if mask.meets(grid.level0(tile.core, *size))]
    return every[:: math.ceil(len(every) / count) or 1]


def _surveyed(
    message: Message,
    ports: Ports,
    attempt: Attempt,
    algorithm: Algorithm,
    *,
    sample: Sequence[Tile],
    folder: Path,
) -> Path:
    """Run the algorithm's survey over a sample of the tiles, and return the file that it wrote."""
    plan, runtime = planned(message), ports.runtime()
    input_dir, output_dir = folder / "input", folder / "output"
    input_dir.mkdir()
    output_dir.mkdir()
    for tile in sample:
        picture_of(ports, plan, tile.core, input_dir, f"tile-{tile.column}-{tile.row}")
        if attempt.ended():
            raise AttemptEnded(message.order_id, "ended during the survey")
    seen = runtime.seen(input_dir, output_dir)
    where = places(plan, seen, "", mpp_um=plan.mpp_um * scale_of(plan))
    run = run_of(
        algorithm,
        message,
        ports,
        argv=algorithm.survey_command(where, plan.parameters),
        request={},
        input_dir=input_dir,
        output_dir=output_dir,
        mode="oneshot",
    )
    execute(
        run,
        runtime,
        ports.admission(),
        attempt,
        on_line=lambda _: None,
        say=lambda line: attempt.report(ALGORITHM_FROM, line),
        memory_retry=algorithm.limits.memory_retry,
    )
    limits = OutputLimits(max_bytes=_SURVEY_BYTES)
    files = {file.name: file for file in collect(output_dir, algorithm.name, limits)}
    if _FILE not in files:
        raise OutputMissing(algorithm.name, _FILE, ", ".join(files) or "nothing")
    path = folder / _FILE
    with files[_FILE].open() as stream:
        text = stream.read()
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise OutputMissing(algorithm.name, f"a JSON object in {_FILE}", f"{text[:60]!r}")
    path.write_bytes(text)
    return path
