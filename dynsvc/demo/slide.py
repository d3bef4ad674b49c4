"""A slide for the demo, made of tissue pixels that come with scikit-image. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dynsvc.errors import DependencyMissing
from dynsvc.regions import Region

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]

__all__ = ["CASE_ID", "MPP_UM", "REGION", "make_slide"]

#: Micrometres per pixel. The picture's own is not published; with 0.5 the long axes of the nuclei measure
#: 8 to 10 µm, as they should in this tissue (colon).
MPP_UM: Final = 0.5

CASE_ID: Final = "DEMO-COLON-01"

#: The demo's region in level-0 pixels: one unmirrored copy of the tissue.
REGION: Final = Region(x_px=1024, y_px=1024, width_px=512, height_px=512)

_ACROSS, _DOWN = 5, 4
_TILE_PX = 256
_LEVELS = 3


def make_slide(path: Path) -> None:
    """Write a tiled pyramidal TIFF of 2560 x 2048 px that OpenSlide opens.

    Parameters
    ----------
    path
        The new file; it appears complete or not at all.

    Raises
    ------
    DependencyMissing
        scikit-image or tifffile is not installed (permanent).
    """
    try:
        import tifffile  # noqa: PLC0415 - an optional part
        from skimage import data  # noqa: PLC0415
    except ImportError as error:
        raise DependencyMissing(f"the demo's slide maker ({error.name})", "demo") from error
    pixels = _mirrored(data.immunohistochemistry())
    part = path.with_name(f".{path.name}.part")
    try:
        with tifffile.TiffWriter(part) as tiff:
            for level in range(_LEVELS):
                per_cm = 1e4 / (MPP_UM * 2**level)
                tiff.write(
                    pixels,
                    tile=(_TILE_PX, _TILE_PX),
                    photometric="rgb",
                    compression="zlib",  # the one that tifffile writes without further libraries
                    resolution=(per_cm, per_cm),
                    resolutionunit="CENTIMETER",
                    subfiletype=1 if level else 0,
                    description="" if level else "skimage.data.immunohistochemistry, mirrored to a slide",
                    metadata=None,
                )
                pixels = _halved(pixels)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _mirrored(picture: Any) -> Pixels:
    """Repeat *picture* in rows and columns, every second one mirrored, so that no seam cuts a nucleus."""
    import numpy as np  # noqa: PLC0415

    row = np.concatenate([picture[:, :: -1 if i % 2 else 1] for i in range(_ACROSS)], axis=1)
    whole: Pixels = np.concatenate([row[:: -1 if i % 2 else 1] for i in range(_DOWN)], axis=0)
    return np.ascontiguousarray(whole)


def _halved(picture: Pixels) -> Pixels:
    import numpy as np  # noqa: PLC0415

    height, width, channels = picture.shape
    blocks = picture.reshape(height // 2, 2, width // 2, 2, channels)
    halved: Pixels = (blocks.mean(axis=(1, 3)) + 0.5).astype(np.uint8)
    return halved
