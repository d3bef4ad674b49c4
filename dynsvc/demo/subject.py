"""What the demo works on: a slide's file, what is known of it, and its pixels for the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import openslide
from PIL import Image

from dynsvc.errors import SettingsInvalid, SlideUnreadable
from dynsvc.regions import Region, RegionRequest, resolve
from dynsvc.slides import Slide
from dynsvc.sources.openslide import OpenSlideSource

__all__ = ["Subject"]

#: Longest side of the page's picture.
_PICTURE_PX = 2400
#: Longest side of the region where none is asked for.
_REGION_PX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A readable slide and the region of it that is ordered."""

    path: Path
    case_id: str
    width_px: int
    height_px: int
    region: Region
    #: Micrometres per pixel, and whether the file itself tells them.
    mpp_um: float
    mpp_from_slide: bool

    @classmethod
    def open(cls, path: Path, case_id: str, request: RegionRequest | None, mpp_um: float | None) -> Self:
        """Look at a slide.

        Parameters
        ----------
        path
            A file that OpenSlide reads.
        case_id
            What the order calls it.
        request
            The region; the middle of the slide, at most 1024 x 1024 px, if None.
        mpp_um
            Used where the file tells none.

        Raises
        ------
        SlideNotFound, SlideUnreadable
            There is no such file, or OpenSlide cannot read it (permanent).
        RegionOutsideSlide
            No pixel of the region lies on it (permanent).
        SettingsInvalid
            The slide tells no micrometres per pixel, and neither does *mpp_um* (permanent).
        """
        source = OpenSlideSource(None)
        try:
            slide = source.describe(Slide(case_id=case_id, origin="file", location=str(path)))
        finally:
            source.close()
        if slide.width_px is None or slide.height_px is None:
            raise SlideUnreadable(str(path), "it tells no size")
        mpp = slide.mpp_um or mpp_um
        if mpp is None:
            raise SettingsInvalid(
                "--mpp", "not given, and the slide tells no micrometres per pixel", "for example --mpp 0.25"
            )
        request = request or _middle(slide.width_px, slide.height_px)
        return cls(
            path=path,
            case_id=case_id,
            width_px=slide.width_px,
            height_px=slide.height_px,
            region=resolve(request, slide.width_px, slide.height_px).region,
            mpp_um=mpp,
            mpp_from_slide=slide.mpp_um is not None,
        )

    @property
    def record(self) -> dict[str, object]:
        """The slide's record as the location service holds it."""
        record: dict[str, object] = {
            "case_id": self.case_id,
            "subject_id": self.case_id,
            "file-location": f"/{self.path.name}",
            "filename": self.path.name,
            "width": self.width_px,
            "height": self.height_px,
        }
        return record | ({"mpp-x": self.mpp_um, "mpp-y": self.mpp_um} if self.mpp_from_slide else {})

    def save_picture(self, dest: Path) -> None:
        """Write the region as JPEG, its longer side at most 2400 px."""
        region = self.region
        shrink = max(1.0, max(region.width_px, region.height_px) / _PICTURE_PX)
        with openslide.OpenSlide(self.path) as slide:
            level = slide.get_best_level_for_downsample(shrink)
            per_px = slide.level_downsamples[level]
            size = (max(1, round(region.width_px / per_px)), max(1, round(region.height_px / per_px)))
            pixels = slide.read_region((region.x_px, region.y_px), level, size)
        picture = Image.new("RGB", pixels.size, "white")
        picture.paste(pixels, mask=pixels.getchannel("A"))
        picture.thumbnail((_PICTURE_PX, _PICTURE_PX))
        picture.save(dest, "JPEG", quality=88)


def _middle(width_px: int, height_px: int) -> RegionRequest:
    width, height = min(width_px, _REGION_PX), min(height_px, _REGION_PX)
    return RegionRequest(
        kind="pixels", x=(width_px - width) // 2, y=(height_px - height) // 2, width=width, height=height
    )
