"""Datagrams that make the kernel send ARP requests: send errors, and which answers count."""

import errno
import struct
from ipaddress import IPv4Address

import pytest

from pi_orchestrator.net.kernel import datagrams as module
from pi_orchestrator.net.kernel.datagrams import Datagrams
from pi_orchestrator.net.kernel.links import Link
from tests.support.clock import FakeClock

HOSTS = [IPv4Address(f"10.77.0.{number}") for number in range(10, 50)]
LINK = Link("ap0", 2, None, True, True, ())


class Socket:
    """A socket that raises the given errors, one per attempt to send; at None it sends."""

    def __init__(self, errors):
        self.errors = iter(errors)
        self.sent = []

    def sendmsg(self, _data, control, _flags, destination):
        if code := next(self.errors, None):
            raise OSError(code, "")
        self.sent.append(destination[0])
        assert control[0][2][:4] == struct.pack("=i", 2), "through this interface"


class SkippingClock(FakeClock):
    pauses = 0

    async def sleep(self, seconds):
        self.pauses += 1


async def send_all(errors):
    clock, sock = SkippingClock(), Socket(errors)
    datagrams = Datagrams(clock=clock, link=LINK, source=HOSTS[0], on_answer=lambda address: None)
    datagrams._socket = sock
    await datagrams.send(HOSTS)
    return sock.sent, clock.pauses


async def test_send_is_paced():
    sent, pauses = await send_all([])
    assert sent == [str(host) for host in HOSTS]
    assert pauses == len(HOSTS) // module.BATCH_SIZE


@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.EAGAIN])
async def test_full_buffer_is_waited_for(code):
    sent, pauses = await send_all([code] * 100)
    assert len(sent) == len(HOSTS)
    assert pauses == 100 + len(HOSTS) // module.BATCH_SIZE


async def test_send_ends_if_buffer_stays_full(capsys):
    sent, pauses = await send_all([errno.ENOBUFS] * 10_000)
    assert sent == []
    assert pauses <= module.MAX_PAUSES + len(HOSTS)
    assert '"left_out": 40' in capsys.readouterr().err


async def test_error_of_earlier_datagram_is_retried():
    sent, _ = await send_all([errno.ECONNREFUSED, errno.EHOSTUNREACH, None, errno.ECONNREFUSED])
    assert sent == [str(host) for host in HOSTS]


async def test_send_ends_after_too_many_errors_of_earlier_datagrams():
    sent, _ = await send_all([errno.ECONNREFUSED] * 100_000)
    assert sent == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EINVAL])
async def test_failing_address_is_skipped(code):
    sent, pauses = await send_all([None, code, None])
    assert sent == [str(host) for host in HOSTS if host != HOSTS[1]]
    assert pauses == len(HOSTS) // module.BATCH_SIZE


@pytest.mark.parametrize("code", sorted(module.LINK_DOWN_ERRORS))
async def test_send_raises_if_link_is_down(code):
    with pytest.raises(OSError) as caught:
        await send_all([None, code])
    assert caught.value.errno == code


def error_entry(origin=2, kind=3, code=3, offender="10.77.0.10"):
    """An entry of the socket's error queue, by default: ICMP (2), destination unreachable (3), port unreachable (3)."""
    return struct.pack("=IBBBxII", errno.ECONNREFUSED, origin, kind, code, 0, 0) + struct.pack(
        "=HH4s8x", 2, 0, IPv4Address(offender).packed
    )


@pytest.mark.parametrize(
    "data, answered",
    [
        (error_entry(), True),
        (error_entry(offender="10.77.0.11"), False),
        (error_entry(offender="10.77.0.1", code=1), False),
        (error_entry(code=1), False),
        (error_entry(kind=11), False),
        (error_entry(origin=1), False),
        (error_entry()[:20], False),
        (b"", False),
    ],
    ids=["host", "other host", "router", "host unreachable", "time exceeded", "local", "truncated", "empty"],
)
def test_only_host_itself_counts_as_answer(data, answered):
    assert module._is_port_unreachable_from("10.77.0.10", data) is answered
