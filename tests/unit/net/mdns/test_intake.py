"""mDNS packet filter: networks, packet size, rate, and stored announcements."""

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.net.mdns.intake import (
    MAX_PACKET_BYTES,
    MAX_STORED_BYTES,
    MIN_CLEAR_INTERVAL_S,
    PACKET_BURST,
    PACKETS_PER_S,
    FilteredProtocol,
    PacketFilter,
)
from tests.support.clock import FakeClock

NETWORK = IPv4Network("192.168.10.0/24")
CAMERA = "192.168.10.20"
QUERY, RESPONSE = bytes(100), b"\0\0\x84\0" + bytes(96)


class Calls:
    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1


@pytest.fixture
def on_full():
    return Calls()


@pytest.fixture
def packet_filter(clock, on_full):
    return PacketFilter(networks=[NETWORK], clock=clock, on_full=on_full)


@pytest.mark.parametrize("source, admitted", [(CAMERA, True), ("192.168.11.20", False), ("10.0.0.1", False)])
def test_only_camera_network_is_admitted(packet_filter, source, admitted):
    assert packet_filter.admits(QUERY, source) is admitted
    assert packet_filter.rejected == (not admitted)


@pytest.mark.parametrize(
    "size, admitted", [(0, False), (11, False), (12, True), (MAX_PACKET_BYTES, True), (1501, False)]
)
def test_packet_size_is_checked(packet_filter, size, admitted):
    assert packet_filter.admits(bytes(size), CAMERA) is admitted


async def test_packet_burst_and_rate_are_limited(packet_filter, clock):
    assert sum(packet_filter.admits(QUERY, CAMERA) for _ in range(PACKET_BURST + 100)) == PACKET_BURST
    await clock.advance(2)
    assert sum(packet_filter.admits(QUERY, CAMERA) for _ in range(500)) == 2 * PACKETS_PER_S


async def fill(packet_filter, clock):
    """Send announcements until one is rejected; returns the admitted bytes."""
    admitted_bytes = 0
    while packet_filter.admits(RESPONSE, CAMERA):
        admitted_bytes += len(RESPONSE)
        await clock.advance(0.02)
    return admitted_bytes


async def test_queries_are_admitted_while_filter_is_full(packet_filter, clock, on_full):
    assert MAX_STORED_BYTES - len(RESPONSE) < await fill(packet_filter, clock) <= MAX_STORED_BYTES
    assert packet_filter.is_full
    await clock.advance(1)
    assert packet_filter.admits(QUERY, CAMERA)


async def test_full_filter_requests_clear_after_a_minute(packet_filter, clock, on_full):
    """`on_full` is not called earlier, even in a flood: announcements would be deleted and repeated endlessly."""
    await fill(packet_filter, clock)
    on_full.count = 0
    packet_filter.clear()
    await clock.advance(MIN_CLEAR_INTERVAL_S - 30)
    await fill(packet_filter, clock)
    before = on_full.count
    await clock.advance(1)
    assert not packet_filter.admits(RESPONSE, CAMERA)
    assert on_full.count == before
    await clock.advance(MIN_CLEAR_INTERVAL_S)
    assert not packet_filter.admits(RESPONSE, CAMERA)
    assert on_full.count > before
    packet_filter.clear()
    assert not packet_filter.is_full
    assert packet_filter.admits(RESPONSE, CAMERA)


def test_send_error_is_valid_until_next_packet(packet_filter):
    packet_filter.record_error(OSError(101, "Network is unreachable"))
    assert packet_filter.send_error == "cannot send: Network is unreachable"
    packet_filter.admits(QUERY, "10.0.0.1")
    assert packet_filter.send_error is not None
    packet_filter.admits(QUERY, CAMERA)
    assert packet_filter.send_error is None


def test_protocol_passes_admitted_packets_and_close(packet_filter):
    class Inner:
        def __init__(self):
            self.calls = []

        def datagram_received(self, data, addr):
            self.calls.append((data, addr))

        def connection_lost(self, exc):
            self.calls.append(exc)

    inner = Inner()
    protocol = FilteredProtocol(inner, packet_filter=packet_filter)
    protocol.datagram_received(QUERY, (CAMERA, 5353))
    protocol.datagram_received(QUERY, ("10.0.0.1", 5353))
    protocol.error_received(OSError(1, "no"))
    protocol.connection_lost(None)
    assert inner.calls == [(QUERY, (CAMERA, 5353)), None]
    assert packet_filter.send_error == "cannot send: no"


@given(st.lists(st.tuples(st.binary(max_size=2000), st.ip_addresses(v=4)), max_size=50))
def test_any_packets_are_admitted_or_counted(packets):
    packet_filter = PacketFilter(networks=[NETWORK], clock=FakeClock(), on_full=lambda: None)
    admitted = sum(packet_filter.admits(data, str(source)) for data, source in packets)
    assert admitted + packet_filter.rejected == len(packets)
