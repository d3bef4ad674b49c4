"""The result page: one self-contained HTML file, without scripts and without anything to load."""

from __future__ import annotations

import base64
import statistics
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Final

from dynsvc.demo.drawing import density_cells, histogram_bars, outline_path
from dynsvc.demo.objects import Found, read_objects
from dynsvc.errors import OutputRefused, PictureWrong
from dynsvc.regions import Region

__all__ = ["OUTLINES_LIMIT", "Facts", "build_page"]

#: Browsers stay quick up to about this many outlines; beyond it the page shows densities.
OUTLINES_LIMIT: Final = 20_000

_TIMES = "\u00d7"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the page tells beside the result itself."""

    order_id: str
    slide: str
    region: Region
    #: Micrometres per pixel of level 0.
    mpp_um: float
    algorithm: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    #: Seconds per step, in their order.
    timings_s: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def build_page(zip_path: Path, picture_path: Path, facts: Facts) -> str:
    """Return the page of one result.

    Parameters
    ----------
    zip_path
        A result zip in the original's layout. Without a table, or with an empty one, nothing was found.
    picture_path
        The region's pixels as JPEG or PNG, at any scale; the page stretches it to the region.
    facts
        What the zip does not know.

    Raises
    ------
    OutputRefused
        The zip cannot be read (permanent).
    PictureWrong
        The picture is neither JPEG nor PNG (permanent).
    """
    objects = list(read_objects(zip_path))
    areas_um2 = [found.area_px * facts.mpp_um**2 for found in objects if found.area_px is not None]
    folder = resources.files("dynsvc.demo")
    region = facts.region
    values = {
        "style": folder.joinpath("page.css").read_text(encoding="utf-8"),
        "title": escape(f"{facts.algorithm}: {facts.slide}"),
        "slide": escape(facts.slide),
        "algorithm": escape(facts.algorithm),
        "order_id": escape(facts.order_id),
        "place": f"x {region.x_px}, y {region.y_px}",
        "size_px": f"{region.width_px} {_TIMES} {region.height_px} px",
        "size_um": _size_um(facts),
        "mpp": f"{facts.mpp_um:g}",
        "key_figures": _key_figures(objects, areas_um2, facts),
        "width": str(region.width_px),
        "height": str(region.height_px),
        "ratio": f"{region.width_px / region.height_px:.4f}",
        "picture": _data_uri(picture_path),
        "overlay": _overlay(objects, region),
        "scale_bar": _scale_bar(facts),
        "layer": "Outlines" if len(objects) <= OUTLINES_LIMIT else "Density",
        "sizes": _sizes(areas_um2),
        "parameters": _rows(facts.parameters),
        "timings": _timings(facts.timings_s),
        "versions": _rows(facts.versions),
        "files": _files(zip_path),
        "zip_path": escape(str(zip_path.resolve())),
        "zip_uri": escape(zip_path.resolve().as_uri()),
    }
    return Template(folder.joinpath("page.html").read_text(encoding="utf-8")).substitute(values)


def _key_figures(objects: list[Found], areas_um2: list[float], facts: Facts) -> str:
    region_um2 = facts.region.width_px * facts.region.height_px * facts.mpp_um**2
    figures = [(_grouped(len(objects)), "nuclei"), (_grouped(len(objects) / region_um2 * 1e6), "per mm²")]
    if areas_um2:
        figures += [
            (f"{statistics.median(areas_um2):.1f} µm²", "median area"),
            (f"{100 * sum(areas_um2) / region_um2:.1f} %", "of the region is nucleus"),
        ]
    return "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for value, label in figures)


def _overlay(objects: list[Found], region: Region) -> str:
    if len(objects) > OUTLINES_LIMIT:
        return f'<g class="density">{density_cells(objects, region)}</g>'
    return f'<path d="{outline_path((found.ring for found in objects), region)}"/>'


def _scale_bar(facts: Facts) -> str:
    """Return a bar of a round length, at most a quarter of the picture wide."""
    most_um = facts.region.width_px * facts.mpp_um / 4
    lengths = [factor * 10.0**power for power in range(-1, 5) for factor in (1, 2, 5)]
    length_um = max((length for length in lengths if length <= most_um), default=lengths[0])
    percent = 100 * length_um / facts.mpp_um / facts.region.width_px
    return f'<span class="scale" style="width:{percent:.2f}%">{length_um:g} µm</span>'


def _sizes(areas_um2: list[float]) -> str:
    if not areas_um2:
        return '<p class="none">No nuclei were found in this region. That is a result, not an error.</p>'
    return histogram_bars(areas_um2, "µm²")


def _rows(values: Mapping[str, str]) -> str:
    if not values:
        return '<tr><td colspan="2" class="none">none</td></tr>'
    return "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in values.items()
    )


def _timings(timings_s: Mapping[str, float]) -> str:
    if not timings_s:
        return '<tr><td colspan="3" class="none">not measured</td></tr>'
    longest = max(*timings_s.values(), 1e-9)
    return "".join(
        f'<tr><th scope="row">{escape(step)}</th><td class="meter">'
        f'<span style="width:{max(100 * seconds / longest, 0.5):.1f}%"></span></td>'
        f"<td>{_duration(seconds)}</td></tr>"
        for step, seconds in timings_s.items()
    )


def _duration(seconds: float) -> str:
    # What is only seen from outside is not seen more exactly than this.
    return f"{seconds:.2f} s" if seconds >= 0.1 else "< 0.1 s"


def _size_um(facts: Facts) -> str:
    width, height = facts.region.width_px * facts.mpp_um, facts.region.height_px * facts.mpp_um
    return f"{_grouped(width)} {_TIMES} {_grouped(height)} µm"


def _files(zip_path: Path) -> str:
    try:
        with zipfile.ZipFile(zip_path) as archive:
            entries = [
                (entry.filename, entry.file_size) for entry in archive.infolist() if not entry.is_dir()
            ]
    except (zipfile.BadZipFile, OSError) as error:
        raise OutputRefused("the algorithm", zip_path.name, str(error)) from error
    return _rows({name: f"{_grouped(max(size / 1000, 0.1), 1)} kB" for name, size in sorted(entries)})


def _data_uri(picture_path: Path) -> str:
    content = picture_path.read_bytes()
    if content.startswith(b"\xff\xd8"):
        kind = "jpeg"
    elif content.startswith(b"\x89PNG"):
        kind = "png"
    else:
        raise PictureWrong(str(picture_path), f"a file that begins {content[:4]!r}", "JPEG or PNG")
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _grouped(number: float, digits: int = 0) -> str:
    """Return *number* with thin spaces between thousands."""
    return f"{number:,.{digits}f}".replace(",", "\u2009")
