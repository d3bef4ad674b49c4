"""Pixels over the IIIF Image API, as oss-lite and iipsrv speak it.

iipsrv answers four requests with status 200 and something else than asked for: a region over its size limit
(a smaller picture), one outside the slide (an error text as image/jpeg), one at the slide's edge (cropped, at
times by a pixel too much), and it writes JPEG only. So regions are asked for in pieces, and every answer is
decoded and measured.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import structlog
from PIL import Image

from dynsvc.errors import DynsvcError, PeerRefused, PeerUnavailable, SlideNotFound, StorageUnavailable
from dynsvc.http import Answer, Http, named, refusal
from dynsvc.regions import Region
from dynsvc.slides import Picture, Slide
from dynsvc.sources.information import Information, pieces
from dynsvc.sources.pictures import Decoded, decoded, outside, write_png

__all__ = ["IiifSource"]

log = structlog.get_logger(__name__)

#: Largest piece asked for. Beyond, iipsrv is no faster, and servers have limits.
_PIECE_PX = 2048
#: Pieces asked for at the same time.
_CONNECTIONS = 3
_KEPT_S = 60.0
_KEPT_SLIDES = 1000
#: Bytes per pixel of the largest answer accepted, and what headers may add.
_BYTES_PER_PX = 4
_EXTRA_BYTES = 1024 * 1024
#: With these, a server may refuse the quality or format in a name, and accept another.
_NAME_REFUSED = frozenset({400, 404, 406, 415, 501})


class IiifSource:
    """Reads regions from an IIIF image server.

    Parameters
    ----------
    http
        The process's client.
    base_url
        What a slide's location is appended to: ``http://host:5000`` or ``http://host/iipsrv.fcgi?IIIF=``.
    format
        ``JPEG``, or ``PNG`` where the server has it; where it has not, JPEG is taken.
    piece_px
        Longest side of one request, in pixels; less where the server names a lower limit.
    """

    def __init__(
        self,
        http: Http,
        base_url: str,
        *,
        format: str = "JPEG",  # noqa: A002 - the configuration's word
        piece_px: int = _PIECE_PX,
    ) -> None:
        self.peer = named("image server", base_url)
        self._http = http
        self._base_url = base_url
        self._piece_px = piece_px
        names = ["default.jpg", "color.jpg"]
        #: What to ask for, best first. ``default`` of oss-lite has an alpha channel, which JPEG cannot hold.
        self._names = tuple(
            ["default.png", "color.png", *names] if format.strip().upper() == "PNG" else names
        )
        self._kept: dict[str, tuple[float, Information]] = {}
        self._lock = threading.Lock()

    def describe(self, slide: Slide) -> Slide:
        """Return *slide* with the size that the server names, if any. Errors as in ImageSource."""
        information = self._information(slide)
        if information.width_px is None or information.height_px is None:
            return slide
        size = (information.width_px, information.height_px)
        if slide.width_px and slide.height_px and size != (slide.width_px, slide.height_px):
            record = f"{slide.width_px} x {slide.height_px}"
            log.warning(
                "iiif.size_differs", slide=slide.location, server=f"{size[0]} x {size[1]}", record=record
            )
        return slide.model_copy(update={"width_px": size[0], "height_px": size[1]})

    def fetch(
        self,
        slide: Slide,
        region: Region,
        folder: Path,
        stem: str,
        *,
        size_px: tuple[int, int] | None = None,
    ) -> Picture:
        """Write the pixels of *region*: as the server sent them, or as PNG where they come in several pieces.

        Errors as in ImageSource; PictureWrong also where *region* is not inside a slide of known size.
        """
        if wrong := outside(self.peer, region, slide.width_px, slide.height_px):
            raise wrong
        side_px = min(self._piece_px, self._information(slide).longest_px or self._piece_px)
        if size_px is not None and size_px != (region.width_px, region.height_px):
            return self._shrunk(slide, region, folder, stem, size_px=size_px, side_px=side_px)
        wanted = list(pieces(region, side_px))
        if len(wanted) == 1:
            path = self._download(slide, region, folder)
            try:
                found = self._decoded(slide, region, region, path)
                if found.unchanged:
                    return _kept_as_sent(path, found, folder, stem)
                return write_png(found.picture, folder / f"{stem}.png")
            finally:
                path.unlink(missing_ok=True)
        with _scratch(folder) as scratch:
            picture = Image.new("RGB", (region.width_px, region.height_px))
            for piece, path in self._downloaded(slide, wanted, scratch):
                part = self._decoded(slide, region, piece, path).picture
                picture.paste(part, (piece.x_px - region.x_px, piece.y_px - region.y_px))
                path.unlink()
            return write_png(picture, folder / f"{stem}.png")

    def _shrunk(
        self, slide: Slide, region: Region, folder: Path, stem: str, *, size_px: tuple[int, int], side_px: int
    ) -> Picture:
        """Write a picture of *region* that is smaller than it, from pieces of up to *side_px*."""
        width_px, height_px = size_px
        picture = Image.new("RGB", size_px)
        plane = Region(x_px=0, y_px=0, width_px=width_px, height_px=height_px)
        with _scratch(folder) as scratch:
            for part in pieces(plane, side_px):
                left, right = (
                    region.x_px + round(edge * region.width_px / width_px)
                    for edge in (part.x_px, part.x_px + part.width_px)
                )
                top, bottom = (
                    region.y_px + round(edge * region.height_px / height_px)
                    for edge in (part.y_px, part.y_px + part.height_px)
                )
                piece = Region(x_px=left, y_px=top, width_px=right - left, height_px=bottom - top)
                # Servers scale one side to what is asked for, and round the other as they like.
                path = self._download(slide, piece, scratch, size=f"{part.width_px},")
                found = decoded(self.peer, path, part.width_px, part.height_px, scaled=True)
                picture.paste(found.picture, (part.x_px, part.y_px))
                path.unlink()
        return write_png(picture, folder / f"{stem}.png")

    def check(self) -> str:
        """Return one line about the server; PeerUnavailable where nobody answers (transient)."""
        self._http.status(self.peer, self._base_url)
        return f"{self.peer} answers"

    def _url(self, slide: Slide, tail: str) -> str:
        location = quote(slide.location, safe="/")
        joint = "" if location.startswith("/") or self._base_url.endswith("=") else "/"
        return f"{self._base_url}{joint}{location}/{tail}"

    def _information(self, slide: Slide) -> Information:
        """Return what the server says of the slide, maybe nothing: oss-lite answers 500 for many slides."""
        now = time.monotonic()
        with self._lock:
            kept = self._kept.get(slide.location)
        if kept is not None and now < kept[0]:
            return kept[1]
        statuses: list[int] = []

        def verdict(peer: str, answer: Answer) -> DynsvcError:
            statuses.append(answer.status)
            return refusal(peer, answer)

        try:
            answer = self._http.get(self.peer, self._url(slide, "info.json"), verdict=verdict)
            information = Information.from_document(json.loads(answer.body))
        except (PeerRefused, PeerUnavailable, ValueError, RecursionError) as error:
            if isinstance(error, PeerUnavailable) and statuses[-1:] != [500]:
                raise
            log.debug("iiif.no_information", slide=slide.location, reason=str(error))
            information = Information()
            if 404 in statuses:
                self._probe(slide)
        with self._lock:
            if len(self._kept) >= _KEPT_SLIDES:
                self._kept.clear()
            self._kept[slide.location] = (now + _KEPT_S, information)
        return information

    def _probe(self, slide: Slide) -> None:
        """Ask for the first pixel, to tell a server without info.json from a slide that it has not."""
        with tempfile.TemporaryDirectory(prefix="dynsvc-probe-") as scratch:
            try:
                self._download(slide, Region(x_px=0, y_px=0, width_px=1, height_px=1), Path(scratch))
            except PeerRefused as error:
                log.debug("iiif.probe_refused", slide=slide.location, reason=str(error))

    def _downloaded(
        self, slide: Slide, wanted: Sequence[Region], scratch: Path
    ) -> Iterator[tuple[Region, Path]]:
        """Yield each piece with its file as it arrives; the first error ends all."""
        with ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="iiif") as threads:
            futures = {threads.submit(self._download, slide, piece, scratch): piece for piece in wanted}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def _download(self, slide: Slide, piece: Region, scratch: Path, size: str = "full") -> Path:
        """Store the server's answer for *piece*, by the first of our names that it accepts."""
        path = scratch / str(piece)
        refused: list[tuple[int, PeerRefused]] = []
        for name in (names := self._names):
            statuses: list[int] = []

            def verdict(peer: str, answer: Answer, statuses: list[int] = statuses) -> DynsvcError:
                statuses.append(answer.status)
                return PeerRefused(peer, answer.sentence()) if answer.status == 501 else refusal(peer, answer)

            try:
                self._http.download(
                    self.peer,
                    self._url(slide, f"{piece}/{size}/0/{name}"),
                    path,
                    max_bytes=piece.width_px * piece.height_px * _BYTES_PER_PX + _EXTRA_BYTES,
                    headers={"Accept": "image/*"},
                    verdict=verdict,
                )
            except PeerRefused as error:
                if not statuses or statuses[-1] not in _NAME_REFUSED:
                    raise
                # Every server has JPEG: what it says of another format tells nothing of the slide.
                if name.endswith(".jpg"):
                    refused.append((statuses[-1], error))
                continue
            if name != names[0]:
                log.info("iiif.format", peer=self.peer, accepted=name, refused=names[0])
                self._names = (name, *(other for other in names if other != name))
            return path
        if all(status == 404 for status, _ in refused):
            raise SlideNotFound(self.peer, slide.location)
        raise refused[0][1]

    def _decoded(self, slide: Slide, region: Region, piece: Region, path: Path) -> Decoded:
        """Decode *piece*. A pixel may be missing at the slide's edge, or where that may be."""
        right, bottom = piece.x_px + piece.width_px, piece.y_px + piece.height_px
        return decoded(
            self.peer,
            path,
            piece.width_px,
            piece.height_px,
            may_be_narrow=right == (slide.width_px or region.x_px + region.width_px),
            may_be_low=bottom == (slide.height_px or region.y_px + region.height_px),
        )


def _kept_as_sent(path: Path, found: Decoded, folder: Path, stem: str) -> Picture:
    suffix = ".jpg" if found.media_type == "image/jpeg" else ".png"
    final = path.replace(folder / f"{stem}{suffix}")
    return Picture(
        path=final, media_type=found.media_type, width_px=found.picture.width, height_px=found.picture.height
    )


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Give a folder for pieces, beside the result so that renaming is enough, and remove it."""
    try:
        scratch = Path(tempfile.mkdtemp(prefix=".pieces-", dir=folder))
    except OSError as error:
        raise StorageUnavailable(str(folder), error.strerror or str(error)) from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
