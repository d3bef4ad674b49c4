"""Send chains to Celery. The only module of the bridge that knows Celery."""

from __future__ import annotations

from typing import Any

from celery import chain
from kombu.exceptions import OperationalError

from dynsvc import messages
from dynsvc.celery import app
from dynsvc.errors import PeerUnavailable

__all__ = ["send"]

# The loop that calls decides what follows a failure; here a short repetition bridges a lost connection.
_PATIENCE = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2}


def send(step: str, document: dict[str, Any]) -> None:
    """Send the chain of *step* and all that follow it.

    Parameters
    ----------
    step
        Name of the first task.
    document
        Its message.

    Raises
    ------
    PeerUnavailable
        The broker did not take it (transient).
    """
    names = messages.STEPS[messages.STEPS.index(step) :]
    first = app.signature(names[0], args=(document,))
    rest = [app.signature(name) for name in names[1:]]
    try:
        (chain(first, *rest) if rest else first).apply_async(retry=True, retry_policy=_PATIENCE)
    except (OperationalError, *app.connection_for_write().connection_errors) as error:
        raise PeerUnavailable("broker", str(error)) from error
