"""What mDNS lets in: from the camera network, in packets of a frame, so many a second, and no more than fits."""

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.net.mdns_intake import (
    FULL_FOR_S,
    MAX_PACKET_BYTES,
    PACKETS_AT_ONCE,
    PACKETS_PER_S,
    ROOM_BYTES,
    Gate,
    Intake,
)
from tests.support.clock import FakeClock

NETWORK = IPv4Network("192.168.10.0/24")
CAMERA = "192.168.10.20"
QUERY, RESPONSE = bytes(100), b"\0\0\x84\0" + bytes(96)


class Told:
    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times += 1


@pytest.fixture
def full():
    return Told()


@pytest.fixture
def intake(clock, full):
    return Intake(networks=[NETWORK], clock=clock, on_full=full)


@pytest.mark.parametrize("source, near", [(CAMERA, True), ("192.168.11.20", False), ("10.0.0.1", False)])
def test_only_the_camera_network_is_heard(intake, source, near):
    assert intake.admits(QUERY, source) is near
    assert intake.refused == (not near)


@pytest.mark.parametrize("size, fits", [(0, False), (11, False), (12, True), (MAX_PACKET_BYTES, True), (1501, False)])
def test_a_packet_has_a_header_and_fits_into_a_frame(intake, size, fits):
    assert intake.admits(bytes(size), CAMERA) is fits


async def test_so_many_packets_at_once_and_so_many_a_second(intake, clock):
    assert sum(intake.admits(QUERY, CAMERA) for _ in range(PACKETS_AT_ONCE + 100)) == PACKETS_AT_ONCE
    await clock.advance(2)
    assert sum(intake.admits(QUERY, CAMERA) for _ in range(500)) == 2 * PACKETS_PER_S


async def fill(intake, clock):
    """Announcements until no more are let in; how many bytes that were."""
    heard = 0
    while intake.admits(RESPONSE, CAMERA):
        heard += len(RESPONSE)
        await clock.advance(0.02)
    return heard


async def test_announcements_are_heard_until_the_room_is_full_and_questions_all_the_time(intake, clock, full):
    assert ROOM_BYTES - len(RESPONSE) < await fill(intake, clock) <= ROOM_BYTES
    assert intake.is_full
    await clock.advance(1)
    assert intake.admits(QUERY, CAMERA)


async def test_room_is_asked_for_once_it_has_been_full_for_a_minute(intake, clock, full):
    """Not before, however great the storm is: or it would be forgotten and told anew without end."""
    await fill(intake, clock)
    full.times = 0
    intake.clear()
    await clock.advance(FULL_FOR_S - 30)
    await fill(intake, clock)
    before = full.times
    await clock.advance(1)
    assert not intake.admits(RESPONSE, CAMERA)
    assert full.times == before
    await clock.advance(FULL_FOR_S)
    assert not intake.admits(RESPONSE, CAMERA)
    assert full.times > before
    intake.clear()
    assert not intake.is_full
    assert intake.admits(RESPONSE, CAMERA)


def test_a_failure_to_send_holds_until_something_is_heard(intake):
    intake.failed(OSError(101, "Network is unreachable"))
    assert intake.problem == "cannot send: Network is unreachable"
    intake.admits(QUERY, "10.0.0.1")
    assert intake.problem is not None
    intake.admits(QUERY, CAMERA)
    assert intake.problem is None


def test_the_gate_hands_on_what_is_admitted_and_what_concerns_the_connection(intake):
    class Inner:
        def __init__(self):
            self.heard = []

        def datagram_received(self, data, addr):
            self.heard.append((data, addr))

        def connection_lost(self, exc):
            self.heard.append(exc)

    inner = Inner()
    gate = Gate(inner, intake=intake)
    gate.datagram_received(QUERY, (CAMERA, 5353))
    gate.datagram_received(QUERY, ("10.0.0.1", 5353))
    gate.error_received(OSError(1, "no"))
    gate.connection_lost(None)
    assert inner.heard == [(QUERY, (CAMERA, 5353)), None]
    assert intake.problem == "cannot send: no"


@given(st.lists(st.tuples(st.binary(max_size=2000), st.ip_addresses(v=4)), max_size=50))
def test_whatever_comes_is_admitted_or_counted(packets):
    intake = Intake(networks=[NETWORK], clock=FakeClock(), on_full=lambda: None)
    admitted = sum(intake.admits(data, str(source)) for data, source in packets)
    assert admitted + intake.refused == len(packets)
