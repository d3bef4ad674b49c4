"""What is there of a slide while its tiles are still being done: a page that grows."""

from __future__ import annotations

import base64
import html
import io
import tempfile
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image, ImageDraw

from dynsvc.artifacts import ArtifactStore
from dynsvc.leases import SpreadState
from dynsvc.merge.density import Density, overview
from dynsvc.merge.parts import Kind, read_part
from dynsvc.messages import Message
from dynsvc.steps import planned
from dynsvc.wholeslide.tilework import listed_tiles, part_key

__all__ = ["PartialView"]

_PAGE = Template(Path(__file__).with_name("partial.html").read_text(encoding="utf-8"))
_DONE, _HOLE = (20, 130, 60), (200, 30, 30)


class PartialView:
    """Draws the finished tiles of one order. Each part is read once.

    Parameters
    ----------
    message
        Of an order whose tiles are being done.
    artifacts
        Where the parts lie.
    """

    def __init__(self, message: Message, artifacts: ArtifactStore) -> None:
        plan, tiles = planned(message), message.tiles
        if tiles is None or plan.grid is None:
            raise ValueError("an order whose tiles were planned")
        self._message, self._plan, self._tiles, self._grid = message, plan, tiles, plan.grid
        self._artifacts = artifacts
        slide = plan.slide
        self._density = Density(slide.width_px or 1, slide.height_px or 1, plan.mpp_um)
        self._folder = tempfile.TemporaryDirectory(prefix="dynsvc-watch-")
        folder = Path(self._folder.name)
        self._every = listed_tiles(message, artifacts)
        self._thumbnail = artifacts.get(tiles.thumbnail, folder / "thumbnail.png")
        self._seen: set[int] = set()
        self._objects = 0

    def write(self, page: Path, state: SpreadState, *, sentence: str = "", running: bool = True) -> None:
        """Write the page, which appears complete or not at all."""
        for number in set(state.done) - self._seen - set(state.holes):
            self._add(number)
        picture = self._picture(state)
        holes = f", {len(state.holes)} of them holes" if state.holes else ""
        text = _PAGE.substitute(
            order=html.escape(self._message.order_id),
            algorithm=html.escape(self._plan.algorithm),
            case=html.escape(self._plan.order.case_id),
            done=len(state.done),
            tiles=len(self._every),
            holes=holes,
            objects=self._objects,
            state=html.escape(sentence),
            refresh='<meta http-equiv="refresh" content="2">' if running else "",
            picture=picture,
        )
        partial = page.with_name(f".{page.name}.part")
        partial.write_text(text, encoding="utf-8")
        partial.replace(page)

    def _add(self, number: int) -> None:
        found = self._artifacts.find(part_key(self._tiles, self._every[number]))
        if found is None:
            return
        part = read_part(self._artifacts.get(found, Path(self._folder.name, "part")))
        self._seen.add(number)
        own = (part.kind == Kind.INNER) | (part.kind == Kind.OWN)
        level0 = (part.centroids[own] + 0.5) * self._grid.scale
        self._density.add(level0[:, 0], level0[:, 1], part.areas_px[own] * self._grid.scale**2)
        self._objects += int(np.count_nonzero(own))

    def _picture(self, state: SpreadState) -> str:
        picture: Image.Image = overview(self._density, self._thumbnail)
        draw = ImageDraw.Draw(picture)
        shrink = self._grid.scale * picture.width / (self._plan.slide.width_px or 1)
        for number in state.done:
            core = self._every[number].core
            left, top = core.x_px * shrink, core.y_px * shrink
            box = (left, top, left + core.width_px * shrink - 1, top + core.height_px * shrink - 1)
            draw.rectangle(box, outline=_HOLE if number in state.holes else _DONE)
        body = io.BytesIO()
        picture.save(body, "JPEG", quality=85)
        return base64.b64encode(body.getvalue()).decode()
