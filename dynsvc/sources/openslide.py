"""Pixels of slides on this host, through OpenSlide."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openslide
from PIL import Image

from dynsvc.errors import SlideNotFound, SlideUnreadable
from dynsvc.records import mean_mpp_um
from dynsvc.regions import Region
from dynsvc.slidefolder import resolve_local
from dynsvc.slides import Picture, Slide
from dynsvc.sources.pictures import outside, write_png

__all__ = ["OpenSlideSource"]

#: Height of the pieces read at once: whole rows of tiles of most slides, and little memory.
_STRIPE_PX = 512
#: Slides kept open. Opening costs tens of milliseconds, an open slide up to tens of MiB of cache.
_OPEN_SLIDES = 4


class OpenSlideSource:
    """Reads level 0 of slides.

    Parameters
    ----------
    root
        Folder that no slide may lie outside; None where the slides' locations are trusted.
    """

    def __init__(self, root: Path | None) -> None:
        self.peer = f"slides folder {root}" if root else "slides on this host"
        self._root = root
        self._open: OrderedDict[tuple[int, str, int, int], _Opened] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close all slides that nobody reads from."""
        with self._lock:
            self._evict(keep=0)

    def describe(self, slide: Slide) -> Slide:
        """Return *slide* with the size and mpp of its file. Errors as in ImageSource; none is transient."""
        with self._borrowed(slide) as opened:
            properties = opened.handle.properties
            width_px, height_px = opened.handle.dimensions
            mpp_um = mean_mpp_um(
                properties.get(openslide.PROPERTY_NAME_MPP_X), properties.get(openslide.PROPERTY_NAME_MPP_Y)
            )
        return slide.model_copy(
            update={"width_px": width_px, "height_px": height_px, "mpp_um": mpp_um or slide.mpp_um}
        )

    def fetch(
        self,
        slide: Slide,
        region: Region,
        folder: Path,
        stem: str,
        *,
        size_px: tuple[int, int] | None = None,
    ) -> Picture:
        """Write the pixels of *region* to ``folder/stem.png``. Transparent pixels become white.

        A smaller picture is made from the level of the slide that is just fine enough. Errors as in
        ImageSource; PictureWrong where *region* is not inside the slide.
        """
        width_px, height_px = size_px or (region.width_px, region.height_px)
        picture = Image.new("RGB", (width_px, height_px), "white")
        with self._borrowed(slide) as opened:
            if wrong := outside(self.peer, region, *opened.handle.dimensions):
                raise wrong
            try:
                for stripe, top_px in _stripes(opened.handle, region, width_px, height_px):
                    picture.paste(stripe, (0, top_px))
            except openslide.OpenSlideError as error:
                opened.broken = True
                raise SlideUnreadable(slide.location, f"OpenSlide: {error}") from error
        return write_png(picture, folder / f"{stem}.png")

    @contextmanager
    def _borrowed(self, slide: Slide) -> Iterator[_Opened]:
        path = self._path(slide)
        try:
            stat = path.stat()
        except OSError as error:
            raise SlideNotFound(self.peer, slide.location) from error
        # The process is part of the key: a forked child must not read through its parent's file offsets.
        key = (os.getpid(), str(path), stat.st_mtime_ns, stat.st_size)
        with self._lock:
            entry = self._open.get(key)
            if entry is None:
                entry = self._open[key] = _Opened(_opened(path, slide))
            self._open.move_to_end(key)
            entry.readers += 1
        try:
            yield entry
        finally:
            with self._lock:
                entry.readers -= 1
                if entry.broken:
                    if self._open.get(key) is entry:
                        del self._open[key]
                    if not entry.readers:
                        entry.handle.close()
                self._evict(keep=_OPEN_SLIDES)

    def _path(self, slide: Slide) -> Path:
        if self._root is not None:
            return resolve_local(self._root, slide.location)
        path = Path(slide.location)
        if not path.is_file():
            raise SlideNotFound(self.peer, slide.location)
        return path

    def _evict(self, *, keep: int) -> None:
        for key in [key for key, entry in self._open.items() if not entry.readers]:
            if len(self._open) <= keep:
                return
            self._open.pop(key).handle.close()


def _stripes(
    handle: openslide.OpenSlide, region: Region, width_px: int, height_px: int
) -> Iterator[tuple[Image.Image, int]]:
    """Yield the picture of *region* from top to bottom: stripes as RGB, and their first rows."""
    shrink = region.height_px / height_px
    level = handle.get_best_level_for_downsample(min(shrink, region.width_px / width_px))
    downsample = handle.level_downsamples[level]
    step = max(1, int(_STRIPE_PX * downsample / shrink))
    for top_px in range(0, height_px, step):
        bottom_px = min(height_px, top_px + step)
        first, last = round(top_px * shrink), round(bottom_px * shrink)
        size = (max(1, round(region.width_px / downsample)), max(1, round((last - first) / downsample)))
        read = handle.read_region((region.x_px, region.y_px + first), level, size)
        stripe = Image.new("RGB", size, "white")
        stripe.paste(read, mask=read.getchannel("A"))
        wanted = (width_px, bottom_px - top_px)
        yield (stripe if size == wanted else stripe.resize(wanted, Image.Resampling.BOX)), top_px


class _Opened:
    """An open slide and the number of its readers."""

    def __init__(self, handle: openslide.OpenSlide) -> None:
        self.handle = handle
        self.readers = 0
        #: OpenSlide answers every call after a failed one with the same error.
        self.broken = False


def _opened(path: Path, slide: Slide) -> openslide.OpenSlide:
    try:
        return openslide.OpenSlide(path)
    except FileNotFoundError as error:
        raise SlideNotFound(f"slides folder {path.parent}", slide.location) from error
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise SlideUnreadable(slide.location, "no format that OpenSlide knows") from error
    except (openslide.OpenSlideError, OSError) as error:
        raise SlideUnreadable(slide.location, f"OpenSlide: {error}") from error
