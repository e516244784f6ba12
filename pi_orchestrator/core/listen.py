"""A listen address, and its URL on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Wildcard address → the loopback address of its family."""


@dataclass(frozen=True, slots=True)
class Listen:
    """Host and port of a listening socket."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host == "localhost" or ip_address(self.host).is_loopback

    @property
    def url(self) -> str:
        """The URL for clients on this machine; loopback for a wildcard address."""
        return f"http://{Listen(_LOOPBACK.get(self.host, self.host), self.port)}"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
