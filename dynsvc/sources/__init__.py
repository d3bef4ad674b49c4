"""Where pixels come from. One file for each implementation of :class:`ImageSource`."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from dynsvc.regions import Region
from dynsvc.slides import Picture, Slide

__all__ = ["ImageSource"]


class ImageSource(Protocol):
    """Reads regions of slides."""

    def describe(self, slide: Slide) -> Slide:
        """Return *slide* with the size and mpp that this source knows; what it does not know stays None.

        Raises
        ------
        SlideNotFound
            The source has no such slide (permanent).
        SlideUnreadable
            The slide is there but cannot be decoded (permanent).
        PeerUnavailable
            The server gave no complete answer (transient).
        """
        ...

    def fetch(
        self,
        slide: Slide,
        region: Region,
        folder: Path,
        stem: str,
        *,
        size_px: tuple[int, int] | None = None,
    ) -> Picture:
        """Write the pixels of *region* to a new file ``folder/stem.jpg`` or ``folder/stem.png``.

        Parameters
        ----------
        slide
            As :meth:`describe` returned it.
        region
            Level-0 pixels, inside the slide where its size is known.
        folder
            An existing folder; the file in it appears complete or not at all. The caller deletes it.
        stem
            The file's name without its suffix; the source chooses the suffix by the pixels' media type.
        size_px
            Width and height of the picture, not larger than the region's; None: those of the region.

        Raises
        ------
        SlideNotFound, SlideUnreadable, PeerRefused, PictureWrong
            Permanent.
        PeerUnavailable, StorageUnavailable
            Transient.
        """
        ...
