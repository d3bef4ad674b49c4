"""Which objects at the borders of cores are the same, and what becomes of each group."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dynsvc.merge.outlines import Doubles, Outlines
from dynsvc.merge.parts import Kind, Part
from dynsvc.merge.pixels import Pixels, same, touch
from dynsvc.merge.shapes import joined_row
from dynsvc.regions import Region
from dynsvc.tiles import Grid, Tile

__all__ = ["Borders", "Settled"]

#: A joined object whose box has more pixels than this stays in its pieces.
_LARGEST_PX = 1 << 26
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Settled:
    """An object whose fate is known. Rings: None where they follow from the outline."""

    row: str
    outline: Doubles
    x: float
    y: float
    area_px: float
    rings: list[Doubles] | None = None


@dataclass(slots=True, eq=False)
class _Known:
    """What one tile knows of an object at the border of its core."""

    number: int
    tile: Tile
    columns: tuple[str, ...]
    kind: int
    row: str
    outline: Doubles
    box: NDArray[np.float64]
    x: float
    y: float
    area_px: float
    #: Whether another tile has the same outline.
    twin: bool = False
    group: _Group = field(init=False)
    _pixels: Pixels | None = None

    @property
    def pixels(self) -> Pixels:
        if self._pixels is None:
            self._pixels = Pixels.inside(self.outline, self.area_px)
        return self._pixels


@dataclass(slots=True, eq=False)
class _Group:
    members: list[_Known]
    last_row: int
    #: Pairs of complete objects of two tiles that are the same.
    doubles: list[tuple[_Known, _Known]] = field(default_factory=list)


@dataclass(slots=True)
class _Column:
    """The border objects of one tile."""

    members: list[_Known]
    boxes: NDArray[np.float64]


class Borders:
    """Takes the border objects of tiles in grid order; gives them back when all neighbours have been seen."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        #: So many tiles apart, two tiles can see the same pixels.
        self._reach = max(1, -(-2 * grid.halo_px // grid.tile_px))
        self._tiles: dict[Place, _Column] = {}
        self._rows: dict[int, list[Place]] = {}
        self._by_outline: dict[bytes, list[_Known]] = {}
        self._groups: dict[int, _Group] = {}
        self._number = 0
        self._matched = -1
        #: Objects put together from pieces; and objects, or pieces of some, that were dropped.
        self.joined = self.dropped = 0

    def add(self, part: Part) -> None:
        """Take the border objects of the next tile."""
        tile = part.tile
        numbers = np.flatnonzero(part.kind != Kind.INNER)
        boxes = part.outlines.boxes()[numbers] if numbers.size else np.zeros((0, 4))
        members = []
        for box, number in zip(boxes, numbers.tolist(), strict=True):
            known = _Known(
                number=self._number, tile=tile, columns=part.columns, kind=int(part.kind[number]),
                row=part.rows[number], outline=part.outlines[number].copy(), box=box,
                x=float(part.centroids[number, 0]), y=float(part.centroids[number, 1]),
                area_px=float(part.areas_px[number]),
            )  # fmt: skip
            self._number += 1
            if known.kind == Kind.CUT and not known.pixels.within(tile.core):
                continue
            known.group = self._groups[known.number] = _Group([known], tile.row)
            members.append(known)
            if known.kind != Kind.CUT:
                twins = self._by_outline.setdefault(known.outline.tobytes(), [])
                twins.append(known)
                if len(twins) > 1:
                    for twin in twins:
                        twin.twin = True
                    self._unite(twins[0], known)
        place = (tile.column, tile.row)
        self._tiles[place] = _Column(members, np.array([known.box for known in members]).reshape(-1, 4))
        self._rows.setdefault(tile.row, []).append(place)

    def after_row(self, row: int) -> Iterator[Settled]:
        """Yield what is settled when all tiles down to *row* have been added."""
        yield from self._settle(row - self._reach)

    def end(self) -> Iterator[Settled]:
        """Yield the rest."""
        last = max(self._rows, default=-1)
        yield from self._settle(last + 2 * self._reach)

    def _settle(self, last: int) -> Iterator[Settled]:
        """Match all rows down to *last*, whose neighbours are known, and yield the groups that end above."""
        for row in sorted(row for row in self._rows if self._matched < row <= last):
            for place in self._rows[row]:
                self._match(place)
        self._matched = max(self._matched, last)
        done = [group for group in self._groups.values() if group.last_row <= last - self._reach]
        for group in done:
            for known in group.members:
                if known.kind != Kind.CUT:
                    self._by_outline.pop(known.outline.tobytes(), None)
        for group in done:
            del self._groups[group.members[0].number]
            yield from self._outcome(group)
        # The tile that owns an object of a group is at most that far above it.
        for row in [row for row in self._rows if row < last - 3 * self._reach]:
            for place in self._rows.pop(row):
                del self._tiles[place]

    def _match(self, place: Place) -> None:
        """Find the same objects in neighbouring tiles for those of one tile that no outline has told of."""
        column, row = place
        around = [
            self._tiles[near]
            for down in range(-self._reach, self._reach + 1)
            for across in range(-self._reach, self._reach + 1)
            if (near := (column + across, row + down)) != place and near in self._tiles
        ]
        for known in self._tiles[place].members:
            if known.twin and known.kind != Kind.CUT:
                continue
            for others in around:
                low, high = known.box[:2] - 1, known.box[2:] + 1
                meets = (others.boxes[:, :2] <= high).all(axis=1) & (others.boxes[:, 2:] >= low).all(axis=1)
                for number in np.flatnonzero(meets).tolist():
                    self._compare(known, others.members[number])

    def _compare(self, one: _Known, other: _Known) -> None:
        if one.group is other.group and (
            Kind.CUT in (one.kind, other.kind) or (other, one) in one.group.doubles
        ):
            return
        common = _common(one.tile.whole, other.tile.whole)
        if common is None:
            found = touch(one.pixels.within(one.tile.core), other.pixels.within(other.tile.core))
        else:
            found = same(one.pixels.within(common), other.pixels.within(common))
        if found:
            self._unite(one, other)
            if Kind.CUT not in (one.kind, other.kind):
                one.group.doubles.append((one, other))

    def _unite(self, one: _Known, other: _Known) -> None:
        first, second = one.group, other.group
        if first is second:
            return
        if first.members[0].number > second.members[0].number:
            first, second = second, first
        del self._groups[second.members[0].number]
        first.members += second.members
        first.doubles += second.doubles
        first.last_row = max(first.last_row, second.last_row)
        for known in second.members:
            known.group = first

    def _outcome(self, group: _Group) -> Iterator[Settled]:
        """Yield what is kept of one group."""
        members = sorted(group.members, key=_number)
        own = [known for known in members if known.kind == Kind.OWN]
        foreign = [known for known in members if known.kind == Kind.FOREIGN]
        if own:
            again = {later for pair in group.doubles for later in sorted(pair, key=_number)[1:]}
            kept = [known for known in own if known not in again] or own[:1]
        elif foreign:
            # The tile that owns it has not found it: then nobody has, unless there is no such tile.
            views = {known.outline.tobytes() for known in foreign}
            unseen = len(views) == 1 and len(foreign) == len(members)
            here = foreign[0].tile
            kept = (
                []
                if unseen and self._owner(foreign[0]) in self._tiles
                else [known for known in foreign if known.tile == here]
            )
        elif len(members) == 1:
            kept = [known for known in members if known.tile.owns(known.x, known.y)]
        else:
            yield from self._join(members)
            return
        self.dropped += not kept
        for known in kept:
            yield Settled(known.row, known.outline, known.x, known.y, known.area_px)

    def _owner(self, known: _Known) -> Place:
        column, row = (math.floor((place + 0.5) / self._grid.tile_px) for place in (known.x, known.y))
        return max(0, min(column, self._grid.columns - 1)), max(0, min(row, self._grid.rows - 1))

    def _join(self, members: list[_Known]) -> Iterator[Settled]:
        clipped = [known.pixels.within(known.tile.core) for known in members]
        width = max(part.right for part in clipped) - min(part.left for part in clipped)
        height = max(part.bottom for part in clipped) - min(part.top for part in clipped)
        groups = [list(range(len(members)))]
        if width * height > _LARGEST_PX:
            groups = [[number] for number in groups[0]]
        plane = Region(x_px=0, y_px=0, width_px=self._grid.width_px, height_px=self._grid.height_px)
        for numbers in groups:
            whole = Pixels.union(clipped[number] for number in numbers)
            pieces = [(members[n].row, members[n].pixels, members[n].tile.whole) for n in numbers]
            row = joined_row(members[0].columns, pieces, [clipped[n] for n in numbers], whole, plane)
            rings = whole.rings()
            outline = np.concatenate(rings)
            ((x, y),) = Outlines.joined([outline]).centroids().tolist()
            self.joined += 1
            yield Settled(row, outline, x, y, float(whole.mask.sum()), rings)


def _number(known: _Known) -> int:
    return known.number


def _common(first: Region, second: Region) -> Region | None:
    """Return the pixels that are in both."""
    left, top = max(first.x_px, second.x_px), max(first.y_px, second.y_px)
    right = min(first.x_px + first.width_px, second.x_px + second.width_px)
    bottom = min(first.y_px + first.height_px, second.y_px + second.height_px)
    if left >= right or top >= bottom:
        return None
    return Region(x_px=left, y_px=top, width_px=right - left, height_px=bottom - top)
