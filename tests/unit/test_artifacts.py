"""The artifact store, over a folder and over another fsspec driver."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from dynsvc.artifacts import Artifact, ArtifactStore
from dynsvc.errors import ArtifactCorrupt, ArtifactMissing, SettingsInvalid, StorageUnavailable
from dynsvc.files import created
from tests.support.services import missing


@pytest.fixture(params=["folder", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "folder":
        yield str(tmp_path / "store")
        return
    root = f"memory://{uuid.uuid4().hex}"
    yield root
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists(root):
        filesystem.rm(root, recursive=True)


@pytest.fixture
def store(uri: str) -> ArtifactStore:
    return ArtifactStore(uri)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(b"pixels" * 1000)
    return path


def test_a_stored_file_comes_back(store: ArtifactStore, file: Path, tmp_path: Path) -> None:
    artifact = store.put(file, "orders/14/roi.png")
    assert artifact.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert artifact.size_bytes == 6000
    assert store.exists("orders/14/roi.png")
    assert store.get(artifact, tmp_path / "new/copy.png").read_bytes() == file.read_bytes()
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new/copy.png"]


def test_a_file_that_is_given_away_is_stored_like_any_other(
    store: ArtifactStore, file: Path, tmp_path: Path
) -> None:
    content = file.read_bytes()
    artifact = store.put(file, "orders/14/given.png", give=True)
    assert artifact.sha256 == hashlib.sha256(content).hexdigest()
    assert store.get(artifact, tmp_path / "copy.png").read_bytes() == content


def test_what_was_measured_while_a_file_was_written_is_not_measured_again(
    store: ArtifactStore, tmp_path: Path
) -> None:
    known = created(tmp_path / "a.zip", b"packed")
    artifact = store.put(tmp_path / "a.zip", "orders/14/a.zip", give=True, measured_as=known)
    assert (artifact.sha256, artifact.size_bytes) == (hashlib.sha256(b"packed").hexdigest(), 6)
    assert store.get(artifact, tmp_path / "copy").read_bytes() == b"packed"


def test_a_given_file_takes_the_place_of_an_older_one(
    store: ArtifactStore, file: Path, tmp_path: Path
) -> None:
    store.put(file, "orders/14/a")
    new = created(tmp_path / "new", b"new")
    artifact = store.put(tmp_path / "new", "orders/14/a", give=True, measured_as=new)
    assert store.get(artifact, tmp_path / "copy").read_bytes() == b"new"


def test_a_given_file_is_written_for_good(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())))
    ArtifactStore(str(tmp_path / "store")).put(file, "orders/14/b", give=True)
    assert synced == [str(file), str(tmp_path / "store/orders/14")], "the bytes before the name"


def test_a_file_from_another_file_system_is_copied(tmp_path: Path) -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as other:
        assert Path(other.name).stat().st_dev != tmp_path.stat().st_dev
        other.write(b"pixels")
        other.flush()
        store = ArtifactStore(str(tmp_path / "store"))
        artifact = store.put(Path(other.name), "a", give=True)
        assert store.get(artifact, tmp_path / "copy").read_bytes() == b"pixels"


def test_a_stored_file_is_read_in_place_only_where_it_is_whole(
    store: ArtifactStore, uri: str, file: Path
) -> None:
    artifact = store.put(file, "a")
    place = store.in_place(artifact)
    if "memory" in uri:
        assert place is None
        return
    assert place is not None
    assert place.read_bytes() == file.read_bytes()
    place.write_bytes(b"spoilt")
    with pytest.raises(ArtifactCorrupt, match="6 bytes"):
        store.in_place(artifact)
    place.unlink()
    with pytest.raises(ArtifactMissing):
        store.in_place(artifact)


def test_an_artifact_survives_a_message(store: ArtifactStore, file: Path, uri: str, tmp_path: Path) -> None:
    artifact = Artifact.model_validate_json(store.put(file, "a").model_dump_json())
    assert ArtifactStore(uri).get(artifact, tmp_path / "b").read_bytes() == file.read_bytes()


def test_an_empty_file_can_be_stored(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert store.get(store.put(tmp_path / "empty", "a"), tmp_path / "b").read_bytes() == b""


def test_changing_the_copy_does_not_change_the_store(
    store: ArtifactStore, file: Path, tmp_path: Path
) -> None:
    artifact = store.put(file, "a")
    with store.get(artifact, tmp_path / "copy").open("r+b") as stream:
        stream.write(b"spoilt")
    file.write_bytes(b"other")
    assert store.get(artifact, tmp_path / "again").read_bytes() == b"pixels" * 1000


def test_a_second_put_of_other_bytes_replaces_the_first(
    store: ArtifactStore, file: Path, tmp_path: Path
) -> None:
    old = store.put(file, "a")
    file.write_bytes(b"others" * 1000)
    new = store.put(file, "a")
    assert store.get(new, tmp_path / "b").read_bytes() == b"others" * 1000
    with pytest.raises(ArtifactCorrupt):
        store.get(old, tmp_path / "c")


def test_a_second_put_of_the_same_bytes_writes_nothing(tmp_path: Path, file: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    first = store.put(file, "a")
    before = (tmp_path / "store/a").stat()
    os.utime(tmp_path / "store/a", (1, 1))
    assert store.put(file, "a") == first
    after = (tmp_path / "store/a").stat()
    assert after.st_ino == before.st_ino
    assert after.st_mtime > 1  # in use: it is not swept now


def test_a_missing_artifact_is_named(store: ArtifactStore, file: Path, tmp_path: Path) -> None:
    artifact = store.put(file, "a")
    store.delete("a")
    with pytest.raises(ArtifactMissing) as caught:
        store.get(artifact, tmp_path / "b")
    assert caught.value.key == "a"
    assert not caught.value.transient
    assert not (tmp_path / "b").exists()
    assert not store.exists("a")


@pytest.mark.parametrize("bytes_now", [b"pixels" * 999, b"Pixels" + b"pixels" * 999, b""])
def test_a_damaged_artifact_is_never_handed_out(
    store: ArtifactStore, uri: str, file: Path, tmp_path: Path, bytes_now: bytes
) -> None:
    artifact = store.put(file, "a/b")
    filesystem, root = fsspec.core.url_to_fs(uri)
    filesystem.pipe_file(f"{root}/a/b", bytes_now)
    with pytest.raises(ArtifactCorrupt):
        store.get(artifact, tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "store") == ["picture.png"]
    assert store.put(file, "a/b") == artifact  # putting it again repairs it
    store.get(artifact, tmp_path / "copy")


def test_a_prefix_is_deleted_with_all_below_it_and_nothing_else(store: ArtifactStore, file: Path) -> None:
    for key in ("orders/1/a", "orders/1/b/c", "orders/11/a"):
        store.put(file, key)
    store.delete("orders/1")
    assert [store.exists(key) for key in ("orders/1/a", "orders/1/b/c", "orders/11/a")] == [
        False,
        False,
        True,
    ]
    store.delete("orders/1")
    store.delete("orders/11/")
    assert not store.exists("orders/11/a")


def test_old_artifacts_are_swept(store: ArtifactStore, file: Path) -> None:
    store.put(file, "orders/1/a")
    store.put(file, "orders/2/a")
    assert store.sweep(3600).removed == 0
    assert store.exists("orders/1/a")
    assert store.sweep(-1).removed == 2
    assert not store.exists("orders/1/a")
    assert store.sweep(-1).removed == 0


def test_left_overs_and_empty_folders_are_swept_from_a_folder(tmp_path: Path, file: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    store.put(file, "orders/1/new")
    left = tmp_path / "store/orders/0/.partial-0"
    left.parent.mkdir()
    left.write_bytes(b"half")
    for path in (left, left.parent):
        os.utime(path, (1, 1))
    assert store.sweep(3600).removed == 1
    os.utime(left.parent, (1, 1))
    assert store.sweep(3600).removed == 0
    assert sorted(str(path.relative_to(tmp_path / "store")) for path in (tmp_path / "store").rglob("*")) == [
        "orders",
        "orders/1",
        "orders/1/new",
    ]


def test_an_empty_store_can_be_swept(store: ArtifactStore) -> None:
    assert store.sweep(0).removed == 0


@pytest.mark.parametrize(
    "key", ["", "/a", "../a", "a/../b", "a//b", ".partial-1", "a/.b", "a b", "a\n", "ä", "a/", "x" * 300]
)
def test_unsafe_keys_are_errors_of_the_program(
    store: ArtifactStore, file: Path, tmp_path: Path, key: str
) -> None:
    with pytest.raises(ValueError, match="no artifact key"):
        store.put(file, key)
    with pytest.raises(ValueError, match="no artifact key"):
        store.get(Artifact(key=key, sha256="0" * 64, size_bytes=0), tmp_path / "x")


def test_a_missing_source_file_is_told(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable):
        store.put(tmp_path / "none", "a")
    assert not store.exists("a")


@pytest.mark.parametrize("uri", ["nosuchscheme://x", "s3-but-wrong://bucket"])
def test_an_unknown_scheme_is_a_wrong_setting(uri: str) -> None:
    with pytest.raises(SettingsInvalid, match="DYNSVC_ARTIFACTS"):
        ArtifactStore(uri)


def test_errors_do_not_tell_the_password(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        ArtifactStore("nosuchscheme://user:hunter2@host/x?token=hunter2")
    assert "hunter2" not in str(caught.value)


def test_a_reader_sees_the_old_or_the_new_file_but_no_half(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    versions = [bytes([number]) * 3_000_000 for number in range(2)]
    for number, content in enumerate(versions):
        (tmp_path / str(number)).write_bytes(content)
    store.put(tmp_path / "0", "a")
    done = threading.Event()

    def write() -> None:
        for number in range(20):
            store.put(tmp_path / str(number % 2), "a")
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add((tmp_path / "store/a").read_bytes())
    writer.join()
    assert seen <= set(versions)


def test_a_full_disk_is_transient_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        missing("root, to mount a small file system")
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        missing(f"the right to mount a small file system ({mounted.stderr.decode().strip()})")
    try:
        store = ArtifactStore(str(small / "store"))
        (tmp_path / "large").write_bytes(os.urandom(3_000_000))
        (tmp_path / "tiny").write_bytes(b"x")
        kept = store.put(tmp_path / "tiny", "kept")
        with pytest.raises(StorageUnavailable, match="No space left on device") as caught:
            store.put(tmp_path / "large", "orders/1/large")
        assert caught.value.transient
        assert [path.name for path in small.rglob("*") if path.is_file()] == ["kept"]
        assert store.get(kept, tmp_path / "again").read_bytes() == b"x"

        elsewhere = ArtifactStore(str(tmp_path / "store"))
        artifact = elsewhere.put(tmp_path / "large", "large")
        with pytest.raises(StorageUnavailable, match="No space left on device"):
            elsewhere.get(artifact, small / "copy")
        assert not (small / "copy").exists()

        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        with pytest.raises(StorageUnavailable, match="Read-only file system"):
            store.put(tmp_path / "tiny", "another")
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_file_size_limit_leaves_nothing_half_written(tmp_path: Path, file: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StorageUnavailable, match="File too large"):
            store.put(file, "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def _put_in_child(uri: str, path: str) -> None:
    ArtifactStore(uri).put(Path(path), "child")


def test_a_store_works_after_a_fork(tmp_path: Path, file: Path) -> None:
    uri = str(tmp_path / "store")
    store = ArtifactStore(uri)
    store.put(file, "parent")
    child = multiprocessing.get_context("fork").Process(target=_put_in_child, args=(uri, str(file)))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert store.exists("child")
