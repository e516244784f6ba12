"""Interface of the scan engines (ARP frames, kernel neighbour table)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.sighting import Sighting
from pi_orchestrator.net.kernel.links import Link

OnSighting = Callable[[Sighting], None]
AddressProbe = Callable[[IPv4Address], Awaitable[frozenset[Mac]]]
"""Probe an address: the MACs that answer for it; empty if it cannot be probed."""
OnProgress = Callable[[float], None]
"""Called with the completed fraction of a sweep, 0.0 to 1.0."""


class Engine(Protocol):
    """Probes addresses on one link and passes every sighting to the callback that it was built with."""

    name: str

    async def open(self, link: Link, subnet: IPv4Network) -> None:
        """Start listening on this link; OSError with the reason if that fails."""

    def close(self) -> None:
        """Stop listening; may be called twice."""

    async def sweep(
        self, targets: Sequence[IPv4Address], *, expected: frozenset[IPv4Address], progress: OnProgress
    ) -> None:
        """Probe every target; probe `expected` addresses that stay silent once more. OSError if the link fails."""

    async def probe(self, address: IPv4Address, *, timeout_s: float) -> frozenset[Mac]:
        """The MACs that answer for an address, more than one is a conflict; OSError if not open or the link fails."""
