"""What is let in to the mDNS library: it keeps what it hears, and anybody on the network can speak."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.bucket import TokenBucket

MAX_PACKET_BYTES = 1500
"""What fits into a frame; cameras send a few hundred bytes."""
PACKETS_PER_S, PACKETS_AT_ONCE = 50, 400
"""A site that starts up: 60 cameras probe and announce at the same time."""
ROOM_BYTES = 128 * 1024
"""How much is remembered of what was announced; 60 cameras need a few kilobytes."""
FULL_FOR_S = 60.0
_RESPONSE = 0x80


class Intake:
    """Admits packets from the camera network, so many in a second, and announcements until the room is full.

    When it has been full long enough, `on_full` is told; it makes room (`clear`) after everything was forgotten.
    """

    def __init__(self, *, networks: Sequence[IPv4Network], clock: Clock, on_full: Callable[[], None]) -> None:
        self._networks = tuple(networks)
        self._clock = clock
        self._on_full = on_full
        self._bucket = TokenBucket(capacity=PACKETS_AT_ONCE, rate=PACKETS_PER_S, now=clock.monotonic())
        self._room = ROOM_BYTES
        self._since = clock.monotonic()
        self.is_full = False
        self.refused = 0
        self.problem: str | None = None

    def clear(self) -> None:
        """Begin anew."""
        self._room = ROOM_BYTES
        self._since = self._clock.monotonic()
        self.is_full = False

    def admits(self, data: bytes, source: str) -> bool:
        """Whether a packet may be handed on."""
        now = self._clock.monotonic()
        admitted = (
            12 <= len(data) <= MAX_PACKET_BYTES
            and self._is_near(source)
            and self._bucket.take(now)
            and (not data[2] & _RESPONSE or self._has_room(len(data), now))
        )
        if admitted:
            self.problem = None
        else:
            self.refused += 1
        return admitted

    def failed(self, error: Exception) -> None:
        """Something could not be sent; that holds until something is heard."""
        self.problem = f"cannot send: {getattr(error, 'strerror', None) or error}"

    def _is_near(self, source: str) -> bool:
        # The listening socket hears every interface on which some program has joined the group.
        address = IPv4Address(source)
        return any(address in network for network in self._networks)

    def _has_room(self, size: int, now: float) -> bool:
        if size <= self._room:
            self._room -= size
            return True
        self.is_full = True
        if now - self._since >= FULL_FOR_S:
            self._on_full()
        return False


class Gate(asyncio.DatagramProtocol):
    """Stands between a transport and the library's protocol."""

    def __init__(self, inner: asyncio.DatagramProtocol, *, intake: Intake) -> None:
        self._inner = inner
        self._intake = intake

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """Hand on what the intake admits."""
        if self._intake.admits(data, addr[0]):
            self._inner.datagram_received(data, addr)

    def error_received(self, exc: Exception) -> None:
        """Note it, in place of the trace that the library would write."""
        self._intake.failed(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand it on."""
        self._inner.connection_lost(exc)
