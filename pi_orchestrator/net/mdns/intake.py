"""Packet filter in front of zeroconf, which alone would store every announcement of any host on the network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.token_bucket import TokenBucket

MIN_PACKET_BYTES, MAX_PACKET_BYTES = 12, 1500
"""From a DNS header to the Ethernet MTU; cameras send a few hundred bytes."""
PACKETS_PER_S, PACKET_BURST = 50, 400
"""Enough for a site that starts up: 60 cameras probe and announce at the same time."""
MAX_STORED_BYTES = 128 * 1024
"""Limit for stored announcements; 60 cameras need a few kilobytes."""
MIN_CLEAR_INTERVAL_S = 60.0
_RESPONSE = 0x80


class PacketFilter:
    """Admits packets from the camera network at a limited rate, and announcements up to a total of bytes.

    `on_full` is called when the byte limit is exceeded and at least `MIN_CLEAR_INTERVAL_S` have passed since the last
    `clear`. The owner then deletes all announcements and calls `clear`.
    """

    def __init__(self, *, networks: Sequence[IPv4Network], clock: Clock, on_full: Callable[[], None]) -> None:
        self._networks = tuple(networks)
        self._clock = clock
        self._on_full = on_full
        self._bucket = TokenBucket(capacity=PACKET_BURST, rate=PACKETS_PER_S, now=clock.monotonic())
        self._bytes_left = MAX_STORED_BYTES
        self._cleared_at = clock.monotonic()
        self.is_full = False
        self.rejected = 0
        self.send_error: str | None = None

    def clear(self) -> None:
        """Reset the byte limit."""
        self._bytes_left = MAX_STORED_BYTES
        self._cleared_at = self._clock.monotonic()
        self.is_full = False

    def admits(self, data: bytes, source: str) -> bool:
        """Decide whether a packet may be passed to zeroconf; uses up the limits, and counts rejected packets."""
        now = self._clock.monotonic()
        admitted = (
            MIN_PACKET_BYTES <= len(data) <= MAX_PACKET_BYTES
            and self._is_in_network(source)
            and self._bucket.take(now)
            and (not data[2] & _RESPONSE or self._reserve(len(data), now))
        )
        if admitted:
            self.send_error = None
        else:
            self.rejected += 1
        return admitted

    def record_error(self, error: Exception) -> None:
        """Record a send error; it is valid until a packet is admitted."""
        self.send_error = f"cannot send: {getattr(error, 'strerror', None) or error}"

    def _is_in_network(self, source: str) -> bool:
        # The socket receives from every interface on which any program has joined the group.
        address = IPv4Address(source)
        return any(address in network for network in self._networks)

    def _reserve(self, size: int, now: float) -> bool:
        if size <= self._bytes_left:
            self._bytes_left -= size
            return True
        self.is_full = True
        if now - self._cleared_at >= MIN_CLEAR_INTERVAL_S:
            self._on_full()
        return False


class FilteredProtocol(asyncio.DatagramProtocol):
    """Applies the packet filter between a transport and zeroconf's protocol."""

    def __init__(self, inner: asyncio.DatagramProtocol, *, packet_filter: PacketFilter) -> None:
        self._inner = inner
        self._packet_filter = packet_filter

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """Pass admitted packets on."""
        if self._packet_filter.admits(data, addr[0]):
            self._inner.datagram_received(data, addr)

    def error_received(self, exc: Exception) -> None:
        """Record the error; zeroconf would log a traceback."""
        self._packet_filter.record_error(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the call on."""
        self._inner.connection_lost(exc)
