"""Questions over netlink, with a stand-in for the kernel at the other end: what answers, and what ends it."""

import asyncio
import errno
import os
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.net.kernel_socket import KernelSocket, RefusedError, attribute, attributes, message, messages

ERROR, DONE, NEW = 2, 3, 16
MULTI, INTERRUPTED = 0x2, 0x10


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    kernel = KernelSocket(0, sock=ours)
    yield kernel, theirs
    kernel.close()
    kernel.close()
    theirs.close()


def code(number):
    return struct.pack("=i", number)


async def asked(ends, *datagrams, dump=False):
    """What a question gets as an answer; the stand-in sends each datagram at once."""
    kernel, theirs = ends
    asking = asyncio.ensure_future(kernel.ask(18, b"body", dump=dump))
    ((kind, flags, sequence, _, body),) = messages(await asyncio.get_running_loop().sock_recv(theirs, 1024))
    assert (kind, flags, body) == (18, 0x301 if dump else 0x1, b"body")
    for parts in datagrams:
        theirs.send(b"".join(message(kind, flags, sequence + late, body) for kind, flags, late, body in parts))
    async with asyncio.timeout(1):
        return await asking


async def test_one_message_answers_a_question(ends):
    assert await asked(ends, [(NEW, 0, 0, b"link")]) == [(NEW, b"link")]
    assert await asked(ends, [(NEW, 0, 0, b"link")]) == [(NEW, b"link")], "and the next one"


async def test_a_list_comes_in_several_pieces_until_its_end(ends):
    one, two, three = ((NEW, MULTI, 0, name) for name in (b"one0", b"two00", b"three"))
    told = await asked(ends, [one, two], [three], [(DONE, MULTI, 0, code(0))], dump=True)
    assert told == [(NEW, b"one0"), (NEW, b"two00"), (NEW, b"three")]


async def test_what_answers_an_earlier_question_is_passed_over(ends):
    late = [(NEW, 0, -1, b"late"), (ERROR, 0, -1, code(-errno.ENODEV)), (DONE, MULTI, -1, code(0))]
    assert await asked(ends, late, [(NEW, 0, 0, b"mine")]) == [(NEW, b"mine")]


@pytest.mark.parametrize("kind", [ERROR, DONE])
async def test_an_error_of_the_kernel_is_told_and_the_socket_goes_on(ends, kind):
    with pytest.raises(RefusedError) as refused:
        await asked(ends, [(NEW, MULTI, 0, b"half"), (kind, MULTI, 0, code(-errno.ENODEV))], dump=True)
    assert (refused.value.errno, refused.value.strerror) == (errno.ENODEV, os.strerror(errno.ENODEV))
    assert await asked(ends, [(NEW, 0, 0, b"link")]) == [(NEW, b"link")]


async def test_an_acknowledgement_is_no_error(ends):
    assert await asked(ends, [(ERROR, 0, 0, code(0))]) == []


async def test_a_list_that_changed_while_it_was_told_is_none(ends):
    with pytest.raises(RefusedError, match="changed"):
        await asked(ends, [(NEW, MULTI | INTERRUPTED, 0, b"half")], dump=True)


@pytest.mark.parametrize("raw", [b"\x10", bytes(16), struct.pack("=IHHII", 60, NEW, 0, 1, 0), b"\xff" * 40])
async def test_what_is_no_message_is_no_answer(ends, raw):
    kernel, theirs = ends
    asking = asyncio.ensure_future(kernel.ask(18, b""))
    await asyncio.get_running_loop().sock_recv(theirs, 1024)
    theirs.send(raw)
    theirs.send(message(NEW, 0, 1, b"link"))
    async with asyncio.timeout(1):
        assert await asking == [(NEW, b"link")]


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)), unique_by=lambda one: one[0]))
def test_attributes_come_out_as_they_went_in(told):
    data = b"".join(attribute(kind, payload) for kind, payload in told)
    assert len(data) % 4 == 0
    assert attributes(b"head" + data, 4) == dict(told)


@given(st.binary(max_size=200))
def test_any_bytes_can_be_taken_apart(data):
    assert sum(len(body) + 16 for *_, body in messages(data)) <= len(data)
    assert sum(len(payload) + 4 for payload in attributes(data).values()) <= len(data)
