"""A stand-in for an IIIF image server, with oss-lite's URLs: regions of the slides in one folder.

``python -m dynsvc.standins.imageserver --root FOLDER``. Unlike oss-lite it serves nothing outside the folder,
and a region over the edge is cropped as the IIIF Image API says. Pictures that Pillow reads are slides, too.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import click
import openslide
from PIL import Image

from dynsvc.errors import SlideNotFound
from dynsvc.slidefolder import resolve_local
from dynsvc.standins.command import serve
from dynsvc.standins.server import Reply, Request, Standin, json_reply

__all__ = ["ImageServerStandin"]

_IMAGE = re.compile(
    r"(?P<location>.+)/(?P<region>[^/]+)/(?P<size>full|max|[0-9]{1,6},)/0/(?P<quality>default|color|native)\.(?P<format>\w+)"
)
_PIXELS = re.compile(r"(\d{1,9}),(\d{1,9}),(\d{1,9}),(\d{1,9})")
_FORMATS = {"jpg": ("JPEG", "image/jpeg"), "png": ("PNG", "image/png")}
_LARGEST_PX = 64_000_000
_Answerer = Callable[[openslide.AbstractSlide], Reply]


class ImageServerStandin(Standin):
    """Serves ``/LOCATION/x,y,w,h/full/0/default.jpg``, ``…png`` and ``/LOCATION/info.json``.

    In place of ``full``, ``w,`` asks for a smaller picture of that width.

    Parameters
    ----------
    root
        Folder of the slides; a location is a path in it.
    formats
        What is offered: ``jpg``, ``png``.
    max_side_px
        Named in info.json as the longest side, and enforced; None for no limit.
    host, port
        As for Standin.
    """

    def __init__(
        self,
        root: Path,
        *,
        formats: tuple[str, ...] = ("jpg", "png"),
        max_side_px: int | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self.root = root
        self.formats = formats
        self.max_side_px = max_side_px

    def answer(self, request: Request) -> Reply:
        """Answer one request for a region or for an image's information."""
        target = request.query.get("IIIF") or unquote(request.path)
        if target.endswith("/info.json"):
            return self._with_slide(target.removesuffix("/info.json"), self._information)
        wanted = _IMAGE.fullmatch(target)
        if wanted is None or wanted["format"] not in self.formats:
            return Reply(400, b"not a request for an image that is served here")
        return self._with_slide(
            wanted["location"],
            lambda slide: self._region(slide, wanted["region"], wanted["size"], wanted["format"]),
        )

    def _with_slide(self, location: str, answer: _Answerer) -> Reply:
        try:
            path = resolve_local(self.root, location)
        except SlideNotFound:
            return Reply(404, b"no such image")
        try:
            # Opened for each request: a stand-in need not be fast, and holds nothing.
            with openslide.open_slide(path) as slide:
                return answer(slide)
        except (openslide.OpenSlideError, OSError) as error:
            return Reply(500, f"the image cannot be read: {error}".encode())

    def _information(self, slide: openslide.AbstractSlide) -> Reply:
        width_px, height_px = slide.dimensions
        profile: dict[str, object] = {"formats": list(self.formats), "qualities": ["default", "color"]}
        if self.max_side_px:
            profile |= {"maxWidth": self.max_side_px, "maxHeight": self.max_side_px}
        document = {
            "@context": "http://iiif.io/api/image/2/context.json",
            "protocol": "http://iiif.io/api/image",
            "width": width_px,
            "height": height_px,
            "profile": ["http://iiif.io/api/image/2/level1.json", profile],
        }
        return Reply(200, json.dumps(document).encode(), "application/ld+json")

    def _region(self, slide: openslide.AbstractSlide, region: str, size: str, format_name: str) -> Reply:
        width_px, height_px = slide.dimensions
        if region == "full":
            left, top, right, bottom = 0, 0, width_px, height_px
        elif numbers := _PIXELS.fullmatch(region):
            left, top, wide, high = (int(number) for number in numbers.groups())
            right, bottom = min(left + wide, width_px), min(top + high, height_px)
        else:
            return Reply(400, b"the region is not understood")
        if right <= left or bottom <= top:
            return Reply(400, b"the region lies outside the image")
        longest = self.max_side_px or _LARGEST_PX
        wide = int(size.removesuffix(",")) if size.endswith(",") else right - left
        high = max(1, round((bottom - top) * wide / (right - left)))
        if not 0 < wide <= right - left:
            return Reply(400, b"the size is not one that is served here")
        if max(wide, high) > longest or (right - left) * (bottom - top) > _LARGEST_PX:
            return json_reply(400, {"error": "the region is too large"})
        pixels = slide.read_region((left, top), 0, (right - left, bottom - top))
        picture = Image.new("RGB", pixels.size, "white")
        picture.paste(pixels, mask=pixels.getchannel("A"))
        if picture.size != (wide, high):
            picture = picture.resize((wide, high), Image.Resampling.BOX)
        kind, media_type = _FORMATS[format_name]
        body = io.BytesIO()
        options = {"quality": 90} if kind == "JPEG" else {"compress_level": 1}
        picture.save(body, kind, **options)
        return Reply(200, body.getvalue(), media_type)


@click.command(help=__doc__)
@click.option("--root", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=5000, show_default=True)
def main(root: Path, host: str, port: int) -> None:
    """Serve until interrupted."""
    serve(ImageServerStandin(root, host=host, port=port))


if __name__ == "__main__":
    main()
