"""All tiles of an order in this process, one after the other: for ``dynsvc run``."""

from __future__ import annotations

import time

from dynsvc.errors import DynsvcError
from dynsvc.messages import Message
from dynsvc.steps import ALGORITHM_FROM, ALGORITHM_TO, Attempt, Ports, workspace
from dynsvc.wholeslide.merging import merge_tiles
from dynsvc.wholeslide.tilework import TileWork, tiles_of

__all__ = ["do_tiles"]


def do_tiles(message: Message, ports: Ports, attempt: Attempt) -> Message:
    """Do the tiles of a message that ``run_algorithm`` has prepared, and merge them.

    Nothing is tried a second time; where the descriptor says so, a tile that fails becomes a hole.
    """
    began = time.monotonic()
    every = tiles_of(message, ports)
    holes: list[int] = []

    def say(line: str) -> None:
        attempt.report(ALGORITHM_FROM, line)

    with workspace(ports, message) as folder:
        work = TileWork.of(message, ports, folder)
        for number, tile in enumerate(every):
            try:
                work.do(tile, work.fetch(tile), attempt, say, f"{message.token}#{number}")
            except DynsvcError as error:
                if work.algorithm.tiling.on_failure != "hole":
                    raise
                holes.append(number)
                say(f"tile {tile}: {error.headline}; it becomes a hole in the result")
            done = ALGORITHM_FROM + (ALGORITHM_TO - ALGORITHM_FROM) * (number + 1) // len(every)
            attempt.report(done)
    took_s = message.timings_s.get("run_algorithm", 0.0) + time.monotonic() - began
    timings_s = {**message.timings_s, "run_algorithm": round(took_s, 4)}
    hosts = {ports.settings.host: len(every) - len(holes)}
    prepared = message.model_copy(update={"timings_s": timings_s})
    return merge_tiles(prepared, ports, attempt, holes=holes, hosts=hosts)
