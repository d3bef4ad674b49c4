"""A stand-in for Bindaas: QuIP's slide queries over image records from a JSON file.

``python -m dynsvc.standins.bindaas --records records.json``; the file holds an array of image records with at
least ``case_id`` and ``file-location``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from dynsvc.standins.command import serve
from dynsvc.standins.server import Reply, Request, Standin, json_reply

__all__ = ["PATH", "BindaasStandin", "error_document"]

#: Where QuIP's image queries are.
PATH = "/services/Camicroscope_DataLoader/DataLoader/query/"

#: Query: its variable, and the fields of a record it answers; all where there are none.
_QUERIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "getFileLocationByIID": ("TCGAId", ("file-location",)),
    "getMPPByIID": ("TCGAId", ("mpp-x", "mpp-y")),
    "getImageInfoByCaseID": ("case_id", ()),
    "getMetaDataForCaseID": ("case_id", ()),
}


class BindaasStandin(Standin):
    """Answers the slide queries as Bindaas does, errors included.

    Parameters
    ----------
    records
        Image records.
    api_key
        Asked for in the header or query ``api_key``; None asks for none.
    host, port
        As for Standin.
    """

    def __init__(
        self,
        records: Iterable[Mapping[str, Any]],
        *,
        api_key: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self.records = [dict(record) for record in records]
        self.api_key = api_key
        #: Answers everything with this, where set: how a broken Bindaas looks.
        self.broken: Reply | None = None

    @property
    def location_url(self) -> str:
        """The location query, as ``images.location`` of the configuration names it."""
        return f"{self.url}{PATH}getFileLocationByIID"

    def answer(self, request: Request) -> Reply:
        """Answer one query."""
        if self.broken is not None:
            return self.broken
        if self.api_key and request.query.get("api_key", request.headers.get("api_key")) != self.api_key:
            return Reply(401)
        name = request.path.removeprefix(PATH)
        if not request.path.startswith(PATH) or name not in _QUERIES:
            return json_reply(500, {"errorMessage": f"no query {name}"})
        variable, fields = _QUERIES[name]
        if variable not in request.query:
            return json_reply(471, error_document(f"Bind variable [{variable}] is missing"))
        found = [record for record in self.records if record.get("case_id") == request.query[variable]]
        if fields:
            found = [{field: record[field] for field in fields if field in record} for record in found]
        return json_reply(200, found)


def error_document(description: str) -> dict[str, str]:
    """Return an error in Bindaas's shape."""
    return {"errorDescription": description, "suggestedAction": "", "detailedMessage": description}


@click.command(help=__doc__)
@click.option("--records", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--api-key", envvar="STANDIN_API_KEY", help="Asked for in each query.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=9099, show_default=True)
def main(records: Path, api_key: str | None, host: str, port: int) -> None:
    """Serve until interrupted."""
    serve(BindaasStandin(json.loads(records.read_text()), api_key=api_key, host=host, port=port))


if __name__ == "__main__":
    main()
