"""Pictures that the program writes."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .nuclei import Nuclei

__all__ = ["CYAN", "INSIDE", "OUTLINE", "draw_outlines", "jpeg", "labels_file", "mask_png", "stamped"]

Bytes = NDArray[np.uint8]

#: Values of the working mask. The written mask has 0 and 1 only.
INSIDE, OUTLINE = 1, 3
CYAN = (0, 255, 255)
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def stamped(nuclei: Nuclei) -> Bytes:
    """Return the working mask of a tile: nuclei, and the innermost line of their border, one pixel wide."""
    labels = nuclei.labels
    mask: Bytes = (labels != 0).astype(np.uint8)
    framed = cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    border = cv2.erode(framed, _CROSS) != cv2.dilate(framed, _CROSS)
    mask[border[1:-1, 1:-1] & (labels != 0)] = OUTLINE
    return mask


def draw_outlines(rgb: Bytes, mask: Bytes) -> None:
    """Draw the outlines of a working mask onto *rgb* in cyan."""
    rgb[mask == OUTLINE] = CYAN


def mask_png(mask: Bytes) -> bytes:
    """Encode a working mask with the original's values, 0 and 1."""
    return _encoded(".png", mask & INSIDE, [cv2.IMWRITE_PNG_COMPRESSION, 1])


def jpeg(rgb: Bytes) -> bytes:
    """Encode a picture."""
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def labels_file(labels: NDArray[np.int32]) -> tuple[str, bytes]:
    """Encode labels as 16-bit PNG, or 32-bit TIFF where they are too many; return ending and bytes."""
    if int(labels.max(initial=0)) < 2**16:
        return ".png", _encoded(".png", labels.astype(np.uint16), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    stream = io.BytesIO()
    Image.fromarray(labels).save(stream, "TIFF", compression="tiff_adobe_deflate")
    return ".tif", stream.getvalue()


def _encoded(kind: str, picture: NDArray[np.integer[Any]], options: list[int]) -> bytes:
    done, content = cv2.imencode(kind, picture, options)
    if not done:
        raise RuntimeError(f"OpenCV cannot encode {kind}")
    return bytes(content)
