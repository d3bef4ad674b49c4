"""Names and order of the original's 88 columns."""

from __future__ import annotations

__all__ = ["COLOUR", "COLUMNS", "SHAPE", "SIZE", "TEXTURE"]

_INTENSITY = ("Mean", "Max", "Min", "Std", "Entropy", "Energy", "Skewness", "Kurtosis")
_GRADIENT = ("Mean", "Std", "Entropy", "Energy", "Skewness", "Kurtosis")
_CANNY = ("NonZero", "Mean")

SIZE = ("AreaInPixels", "MajorAxis", "MinorAxis", "Eccentricity", "ExtentRatio", "Circularity")
#: Red and blue channel; inside the nucleus, then in the ring around it.
TEXTURE = tuple(
    f"{channel}{place}{group}{word}"
    for channel in ("r_", "b_")
    for place in ("", "cyto")
    for group, words in (("Intensity", _INTENSITY), ("Gradient", _GRADIENT), ("Canny", _CANNY))
    for word in words
)
SHAPE = (
    "PhysicalSize",
    "NumberOfPixelsOnBorder",
    "PrincipalMoments0",
    "PrincipalMoments1",
    "Elongation",
    "Roundness",
    "EquivalentSphericalRadius",
    "EquivalentSphericalPerimeter",
    "EquivalentEllipsoidDiameter0",
    "EquivalentEllipsoidDiameter1",
    "Flatness",
)
COLOUR = ("MeanR", "MeanG", "MeanB", "StdR", "StdG", "StdB")
#: The whole header. Readers must go by name: there are builds of the original with one column more.
COLUMNS = (*SIZE, *TEXTURE, *SHAPE, *COLOUR, "Polygon")
