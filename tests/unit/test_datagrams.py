"""Datagrams that make the kernel ask: what it says instead of sending them, and who counts as having answered."""

import errno
import struct
from ipaddress import IPv4Address

import pytest

from pi_orchestrator.net import datagrams as module
from pi_orchestrator.net.datagrams import Datagrams
from pi_orchestrator.net.links import Link
from tests.support.clock import FakeClock

HOSTS = [IPv4Address(f"10.77.0.{number}") for number in range(10, 50)]
LINK = Link("ap0", 2, None, True, True, ())


class Socket:
    """Refuses as it is told: an error for each attempt, None where it sends."""

    def __init__(self, refusals):
        self.refusals = iter(refusals)
        self.sent = []

    def sendmsg(self, _data, control, _flags, where):
        if code := next(self.refusals, None):
            raise OSError(code, "")
        self.sent.append(where[0])
        assert control[0][2][:4] == struct.pack("=i", 2), "through this interface"


class Impatient(FakeClock):
    paused = 0

    async def sleep(self, seconds):
        self.paused += 1


async def sending(refusals):
    clock, sock = Impatient(), Socket(refusals)
    datagrams = Datagrams(clock=clock, link=LINK, source=HOSTS[0], on_answer=lambda address: None)
    datagrams._socket = sock
    await datagrams.send(HOSTS)
    return sock.sent, clock.paused


async def test_it_is_paced():
    sent, paused = await sending([])
    assert sent == [str(host) for host in HOSTS]
    assert paused == len(HOSTS) // module.BATCH


@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.EAGAIN])
async def test_where_there_is_no_room_it_waits(code):
    sent, paused = await sending([code] * 100)
    assert len(sent) == len(HOSTS)
    assert paused == 100 + len(HOSTS) // module.BATCH


async def test_where_there_never_is_room_it_gives_up_in_good_time(capsys):
    sent, paused = await sending([errno.ENOBUFS] * 10_000)
    assert sent == []
    assert paused <= module.PATIENCE + len(HOSTS)
    assert '"left_out": 40' in capsys.readouterr().err


async def test_news_of_an_earlier_datagram_does_not_cost_the_next_one():
    sent, _ = await sending([errno.ECONNREFUSED, errno.EHOSTUNREACH, None, errno.ECONNREFUSED])
    assert sent == [str(host) for host in HOSTS]


async def test_news_without_end_are_not_listened_to_for_ever():
    sent, _ = await sending([errno.ECONNREFUSED] * 100_000)
    assert sent == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EINVAL])
async def test_what_cannot_be_sent_to_is_left_out(code):
    sent, paused = await sending([None, code, None])
    assert sent == [str(host) for host in HOSTS if host != HOSTS[1]]
    assert paused == len(HOSTS) // module.BATCH


@pytest.mark.parametrize("code", sorted(module.LINK_IS_GONE))
async def test_a_link_that_is_gone_ends_it(code):
    with pytest.raises(OSError) as caught:
        await sending([None, code])
    assert caught.value.errno == code


def error(origin=2, kind=3, code=3, offender="10.77.0.10"):
    return struct.pack("=IBBBxII", errno.ECONNREFUSED, origin, kind, code, 0, 0) + struct.pack(
        "=HH4s8x", 2, 0, IPv4Address(offender).packed
    )


@pytest.mark.parametrize(
    "data, answered",
    [
        (error(), True),
        (error(offender="10.77.0.11"), False),
        (error(offender="10.77.0.1", code=1), False),
        (error(code=1), False),
        (error(kind=11), False),
        (error(origin=1), False),
        (error()[:20], False),
        (b"", False),
    ],
    ids=["itself", "another", "a router", "host unreachable", "time exceeded", "the system", "cut short", "empty"],
)
def test_only_the_host_itself_can_say_that_it_has_no_such_port(data, answered):
    assert module._is_from("10.77.0.10", data) is answered
