"""The metadata files that ``mainSegmentFeatures`` and its relatives write, and what they say about a result.

In img mode the program records the size of its input picture as the size of the slide, and the picture's
height as ``patch_width``. It writes values without escaping. Loaders that trust the file then place polygons
wrongly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final

from dynsvc.parameters import plain

__all__ = ["KEYS", "Found", "corrected", "found"]

#: The keys of the file, in its order.
KEYS: Final = (
    "input_type",
    "otsu_ratio",
    "curvature_weight",
    "min_size",
    "max_size",
    "ms_kernel",
    "declump_type",
    "levelset_num_iters",
    "mpp",
    "image_width",
    "image_height",
    "tile_minx",
    "tile_miny",
    "tile_width",
    "tile_height",
    "patch_minx",
    "patch_miny",
    "patch_width",
    "patch_height",
    "output_level",
    "out_file_prefix",
    "subject_id",
    "case_id",
    "analysis_id",
    "analysis_desc",
)
_TEXTS = frozenset({"input_type", "output_level", *KEYS[KEYS.index("out_file_prefix") :]})
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_KEY = re.compile(r'(?P<before>[{,])\s*"(?P<key>[A-Za-z_]+)"\s*:\s*')


@dataclass(frozen=True, slots=True)
class Found:
    """What a result contains."""

    #: Number of objects; 0 for "nothing found"; None where nothing tells.
    objects: int | None
    #: Sentences for the order's log.
    remarks: tuple[str, ...] = ()


class _Number(str):
    """A number as it stands in the file, so that it is written back digit by digit."""

    __slots__ = ()


def corrected(
    algmeta: bytes,
    *,
    name: str = "algmeta.json",
    image_width_px: int | None,
    image_height_px: int | None,
    mpp_um: float | None,
) -> bytes:
    """Return a metadata file that says the truth about the slide.

    Everything else stays: keys, their order, the digits of numbers. JSON comes on one line, with its values
    escaped. In a table, only the cells that are wrong change.

    Parameters
    ----------
    algmeta
        The file as the algorithm wrote it.
    name
        Its name: ``.csv`` is a table of one row, anything else is JSON.
    image_width_px, image_height_px
        Size of level 0; None leaves what the file says.
    mpp_um
        Micrometres per pixel of level 0; None leaves what the file says.

    Raises
    ------
    ValueError
        The JSON is no such document, not even a broken one.
    """
    right = {} if mpp_um is None else {"mpp": plain(mpp_um)}
    if image_width_px is not None and image_height_px is not None:
        right |= {"image_width": str(image_width_px), "image_height": str(image_height_px)}
    return _corrected_table(algmeta, right) if name.endswith(".csv") else _corrected_json(algmeta, right)


def found(*, masks: Collection[str], tables: Iterable[Callable[[], BinaryIO]]) -> Found:
    """Count the objects of a result.

    Parameters
    ----------
    masks
        Names of the result's masks.
    tables
        What opens its tables. They are read line by line: a header and one row for each object. The
        algorithms write none where they find nothing, so that a mask without a table means 0 objects.
    """
    rows = [_rows(table) for table in tables]
    if rows:
        without = () if masks else ("the result has a table and no mask",)
        return Found(sum(rows), without)
    if masks:
        return Found(0, ("nothing found in this region: the mask is empty and there is no table",))
    return Found(None, ("the result has neither mask nor table",))


def _rows(table: Callable[[], BinaryIO]) -> int:
    with table() as lines:
        return max(0, sum(1 for line in lines if line.strip()) - 1)


def _corrected_json(algmeta: bytes, right: Mapping[str, str]) -> bytes:
    text = algmeta.decode("utf-8", "surrogateescape").strip()
    try:
        document = json.loads(text, parse_int=_Number, parse_float=_Number, parse_constant=_Number)
    except (ValueError, RecursionError):
        document = _repaired(text)
    if not isinstance(document, dict):
        document = _repaired("")
    document |= {key: _Number(value) for key, value in _corrections(document, right).items()}
    parts = [f"{json.dumps(key)} : {_json(value)}" for key, value in document.items()]
    return ("{ " + ", ".join(parts) + " }\n").encode("utf-8", "surrogateescape")


def _corrected_table(algmeta: bytes, right: Mapping[str, str]) -> bytes:
    lines = [line.decode("utf-8", "surrogateescape") for line in algmeta.splitlines(keepends=True)]
    names = [name.strip() for name in lines[0].split(",")] if lines else []
    # Texts may contain commas, but they stand behind all the numbers.
    numbers = names.index("patch_height") + 1 if "patch_height" in names else 0
    for position, line in enumerate(lines[1:], start=1):
        cells = line.split(",")
        if len(cells) >= len(names):
            row = dict(zip(names[:numbers], cells, strict=False))
            for key, value in _corrections(row, right).items():
                cells[names.index(key)] = value
            lines[position] = ",".join(cells)
    return "".join(lines).encode("utf-8", "surrogateescape")


def _corrections(document: Mapping[str, object], right: Mapping[str, str]) -> dict[str, str]:
    """Return the fields of *document* that change: those of *right* that it has, and its patch's width."""
    changes = {key: value for key, value in right.items() if key in document}
    if document.get("input_type") == "img" and "patch_width" in document and document.get("tile_width"):
        changes["patch_width"] = str(document["tile_width"])
    return changes


def _repaired(text: str) -> dict[str, object]:
    """Read a document whose values were not escaped: cut it where a known key follows its predecessor."""
    cuts: list[tuple[str, int, int]] = []
    following: tuple[str, ...] = KEYS[:1]
    for match in _KEY.finditer(text):
        key = "declump_type" if match["key"] == "do_declump" else match["key"]
        # What looks like a key inside a value is one only where that key's turn has come.
        if key in following:
            following = KEYS[KEYS.index(key) + 1 :][:1]
            cuts.append((match["key"], match.start(), match.end()))
    if len(cuts) < len(KEYS) or not text.endswith("}"):
        raise ValueError("neither JSON nor an unescaped algmeta document")
    ends = [start for _, start, _ in cuts[1:]] + [len(text) - 1]
    document: dict[str, object] = {}
    for (key, _, start), end in zip(cuts, ends, strict=True):
        raw = text[start:end].strip()
        if key in _TEXTS or raw.startswith('"'):
            document[key] = raw.removeprefix('"').removesuffix('"')
        else:
            document[key] = _Number(raw)
    return document


def _json(value: object) -> str:
    if isinstance(value, _Number):
        # nan and inf are no JSON; the loader's parser would refuse the whole file.
        return str(value) if _JSON_NUMBER.fullmatch(value) else "null"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_json(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_json, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
