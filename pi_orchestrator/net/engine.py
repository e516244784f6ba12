"""What a scan engine is: two ways to ask a network who is there, with one face."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.sighting import Sighting
from pi_orchestrator.net.links import Link

OnSighting = Callable[[Sighting], None]
Ask = Callable[[IPv4Address], Awaitable[frozenset[Mac]]]
"""Asks the network who answers for an address right now; nobody where it cannot be asked."""
OnProgress = Callable[[float], None]
"""Told the share of a sweep that is done, 0.0 to 1.0."""


class Engine(Protocol):
    """Asks addresses on one link and reports every sighting to the callback that it was built with."""

    name: str

    async def open(self, link: Link, subnet: IPv4Network) -> None:
        """Begin to listen on this link; OSError says why it cannot."""

    def close(self) -> None:
        """Stop listening; may be called twice."""

    async def sweep(
        self, targets: Sequence[IPv4Address], *, expected: frozenset[IPv4Address], progress: OnProgress
    ) -> None:
        """Ask every address, `expected` ones that stay silent once more; OSError when the link goes away."""

    async def ask(self, address: IPv4Address, *, timeout_s: float) -> frozenset[Mac]:
        """Everyone who answers for an address right now, more than one is a conflict; OSError without a link."""
