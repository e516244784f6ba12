"""Browser protection: foreign names for this host (DNS rebinding), and writes from foreign pages (CSRF)."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web

from pi_orchestrator.core.errors import ForbiddenError

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?", re.ASCII | re.IGNORECASE)
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class HostGuard:
    """Checks `Host` on every request and `Origin` on every write; `remedy` is the advice in a refusal."""

    def __init__(self, *, trusted_hosts: Iterable[str], ports: Iterable[int], remedy: str = "") -> None:
        self._remedy = remedy
        self._own_names = {"localhost", socket.gethostname().lower()}
        self.trusted: frozenset[str] = frozenset()
        self._ports = set(ports)
        self._accepted_hosts: set[str] = set()
        self.trust(trusted_hosts)

    def trust(self, hosts: Iterable[str]) -> None:
        """Replace the configured additional host names."""
        self.trusted = frozenset(host.lower() for host in hosts)
        self._accepted_hosts.clear()

    def serve_on(self, ports: Iterable[int]) -> None:
        """Add ports that this server listens on: pages served there may write."""
        self._ports.update(ports)

    def check(self, request: web.Request) -> None:
        """ForbiddenError for a foreign host name, or for a write from a foreign page."""
        host = request.headers.get("Host", "")
        if host not in self._accepted_hosts:
            if not self._is_own_name(_host_name(host)):
                raise ForbiddenError("this host name is not trusted", details=self._remedy or None)
            if len(self._accepted_hosts) < 64:
                self._accepted_hosts.add(host)
        if request.method not in SAFE_METHODS and not self._is_same_site(request, _host_name(host)):
            raise ForbiddenError("writes from other sites are not allowed")

    def _is_own_name(self, name: str | None) -> bool:
        if not name:
            return False
        if name in self._own_names or name in self.trusted or name.endswith(".local"):
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True

    def _is_same_site(self, request: web.Request, host: str | None) -> bool:
        origin = request.headers.get("Origin")
        if origin is None:
            return request.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
        try:
            parts = urlsplit(origin)
            port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        except ValueError:
            return False
        if parts.hostname in self.trusted:
            return True
        return parts.hostname == host and (port in self._ports or parts.netloc == request.headers.get("Host"))


def _host_name(host: str) -> str | None:
    match = _HOST.fullmatch(host)
    return (match[1] or match[2]).lower() if match else None
