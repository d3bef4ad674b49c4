"""What a test does where a service that it needs is not installed."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Skip the test, or fail it where CI promises that everything is there."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and CI=true says that it must not be")
    pytest.skip(f"{what} is missing")
