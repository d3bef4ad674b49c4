"""The command line: what it accepts, and what it says about the rest."""

from __future__ import annotations

import pytest

from algorithms.nuclei.arguments import Parameters, parse
from algorithms.nuclei.failures import UsageWrong
from algorithms.nuclei.threshold import Threshold

LEAST = ["-t", "img", "-i", "in.png", "-o", "out", "-a", "A", "-c", "C", "-p", "P"]


def test_the_originals_flags_are_all_accepted() -> None:
    words = ["-s", "10,20", "-b", "30,40", "-d", "30,40", "-r", "1.1", "-w", "0.5", "-l", "4", "-u", "150"]
    words += ["-k", "10", "-j", "1", "-n", "50", "-m", "0.5"]
    more = ["-v", "overlay:mask:img", "-z", "out.zip", "-e", "-text that begins with a dash"]
    request = parse([*LEAST, *words, *more])
    assert (request.tile_x_px, request.tile_y_px, request.tile_width_px, request.tile_height_px) == (
        10,
        20,
        30,
        40,
    )
    assert request.description == "-text that begins with a dash"
    assert request.levels == {"mask", "img", "overlay"}
    assert request.parameters == Parameters(
        otsu_ratio=1.1,
        curvature_weight=0.5,
        min_size_um2=4.0,
        max_size_um2=150.0,
        kernel_px=10.0,
        declump=1,
        iterations=50,
    )


def test_what_is_left_out_has_the_originals_defaults_but_clumps_are_split() -> None:
    request = parse(LEAST)
    assert request.mpp_um is None
    assert request.parameters == Parameters(
        otsu_ratio=1.0,
        curvature_weight=0.8,
        min_size_um2=3.0,
        max_size_um2=200.0,
        kernel_px=20.0,
        declump=2,
        iterations=100,
    )


@pytest.mark.parametrize(("letter", "meaning"), [("N", 0), ("Y", 2), ("0", 0), ("1", 1), ("2", 2)])
def test_letters_of_old_orders_stand_for_a_kind_of_declumping(letter: str, meaning: int) -> None:
    assert parse([*LEAST, "-j", letter]).parameters.declump == meaning


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["-j", "3"], "-j"),  # unknown kind
        (["-m", "0.05"], "-m"),  # finer than any scanner
        (["-m", "4"], "-m"),  # 2.5x: nuclei have no pixels
        (["-m", "nan"], "-m"),
        (["-w", "-1"], "-w"),  # the original aborts
        (["-r", "0"], "-r"),
        (["-l", "x"], "-l"),
        (["-s", "1"], "-s"),  # one number
        (["-s", "-1,0"], "-s"),  # outside the slide
        (["-b", "1,2,3"], "-b"),
        (["-v", "mask:video"], "-v"),
        (["-t", "tiles"], "-t"),  # list files are not supported
        (["-q", "1"], "-q"),
        (["stray"], "stray"),
        (["-c", ""], "-c"),
        (["--threshold", "0.3:0.4:0.5:0.2"], "--threshold"),  # background above the threshold
        (["--threshold", "0.3:0.1"], "--threshold"),
    ],
)
def test_a_wrong_flag_is_named(more: list[str], named: str) -> None:
    with pytest.raises(UsageWrong, match=named):
        parse([*LEAST, *more])


@pytest.mark.parametrize("flag", ["-t", "-i", "-o", "-a", "-c", "-p"])
def test_each_required_flag_is_asked_for(flag: str) -> None:
    place = LEAST.index(flag)
    with pytest.raises(UsageWrong, match=flag):
        parse(LEAST[:place] + LEAST[place + 2 :])


def test_a_threshold_from_outside_is_the_text_of_another_run() -> None:
    threshold = Threshold(0.25, 0.1, 0.5, 0.2)
    assert parse([*LEAST, "--threshold", str(threshold)]).parameters.threshold == threshold
    assert parse([*LEAST, "--threshold", "0.25"]).parameters.threshold == 0.25
