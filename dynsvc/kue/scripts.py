"""Lua scripts: read from a folder, run by their digest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import redis
from redis.exceptions import NoScriptError

from dynsvc.kue.connection import answering

__all__ = ["Call", "Scripts", "together"]

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
        self._loaded: set[str] = set()

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

    def _script(self, name: str) -> Any:
        script = self._registered.get(name)
        if script is None:
            script = self._registered[name] = self.client.register_script(_text(self._folder, name))
        return script

    def load(self, name: str) -> str:
        """Have the server know the script *name*, and return its digest. One round trip, once."""
        script = self._script(name)
        if name not in self._loaded:
            self.client.script_load(script.script)
            self._loaded.add(name)
        return str(script.sha)

    def forget(self) -> None:
        """Have scripts loaded again: the server has lost them."""
        self._loaded.clear()


@dataclass(frozen=True, slots=True)
class Call:
    """A script with its arguments, to be run alone or :func:`together` with others."""

    scripts: Scripts
    name: str
    args: tuple[str | int, ...]

    def run(self) -> Any:
        """Run it. Returns and raises as :meth:`Scripts.run`."""
        return self.scripts.run(self.name, *self.args)


def together(calls: Sequence[Call]) -> list[Any]:
    """Run scripts of one server in their order, in one round trip, and return their replies.

    Each is as atomic as alone; between two of them others may write.

    Raises
    ------
    PeerUnavailable
        No answer; some or all may have run nevertheless (transient).
    PeerRefused
        The server's answer to one of them is an error; the others have run (permanent).
    """
    if not calls:
        return []
    first = calls[0].scripts
    with answering(first.peer):
        try:
            return _sent(first.client, calls)
        except NoScriptError:
            # A restarted server has lost all of them, so none has run.
            for scripts in {id(call.scripts): call.scripts for call in calls}.values():
                scripts.forget()
            return _sent(first.client, calls)


def _sent(client: redis.Redis, calls: Sequence[Call]) -> list[Any]:
    digests = [call.scripts.load(call.name) for call in calls]
    # Not by the client's own script objects: they ask in a round trip of its own whether each is there.
    with client.pipeline(transaction=False) as pipeline:
        for digest, call in zip(digests, calls, strict=True):
            pipeline.execute_command("EVALSHA", digest, 0, call.scripts.head, *call.args)
        # Raised by us: the pipeline would put other words in front of the server's code.
        replies: list[Any] = pipeline.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies
