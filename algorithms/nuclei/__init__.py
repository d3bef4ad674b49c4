"""Nucleus segmentation in H&E stained tissue.

A program with the command line and the files of ``mainSegmentFeatures``, and a method of its own:
haematoxylin by colour deconvolution, an adaptive threshold, and a marker watershed on the distance transform.
The package needs nothing of dynsvc, so that it can be the whole content of a small image.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "1.0.0"
