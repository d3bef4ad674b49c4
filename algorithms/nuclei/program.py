"""One run: read pixels, find nuclei, write files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import cv2

from .arguments import DEFAULT_MPP_UM, MPP_RANGE_UM, USAGE, Request, parse, parse_survey
from .failures import Failure, InputUnreadable, UsageWrong
from .patch import Patch
from .pictures import Source, opened
from .results import Results
from .sampling import sample
from .stain import Grid
from .summary import document, summary
from .tiles import Box, cut, survey

__all__ = ["answer", "main", "run"]

#: Patches of slides have at most this side, so that the files of one fit into memory.
_MAX_PATCH_PX, _MIN_PATCH_PX = 4096, 256
#: Two values of mpp that differ by more than this factor mean different magnifications.
_MPP_DIFFERS = 1.2


def main(argv: Sequence[str]) -> int:
    """Run the program and return its exit status: 0 done, 2 usage, 3 input, 4 output."""
    if {"-h", "--help"} & set(argv):
        print(USAGE, end="")
        return 0
    try:
        if "--serve" in argv:
            from .service import serve_requests  # noqa: PLC0415 - only for warm mode

            serve_requests([word for word in argv if word != "--serve"])
        else:
            answer(argv)
    except UsageWrong as failure:
        print(f"{failure}\n{USAGE}", file=sys.stderr, end="")
        return failure.exit_status
    except Failure as failure:
        print(failure, file=sys.stderr)
        return failure.exit_status
    return 0


def answer(argv: Sequence[str]) -> dict[str, Any]:
    """Do what a command line asks for, a run or a survey, and return its summary.

    Raises
    ------
    Failure
        Usage, input or output is wrong.
    """
    if "--survey" not in argv:
        return run(parse(argv))
    request, warnings = parse_survey(argv), list[str]()
    return sample(request, _said(request.mpp_um, warnings), warnings)


def run(request: Request) -> dict[str, Any]:
    """Segment what *request* names, write all files, and return the summary.

    Raises
    ------
    InputUnreadable
        The picture or slide cannot be used.
    OutputFailed
        A file cannot be written.
    """
    # Work is split over processes, by tile. Threads inside one would take cores from the others.
    cv2.setNumThreads(1)
    results = Results(request.output_dir)
    with ExitStack() as stack:
        source = stack.enter_context(
            opened(request.input, slide=request.input_type != "img", folder=request.output_dir)
        )
        warnings: list[str] = []
        mpp_um = _mpp(request, source, warnings)
        region = _region(request, source, warnings)
        grid = Grid.of(mpp_um)
        # A picture begins at the tile's origin on the slide, and its region at the picture's.
        origin = (request.tile_x_px, request.tile_y_px) if request.input_type == "img" else (0, 0)
        patches = [(patch, cut(region, patch, grid, origin=origin)) for patch in _patches(request, region)]
        tiles = [tile for _, patch_tiles in patches for tile in patch_tiles]
        found = survey(source, tiles, grid, request.parameters.threshold)
        areas: list[float] = []
        for patch, patch_tiles in patches:
            with Patch(request, source, region, patch, mpp_um) as work:
                for tile in patch_tiles:
                    areas += work.add(tile, found)
                work.write(results)
        region_um2 = region.width * region.height * mpp_um**2
        values = summary(
            areas, found, mpp_um=mpp_um, region_um2=region_um2, files=results.names, warnings=warnings
        )
        results.write("result.json", document(values))
        if request.zip:
            results.archive(request.zip)
    return values


def _mpp(request: Request, source: Source, warnings: list[str]) -> float:
    """Return the micrometres per pixel to use: the slide's own, else the command line's, else the default."""
    low, high = MPP_RANGE_UM
    if source.mpp_um is not None:
        if not low <= source.mpp_um <= high:
            raise InputUnreadable(
                f"the slide says {source.mpp_um:g} um per pixel, expected {low:g} to {high:g}"
            )
        said = request.mpp_um
        if said is not None and not 1 / _MPP_DIFFERS < said / source.mpp_um < _MPP_DIFFERS:
            warnings.append(
                f"-m says {said:g} um per pixel, the slide {source.mpp_um:g}; the slide's was used"
            )
        return source.mpp_um
    return _said(request.mpp_um, warnings)


def _said(mpp_um: float | None, warnings: list[str]) -> float:
    if mpp_um is None:
        warnings.append(f"no um per pixel was given; {DEFAULT_MPP_UM:g} was assumed")
        return DEFAULT_MPP_UM
    return mpp_um


def _region(request: Request, source: Source, warnings: list[str]) -> Box:
    """Return the part of the source to segment."""
    whole = Box(0, 0, source.width_px, source.height_px)
    if request.input_type == "img":
        wanted = request.tile_width_px, request.tile_height_px
        if all(wanted) and wanted != (whole.width, whole.height):
            warnings.append(
                f"-b says {wanted[0]} x {wanted[1]} px, the picture has {whole.width} x {whole.height}; "
                "if it was scaled, positions and sizes are wrong"
            )
        return whole
    if request.input_type == "wsi":
        return whole
    left, top = request.tile_x_px, request.tile_y_px
    width, height = request.tile_width_px or whole.width, request.tile_height_px or whole.height
    right, bottom = min(left + width, whole.right), min(top + height, whole.bottom)
    if left >= right or top >= bottom:
        raise InputUnreadable(
            f"tile {left},{top},{width},{height} lies outside the slide of {whole.width} x {whole.height} px"
        )
    if (request.tile_width_px and right < left + width) or (request.tile_height_px and bottom < top + height):
        warnings.append(
            f"the tile reaches over the slide's edge and was cut to {right - left} x {bottom - top} px"
        )
    return Box(left, top, right - left, bottom - top)


def _patches(request: Request, region: Box) -> list[Box]:
    """Cut the region of a slide into patches. A picture is one patch, whatever -d says."""
    if request.input_type == "img":
        return [region]
    sides = [
        min(max(wanted or _MAX_PATCH_PX, _MIN_PATCH_PX), _MAX_PATCH_PX)
        for wanted in (request.patch_width_px, request.patch_height_px)
    ]
    return [
        Box(left, top, min(sides[0], region.right - left), min(sides[1], region.bottom - top))
        for top in range(region.top, region.bottom, sides[1])
        for left in range(region.left, region.right, sides[0])
    ]
