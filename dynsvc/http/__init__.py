"""HTTP with limits: time, bytes, attempts, and no secret in any text. The only place that knows requests."""

from __future__ import annotations

from dynsvc.http.answers import Answer, named, refusal
from dynsvc.http.client import Http
from dynsvc.http.patience import Patience

__all__ = ["Answer", "Http", "Patience", "named", "refusal"]
