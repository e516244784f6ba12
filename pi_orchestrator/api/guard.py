"""What a browser must not be tricked into: foreign names for this host, and writes from foreign pages."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web

from pi_orchestrator.errors import ForbiddenError

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?", re.ASCII | re.IGNORECASE)
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """Checks `Host` on every request and `Origin` on every write."""

    def __init__(self, *, trusted_hosts: Iterable[str], ports: Iterable[int]) -> None:
        self._own_names = {"localhost", socket.gethostname().lower()}
        self._trusted: frozenset[str] = frozenset()
        self._ports = set(ports)
        self._known_good: set[str] = set()
        self.trust(trusted_hosts)

    def trust(self, hosts: Iterable[str]) -> None:
        """Take the configured further names."""
        self._trusted = frozenset(host.lower() for host in hosts)
        self._known_good.clear()

    def serve_on(self, ports: Iterable[int]) -> None:
        """Say on which ports we listen: pages from there are our own."""
        self._ports.update(ports)

    def check(self, request: web.Request) -> None:
        """ForbiddenError for a foreign host, or for a write that a foreign page began."""
        host = request.headers.get("Host", "")
        if host not in self._known_good:
            if not self._is_ours(_host_name(host)):
                raise ForbiddenError(
                    "this host name is not known here",
                    details="use the address, NAME.local, or add the name to http.trusted_hosts",
                )
            if len(self._known_good) < 64:
                self._known_good.add(host)
        if request.method not in SAFE_METHODS and not self._began_here(request, _host_name(host)):
            raise ForbiddenError("writes from other sites are refused")

    def _is_ours(self, name: str | None) -> bool:
        if not name:
            return False
        if name in self._own_names or name in self._trusted or name.endswith(".local"):
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True

    def _began_here(self, request: web.Request, host: str | None) -> bool:
        origin = request.headers.get("Origin")
        if origin is None:
            return request.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
        try:
            parts = urlsplit(origin)
            port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        except ValueError:
            return False
        if parts.hostname in self._trusted:
            return True
        return parts.hostname == host and (port in self._ports or parts.netloc == request.headers.get("Host"))


def _host_name(host: str) -> str | None:
    match = _HOST.fullmatch(host)
    return (match[1] or match[2]).lower() if match else None
