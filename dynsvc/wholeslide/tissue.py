"""Which tiles have tissue: told from glass on the slide made small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dynsvc.regions import Region

__all__ = ["TissueMask"]

#: Glass is bright in all channels: the darkest of the three has a peak there in the histogram.
_GLASS_FROM: Final = 170
#: What is darker than glass by more than JPEG noise counts as tissue, within these limits.
_BELOW_GLASS: Final = 8
_LOWEST, _HIGHEST = 200, 235


@dataclass(frozen=True, slots=True)
class TissueMask:
    """Tissue on the slide made small. In doubt it is tissue: a tile too many only costs time."""

    #: Shape (height, width), of the small picture.
    mask: NDArray[np.bool_]
    #: Level-0 pixels in one of its pixels.
    scale: float
    #: The darkest channel of tissue is below this.
    threshold: int

    @classmethod
    def of(cls, rgb: NDArray[np.uint8], scale: float) -> TissueMask:
        """Return the mask of a small picture, shape (height, width, 3)."""
        darkest = rgb.min(axis=2)
        histogram = np.bincount(darkest.ravel(), minlength=256)[_GLASS_FROM:]
        glass = _GLASS_FROM + int(histogram.argmax()) if histogram.any() else _HIGHEST
        threshold = min(max(glass - _BELOW_GLASS, _LOWEST), _HIGHEST)
        return cls(darkest < threshold, scale, threshold)

    def __str__(self) -> str:
        return f"darkest channel below {self.threshold} on a picture of {self.scale:.4g} level-0 px per pixel"

    def meets(self, region: Region) -> bool:
        """Say whether there is tissue in a region of level 0, or within a pixel of the mask around it."""
        left, top = (int(edge / self.scale) - 1 for edge in (region.x_px, region.y_px))
        right = int((region.x_px + region.width_px) / self.scale) + 2
        bottom = int((region.y_px + region.height_px) / self.scale) + 2
        return bool(self.mask[max(0, top) : bottom, max(0, left) : right].any())
