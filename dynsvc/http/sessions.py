"""A process's ways to servers: requests finds them, once for each server, and urllib3 goes them.

A session of requests keeps cookies, merges headers and settings, follows redirects and calls hooks, and looks
for the way anew with each request; that costs as much as all the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_auth_from_url, get_netrc_auth
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, Retry, Timeout
from urllib3.util import Url, make_headers, parse_url

from dynsvc import __version__
from dynsvc.http.connections import limited_connections

__all__ = ["Session"]

#: Kept connections for each peer: a worker may have as many slots.
_CONNECTIONS = 64
#: No encoding: an encoded body could unpack to any size.
_HEADERS = {"User-Agent": f"dynsvc/{__version__}", "Accept-Encoding": "identity", "Accept": "*/*"}
#: Errors come as they are; what is tried again is decided above.
_ONCE = Retry(total=False)


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

    def way(self, url: str, verify: Any, proxies: Any) -> tuple[HTTPConnectionPool, str]:
        """Return the connections to the server of *url*, and what they are asked for."""
        request = requests.PreparedRequest()
        request.url = url
        connections: Any = self.get_connection_with_tls_context(request, verify, proxies=proxies)
        self.cert_verify(connections, url, verify, None)  # type: ignore[no-untyped-call]
        return connections, self.request_url(request, proxies)


class Session:
    """Connections with limits; see :class:`dynsvc.http.client.Http` for the parameters."""

    def __init__(self, *, use_environment: bool, ca_bundle: Path | None) -> None:
        self._kept, self._fresh = _Adapter(fresh=False), _Adapter(fresh=True)
        self._verify: bool | str = True if ca_bundle is None else str(ca_bundle)
        self._environment: requests.Session | None = None
        if use_environment:
            self._environment = requests.Session()
            self._environment.verify = self._verify
        #: The connections to each of the few servers of a configuration, where no environment is asked.
        self._known: dict[tuple[str | None, str | None, int | None, bool], HTTPConnectionPool] = {}

    def close(self) -> None:
        """Close the kept connections."""
        self._known.clear()
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
        parts = parse_url(url)
        if parts.scheme not in ("http", "https") or not parts.host:
            raise ValueError("neither http nor https")
        if params:
            parts = parts._replace(query="&".join(filter(None, (parts.query, urlencode(params)))))
        lines = {**_HEADERS, **headers, "Connection": "keep-alive"}
        if body is not None:
            lines |= {"Connection": "close", "Content-Length": str(len(body))}
        connections, asked, login = self._way(parts, fresh=body is not None)
        if login and any(login):
            lines["Authorization"] = make_headers(basic_auth=":".join(login))["authorization"]
        answer = connections.urlopen(
            method,
            asked,
            body=body,
            headers=lines,
            retries=_ONCE,
            redirect=False,
            assert_same_host=False,
            timeout=Timeout(connect=timeout[0], read=timeout[1]),
            preload_content=False,
            decode_content=False,
        )
        return parts.url, answer

    def _way(self, parts: Url, *, fresh: bool) -> tuple[HTTPConnectionPool, str, tuple[str, str] | None]:
        """Return the connections to a URL's server, what they are asked for, and name and password if any."""
        adapter = self._fresh if fresh else self._kept
        login = get_auth_from_url(parts.url) if parts.auth else None
        if self._environment is not None:
            settings = self._environment.merge_environment_settings(parts.url, {}, True, None, None)
            connections, asked = adapter.way(parts.url, settings["verify"], settings["proxies"])
            return connections, asked, get_netrc_auth(parts.url) or login
        server = (parts.scheme, parts.host, parts.port, fresh)
        connections = self._known.get(server) or adapter.way(parts.url, self._verify, None)[0]
        self._known[server] = connections
        return connections, parts.request_uri, login
