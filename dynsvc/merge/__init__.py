"""Tile results become one result: each object once, with its outline and features as if there were no tiles.

:func:`part_of` runs for each tile, on any worker; :func:`merge` runs once and reads the parts in grid order.
"""

from dynsvc.merge.parts import Counts, part_of
from dynsvc.merge.reduce import Merged, Wanted, merge

__all__ = ["Counts", "Merged", "Wanted", "merge", "part_of"]
