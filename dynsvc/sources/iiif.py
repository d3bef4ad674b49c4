"""Pixels over the IIIF Image API, as oss-lite and iipsrv speak it.

iipsrv answers four requests with status 200 and something else than asked for: a region over its size limit
(a smaller picture), one outside the slide (an error text as image/jpeg), one at the slide's edge (cropped, at
times by a pixel too much), and it writes JPEG only. So regions are asked for in pieces, and every answer is
measured: kind, size, and whether it is whole.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import structlog
from PIL import Image

from dynsvc.errors import DynsvcError, PeerRefused, PeerUnavailable, SlideNotFound
from dynsvc.http import Answer, Http, named, refusal
from dynsvc.regions import Region
from dynsvc.slides import Picture, Slide
from dynsvc.sources.information import Information, pieces
from dynsvc.sources.pictures import Expected, decoded, outside, usable_as_sent, write_bytes, write_png

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
            return self._whole(slide, region, folder, stem)
        picture = Image.new("RGB", (region.width_px, region.height_px))
        for piece, body in self._downloaded(slide, wanted):
            part = decoded(self.peer, body, _expected(slide, region, piece))
            picture.paste(part, (piece.x_px - region.x_px, piece.y_px - region.y_px))
        return write_png(picture, folder / f"{stem}.png")

    def _whole(self, slide: Slide, region: Region, folder: Path, stem: str) -> Picture:
        """Write *region*, which is asked for in one piece."""
        body = self._download(slide, region)
        expected = _expected(slide, region, region)
        media_type = usable_as_sent(self.peer, body, expected)
        if media_type is None:
            return write_png(decoded(self.peer, body, expected), folder / f"{stem}.png")
        path = folder / f"{stem}{'.jpg' if media_type == 'image/jpeg' else '.png'}"
        found = write_bytes(body, path)
        return Picture(
            path=path,
            media_type=media_type,
            width_px=region.width_px,
            height_px=region.height_px,
            measured=found,
        )

    def _shrunk(
        self, slide: Slide, region: Region, folder: Path, stem: str, *, size_px: tuple[int, int], side_px: int
    ) -> Picture:
        """Write a picture of *region* that is smaller than it, from pieces of up to *side_px*."""
        width_px, height_px = size_px
        picture = Image.new("RGB", size_px)
        plane = Region(x_px=0, y_px=0, width_px=width_px, height_px=height_px)
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
            body = self._download(slide, piece, size=f"{part.width_px},")
            expected = Expected(width_px=part.width_px, height_px=part.height_px, scaled=True)
            found = decoded(self.peer, body, expected)
            picture.paste(found, (part.x_px, part.y_px))
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
        try:
            self._download(slide, Region(x_px=0, y_px=0, width_px=1, height_px=1))
        except PeerRefused as error:
            log.debug("iiif.probe_refused", slide=slide.location, reason=str(error))

    def _downloaded(self, slide: Slide, wanted: Iterable[Region]) -> Iterator[tuple[Region, bytes]]:
        """Yield each piece with its picture, in order; the first error ends all."""
        with ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="iiif") as threads:
            ahead: deque[tuple[Region, Future[bytes]]] = deque()
            try:
                for piece in wanted:
                    ahead.append((piece, threads.submit(self._download, slide, piece)))
                    # No more than these lie in memory.
                    if len(ahead) > 2 * _CONNECTIONS:
                        first, arriving = ahead.popleft()
                        yield first, arriving.result()
                while ahead:
                    first, arriving = ahead.popleft()
                    yield first, arriving.result()
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def _download(self, slide: Slide, piece: Region, size: str = "full") -> bytes:
        """Return the server's picture of *piece*, by the first of our names that it accepts."""
        refused: list[tuple[int, PeerRefused]] = []
        for name in (names := self._names):
            statuses: list[int] = []

            def verdict(peer: str, answer: Answer, statuses: list[int] = statuses) -> DynsvcError:
                statuses.append(answer.status)
                return PeerRefused(peer, answer.sentence()) if answer.status == 501 else refusal(peer, answer)

            try:
                answer = self._http.get(
                    self.peer,
                    self._url(slide, f"{piece}/{size}/0/{name}"),
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
            return answer.body
        if all(status == 404 for status, _ in refused):
            raise SlideNotFound(self.peer, slide.location)
        raise refused[0][1]


def _expected(slide: Slide, region: Region, piece: Region) -> Expected:
    """Return what to expect of *piece*. A pixel may be missing at the slide's edge, or where that may be."""
    right, bottom = piece.x_px + piece.width_px, piece.y_px + piece.height_px
    return Expected(
        width_px=piece.width_px,
        height_px=piece.height_px,
        may_be_narrow=right == (slide.width_px or region.x_px + region.width_px),
        may_be_low=bottom == (slide.height_px or region.y_px + region.height_px),
    )
