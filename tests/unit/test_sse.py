"""Frames, queues, and which gaps are replayed: the pure parts of event streams."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.api import sources, sse
from pi_orchestrator.api.sources import bookmark, frames
from pi_orchestrator.api.sse import Client
from pi_orchestrator.log_ring import LineWanted, LogRing
from pi_orchestrator.storage.event_log import Bounds
from pi_orchestrator.workers.maintenance import EVENTS_KEPT

AT = "2026-01-11T21:45:29Z"
ODD = "line\nline\r\nline\r\u2028\u2029\x85\x0b\x0c\x00 \N{GREEK SMALL LETTER ALPHA} \U0001f4f7 data: x\n\nevent: y"


def frame(type_="device.discovered", *, payload=None, copy=False, **more):
    return frames(type_, at=AT, payload=payload, copy=copy, **more)


def test_a_frame_is_written_as_the_source_document_shows_it():
    payload = {"message": "Connected to batch provisioning events"}
    assert frame("connection.established", payload=payload).decode() == (
        "event:connection.established\n"
        'data:{"version":"1.0","type":"connection.established","timestamp":"2026-01-11T21:45:29Z",'
        '"payload":{"message":"Connected to batch provisioning events"}}\n\n'
    )


def test_the_copy_is_the_same_without_the_name():
    both = frame(payload={"mac": "x"}, event_id=7, session_id="s", copy=True).decode()
    named, unnamed, nothing = both.split("\n\n")
    assert nothing == ""
    assert named.replace("event:device.discovered\n", "") == unnamed
    assert unnamed.startswith("id:7\ndata:{")
    assert json.loads(unnamed.partition("data:")[2])["session_id"] == "s"


def test_an_id_is_there_where_one_is_given_even_0():
    assert b"id:" not in frame(copy=True)
    assert frame(event_id=0, copy=True).count(b"id:0\n") == 2
    assert bookmark(0) == b"id:0\n\n"


def test_a_session_is_left_out_where_there_is_none_and_a_payload_is_null():
    data = frame("connection.heartbeat").decode().partition("data:")[2]
    assert json.loads(data) == {"version": "1.0", "type": "connection.heartbeat", "timestamp": AT, "payload": None}


def test_nothing_in_a_payload_can_end_a_line():
    written = frame(payload={ODD: [ODD, {"deep": ODD}]}, event_id=1, copy=True)
    assert written.isascii()
    blocks = written.decode().split("\n\n")
    assert [block.count("\n") for block in blocks] == [2, 1, 0]
    assert "\r" not in written.decode()
    for block in blocks[:2]:
        assert json.loads(block.partition("data:")[2])["payload"] == {ODD: [ODD, {"deep": ODD}]}


# The queue of a client.


class Transport:
    """What a client's connection is asked."""

    def __init__(self, unsent=0):
        self.unsent = unsent
        self.aborted = False

    def get_write_buffer_size(self):
        return 0 if self.aborted else self.unsent

    def abort(self):
        self.aborted = True

    def is_closing(self):
        return self.aborted


def client(transport=None):
    return Client(cursors=[], transport=transport or Transport(), stands=lambda: True)


@given(st.lists(st.integers(1, 3 * sse.WRITE_BYTES) | st.integers(1, 2000) | st.none(), max_size=60))
def test_what_is_taken_is_what_was_put_in_order_and_never_more_than_is_written_at_once(steps):
    one = client()
    put, taken = b"", b""
    for number, step in enumerate(steps):
        if step is None:
            part = one.take()
            assert len(part) == min(sse.WRITE_BYTES, len(put) - len(taken))
            taken += bytes(part)
        else:
            data = bytes([number]) * step
            one.put(data)
            put += data
        assert one.queued == len(put) - len(taken)
    while one.queued:
        taken += bytes(one.take())
    assert taken == put


def test_bytes_that_go_alone_are_not_copied():
    one, data = client(), b"x" * 100
    one.put(data)
    assert one.take() is data


def test_putting_wakes_the_task():
    one = client()
    assert not one.woken.is_set()
    one.put(b"x")
    assert one.woken.is_set()


@pytest.mark.parametrize("unsent, aborted", [(0, False), (1, True)])
def test_who_has_not_taken_everything_by_the_end_is_not_waited_for(unsent, aborted):
    transport = Transport(unsent)
    one = client(transport)
    one.end()
    assert one.ended
    assert one.woken.is_set()
    assert transport.aborted is aborted


# Replay or state.


@pytest.mark.parametrize(
    "oldest, newest, after, reaches",
    [
        (1, 0, 0, True),  # an empty log, and a client that has seen nothing
        (1, 0, 1, False),  # an empty log, and a client that has: another database
        (1, 10, 0, True),
        (1, 10, 10, True),
        (1, 10, 11, False),
        (5, 10, 4, True),
        (5, 10, 3, False),  # 4 is missing
        (5, 10, 0, False),
        (11, 10, 10, True),  # every row is gone, but nothing was missed
        (11, 10, 9, False),
        (1, 5001, 1, True),
        (1, 5001, 0, False),  # too many
        (1, 10, 2**63 - 1, False),
    ],
)
def test_a_gap_is_replayed_where_the_log_holds_all_of_it_and_it_is_not_too_long(oldest, newest, after, reaches):
    assert sse._reaches(Bounds(oldest, newest), after) is reaches


def test_the_limits_leave_room_for_what_they_are_for():
    """A burst of a thousand devices fits a queue, a replay fits what is kept, and who stalls costs little."""
    device = {"mac": "24:6F:28:B0:F7:F1", "ip": "192.168.10.21", "rssi": -54, "firmware_version": "2.4.1"}
    one = frame(payload=device, event_id=123456, session_id="550e8400-e29b-41d4-a716-446655440000", copy=True)
    assert 1000 * len(one) < sse.QUEUE_BYTES
    assert sse.LONGEST_REPLAY < EVENTS_KEPT
    assert sources.PAGE < sse.LONGEST_REPLAY
    assert 50 * 3 * sse.WRITE_BYTES < 10 * 1024 * 1024


# Lines of the log.


async def test_a_reader_of_lines_lets_others_in_after_each_page_and_passes_over_what_is_gone():
    ring = LogRing()
    for number in range(sources.PAGE + 1):
        ring.hear({"event": str(number), "level": "info", "component": "x", "timestamp": AT})
    lines = sources.LogLines(ring, among_events=False)
    cursor = sources.Cursor(lines, LineWanted(), position=ring.oldest - 10)
    let_in = []
    asyncio.get_running_loop().call_soon(let_in.append, True)
    page = await lines.page(cursor, copy=False)
    assert let_in == [True]
    assert (len(page), cursor.position, cursor.behind) == (sources.PAGE, ring.newest - 1, True)
    assert len(await lines.page(cursor, copy=False)) == 1
    assert (cursor.position, cursor.behind) == (ring.newest, False)
    assert await lines.page(cursor, copy=False) == []
