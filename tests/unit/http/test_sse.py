"""Frames and queues: the pure parts of event streams."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.edge_http.stream_sources import event_frame
from pi_orchestrator.http import sse
from pi_orchestrator.http.sse import Client, bookmark

AT = "2026-01-11T21:45:29Z"
ODD = "line\nline\r\nline\r\u2028\u2029\x85\x0b\x0c\x00 \N{GREEK SMALL LETTER ALPHA} \U0001f4f7 data: x\n\nevent: y"


def frame(type_="device.discovered", *, payload=None, copy=False, **options):
    return event_frame(type_, at=AT, payload=payload, copy=copy, **options)


def test_frame_has_documented_format():
    payload = {"message": "Connected to batch provisioning events"}
    assert frame("connection.established", payload=payload).decode() == (
        "event:connection.established\n"
        'data:{"version":"1.0","type":"connection.established","timestamp":"2026-01-11T21:45:29Z",'
        '"payload":{"message":"Connected to batch provisioning events"}}\n\n'
    )


def test_copy_is_frame_without_name():
    both = frame(payload={"mac": "x"}, event_id=7, session_id="s", copy=True).decode()
    named, unnamed, rest = both.split("\n\n")
    assert rest == ""
    assert named.replace("event:device.discovered\n", "") == unnamed
    assert unnamed.startswith("id:7\ndata:{")
    assert json.loads(unnamed.partition("data:")[2])["session_id"] == "s"


def test_frame_id_is_optional():
    assert b"id:" not in frame(copy=True)
    assert frame(event_id=0, copy=True).count(b"id:0\n") == 2
    assert bookmark(0) == b"id:0\n\n"


def test_missing_session_id_is_omitted():
    data = frame("connection.heartbeat").decode().partition("data:")[2]
    assert json.loads(data) == {"version": "1.0", "type": "connection.heartbeat", "timestamp": AT, "payload": None}


def test_payload_cannot_break_line():
    written = frame(payload={ODD: [ODD, {"deep": ODD}]}, event_id=1, copy=True)
    assert written.isascii()
    blocks = written.decode().split("\n\n")
    assert [block.count("\n") for block in blocks] == [2, 1, 0]
    assert "\r" not in written.decode()
    for block in blocks[:2]:
        assert json.loads(block.partition("data:")[2])["payload"] == {ODD: [ODD, {"deep": ODD}]}


# The queue of a client.


class Transport:
    """The transport methods that a client uses."""

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
    return Client(cursors=[], transport=transport or Transport(), may_continue=lambda: True)


@given(st.lists(st.integers(1, 3 * sse.WRITE_BYTES) | st.integers(1, 2000) | st.none(), max_size=60))
def test_take_keeps_order_and_limit(steps):
    stream_client = client()
    put, taken = b"", b""
    for number, step in enumerate(steps):
        if step is None:
            part = stream_client.take()
            assert len(part) == min(sse.WRITE_BYTES, len(put) - len(taken))
            taken += bytes(part)
        else:
            data = bytes([number]) * step
            stream_client.put(data)
            put += data
        assert stream_client.queued == len(put) - len(taken)
    while stream_client.queued:
        taken += bytes(stream_client.take())
    assert taken == put


def test_take_of_single_item_is_not_copied():
    stream_client, data = client(), b"x" * 100
    stream_client.put(data)
    assert stream_client.take() is data


def test_put_wakes_task():
    stream_client = client()
    assert not stream_client.wakeup.is_set()
    stream_client.put(b"x")
    assert stream_client.wakeup.is_set()


@pytest.mark.parametrize("unsent, aborted", [(0, False), (1, True)])
def test_end_aborts_if_data_is_unsent(unsent, aborted):
    transport = Transport(unsent)
    stream_client = client(transport)
    stream_client.end()
    assert stream_client.is_ended
    assert stream_client.wakeup.is_set()
    assert transport.aborted is aborted
