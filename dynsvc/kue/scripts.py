"""Lua scripts: read from a folder, run by their digest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import redis
from redis.exceptions import NoScriptError, RedisError

from dynsvc.kue.connection import exchange, in_our_words

__all__ = ["Call", "Scripts", "together"]

_FOLDER = Path(__file__).parent

#: Digests of the texts that each client's server knows. A server that has lost one has lost all of them,
#: whichever object they are run by.
_known: WeakKeyDictionary[redis.Redis, dict[str, str]] = WeakKeyDictionary()


@cache
def _text(folder: str, name: str) -> str:
    prelude, script = (Path(folder, f"{part}.lua") for part in ("_common", name))
    return f"{prelude.read_text(encoding='utf-8')}\n{script.read_text(encoding='utf-8')}"


class Scripts:
    """The scripts of one server and one key head.

    Keys are built inside the scripts, so none are declared: this works on a single server and, with the head
    ``{q}:``, wherever all keys lie on one node.
    """

    def __init__(self, client: redis.Redis, head: str, peer: str, *, folder: Path = _FOLDER) -> None:
        self.client, self.head, self.peer = client, head, peer
        self._folder = str(folder)
        self._digests = _known.setdefault(client, {})

    def run(self, name: str, *args: str | int) -> Any:
        """Run the script *name* with the key head and *args*, and return its reply.

        Raises
        ------
        PeerUnavailable
            No answer; the script may have run nevertheless (transient).
        PeerRefused
            The server's answer is an error (permanent).
        """
        return together([Call(self, name, args)])[0]

    def command(self, name: str, args: tuple[str | int, ...]) -> tuple[str | int, ...]:
        """Return the command that runs the script *name*. One round trip loads it, once."""
        text = self.text(name)
        digest = self._digests.get(text)
        if digest is None:
            digest = self._digests[text] = str(self.client.script_load(text))
        return ("EVALSHA", digest, 0, self.head, *args)

    def text(self, name: str) -> str:
        """Return the script *name*."""
        return _text(self._folder, name)

    def forget(self) -> None:
        """Have scripts loaded again: the server has lost them."""
        self._digests.clear()


@dataclass(frozen=True, slots=True)
class Call:
    """A script with its arguments, to be run alone or :func:`together` with others."""

    scripts: Scripts
    name: str
    args: tuple[str | int, ...]

    def run(self) -> Any:
        """Run it. Returns and raises as :meth:`Scripts.run`."""
        return together([self])[0]


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
    try:
        try:
            return _sent(first.client, calls)
        except NoScriptError:
            # A restarted server has lost all of them, so none has run.
            first.forget()
            return _sent(first.client, calls)
    except RedisError as error:
        raise in_our_words(first.peer, error) from error


def _sent(client: redis.Redis, calls: Sequence[Call]) -> list[Any]:
    return exchange(client, [call.scripts.command(call.name, call.args) for call in calls])
