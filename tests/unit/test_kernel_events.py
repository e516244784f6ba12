"""Netlink messages as bytes: read where they concern us, and harmless whatever they are."""

import struct
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.net.kernel_events import KernelEvents, entry_of, link_of
from tests.support.clock import FakeClock

HOST, MAC = "10.77.0.50", "24:6F:28:AA:00:01"


@given(st.binary(max_size=120), st.integers(0, 40))
def test_no_netlink_message_breaks_the_reader(body, kind):
    told = []
    events = KernelEvents(clock=FakeClock(), on_neighbour=told.append, on_link=lambda *change: told.append(change))
    events._socket = None
    entry_of(body, 2)
    link_of(kind, body)
    events._take(kind if kind not in (2, 3) else 4, body, asked=False)


def test_a_neighbour_message_is_read():
    def attribute(kind, data):
        return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)

    head = struct.pack("=BxxxiHBB", 2, 7, 0x04, 0, 1)
    body = head + attribute(1, IPv4Address(HOST).packed) + attribute(2, bytes.fromhex("246f28aa0001"))
    body += attribute(3, struct.pack("=IIII", 1250, 0, 0, 0)) + attribute(99, b"unknown")
    entry = entry_of(body, 7)
    assert (str(entry.ip), entry.mac, entry.state, entry.proven_s, entry.gone) == (HOST, MAC, 0x04, 12.5, False)
    assert entry_of(body, 8) is None, "another interface"
    assert entry_of(b"\x0a" + body[1:], 7) is None, "IPv6"
    assert entry_of(head[:10] + b"\x08" + body[11:], 7) is None, "a proxy entry is no neighbour"
    assert entry_of(body.replace(bytes.fromhex("246f28aa0001"), bytes.fromhex("01005e000001")), 7).mac is None
