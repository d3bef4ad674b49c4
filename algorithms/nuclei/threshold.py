"""What separates nuclei from the rest of a region, as a value that one run can hand to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

__all__ = ["NOTHING", "Nothing", "Threshold"]

Nothing = Literal["none"]
#: In a threshold's place: nothing stands out as nuclei, in this region and in the parts of it.
NOTHING: Nothing = "none"
#: Where nuclei and their surroundings differ by less than this, the difference is noise or plain eosin.
_MIN_CONTRAST_OD = 0.04


@dataclass(frozen=True, slots=True)
class Threshold:
    """What separates nuclei from the rest: densities of haematoxylin. Equal values give equal objects."""

    #: Between the two classes (Otsu 1979).
    od: float
    #: Means of the classes below and above, and of all tissue.
    background_od: float
    nuclei_od: float
    mean_od: float

    @classmethod
    def rounded(cls, *values_od: float) -> Self:
        """Return a threshold that its text holds exactly: whoever is told it finds the same objects."""
        return cls(*(float(f"{value:.6g}") for value in values_od))

    def __str__(self) -> str:
        return ":".join(f"{v:.6g}" for v in (self.od, self.background_od, self.nuclei_od, self.mean_od))

    @property
    def visible(self) -> bool:
        """Whether the classes differ by more than noise."""
        return self.nuclei_od - self.background_od >= _MIN_CONTRAST_OD
