"""The command line of ``mainSegmentFeatures``, parsed once into a frozen request."""

from __future__ import annotations

import getopt
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .failures import UsageWrong
from .threshold import NOTHING, Nothing, Threshold

__all__ = [
    "DEFAULT_MPP_UM",
    "MPP_RANGE_UM",
    "USAGE",
    "Parameters",
    "Request",
    "SurveyRequest",
    "parse",
    "parse_survey",
]

USAGE = """\
usage: python -m algorithms.nuclei -t img|onetile|wsi -i INPUT -o FOLDER
                                   -c CASE -p SUBJECT -a ANALYSIS [options]
       python -m algorithms.nuclei --survey -i FOLDER -o FOLDER [-m MPP]
       python -m algorithms.nuclei --serve [options]
       python -m algorithms.nuclei.evaluate FOLDER [options]

  -t  img: a picture; onetile: the part -s -b of a slide; wsi: a whole slide
  -i  the picture or slide              -o  an existing folder for the results
  -a  analysis id                       -c  case id            -p  subject id
  -s  x,y of the tile on the slide, in pixels like those of the picture       (0,0)
  -b  width,height of the tile; in img mode the picture's own size counts     (0,0: all)
  -d  width,height of a patch of a slide, at most 4096; each has its own files (0,0: 4096)
  -r  factor on the threshold, in transmitted light; more finds more          (1)
  -w  smoothness of outlines, at least 0                                      (0.8)
  -l  smallest nucleus, um2                                                   (3)
  -u  with -j 1, only objects above this area are split, um2                  (200)
  -k  with -j 1, kernel of the split, px                                      (20)
  -j  0 no split, 1 split large or ragged objects, 2 split all                (2)
  -n  level-set iterations; accepted, without effect                          (100)
  -m  um per pixel of the picture, 0.1 to 2; a slide's own value wins         (0.25)
  -e  description                       -z  zip file to create
  -v  what to write: mask[:img][:overlay][:labels][:geojson]                  (mask)
  --threshold OD[:BACKGROUND:NUCLEI:MEAN]|none
                  haematoxylin threshold from outside, so that tiles of one slide agree: the
                  text that survey.json, or result.json of another run, calls "threshold"
  --survey        write only survey.json: the threshold of a slide, from the pictures in FOLDER
  --serve         answer requests on standard input, one JSON document a line
"""

_FLAGS = "ht:i:o:m:r:w:l:u:k:j:n:s:b:d:v:a:e:c:p:z:"
_LONG = ["help", "threshold=", "serve", "survey"]
_LEVELS = frozenset({"mask", "img", "overlay", "labels", "geojson"})
#: The letters that old orders send for -j.
_DECLUMP = {"0": 0, "1": 1, "2": 2, "N": 0, "n": 0, "Y": 2, "y": 2}
#: Slides are scanned between 0.1 (100x) and 2 um/px (5x); below 5x a nucleus has no pixels left.
MPP_RANGE_UM = (0.1, 2.0)
#: The original's default.
DEFAULT_MPP_UM = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What a user can turn. Letters and units are those of the original."""

    otsu_ratio: float = 1.0
    curvature_weight: float = 0.8
    min_size_um2: float = 3.0
    max_size_um2: float = 200.0
    kernel_px: float = 20.0
    #: 0 no split, 1 split large or ragged objects, 2 split all.
    declump: int = 2
    #: Recorded in the metadata only.
    iterations: int = 100
    #: From outside, or only the density that separates nuclei from the rest; None to find it in the region.
    threshold: Threshold | Nothing | float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One run of the program."""

    input_type: Literal["img", "onetile", "wsi"]
    input: Path
    output_dir: Path
    #: Tile in level-0 pixels of the slide. A size of 0 means all.
    tile_x_px: int = 0
    tile_y_px: int = 0
    tile_width_px: int = 0
    tile_height_px: int = 0
    patch_width_px: int = 0
    patch_height_px: int = 0
    analysis_id: str
    case_id: str
    subject_id: str
    description: str = ""
    #: Micrometres per pixel, None where the command line does not say.
    mpp_um: float | None = None
    levels: frozenset[str] = frozenset({"mask"})
    zip: Path | None = None
    parameters: Parameters = Parameters()


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyRequest:
    """A look at parts of a slide, before its tiles are done one by one."""

    #: A picture, or a folder of pictures.
    input: Path
    output_dir: Path
    mpp_um: float | None = None


def parse_survey(argv: Sequence[str]) -> SurveyRequest:
    """Read the command line of a survey. Flags that only a run needs are allowed, and not looked at.

    Raises
    ------
    UsageWrong
        A flag is unknown, missing or out of range.
    """
    given = _flags(argv, ("-i", "-o"))
    return SurveyRequest(input=Path(given["-i"]), output_dir=Path(given["-o"]), mpp_um=_mpp(given))


def parse(argv: Sequence[str]) -> Request:
    """Read the command line of a run.

    Raises
    ------
    UsageWrong
        A flag is unknown, missing or out of range.
    """
    given = _flags(argv, ("-t", "-i", "-o", "-a", "-c", "-p"))
    kind = given["-t"]
    if kind not in ("img", "onetile", "wsi"):
        raise UsageWrong(f"-t is {kind!r}, expected img, onetile or wsi")
    x, y = _pair(given, "-s", low=0)
    width, height = _pair(given, "-b", low=0)
    patch_width, patch_height = _pair(given, "-d", low=0)
    declump = given.get("-j", "2")
    if declump not in _DECLUMP:
        raise UsageWrong(f"-j is {declump!r}, expected 0, 1 or 2")
    levels = frozenset(given.get("-v", "mask").split(":"))
    if not levels <= _LEVELS:
        raise UsageWrong(f"-v is {given['-v']!r}, expected words of {':'.join(sorted(_LEVELS))}")
    return Request(
        input_type=kind,  # type: ignore[arg-type]  # checked above
        input=Path(given["-i"]),
        output_dir=Path(given["-o"]),
        tile_x_px=x,
        tile_y_px=y,
        tile_width_px=width,
        tile_height_px=height,
        patch_width_px=patch_width,
        patch_height_px=patch_height,
        analysis_id=given["-a"],
        case_id=given["-c"],
        subject_id=given["-p"],
        description=given.get("-e", ""),
        mpp_um=_mpp(given),
        levels=levels | {"mask"},
        zip=Path(given["-z"]) if given.get("-z") else None,
        parameters=Parameters(
            otsu_ratio=_number(given, "-r", 1.0, 0.1, 10.0),
            curvature_weight=_number(given, "-w", 0.8, 0.0, 100.0),
            min_size_um2=_number(given, "-l", 3.0, 0.0, 1e6),
            max_size_um2=_number(given, "-u", 200.0, 0.0, 1e6),
            kernel_px=_number(given, "-k", 20.0, 0.1, 1e4),
            declump=_DECLUMP[declump],
            iterations=int(_number(given, "-n", 100, 0, 1e6)),
            threshold=_threshold(given.get("--threshold")),
        ),
    )


def _flags(argv: Sequence[str], required: Sequence[str]) -> dict[str, str]:
    try:
        pairs, rest = getopt.getopt(list(argv), _FLAGS, _LONG)
    except getopt.GetoptError as error:
        raise UsageWrong(str(error)) from None
    if rest:
        raise UsageWrong(f"{rest[0]!r} follows no flag")
    given = dict(pairs)
    for flag in required:
        if not given.get(flag):
            raise UsageWrong(f"{flag} is required and cannot be empty")
    return given


def _mpp(given: dict[str, str]) -> float | None:
    return _number(given, "-m", DEFAULT_MPP_UM, *MPP_RANGE_UM) if "-m" in given else None


def _number(given: dict[str, str], flag: str, default: float, low: float, high: float) -> float:
    text = given.get(flag)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:  # also refuses nan
        raise UsageWrong(f"{flag} is {text!r}, expected a number from {low:g} to {high:g}")
    return value


def _threshold(text: str | None) -> Threshold | Nothing | float | None:
    if text is None:
        return None
    if text == NOTHING:
        return NOTHING
    try:
        values = [float(word) for word in text.split(":")]
    except ValueError:
        values = []
    if len(values) not in (1, 4) or not all(-0.2 <= value <= 3 for value in values):
        raise UsageWrong(
            f"--threshold is {text!r}, expected OD or OD:BACKGROUND:NUCLEI:MEAN with densities up to 3, "
            f"or {NOTHING}"
        )
    if len(values) == 1:
        return values[0]
    threshold = Threshold(*values)
    if not threshold.background_od < threshold.od < threshold.nuclei_od:
        raise UsageWrong(f"--threshold is {text!r}, expected BACKGROUND below OD below NUCLEI")
    return threshold


def _pair(given: dict[str, str], flag: str, *, low: int) -> tuple[int, int]:
    text = given.get(flag)
    if text is None:
        return 0, 0
    words = text.split(",")
    try:
        first, second = (int(word) for word in words)
    except ValueError:
        first = second = low - 1
    if first < low or second < low or max(first, second) >= 2**31:
        raise UsageWrong(f"{flag} is {text!r}, expected two whole numbers such as 0,0")
    return first, second
