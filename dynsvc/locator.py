"""Case id to slide, by asking Bindaas, the location service of QuIP."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

import structlog
from pydantic import SecretStr

from dynsvc.errors import DynsvcError, PeerRefused, PeerUnavailable, SlideAmbiguous, SlideNotFound, shown
from dynsvc.http import Answer, Http, Patience, named
from dynsvc.records import mean_mpp_um, whole_px
from dynsvc.settings import Endpoint
from dynsvc.slidefolder import FileLocator, is_plain_path, resolve_local
from dynsvc.slides import Slide

__all__ = ["BindaasLocator", "FileLocator", "resolve_local"]

log = structlog.get_logger(__name__)

_LOCATION_QUERY = "getFileLocationByIID"
#: The image's record is welcome but not needed: one short attempt.
_RECORD_PATIENCE = Patience(connect_s=2, read_s=3, answer_s=4, attempts=1, total_s=4)
_KEPT_S = 60.0
_KEPT_SLIDES = 1000
_KEY_WRONG = "the API key is missing or wrong: check images.api_key_file"
_MEANINGS: dict[int, tuple[type[PeerRefused] | type[PeerUnavailable], str]] = {
    401: (PeerRefused, _KEY_WRONG),
    403: (PeerRefused, _KEY_WRONG),
    471: (PeerRefused, "a variable of the query is missing"),
    571: (PeerUnavailable, "the query failed"),
    572: (PeerRefused, "the content of the query is bad"),
    573: (PeerUnavailable, "the database cannot be reached"),
}


class BindaasLocator:
    """Finds slides by asking Bindaas, the location service of QuIP.

    Parameters
    ----------
    http
        The process's client.
    endpoint
        The location query, as in the original's configuration.
    api_key
        Sent in a header, so that it enters no access log; None where the site uses none.
    kept_s
        How long a found slide is remembered.
    """

    def __init__(
        self, http: Http, endpoint: Endpoint, api_key: SecretStr | None, *, kept_s: float = _KEPT_S
    ) -> None:
        self.peer = named("location service", endpoint.url)
        self._http = http
        self._endpoint = endpoint
        self._secret_headers = {"api_key": api_key} if api_key else {}
        self._kept_s = kept_s
        self._kept: dict[str, tuple[float, Slide]] = {}
        self._lock = threading.Lock()

    def locate(self, case_id: str) -> Slide:
        """Return the slide of *case_id*, with size and mpp where its image record names them.

        Raises
        ------
        SlideNotFound, SlideAmbiguous
            The service knows none, or several different ones (permanent).
        PeerRefused
            The key is wrong, the query is wrong, or the answer is not usable (permanent).
        PeerUnavailable
            The service or its database gave no answer (transient).
        """
        now = time.monotonic()
        with self._lock:
            kept = self._kept.get(case_id)
        if kept is not None and now < kept[0]:
            return kept[1]
        # The service pastes the id into a database query as it is.
        if not case_id.isprintable() or any(character in case_id for character in "\"'\\{}$"):
            raise SlideNotFound(self.peer, case_id)
        location = self._location(case_id)
        slide = Slide(case_id=case_id, origin="iiif", location=location, **self._record(case_id, location))
        with self._lock:
            if len(self._kept) >= _KEPT_SLIDES:
                self._kept.clear()
            self._kept[case_id] = (now + self._kept_s, slide)
        return slide

    def check(self) -> str:
        """Ask for a case that nobody has, and return one line about the service. Errors as :meth:`locate`."""
        items = self._ask(self._endpoint.url, {"TCGAId": "dynsvc-check"})
        if not isinstance(items, list):
            raise PeerRefused(self.peer, f"answered a JSON {type(items).__name__}, expected an array")
        return f"{self.peer} answers, {'with' if self._secret_headers else 'without'} a key"

    def _location(self, case_id: str) -> str:
        items = self._ask(self._endpoint.url, {"TCGAId": case_id})
        if not isinstance(items, list):
            said = _description(items) or f"a JSON {type(items).__name__}"
            raise PeerRefused(self.peer, f"answered {said}, expected an array of file-location objects")
        found = sorted({self._checked(item) for item in items})
        if not found:
            raise SlideNotFound(self.peer, case_id)
        if len(found) > 1:
            raise SlideAmbiguous(self.peer, case_id, len(found))
        return found[0]

    def _checked(self, item: object) -> str:
        location = item.get("file-location") if isinstance(item, dict) else None
        if not isinstance(location, str) or not is_plain_path(location):
            raise PeerRefused(self.peer, f"file-location is {shown(location)}, expected a plain path")
        return location

    def _record(self, case_id: str, location: str) -> dict[str, Any]:
        """Return width_px, height_px and mpp_um from the image's record as far as there is one."""
        head, _, query = self._endpoint.url.rpartition("/")
        if query != _LOCATION_QUERY:
            return {}
        facts: dict[str, Any] = {}
        for sibling, variable in (("getImageInfoByCaseID", "case_id"), ("getMPPByIID", "TCGAId")):
            try:
                items = self._ask(f"{head}/{sibling}", {variable: case_id}, patience=_RECORD_PATIENCE)
            except DynsvcError as error:
                log.debug("locator.no_record", peer=self.peer, query=sibling, reason=str(error))
                continue
            records = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
            own = [record for record in records if record.get("file-location") == location]
            for record in own or records[:1]:
                known = {name: value for name, value in _facts(record).items() if value is not None}
                facts = known | facts
            if facts.get("mpp_um"):
                break
        return facts

    def _ask(self, url: str, params: Mapping[str, str], patience: Patience | None = None) -> Any:
        return self._http.get_json(
            self.peer,
            url,
            params=params,
            headers={"Accept": "application/json"},
            secret_headers=self._secret_headers,
            verdict=_verdict,
            patience=patience,
        )


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    mpp = (record.get(f"mpp-{axis}", record.get(f"mpp_{axis}")) for axis in "xy")
    return {
        "width_px": whole_px(record.get("width")),
        "height_px": whole_px(record.get("height")),
        "mpp_um": mean_mpp_um(*mpp),
    }


def _description(document: object) -> str:
    """Return what an error document of Bindaas says, or nothing."""
    if not isinstance(document, dict):
        return ""
    for name in ("errorDescription", "errorMessage", "detailedMessage"):
        if isinstance(said := document.get(name), str) and said.strip():
            return said
    return ""


def _verdict(peer: str, answer: Answer) -> DynsvcError:
    """Return the error that a status of Bindaas means."""
    try:
        said = answer.clean(_description(json.loads(answer.body)))
    except (ValueError, RecursionError):
        said = ""
    because = f': "{said}"' if said else f" ({answer.text()})" if answer.body.strip() else ""
    if answer.status == 500 and said:
        # An unknown project, provider or query. A broken server answers 500 with a page, not with a document.
        return PeerRefused(peer, f"answered 500{because}; check images.location.path")
    if answer.status in _MEANINGS:
        kind, meaning = _MEANINGS[answer.status]
        return kind(peer, f"answered {answer.status}, {meaning}{because}")
    kind = PeerUnavailable if answer.status >= 500 or answer.status in (408, 425, 429) else PeerRefused
    return kind(peer, f"answered {answer.status}{because}")
