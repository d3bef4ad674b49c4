"""``provenance.json``: what a result was made of, in every zip.

All but its section ``run`` follows from the order, the pixels and the algorithm: the same inputs give the
same bytes. ``run`` tells of this one execution: who, where, when, how long.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic_core import to_json

from dynsvc import __version__
from dynsvc.algorithms import Algorithm
from dynsvc.execution import Executed
from dynsvc.messages import Input, Message, Plan, Tiles
from dynsvc.runtime import Run, Seen

__all__ = ["NAME", "SCHEMA", "document", "facts", "of_slide", "portable", "run_facts"]

#: Name of the file at the top of the zip.
NAME: Final = "provenance.json"
#: Number of the document's shape.
SCHEMA: Final = 1


def portable(argv: Sequence[str], seen: Seen) -> list[str]:
    """Return an argument list in which the run's folders have the names that a container gives them."""
    # The longer one first, should one lie in the other.
    places = sorted(
        ((seen.input_dir, "/input"), (seen.output_dir, "/output")), key=lambda pair: -len(pair[0])
    )
    words = list(argv)
    for folder, name in places:
        words = [word.replace(folder, name) for word in words]
    return words


def _input(plan: Plan) -> dict[str, Any]:
    slide, region = plan.slide, plan.region
    return {
        "case_id": plan.order.case_id,
        "subject_id": plan.order.subject_id,
        "analysis_id": plan.order.execution_id,
        "slide_width_px": slide.width_px,
        "slide_height_px": slide.height_px,
        "mpp_um": plan.mpp_um,
        "mpp_from": plan.mpp_from,
        "region": {
            "x_px": region.x_px,
            "y_px": region.y_px,
            "width_px": region.width_px,
            "height_px": region.height_px,
        },
    }


def of_slide(
    message: Message,
    algorithm: Algorithm,
    plan: Plan,
    tiles: Tiles,
    *,
    host: str,
    summary: Mapping[str, Any],
    hosts: Mapping[str, int],
) -> bytes:
    """Return the file for a result that was merged from tiles.

    Parameters
    ----------
    host
        Where they were merged.
    summary
        Of the merge.
    hosts
        How many tiles each host did for this order.
    """
    known = {
        "schema": SCHEMA,
        "dynsvc": __version__,
        "algorithm": {
            "name": algorithm.name,
            "version": algorithm.version,
            "image": algorithm.image,
            "argv": [*algorithm.command, *algorithm.tiling.arguments],
            "parameters": dict(plan.parameters),
            "device": algorithm.device.kind,
        },
        "input": {
            **_input(plan),
            "outline": [list(corner) for corner in plan.order.roi.outline] or None,
            "grid": plan.grid.model_dump(mode="json") if plan.grid else None,
            "tiles": tiles.count,
            "tiles_without_tissue": tiles.empty,
            "tissue": tiles.tissue,
            "survey": dict(tiles.survey),
        },
    }
    run = {
        **run_facts(message, host, None),
        "mode": algorithm.mode,
        "tiles_by_host": dict(sorted(hosts.items())),
    }
    return document(known, summary, run, tiles.executed or f"program {algorithm.command[0]}")


def facts(algorithm: Algorithm, plan: Plan, fetched: Input, run: Run, seen: Seen) -> dict[str, Any]:
    """Return what is known before the run and does not depend on where and when it happens."""
    picture = fetched.picture
    return {
        "schema": SCHEMA,
        "dynsvc": __version__,
        "algorithm": {
            "name": algorithm.name,
            "version": algorithm.version,
            "image": run.image,
            "argv": portable(run.argv, seen),
            "parameters": dict(plan.parameters),
            "device": algorithm.device.kind,
        },
        "input": {
            **_input(plan),
            "picture": {
                "sha256": picture.sha256,
                "size_bytes": picture.size_bytes,
                "width_px": fetched.width_px,
                "height_px": fetched.height_px,
                "suffix": fetched.suffix,
            },
        },
    }


def run_facts(
    message: Message, host: str, executed: Executed | None, *, cache: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the section ``run``.

    Parameters
    ----------
    executed
        The run; None where the result of an earlier one is delivered again.
    cache
        Of that one: its order and when it ended.
    """
    timings_s = dict(message.timings_s)
    section: dict[str, Any] = {
        "order_id": message.order_id,
        "host": host,
        "ended_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "timings_s": timings_s,
        "cache": dict(cache) if cache else None,
    }
    if executed:
        outcome, run = executed.outcome, executed.run
        timings_s |= {"waited": round(executed.waited_s, 4), "algorithm": round(outcome.duration_s, 4)}
        section |= {
            "gpus": list(outcome.gpus or run.gpu_ids),
            "mode": run.mode,
            "warm": outcome.warm,
            "limits": run.limits,
        }
    return section


def document(
    known: Mapping[str, Any],
    result: Mapping[str, Any],
    run: Mapping[str, Any],
    executed: str,
    stated: Mapping[str, str] | None = None,
) -> bytes:
    """Return the file's bytes: UTF-8, two spaces, the keys in their order.

    Parameters
    ----------
    executed, stated
        As :class:`dynsvc.runtime.RunOutcome` has them.
    """
    algorithm = {**known["algorithm"], "executed": executed, "stated": dict(stated or {})}
    content = {**known, "algorithm": algorithm, "result": dict(result), "run": dict(run)}
    # Python's own encoder indents in Python.
    return to_json(content, indent=2) + b"\n"
