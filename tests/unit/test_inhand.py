"""Files in hand: read where they lie, put into the store for others, gone with the attempt."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynsvc.artifacts import ArtifactStore
from dynsvc.errors import StorageUnavailable
from dynsvc.inhand import InHand
from dynsvc.measured import Measured

KEY = "orders/14/t-roi.jpg"


@pytest.fixture
def files(tmp_path: Path) -> InHand:
    return InHand(tmp_path / "scratch", "14")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "artifacts"))


def made(folder: Path, content: bytes = b"pixels") -> Path:
    path = folder / "roi.jpg"
    path.write_bytes(content)
    return path


def folders(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "scratch" / "work").glob("*"))


def test_what_is_kept_is_measured_and_read_where_it_lies(files: InHand) -> None:
    path = made(files.folder())
    artifact = files.keep(path, KEY)
    assert (artifact.key, artifact.sha256, artifact.size_bytes) == (KEY, *Measured.of(b"pixels"))
    assert files.path_of(artifact) == path


def test_what_was_made_elsewhere_is_moved(files: InHand, tmp_path: Path) -> None:
    path = made(tmp_path)
    kept = files.path_of(files.keep(path, KEY, Measured.of(b"pixels")))
    assert kept is not None
    assert kept.parent == files.folder()
    assert kept.read_bytes() == b"pixels"
    assert not path.exists()


def test_a_second_try_replaces_the_first(files: InHand) -> None:
    first = files.keep(made(files.folder(), b"first"), KEY)
    second = files.keep(made(files.folder(), b"second"), KEY)
    assert first != second
    kept = files.path_of(second)
    assert kept is not None
    assert kept.read_bytes() == b"second"


def test_the_store_has_what_is_put_away_and_only_once(
    files: InHand, store: ArtifactStore, tmp_path: Path
) -> None:
    artifact = files.keep(made(files.folder()), KEY)
    for _ in range(2):
        files.put_away(artifact, store)
        assert files.path_of(artifact) is None
    assert store.get(artifact, tmp_path / "copy").read_bytes() == b"pixels"


def test_what_the_store_does_not_take_stays_in_hand(
    files: InHand, store: ArtifactStore, tmp_path: Path
) -> None:
    artifact = files.keep(made(files.folder()), KEY)
    (tmp_path / "artifacts").touch()
    with pytest.raises(StorageUnavailable):
        files.put_away(artifact, store)
    (tmp_path / "artifacts").unlink()
    files.put_away(artifact, store)
    assert store.get(artifact, tmp_path / "copy").read_bytes() == b"pixels"


def test_a_folder_is_made_when_it_is_needed_and_goes_at_the_end(files: InHand, tmp_path: Path) -> None:
    files.close()
    assert folders(tmp_path) == []
    artifact = files.keep(made(files.folder()), KEY)
    assert folders(tmp_path) == [files.folder()]
    files.close()
    assert folders(tmp_path) == []
    assert files.path_of(artifact) is None


def test_a_disk_that_is_away_is_told(tmp_path: Path) -> None:
    (tmp_path / "scratch").touch()
    with pytest.raises(StorageUnavailable, match="scratch"):
        InHand(tmp_path / "scratch", "14").folder()
