"""A process's ways to servers: requests' own, without what this client has no use for.

A session of requests keeps cookies, merges headers and settings, follows redirects and calls hooks; for each
request that costs as much as all the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidSchema
from requests.utils import get_netrc_auth
from urllib3 import BaseHTTPResponse

from dynsvc import __version__
from dynsvc.http.connections import limited_connections

__all__ = ["Session"]

#: Kept connections for each peer: a worker may have as many slots.
_CONNECTIONS = 64
#: No encoding: an encoded body could unpack to any size.
_HEADERS = {"User-Agent": f"dynsvc/{__version__}", "Accept-Encoding": "identity", "Accept": "*/*"}


class _Adapter(HTTPAdapter):
    """Connects to servers. *fresh*: each request by a connection of its own."""

    def __init__(self, *, fresh: bool) -> None:
        self._fresh = fresh
        super().__init__(pool_connections=_CONNECTIONS, pool_maxsize=_CONNECTIONS)
        limited_connections(self.poolmanager, fresh=fresh)

    def proxy_manager_for(self, proxy: Any, **options: Any) -> Any:
        """Return the connections by way of *proxy*."""
        manager = super().proxy_manager_for(proxy, **options)
        limited_connections(manager, fresh=self._fresh)
        return manager

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> Any:  # noqa: ARG002
        """Return urllib3's answer itself: requests would only copy its headers and look for cookies."""
        return resp


class Session:
    """Connections with limits; see :class:`dynsvc.http.client.Http` for the parameters."""

    def __init__(self, *, use_environment: bool, ca_bundle: Path | None) -> None:
        self._kept, self._fresh = _Adapter(fresh=False), _Adapter(fresh=True)
        self._verify: bool | str = True if ca_bundle is None else str(ca_bundle)
        self._environment: requests.Session | None = None
        if use_environment:
            self._environment = requests.Session()
            self._environment.verify = self._verify

    def close(self) -> None:
        """Close the kept connections."""
        self._kept.close()
        self._fresh.close()

    def send(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str],
        headers: Mapping[str, str],
        body: Any,
        timeout: tuple[float, float],
    ) -> tuple[str, BaseHTTPResponse]:
        """Send a request and return its complete URL, and the answer, whose body is still to be read.

        Parameters
        ----------
        body
            What is iterated over, of a known length, or None. With a body the request has a connection of its
            own: a kept one that the peer just closed would look like a lost answer.
        timeout
            Seconds for the connection, and for the headers of the answer.

        Raises
        ------
        ValueError
            The URL or a header is not usable.
        """
        request = requests.PreparedRequest()
        request.method = method
        request.prepare_url(url, urlencode(params))
        target = str(request.url)
        if not target.lower().startswith(("http://", "https://")):
            raise InvalidSchema("neither http nor https")
        lines = {**_HEADERS, **headers}
        lines["Connection"] = "keep-alive" if body is None else "close"
        if body is not None:
            request.body, lines["Content-Length"] = body, str(len(body))
        request.headers = lines  # type: ignore[assignment]  # any mapping will do
        verify: Any = self._verify
        proxies = user = None
        if self._environment is not None:
            settings = self._environment.merge_environment_settings(target, {}, True, None, None)
            verify, proxies, user = settings["verify"], settings["proxies"], get_netrc_auth(target)
        if user or "@" in target:
            request.prepare_auth(user, target)
        adapter = self._kept if body is None else self._fresh
        answer: Any = adapter.send(request, stream=True, timeout=timeout, verify=verify, proxies=proxies)
        return target, answer
