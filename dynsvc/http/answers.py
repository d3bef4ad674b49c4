"""Answers of HTTP peers, and the errors that they mean."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from dynsvc.errors import DynsvcError, PeerRefused, PeerUnavailable

__all__ = ["Answer", "Verdict", "named", "refusal"]

_QUOTED_CHARACTERS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A complete answer. *body* is empty where it went to a file."""

    status: int
    #: Lower case, without parameters; empty where the peer named none.
    media_type: str
    body: bytes = field(default=b"", repr=False)
    #: How long the peer asked us to wait, or None.
    retry_after_s: float | None = None
    #: Texts of the request that must not be repeated: some peers quote them in their errors.
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    def text(self) -> str:
        """Return the body as one line of at most 200 characters, without mark-up and secrets."""
        return self.clean(self.body.decode("utf-8", errors="replace"))

    def clean(self, text: str) -> str:
        """Return the peer's *text* as one line of at most 200 characters, without mark-up and secrets."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        if "<" in text:
            text = re.sub(r"(?is)<(style|script|title)\b.*?</\1>|<[^>]*>", " ", text)
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return text if len(text) <= _QUOTED_CHARACTERS else text[: _QUOTED_CHARACTERS - 1] + "…"

    def sentence(self) -> str:
        """Return ``answered 500 "text"``."""
        text = self.text()
        return f'answered {self.status} "{text}"' if text else f"answered {self.status} without a text"


#: Maps a peer's name and its answer outside 2xx to the error it means.
Verdict = Callable[[str, Answer], DynsvcError]


def refusal(peer: str, answer: Answer) -> DynsvcError:
    """Return the error that *answer*, which is no success, means in plain HTTP."""
    if answer.status in (408, 425, 429) or answer.status >= 500:
        return PeerUnavailable(peer, answer.sentence())
    return PeerRefused(peer, answer.sentence())


def named(kind: str, url: str) -> str:
    """Return a peer's name for messages: *kind*, then scheme, host and port of *url*, and nothing secret."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{kind} {parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")
