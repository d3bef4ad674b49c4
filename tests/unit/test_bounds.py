"""What a run may write."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynsvc.errors import AlgorithmFailed, OutputRefused
from dynsvc.outputs import measure
from dynsvc.runtime import Limits, Run
from workers.runtimes.bounds import Bound, bounded

KIB = 1 << 10
MIB = 1 << 20


def made(folder: Path) -> Run:
    for name in ("input", "output", "tmp"):
        (folder / name).mkdir()
    limits = Limits(timeout_s=60, memory_mib=512, cpus=1, pids=64, tmp_mib=1, output_bytes=512 * KIB)
    return Run(
        algorithm="seg",
        version="1",
        image=None,
        argv=("seg",),
        input_dir=folder / "input",
        output_dir=folder / "output",
        limits=limits,
        order_id="14",
        attempt="a1",
    )


def test_everything_below_a_folder_is_counted_and_links_are_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "measured"
    (folder / "a" / "b").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x").write_bytes(bytes(MIB))
    empty = measure(folder, "seg")
    (folder / "x").write_bytes(bytes(100 * KIB))
    (folder / "a" / "b" / "x").write_bytes(bytes(100 * KIB))
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    assert 200 * KIB <= measure(folder, "seg") - empty < 300 * KIB
    assert measure(tmp_path / "gone", "seg") == 0


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    (tmp_path / Path(*"d" * 70)).mkdir(parents=True)
    with pytest.raises(OutputRefused, match="nested deeper than 64"):
        measure(tmp_path, "seg")


def test_too_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynsvc.outputs._LIVE_ENTRIES", 10)
    for number in range(12):
        (tmp_path / str(number)).touch()
    with pytest.raises(OutputRefused, match="more than 10 files and folders"):
        measure(tmp_path, "seg")


def test_a_run_within_its_bounds_is_only_asked_after(tmp_path: Path) -> None:
    run = made(tmp_path)
    (run.output_dir / "x").write_bytes(bytes(400 * KIB))
    answers = iter([False, True])
    with bounded(run, lambda: next(answers), output=run.output_dir, tmp=tmp_path / "tmp") as ask:
        assert not ask()
        assert ask()


def test_the_folders_of_a_run_that_has_just_begun_are_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(tmp_path)
    (run.output_dir / "x").write_bytes(bytes(600 * KIB))
    monkeypatch.setattr("workers.runtimes.bounds._FRESH_S", 60.0)
    with bounded(run, lambda: False, output=run.output_dir) as ask:
        assert not ask()
    monkeypatch.setattr("workers.runtimes.bounds._FRESH_S", 0.0)
    with bounded(run, lambda: False, output=run.output_dir) as ask, pytest.raises(OutputRefused):
        ask()


def test_what_serves_several_runs_is_looked_at_from_the_beginning(tmp_path: Path) -> None:
    run = made(tmp_path)
    (tmp_path / "tmp" / "x").write_bytes(bytes(2 * MIB))
    with pytest.raises(AlgorithmFailed, match="its limit of 1 MiB in /tmp"):
        Bound(run, lambda: False, output=run.output_dir, tmp=tmp_path / "tmp")()


def test_output_and_temporary_files_have_limits_of_their_own(tmp_path: Path) -> None:
    run = made(tmp_path)
    bound = Bound(run, lambda: False, output=run.output_dir, tmp=tmp_path / "tmp")
    (tmp_path / "tmp" / "x").write_bytes(bytes(2 * MIB))
    with pytest.raises(AlgorithmFailed, match="its limit of 1 MiB in /tmp"):
        bound.look()
    (run.output_dir / "x").write_bytes(bytes(600 * KIB))
    with pytest.raises(OutputRefused, match="more than 524288 bytes; the run was ended"):
        bound.look()


def test_a_program_that_met_the_limit_before_we_looked_is_told_the_limit(tmp_path: Path) -> None:
    run = made(tmp_path)
    (run.output_dir / "x").write_bytes(bytes(600 * KIB))
    with pytest.raises(OutputRefused), bounded(run, lambda: False, output=run.output_dir):
        raise AlgorithmFailed("seg", "ended with exit status 1", "File too large")
    (run.output_dir / "x").unlink()
    with pytest.raises(AlgorithmFailed), bounded(run, lambda: False, output=run.output_dir):
        raise AlgorithmFailed("seg", "ended with exit status 1", "no tile")
