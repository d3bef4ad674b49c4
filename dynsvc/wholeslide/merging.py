"""All tiles are done: their parts become the order's result."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from dynsvc import archive, provenance
from dynsvc.algorithms import Algorithm
from dynsvc.errors import ArtifactMissing, OutputMissing
from dynsvc.merge import Wanted, merge
from dynsvc.messages import Message, Result
from dynsvc.steps import ALGORITHM_TO, Attempt, Ports, artifact_key, disk_errors, planned, timed, workspace
from dynsvc.tiles import Tile
from dynsvc.wholeslide.tilework import part_key, tiles_of

__all__ = ["merge_tiles"]


def merge_tiles(
    message: Message,
    ports: Ports,
    attempt: Attempt,
    *,
    holes: Collection[int] = (),
    hosts: Mapping[str, int] | None = None,
) -> Message:
    """Merge the parts of all tiles into one result, and store it as one zip.

    Parameters
    ----------
    holes
        Numbers of the tiles that failed.
    hosts
        How many tiles each host did.
    """
    began = time.monotonic()
    plan, tiles, every = planned(message), message.tiles, tiles_of(message, ports)
    grid, slide, order = plan.grid, plan.slide, plan.order
    if tiles is None or grid is None:
        raise OutputMissing("fetch_roi", "a list of tiles", "nothing")
    with workspace(ports, message) as folder, disk_errors(folder):
        output = folder / "merged"
        output.mkdir()
        thumbnail = ports.artifacts.get(tiles.thumbnail, folder / "thumbnail.png")
        lost = [every[number] for number in holes]
        merged = merge(
            output,
            _parts(message, ports, [tile for n, tile in enumerate(every) if n not in holes], folder),
            grid=grid,
            wanted=Wanted(
                subject_id=order.subject_id,
                case_id=order.case_id,
                analysis_id=order.execution_id,
                description=order.description,
                slide_width_px=slide.width_px or 1,
                slide_height_px=slide.height_px or 1,
                mpp_um=plan.mpp_um,
                region=plan.region,
                polygon=order.roi.outline,
            ),
            holes=lost,
            thumbnail=thumbnail,
        )
        objects = int(merged.summary["objects"])
        content: dict[str, Path | Any] = dict(merged.files)
        content[provenance.NAME] = _provenance(message, ports, merged.summary, hosts or {})
        made = archive.build(folder / "result.zip", content)
        key = artifact_key(message, "result.zip")
        kept = attempt.files.keep(folder / "result.zip", key, made)
    lines = [f"{plan.algorithm}: {objects} objects in {len(every)} tiles, zip of {kept.size_bytes} bytes"]
    if lost:
        lines.append(
            f"{len(lost)} tiles failed and are holes in the result: " + " ".join(map(str, lost[:20]))
        )
    attempt.report(ALGORITHM_TO, *lines)
    result = Result(
        archive=kept,
        objects=objects,
        executed=tiles.executed or f"program {_algorithm(message, ports).command[0]}",
        host=ports.settings.host,
        cached=False,
    )
    return message.model_copy(update={"result": result, "timings_s": timed(message, "merge_tiles", began)})


def _algorithm(message: Message, ports: Ports) -> Algorithm:
    plan = planned(message)
    return ports.catalog.choose(plan.algorithm, "", plan.order.job_id)


def _parts(message: Message, ports: Ports, tiles: Collection[Tile], folder: Path) -> Iterator[Path]:
    """Yield the part of each tile; a part is gone when the next one is asked for."""
    assert message.tiles is not None  # noqa: S101 - the caller has looked
    path = folder / "part"
    for tile in tiles:
        key = part_key(message.tiles, tile)
        artifact = ports.artifacts.find(key)
        if artifact is None:
            raise ArtifactMissing(key, ports.artifacts.place)
        path.unlink(missing_ok=True)
        yield ports.artifacts.get(artifact, path)


def _provenance(
    message: Message, ports: Ports, summary: Mapping[str, Any], hosts: Mapping[str, int]
) -> bytes:
    plan, tiles = planned(message), message.tiles
    assert tiles is not None and plan.grid is not None  # noqa: S101, PT018 - the caller has looked
    algorithm = _algorithm(message, ports)
    return provenance.of_slide(
        message, algorithm, plan, tiles, host=ports.settings.host, summary=summary, hosts=hosts
    )
