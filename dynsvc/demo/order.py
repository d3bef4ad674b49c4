"""The demo's order, in the shape that the viewer sends since May 2017."""

from __future__ import annotations

from typing import Any

from dynsvc.algorithms import Algorithm
from dynsvc.regions import Region

__all__ = ["JOB_TYPE", "viewer_order"]

JOB_TYPE = "analysisJob"

# What the viewer's form holds when it is opened.
_VIEWER = {"r": "1", "w": "0.8", "l": "3", "u": "10", "k": "20", "j": "0"}


def viewer_order(algorithm: Algorithm, case_id: str, region: Region, mpp_um: float | None) -> dict[str, Any]:
    """Return a job's data as it reaches Kue: every leaf is a text, and some are constants of the viewer.

    Parameters
    ----------
    algorithm
        Its defaults are ordered; the viewer's, for parameters that it has not.
    case_id
        The slide.
    region
        Level-0 pixels.
    mpp_um
        Ordered as ``pm``, which the viewer never sends; None for a slide that tells it.
    """
    defaults = {name: parameter.default for name, parameter in algorithm.parameters.items()}
    values = {name: str(defaults.get(name) or value) for name, value in _VIEWER.items()}
    execution_id = ":".join([algorithm.name, *(f"{name}{value}" for name, value in values.items())])
    return {
        "algorithm": execution_id,
        "execution_id": execution_id,
        "created_by": "user1",
        "notes": "",
        "title": "title1 :: ",
        "order": {
            "execution": {
                "algorithm": execution_id,
                "execution_id": execution_id,
                "parameters": [{name: value} for name, value in values.items()],
            },
            "image": {
                "case_id": case_id,
                "subject_id": case_id,
                "width": "48002",
                "height": "35558",
                "source": "image_server",
            },
            "metadata": {"created_by": "user1", "created_on": "1465592027497"},
            "roi": {
                "x": str(region.x_px),
                "y": str(region.y_px),
                "w": str(region.width_px),
                "h": str(region.height_px),
                "full": "false",
                "square": "false",
                "pct": "false",
            },
            **{f"p{name}": value for name, value in values.items()},
            **({"pm": f"{mpp_um:g}"} if mpp_um else {}),
        },
    }
