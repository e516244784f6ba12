"""Refuses requests with a foreign host name (DNS rebinding), and writes from foreign pages (CSRF)."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web

from pi_orchestrator.core.errors import ForbiddenError
from pi_orchestrator.core.validation import clean_text

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?", re.ASCII | re.IGNORECASE)
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_SHOWN_CHARS = 100
MAX_ACCEPTED_HOSTS = 64
"""Limit of the cache of accepted Host headers, because a client can send any number of different ones."""


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

    def add_ports(self, ports: Iterable[int]) -> None:
        """Accept writes from pages served on these ports."""
        self._ports.update(ports)

    def check(self, request: web.Request) -> None:
        """ForbiddenError for a foreign host name, or for a write from a foreign page."""
        host = request.headers.get("Host", "")
        if host not in self._accepted_hosts:
            if not self._is_accepted_host(_host_name(host)):
                raise ForbiddenError(f"the host name {_quoted(host)} is not trusted", details=self._remedy or None)
            if len(self._accepted_hosts) < MAX_ACCEPTED_HOSTS:
                self._accepted_hosts.add(host)
        if request.method not in SAFE_METHODS and not self._is_same_site(request, _host_name(host)):
            site = _quoted(origin) if (origin := request.headers.get("Origin")) else "other sites"
            raise ForbiddenError(f"writes from {site} are not allowed", details=self._remedy or None)

    def _is_accepted_host(self, name: str | None) -> bool:
        """Whether a host name is safe from DNS rebinding: an own or trusted one, `*.local`, or an IP address."""
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


def _quoted(header: str) -> str:
    """The start of a header of a hostile client, as text that is safe to show."""
    return f"'{clean_text(header, max_chars=MAX_SHOWN_CHARS) or ''}'"


def _host_name(host: str) -> str | None:
    match = _HOST.fullmatch(host)
    return (match[1] or match[2]).lower() if match else None
