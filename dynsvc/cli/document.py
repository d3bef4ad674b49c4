"""An order's file: the shapes in which people have orders at hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynsvc.errors import InvalidOrder
from dynsvc.orders import Order, parse_order

__all__ = ["NEW", "OrderDocument", "read_document"]

#: Stands for the order's id in messages while it has none.
NEW = "new"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderDocument:
    """What a file asks Kue to save."""

    type: str
    data: Any
    #: Kue's own options of the document, where it has some.
    options: Mapping[str, Any]

    def parse(self) -> Order:
        """Return the order.

        Raises
        ------
        InvalidOrder
            The first field that is not as expected (permanent).
        """
        return parse_order(NEW, self.type, json.dumps(self.data))


def read_document(path: Path, job_type: str | None) -> OrderDocument:
    """Read an order's file.

    Three shapes are known: what is posted to Kue (``{"type": …, "data": …, "options": …}``), a job as
    Kue's API returns it or as its hash stores it (``data`` may then be a JSON text), and the bare ``data``.

    Parameters
    ----------
    path
        A JSON file.
    job_type
        Kue's job type; the document's own, else ``analysisJob``, if None.

    Raises
    ------
    InvalidOrder
        The file is no JSON object (permanent).
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidOrder(str(path), "file", str(error), "a readable JSON file") from error
    if not isinstance(document, dict):
        raise InvalidOrder(str(path), "document", document, "a JSON object")
    data: Any = document
    options: Any = {}
    kind: Any = "analysisJob"
    if "data" in document and "order" not in document:
        data, options, kind = document["data"], document.get("options"), document.get("type") or kind
    if isinstance(data, str):
        try:
            data = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InvalidOrder(str(path), "data", str(error), "an object or its JSON text") from error
    return OrderDocument(
        type=job_type or str(kind), data=data, options=options if isinstance(options, dict) else {}
    )
