"""Lua scripts: read from a folder, run by their digest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import redis

from dynsvc.kue.connection import answering

__all__ = ["Scripts"]

_FOLDER = Path(__file__).parent


@cache
def _text(folder: Path, name: str) -> str:
    prelude, script = (folder / f"{part}.lua" for part in ("_common", name))
    return f"{prelude.read_text(encoding='utf-8')}\n{script.read_text(encoding='utf-8')}"


class Scripts:
    """The scripts of one server and one key head.

    Keys are built inside the scripts, so none are declared: this works on a single server and, with the head
    ``{q}:``, wherever all keys lie on one node.
    """

    def __init__(self, client: redis.Redis, head: str, peer: str, *, folder: Path = _FOLDER) -> None:
        self.client, self.head, self.peer = client, head, peer
        self._folder = folder
        self._registered: dict[str, Any] = {}

    def run(self, name: str, *args: str | int) -> Any:
        """Run the script *name* with the key head and *args*, and return its reply.

        Raises
        ------
        PeerUnavailable
            No answer; the script may have run nevertheless (transient).
        PeerRefused
            The server's answer is an error (permanent).
        """
        with answering(self.peer):
            return self._script(name)(args=(self.head, *args))

    def run_each(self, name: str, calls: Sequence[Sequence[str | int]]) -> list[Any]:
        """Run the script *name* once for each of *calls*, in one round trip. Raises as :meth:`run`."""
        with answering(self.peer), self.client.pipeline(transaction=False) as pipeline:
            for args in calls:
                self._script(name)(args=(self.head, *args), client=pipeline)
            return list(pipeline.execute())

    def _script(self, name: str) -> Any:
        script = self._registered.get(name)
        if script is None:
            script = self._registered[name] = self.client.register_script(_text(self._folder, name))
        return script
