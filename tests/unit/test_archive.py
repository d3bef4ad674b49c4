"""Output folders and zips: what is taken, what is refused, and that it is the same every time."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import resource
import socket
import stat
import struct
import tempfile
import tracemalloc
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynsvc import archive as archives
from dynsvc.archive import OutputFile, OutputLimits, ResultFile, build, collect, unpack
from dynsvc.errors import OutputMissing, OutputRefused, StorageUnavailable
from dynsvc.outputs import MemoryFile, discard, name_problem

LIMITS = OutputLimits(max_bytes=1_000_000, max_files=50)


def names(files: Sequence[ResultFile]) -> list[str]:
    return [file.name for file in files]


def content(file: ResultFile) -> bytes:
    with file.open() as stream:
        return stream.read()


@pytest.fixture(params=["memory", "disk"])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Small zips are handled in memory; here all of them are, or none."""
    if request.param == "disk":
        monkeypatch.setattr(archives, "_MEMORY_BYTES", 0)
    return str(request.param)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@contextmanager
def file_size_limit(limit_bytes: int) -> Iterator[None]:
    """Make writes beyond a size fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# collect


def test_files_are_found_sorted_with_their_sizes(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(b"12345")
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/ü.png").write_bytes(b"1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_bytes(b"")
    files = collect(tmp_path, "seg", LIMITS)
    assert [(file.name, file.size_bytes) for file in files] == [
        ("a.txt", 0),
        ("b.csv", 5),
        ("deep/er/ü.png", 1),
    ]
    with files[1].open() as stream:
        assert stream.read() == b"12345"


def _link(folder: Path) -> None:
    (folder / "bad").symlink_to("/etc/passwd")


def _link_to_own_file(folder: Path) -> None:
    (folder / "fine").write_text("x")
    (folder / "bad").symlink_to("fine")


def _linked_folder(folder: Path) -> None:
    (folder / "bad").symlink_to("/etc", target_is_directory=True)


def _dangling(folder: Path) -> None:
    (folder / "bad").symlink_to("nowhere")


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "bad")


def _socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(folder)  # the path of a socket is limited to 107 characters
        try:
            listener.bind("bad")
        finally:
            os.chdir(here)


def _device(folder: Path) -> None:
    try:
        os.mknod(folder / "bad", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes device files")


def _hard_link_out(folder: Path) -> None:
    outside = folder.parent / "secret"
    outside.write_text("secret")
    (folder / "bad").hardlink_to(outside)


def _newline(folder: Path) -> None:
    (folder / "bad\nname").write_text("x")


def _escape(folder: Path) -> None:
    (folder / "bad\x1b[2J").write_text("x")


def _backslash(folder: Path) -> None:
    (folder / "bad\\..\\x").write_text("x")


def _not_utf8(folder: Path) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff"))).write_text("x")


def _too_many_files(folder: Path) -> None:
    for number in range(LIMITS.max_files + 1):
        (folder / f"bad{number}").touch()


def _too_many_folders(folder: Path) -> None:
    for number in range(LIMITS.max_files + 1):
        (folder / f"bad{number}").mkdir()


def _too_large(folder: Path) -> None:
    with (folder / "bad").open("wb") as stream:
        stream.truncate(LIMITS.max_bytes + 1)


def _too_large_together(folder: Path) -> None:
    for number in range(3):
        (folder / f"bad{number}").write_bytes(bytes(LIMITS.max_bytes // 2))


def _too_deep(folder: Path) -> None:
    (folder / "/".join(["bad"] * 20)).mkdir(parents=True)


@pytest.mark.parametrize(
    "make",
    [
        _link,
        _link_to_own_file,
        _linked_folder,
        _dangling,
        _pipe,
        _socket,
        _device,
        _hard_link_out,
        _newline,
        _escape,
        _backslash,
        _not_utf8,
        _too_many_files,
        _too_many_folders,
        _too_large,
        _too_large_together,
        _too_deep,
    ],
)
def test_what_must_not_leave_the_folder_is_refused_by_name(tmp_path: Path, make: object) -> None:
    folder = tmp_path / "output"
    folder.mkdir()
    make(folder)  # type: ignore[operator]
    before = open_files()
    with pytest.raises(OutputRefused) as caught:
        collect(folder, "seg", LIMITS)
    assert caught.value.name.split("/")[0].startswith("bad")
    assert "seg wrote" in str(caught.value)
    assert str(caught.value).isprintable()
    assert open_files() == before
    discard(folder)
    assert not folder.exists()
    assert Path("/etc/passwd").exists()


def test_a_hundred_thousand_files_are_refused_without_looking_at_all(tmp_path: Path) -> None:
    for number in range(10_001):
        (tmp_path / str(number)).touch()
    with pytest.raises(OutputRefused, match="more than 10000 files"):
        collect(tmp_path, "seg", OutputLimits(max_bytes=1 << 40))


def test_hard_links_inside_the_folder_are_files(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("x")
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    assert names(collect(tmp_path, "seg", LIMITS)) == ["one", "two"]


def test_a_missing_folder_is_a_missing_output(tmp_path: Path) -> None:
    with pytest.raises(OutputMissing):
        collect(tmp_path / "none", "seg", LIMITS)


def test_a_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "output").symlink_to("/etc")
    with pytest.raises(OutputMissing):
        collect(tmp_path / "output", "seg", LIMITS)


@pytest.mark.parametrize("swap", ["file", "folder"])
def test_a_file_that_became_a_link_after_the_check_is_not_opened(tmp_path: Path, swap: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/passwd").write_text("mine")
    (found,) = collect(tmp_path, "seg", LIMITS)
    (tmp_path / "sub/passwd").unlink()
    if swap == "file":
        (tmp_path / "sub/passwd").symlink_to("/etc/passwd")
    else:
        (tmp_path / "sub").rmdir()
        (tmp_path / "sub").symlink_to("/etc")
    with pytest.raises(OutputRefused):
        found.open()
    with pytest.raises(OutputRefused):
        build(tmp_path / "result.zip", {"x": found})
    assert not (tmp_path / "result.zip").exists()


def test_a_file_that_became_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    (found,) = collect(tmp_path, "seg", LIMITS)
    (tmp_path / "x").unlink()
    os.mkfifo(tmp_path / "x")
    with pytest.raises(OutputRefused):
        found.open()


# discard


def test_very_deep_folders_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "output"
    folder.mkdir()
    deep = os.open(folder, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=deep)
        inner = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = inner
    os.close(deep)
    discard(folder)
    assert not folder.exists()


def test_folders_without_any_permission_are_removed_by_their_owner(request: pytest.FixtureRequest) -> None:
    above = Path(tempfile.mkdtemp())
    request.addfinalizer(lambda: discard(above))
    above.chmod(0o777)
    folder = above / "output"
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/file").write_text("x")
    (folder / "a/b").chmod(0)
    (folder / "a").chmod(0)
    folder.chmod(0)
    if os.geteuid() == 0:
        for path in ("a/b/file", "a/b", "a", "."):
            os.chown(folder / path, 65532, 65532)
    # Root needs no permission, so another user has to do it.
    child = multiprocessing.get_context("fork").Process(target=_discard_as, args=(65532, folder))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert not folder.exists()


def _discard_as(uid: int, folder: Path) -> None:
    if os.geteuid() == 0:
        os.setuid(uid)
    discard(folder)


def test_a_missing_folder_is_already_discarded(tmp_path: Path) -> None:
    discard(tmp_path / "none")


def test_a_link_in_the_place_of_a_folder_is_removed_and_not_followed(tmp_path: Path) -> None:
    for place in ("others", "empty"):
        (tmp_path / place).mkdir()
        (tmp_path / "output").symlink_to(place, target_is_directory=True)
        (tmp_path / "others/file").touch()
        discard(tmp_path / "output")
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_symlink()) == []
    assert (tmp_path / "others/file").exists()
    assert (tmp_path / "empty").is_dir()


def test_links_in_a_folder_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "others/deep").mkdir(parents=True)
    (tmp_path / "others/file").touch()
    (tmp_path / "output/deep/er").mkdir(parents=True)
    for place in ("output/link", "output/deep/link", "output/deep/er/link"):
        (tmp_path / place).symlink_to(tmp_path / "others", target_is_directory=True)
    discard(tmp_path / "output")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "file", "others"]


# names


@pytest.mark.parametrize("name", ["a", "a/b.csv", "Größe µm.png", "-rf", "a b", "...", ".hidden", "x" * 255])
def test_ordinary_names_are_taken(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/a",
        "../a",
        "a/../b",
        "a//b",
        "./a",
        "a/",
        "a\0b",
        "a\nb",
        "a\x7f",
        "\udcff",
        "a\u202eb",
        "C:\\a",
        "x" * 256,
        "ü" * 128,
        "a/" * 600 + "a",
    ],
)
def test_names_that_cannot_travel_are_refused(name: str) -> None:
    assert name_problem(name)


# unpack


def zipped(*entries: tuple[zipfile.ZipInfo | str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for entry, content in entries:
            archive.writestr(entry, content)
    return buffer.getvalue()


def special(name: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = mode << 16
    return entry


def test_a_zip_is_unpacked(tmp_path: Path, where: str) -> None:
    (tmp_path / "output.zip").write_bytes(zipped(("b/c.csv", b"12"), ("a.png", b"1"), ("b/", b"")))
    files = unpack(tmp_path / "output.zip", tmp_path / "files", "seg", LIMITS)
    assert [(file.name, file.size_bytes, content(file)) for file in files] == [
        ("a.png", 1, b"1"),
        ("b/c.csv", 2, b"12"),
    ]
    written = {"memory": [], "disk": ["files"]}[where]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*written, "output.zip"]


@pytest.mark.usefixtures("where")
def test_a_zip_found_in_an_output_folder_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output/r.zip").write_bytes(zipped(("a", b"1")))
    (found,) = collect(tmp_path / "output", "seg", LIMITS)
    assert names(unpack(found, tmp_path / "files", "seg", LIMITS)) == ["a"]


@pytest.mark.usefixtures("where")
def test_a_zip_without_entries_gives_no_files(tmp_path: Path) -> None:
    (tmp_path / "output.zip").write_bytes(zipped())
    assert unpack(tmp_path / "output.zip", tmp_path / "files", "seg", LIMITS) == ()


@pytest.mark.usefixtures("where")
def test_what_the_zip_program_writes_is_unpacked(tmp_path: Path) -> None:
    """Entries with a data descriptor and Unix extra fields, as the legacy programs produce."""
    buffer = io.BytesIO()

    class Unseekable(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            return buffer.write(data)

    with zipfile.ZipFile(Unseekable(), "w", zipfile.ZIP_DEFLATED) as archive:
        entry = zipfile.ZipInfo("a.csv")
        entry.extra = struct.pack("<HHBII", 0x5455, 9, 3, 1, 1)
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, b"1,2\n" * 100)
    (tmp_path / "output.zip").write_bytes(buffer.getvalue())
    (file,) = unpack(tmp_path / "output.zip", tmp_path / "files", "seg", LIMITS)
    assert file.size_bytes == 400


def _encrypted() -> bytes:
    data = bytearray(zipped(("a", b"1")))
    data[6] |= 1
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def _lying_size() -> bytes:
    """A bomb that declares to be small."""
    data = bytearray(zipped(("a", bytes(3_000_000))))
    struct.pack_into("<L", data, 22, 10)
    struct.pack_into("<L", data, data.rindex(b"PK\x01\x02") + 24, 10)
    return bytes(data)


def _wrong_sum() -> bytes:
    data = bytearray(zipped(("a", b"12345"), method=zipfile.ZIP_STORED))
    data[data.index(b"12345")] ^= 1
    return bytes(data)


def _overlapping() -> bytes:
    """Many entries of the table that show the same bytes: a bomb without nested zips."""
    one = zipped(("a", bytes(900_000)))
    table = one.rindex(b"PK\x01\x02")
    end = one.rindex(b"PK\x05\x06")
    rows = b"".join(one[table:end].replace(b"a", bytes([letter])) for letter in b"abcdefghij")
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 10, 10, len(rows), table, 0)
    return one[:table] + rows + tail


def _huge_table() -> bytes:
    one = zipped(("a", b"1"))
    end = one.rindex(b"PK\x05\x06")
    tail = bytearray(one[end:])
    struct.pack_into("<L", tail, 12, 2_000_000_000)
    return one[:end] + bytes(tail)


@pytest.mark.usefixtures("where")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"this is no zip", "no complete zip"),
        (zipped(("a", b"1" * 999))[:-30], "no complete zip"),  # broken off
        (zipped(("../a", b"1")), "does not stay"),
        (zipped(("b/../../a", b"1")), "does not stay"),
        (zipped(("/etc/cron.d/a", b"1")), "not relative"),
        (zipped(("a\\..\\b", b"1")), "backslash"),
        (zipped(("a\nb", b"1")), "control character"),
        (zipped((special("a", stat.S_IFLNK | 0o777), b"/etc/passwd")), "packed as a link"),
        (zipped((special("a", stat.S_IFCHR | 0o666), b"")), "special file"),
        (zipped((special("a", stat.S_IFIFO | 0o666), b"")), "special file"),
        (zipped(("a", b"1"), ("a/b", b"2")), "as a file and as a folder"),
        (zipped(("a/b", b"1"), ("a", b"2")), "as a file and as a folder"),
        (zipped(("a", b"1"), ("a.b", b""), ("a/b/", b"")), "as a file and as a folder"),
        (zipped(("a/", b""), ("a", b"2")), "twice"),
        (zipped(*((f"{number}", b"") for number in range(51))), "more than 50 entries"),
        (zipped(("a", bytes(1_000_001))), "more than 1000000 bytes"),
        (zipped(("a", bytes(600_000)), ("b", bytes(600_000))), "more than 1000000 bytes"),
        (zipped(("a", b"1" * 99), method=zipfile.ZIP_LZMA), "method 14"),
        (zipped(("a", b"1" * 99), method=zipfile.ZIP_BZIP2), "method 12"),
        (_encrypted(), "encrypted"),
        (_lying_size(), "no complete zip"),
        (_wrong_sum(), "no complete zip"),
        (_overlapping(), "more than 1000000 bytes"),
        (_huge_table(), "zip"),
    ],
)
def test_a_zip_that_cannot_be_trusted_is_refused_and_leaves_nothing(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    (tmp_path / "output.zip").write_bytes(data)
    with pytest.raises(OutputRefused, match=reason) as caught:
        unpack(tmp_path / "output.zip", tmp_path / "files", "seg", LIMITS)
    assert caught.value.name.startswith("output.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["output.zip"]


@pytest.mark.usefixtures("where")
def test_a_name_that_is_in_the_zip_twice_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        data = zipped(("a", b"1"), ("a", b"2"))
    (tmp_path / "output.zip").write_bytes(data)
    with pytest.raises(OutputRefused, match="twice"):
        unpack(tmp_path / "output.zip", tmp_path / "files", "seg", LIMITS)


@pytest.mark.parametrize("content", [None, b""])
def test_a_missing_or_empty_zip_is_a_missing_output(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "output.zip").write_bytes(content)
    with pytest.raises(OutputMissing):
        unpack(tmp_path / "output.zip", tmp_path / "files", "seg", LIMITS)


@pytest.mark.usefixtures("where")
def test_a_zip_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real.zip").write_bytes(zipped(("a", b"1")))
    (tmp_path / "output.zip").symlink_to("real.zip")
    with pytest.raises(OutputRefused):
        unpack(tmp_path / "output.zip", tmp_path / "files", "seg", LIMITS)


def test_a_full_disk_while_unpacking_is_transient_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_MEMORY_BYTES", 800_000)
    (tmp_path / "output.zip").write_bytes(zipped(("a", bytes(900_000))))
    with file_size_limit(100_000), pytest.raises(StorageUnavailable):
        unpack(tmp_path / "output.zip", tmp_path / "files", "seg", LIMITS)
    assert [path.name for path in tmp_path.iterdir()] == ["output.zip"]


def test_no_more_is_held_in_memory_than_a_zip_declares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "output.zip").write_bytes(_lying_size())
    with pytest.raises(OutputRefused), allocated_at_most(1_000_000):
        unpack(tmp_path / "output.zip", tmp_path / "files", "seg", LIMITS)
    monkeypatch.setattr(archives, "_MEMORY_BYTES", 10_000)
    (tmp_path / "output.zip").write_bytes(zipped(("a", bytes(900_000))))
    (file,) = unpack(tmp_path / "output.zip", tmp_path / "files", "seg", LIMITS)
    assert isinstance(file, OutputFile)  # small as it is packed


def test_a_zip_that_has_grown_since_it_was_found_is_not_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_MEMORY_BYTES", 10_000)
    (tmp_path / "output").mkdir()
    (tmp_path / "output/r.zip").write_bytes(zipped(("a", b"1")))
    (found,) = collect(tmp_path / "output", "seg", LIMITS)
    (tmp_path / "output/r.zip").write_bytes(zipped(("b", os.urandom(20_000))))
    (file,) = unpack(found, tmp_path / "files", "seg", LIMITS)
    assert isinstance(file, OutputFile)
    assert (file.name, file.size_bytes) == ("b", 20_000)


@contextmanager
def allocated_at_most(limit_bytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < limit_bytes


_GOOD = zipped(
    ("algmeta.json", b'{"case_id": "1"}'), ("features.csv", b"1,2\n" * 50), ("b/mask.png", bytes(300))
)


@pytest.mark.usefixtures("where")
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, len(_GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.none() | st.integers(0, len(_GOOD)),
)
def test_a_damaged_zip_is_unpacked_or_refused_but_never_anything_else(
    tmp_path: Path, changes: list[tuple[int, int]], cut: int | None
) -> None:
    data = bytearray(_GOOD)
    for position, value in changes:
        data[position] = value
    (tmp_path / "output.zip").write_bytes(bytes(data[:cut]))
    try:
        unpack(tmp_path / "output.zip", tmp_path / "files", "seg", LIMITS)
    except (OutputMissing, OutputRefused):
        assert not (tmp_path / "files").exists()
    discard(tmp_path / "files")
    assert [path.name for path in tmp_path.iterdir()] == ["output.zip"]


# build


@pytest.mark.usefixtures("where")
def test_the_same_files_give_the_same_zip(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"1,2\n" * 1000)
    first = build(tmp_path / "1.zip", {"x.csv": tmp_path / "x.csv", "a.json": b"{}"})
    os.utime(tmp_path / "x.csv", (1, 1))
    (tmp_path / "x.csv").chmod(0o600)
    second = build(tmp_path / "2.zip", {"a.json": b"{}", "x.csv": (tmp_path / "x.csv").read_bytes()})
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    packed = (tmp_path / "1.zip").read_bytes()
    assert first == second == (hashlib.sha256(packed).hexdigest(), len(packed))


@pytest.mark.usefixtures("where")
def test_a_built_zip_holds_the_files(tmp_path: Path) -> None:
    (tmp_path / "picture.JPEG").write_bytes(b"\xff\xd8" * 500)
    build(
        tmp_path / "1.zip",
        {"z.csv": b"1,2\n" * 500, "picture.JPEG": tmp_path / "picture.JPEG", "d/ü.json": b"{}"},
    )
    with zipfile.ZipFile(tmp_path / "1.zip") as archive:
        assert archive.testzip() is None
        entries = archive.infolist()
        assert [entry.filename for entry in entries] == ["d/ü.json", "picture.JPEG", "z.csv"]
        assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
        assert {entry.external_attr >> 16 for entry in entries} == {stat.S_IFREG | 0o644}
        assert [entry.compress_type for entry in entries] == [8, 0, 8]
        assert entries[2].compress_size < 100
        assert archive.read("picture.JPEG") == b"\xff\xd8" * 500


@pytest.mark.usefixtures("where")
def test_a_built_zip_can_be_unpacked_again(tmp_path: Path) -> None:
    build(tmp_path / "1.zip", {"a": b"1", "b/c": b"2"})
    assert names(unpack(tmp_path / "1.zip", tmp_path / "files", "seg", LIMITS)) == ["a", "b/c"]


@pytest.mark.usefixtures("where")
def test_a_zip_that_cannot_be_built_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable):
        build(tmp_path / "1.zip", {"a": b"1", "b": tmp_path / "missing"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("where")
def test_a_file_that_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "1.zip").write_bytes(b"another's")
    with pytest.raises(StorageUnavailable, match="File exists"):
        build(tmp_path / "1.zip", {"a": b"1"})
    assert (tmp_path / "1.zip").read_bytes() == b"another's"


def test_a_zip_is_the_same_in_memory_and_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"a.png": os.urandom(100_000), "b.csv": b"1,2\n" * 30_000, "c": b"", "d.jpg": os.urandom(70_000)}
    built = build(tmp_path / "memory.zip", files)
    for limit in (0, 1000, 100_100, 150_000):
        monkeypatch.setattr(archives, "_MEMORY_BYTES", limit)
        assert build(tmp_path / f"{limit}.zip", files) == built
        assert (tmp_path / f"{limit}.zip").read_bytes() == (tmp_path / "memory.zip").read_bytes()


def test_a_file_held_in_memory_is_packed_like_any_other(tmp_path: Path) -> None:
    held = MemoryFile(algorithm="seg", name="a.csv", content=b"1,2\n")
    assert build(tmp_path / "1.zip", {"a.csv": held}) == build(tmp_path / "2.zip", {"a.csv": b"1,2\n"})


@pytest.mark.usefixtures("where")
def test_a_full_disk_while_building_is_transient_and_leaves_nothing(tmp_path: Path) -> None:
    with file_size_limit(1000), pytest.raises(StorageUnavailable):
        build(tmp_path / "1.zip", {"a.png": bytes(100_000)})
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_no_zip_should_carry_is_an_error_of_the_program(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be in a zip"):
        build(tmp_path / "1.zip", {"../a": b"1"})
