"""Decoding of netlink notifications, valid and invalid."""

import errno
import struct
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.net.kernel.events import KernelEvents, decode_entry, decode_link
from tests.support.clock import FakeClock

HOST, MAC = "10.77.0.50", "24:6F:28:AA:00:01"
NLMSG_ERROR, NLMSG_DONE = 2, 3
AF_INET, NUD_STALE = 2, 0x04


@given(st.binary(max_size=120), st.integers(0, 40))
def test_any_message_is_decoded_without_error(body, kind):
    calls = []
    events = KernelEvents(clock=FakeClock(), on_neighbour=calls.append, on_link=lambda *change: calls.append(change))
    events._socket = None
    decode_entry(body, 2)
    decode_link(kind, body)
    is_end_of_dump = kind in (NLMSG_ERROR, NLMSG_DONE)
    events._process(4 if is_end_of_dump else kind, body, is_answer=False)


class LossySocket:
    """A netlink socket that reports lost notifications once."""

    def __init__(self):
        self.dump_requests = 0
        self.inbox = [OSError(errno.ENOBUFS, "No buffer space available")]

    def send(self, data):
        self.dump_requests += 1

    def recv(self, size):
        if not self.inbox:
            raise BlockingIOError
        raise self.inbox.pop()


def test_notifications_lost_during_dump_cause_second_dump():
    events = KernelEvents(clock=FakeClock(), on_neighbour=lambda entry: None)
    events._socket = sock = LossySocket()
    events._start_dump()
    events._read()
    assert sock.dump_requests == 1, "one dump at a time"
    events._process(NLMSG_DONE, b"", is_answer=True)
    assert sock.dump_requests == 2
    assert not events._dump_done.is_set()
    events._process(NLMSG_DONE, b"", is_answer=True)
    assert sock.dump_requests == 2
    assert events._dump_done.is_set()


def test_neighbour_message_is_decoded():
    def attribute(kind, data):
        return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)

    head = struct.pack("=BxxxiHBB", AF_INET, 7, NUD_STALE, 0, 1)  # of interface 7
    body = head + attribute(1, IPv4Address(HOST).packed) + attribute(2, bytes.fromhex("246f28aa0001"))
    body += attribute(3, struct.pack("=IIII", 1250, 0, 0, 0)) + attribute(99, b"unknown")
    entry = decode_entry(body, 7)
    assert (str(entry.ip), entry.mac, entry.state, entry.confirmed_s, entry.is_deleted) == (
        HOST,
        MAC,
        NUD_STALE,
        12.5,
        False,
    )
    assert decode_entry(body, 8) is None, "other interface"
    assert decode_entry(b"\x0a" + body[1:], 7) is None, "IPv6"
    assert decode_entry(head[:10] + b"\x08" + body[11:], 7) is None, "proxy entry"
    assert decode_entry(body.replace(bytes.fromhex("246f28aa0001"), bytes.fromhex("01005e000001")), 7).mac is None
