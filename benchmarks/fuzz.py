"""Made-up orders, events, messages, loader answers and outputs: each is read or refused, never more.

What others write reaches five readers. For whatever they are given, each returns a value or raises one of our
errors, with a headline of one line; anything else would be a crash or an order without an end.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dynsvc import algmeta, archive
from dynsvc.errors import DynsvcError, InvalidOrder
from dynsvc.http import Answer
from dynsvc.kue import parse_event
from dynsvc.messages import Message
from dynsvc.orders import parse_order
from dynsvc.outputs import OutputFile, OutputLimits
from dynsvc.sinks import loader
from tests.support.orders import MALFORMED, VARIANTS

__all__ = ["READERS", "archived", "event", "loader_answer", "message", "metadata", "order", "spoilt"]

ATOMS: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, 1e308, -1e308, 2**63, 10**30, "", " ", "0", "-1", "1e400", "NaN",
    "null", "../../x", "a;b", "--help", "\x00", "\u202e", "\ud800", "x" * 300, [], {}, [[]], [{}],
    {"": ""}, {"$ne": 1},
)  # fmt: skip
LIMITS = OutputLimits(max_bytes=1 << 20, max_files=20)


def _refused(error: DynsvcError) -> str:
    """Check what people would read."""
    assert "\n" not in error.headline
    assert len(error.headline) < 600, len(error.headline)
    return "refused"


def order(text: str) -> str:
    """Read an order's document."""
    try:
        parsed = parse_order("1", "analysisJob", text)
    except InvalidOrder as error:
        return _refused(error)
    assert parse_order("1", "analysisJob", text) == parsed
    assert parsed.case_id
    assert "/" not in parsed.case_id
    return "read"


def event(raw: bytes | str) -> str:
    """Read what came over Kue's channel."""
    found = parse_event(raw)
    if found is None:
        return "refused"
    assert found.job_id.isdigit()
    for value in (
        found.is_complete,
        found.is_failed,
        found.is_enqueue,
        found.is_ttl_exceeded,
        found.job_type,
    ):
        assert isinstance(value, bool | str | None)
    return "read"


def message(document: object) -> str:
    """Read a task's message."""
    try:
        read = Message.from_document(document)  # type: ignore[arg-type]
    except ValidationError:
        return "refused"
    text = json.dumps(read.to_document())
    # As texts: not a number is not equal to itself.
    assert json.dumps(Message.from_document(json.loads(text)).to_document()) == text
    return "read"


def loader_answer(body: bytes) -> str:
    """Read the loader's answer to an upload."""
    answer = Answer(status=200, media_type="application/json", body=body)
    found = loader._job_id(answer)  # noqa: SLF001
    assert "\n" not in answer.sentence()
    if found is None:
        return "refused"
    assert isinstance(found, str)
    assert 0 < len(found) <= 64
    return "read"


def metadata(content: bytes) -> str:
    """Correct the metadata that an algorithm wrote."""
    try:
        right = algmeta.corrected(content, image_width_px=640, image_height_px=512, mpp_um=0.25)
    except ValueError:
        return "refused"
    document = json.loads(right.decode(errors="replace"))
    assert document.get("mpp", 0.25) == 0.25
    return "read"


def archived(content: bytes) -> str:
    """Unpack the zip that an algorithm wrote."""
    with tempfile.TemporaryDirectory(prefix="dynsvc-fuzz-") as name:
        source, folder = Path(name) / "output.zip", Path(name) / "unpacked"
        source.write_bytes(content)
        try:
            files = archive.unpack(source, folder, "fuzzed", LIMITS)
        except DynsvcError as error:
            return _refused(error)
        inside = folder.resolve()
        for file in files:
            if isinstance(file, OutputFile):
                assert not file.path.is_symlink()
                assert file.path.resolve().is_relative_to(inside)
        assert sum(file.size_bytes for file in files) <= LIMITS.max_bytes
        return "read"


def spoilt(rng: random.Random, document: Any, depth: int = 0) -> Any:
    """Return a copy of a JSON document in which something is different."""
    if depth > 8 or rng.random() < 0.08:
        return rng.choice(ATOMS)
    if isinstance(document, dict) and document:
        copy = dict(document)
        for _ in range(rng.randint(1, 2)):
            key = rng.choice(list(copy) or [""])
            action = rng.random()
            if action < 0.15:
                copy.pop(key, None)
            elif action < 0.25:
                copy[str(rng.choice(ATOMS))[:50]] = rng.choice(ATOMS)
            else:
                copy[key] = spoilt(rng, copy.get(key), depth + 1)
        return copy
    if isinstance(document, list) and document:
        items = list(document)
        at = rng.randrange(len(items))
        items[at] = spoilt(rng, items[at], depth + 1)
        return items + [rng.choice(ATOMS)] * rng.randint(0, 2)
    if isinstance(document, str) and document and rng.random() < 0.7:
        at = rng.randrange(len(document) + 1)
        return (
            document[:at]
            + rng.choice(("", "0", "-", ".", "e", "\x00", "é", " ", "/", '"'))
            + document[at + 1 :]
        )
    return rng.choice(ATOMS)


def bent(rng: random.Random, content: bytes) -> bytes:
    """Return *content* with a few bytes changed, cut out or doubled."""
    data = bytearray(content)
    for _ in range(rng.randint(0, 4)):
        if not data:
            break
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                del data[at : at + rng.randint(1, 8)]
            case 2:
                data[at:at] = data[at : at + rng.randint(1, 8)]
            case _:
                del data[at:]
    return bytes(data)


def _json(rng: random.Random, document: Any) -> bytes:
    return (
        bent(rng, json.dumps(spoilt(rng, document)).encode())
        if rng.random() < 0.5
        else json.dumps(spoilt(rng, document)).encode()
    )


EVENT = {"id": 12, "event": "enqueue", "args": ["enqueue", "analysisJob", None]}
ANSWER = {"Status": "Queued", "Job": {"id": 7, "type": "ZipOrder", "data": {"case_id": "c"}}, "id": 7}
METADATA = {
    "input_type": "img",
    "mpp": 0.5,
    "image_width": 64,
    "image_height": 48,
    "case_id": "c",
    "analysis_desc": "",
}
DOCUMENT = {
    "schema": 1,
    "order_id": "1",
    "job_type": "analysisJob",
    "token": "dynsvc:1",
    "timings_s": {"fetch_order": 0.1},
    "input": {
        "picture": {"key": "orders/1/t/roi.jpg", "sha256": "0" * 64, "size_bytes": 9},
        "suffix": ".jpg",
        "width_px": 64,
        "height_px": 48,
    },
}
SMALL = tuple(item.text for item in MALFORMED if len(item.text) < 5000)


def _order_text(rng: random.Random) -> str:
    if rng.random() < 0.1:
        return bent(rng, rng.choice(SMALL).encode(errors="replace")).decode(errors="replace")
    _, build = VARIANTS[rng.choice(list(VARIANTS))]
    return _json(rng, build()).decode(errors="replace")


def _zip(rng: random.Random) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as zipped:
        names = ("f.csv", "a/b.csv", "a/B.csv", "../x", "/etc/x", "a\\b", "dir/", "é.png", "x" * 200)
        for name in rng.sample(names, rng.randint(0, 4)):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = rng.choice((0o100644, 0o120777, 0o020600, 0o040755, 0)) << 16
            zipped.writestr(entry, b"x" * rng.choice((0, 1, 100, 4000)))
    return bent(rng, stream.getvalue())


#: Name -> what makes up a case, what reads it, and how often it is drawn.
READERS: Mapping[str, tuple[Callable[[random.Random], Any], Callable[[Any], str], int]] = {
    "order": (_order_text, order, 30),
    "event": (lambda rng: _json(rng, EVENT), event, 25),
    "message": (lambda rng: spoilt(rng, DOCUMENT), message, 15),
    "loader answer": (lambda rng: _json(rng, ANSWER), loader_answer, 15),
    "metadata": (lambda rng: _json(rng, METADATA), metadata, 13),
    "archive": (_zip, archived, 2),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    names, weights = list(READERS), [weight for _, _, weight in READERS.values()]
    counts: Counter[str] = Counter()
    began, crashes = time.monotonic(), 0
    for number in range(options.cases):
        name = rng.choices(names, weights)[0]
        make, read, _ = READERS[name]
        case = make(rng)
        try:
            counts[f"{name} {read(case)}"] += 1
        except Exception as error:  # noqa: BLE001  (what is looked for)
            crashes += 1
            if crashes <= 20:
                print(
                    f"case {number}: {name}: {type(error).__name__}: {error}: {case!r:.300}", file=sys.stderr
                )
    took_s = time.monotonic() - began
    print(f"{options.cases} cases, seed {options.seed}, {took_s:.0f} s, {crashes} crashes")
    for name, count in sorted(counts.items()):
        print(f"  {name:<24} {count}")
    return 1 if crashes else 0


if __name__ == "__main__":
    sys.exit(main())
