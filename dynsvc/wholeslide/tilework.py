"""One tile: its pixels, the algorithm's run, and the part of the result that it contributes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from dynsvc.algorithms import Algorithm
from dynsvc.artifacts import ArtifactStore
from dynsvc.errors import AlgorithmUnavailable, InvalidOrder
from dynsvc.execution import Owner, execute
from dynsvc.inputs import place
from dynsvc.merge import part_of
from dynsvc.messages import Message, Plan, Tiles
from dynsvc.outputs import OutputLimits, discard
from dynsvc.results import checked
from dynsvc.slides import Picture
from dynsvc.steps import Ports, disk_errors, places, planned, run_of
from dynsvc.tiles import Grid, Tile
from dynsvc.wholeslide.pixels import picture_of
from dynsvc.wholeslide.survey import identity_of

__all__ = ["TileWork", "listed_tiles", "part_key", "tiles_of"]


def part_key(tiles: Tiles, tile: Tile) -> str:
    """Return the key of a finished tile in the artifact store."""
    return f"{tiles.prefix}/{tile.column}-{tile.row}.part"


#: How a runtime names an image that it would execute.
_IMAGE: Final = "image "


@lru_cache(maxsize=8)
def _numbers(text: str) -> list[list[int]]:
    numbers: list[list[int]] = json.loads(text)
    return numbers


def tiles_of(message: Message, ports: Ports, first: int = 0, last: int | None = None) -> list[Tile]:
    """Return the tiles of an order in their order, or those of the numbers from *first* to before *last*."""
    return listed_tiles(message, ports.artifacts, first, last)


def listed_tiles(
    message: Message, artifacts: ArtifactStore, first: int = 0, last: int | None = None
) -> list[Tile]:
    """Do the same with the store alone."""
    plan, tiles = planned(message), message.tiles
    if tiles is None or plan.grid is None:
        raise InvalidOrder(message.order_id, "tiles", None, "a message whose tiles were planned")
    with tempfile.TemporaryDirectory(prefix="dynsvc-tiles-") as folder:
        path = artifacts.get(tiles.listing, Path(folder, "tiles.json"))
        return [plan.grid.tile(column, row) for column, row in _numbers(path.read_text())[first:last]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TileWork:
    """Does tiles of one order on this host."""

    message: Message
    plan: Plan
    tiles: Tiles
    grid: Grid
    algorithm: Algorithm
    ports: Ports
    #: Where each tile gets a folder for its time.
    folder: Path

    @classmethod
    def of(cls, message: Message, ports: Ports, folder: Path) -> TileWork:
        """Return what does the tiles of *message*, in *folder*."""
        plan, tiles = planned(message), message.tiles
        if tiles is None or plan.grid is None:
            raise InvalidOrder(message.order_id, "tiles", None, "a message whose tiles were planned")
        algorithm = ports.catalog.choose(plan.algorithm, "", plan.order.job_id)
        here = identity_of(algorithm, message, ports)
        if tiles.executed != here and _IMAGE in f"{tiles.executed} {here}":
            # A host with another image of that name must not mix its tiles with the others'.
            reason = (
                f"{ports.settings.host} has {here}, the slide's first tiles were made by {tiles.executed}"
            )
            raise AlgorithmUnavailable(algorithm.name, reason)
        return cls(
            message=message,
            plan=plan,
            tiles=tiles,
            grid=plan.grid,
            algorithm=algorithm,
            ports=ports,
            folder=folder,
        )

    def is_done(self, tile: Tile) -> bool:
        """Say whether the tile was done before, by whatever order."""
        return self.ports.artifacts.exists(part_key(self.tiles, tile))

    def fetch(self, tile: Tile) -> Picture:
        """Fetch the pixels of *tile* with its halo."""
        with disk_errors(self.folder):
            return picture_of(
                self.ports, self.plan, tile.whole, self.folder, f"picture-{tile.column}-{tile.row}"
            )

    def do(self, tile: Tile, picture: Picture, owner: Owner, say: Callable[[str], None], name: str) -> None:
        """Run the algorithm on *tile* and store its part.

        Parameters
        ----------
        picture
            From :meth:`fetch`.
        owner, say
            As :func:`dynsvc.execution.execute` takes them.
        name
            Of this run, unique to it: the attempt's token, ``#`` and more.

        Raises
        ------
        DynsvcError
            As :func:`dynsvc.pipeline.run_algorithm`.
        """
        folder = self.folder / f"tile-{tile.column}-{tile.row}"
        try:
            with disk_errors(folder):
                part = self._part(tile, picture, folder, owner=owner, say=say, name=name)
                self.ports.artifacts.put(part, part_key(self.tiles, tile))
        finally:
            discard(folder)

    def _part(
        self,
        tile: Tile,
        picture: Picture,
        folder: Path,
        *,
        owner: Owner,
        say: Callable[[str], None],
        name: str,
    ) -> Path:
        input_dir, output_dir = folder / "input", folder / "output"
        input_dir.mkdir(parents=True)
        output_dir.mkdir()
        algorithm, plan, runtime = self.algorithm, self.plan, self.ports.runtime()
        seen = runtime.seen(input_dir, output_dir)
        file_name = algorithm.input.file_name(picture.suffix)
        mpp_um = plan.mpp_um * self.grid.scale
        where = places(plan, seen, file_name, region=tile.whole, mpp_um=mpp_um)
        place(algorithm, picture.path, input_dir, where, plan.parameters)
        run = run_of(
            algorithm,
            self.message,
            self.ports,
            argv=algorithm.tile_command(where, plan.parameters, self.tiles.survey),
            request={
                **algorithm.request(where, plan.parameters),
                **algorithm.tiling.request,
                **self.tiles.survey,
            },
            input_dir=input_dir,
            output_dir=output_dir,
            attempt=name,
        )
        execute(
            run,
            runtime,
            self.ports.admission(),
            owner,
            on_line=lambda _: None,
            say=say,
            memory_retry=algorithm.limits.memory_retry,
        )
        limits = OutputLimits(max_bytes=self.ports.settings.max_result_bytes)
        files = checked(algorithm, output_dir=output_dir, folder=folder, limits=limits)
        part = folder / "part"
        part_of(
            part,
            grid=self.grid,
            tile=tile,
            files=files,
            outputs=algorithm.outputs,
            algorithm=algorithm.name,
        )
        return part
