"""Event streams: frames, filters, resumption and snapshots."""

import asyncio
import json
import re
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_orchestrator.core.errors import StorageError
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.edge_http import feeds
from pi_orchestrator.features.events.api import BatchQuery
from pi_orchestrator.features.provisioning.session import SessionState
from pi_orchestrator.storage import event_store as event_log
from tests.support.api import DOCUMENT, case, exchange, validate
from tests.support.sampling import repeats
from tests.support.sse import (
    AT,
    BATCH,
    EVENTS,
    OTHER,
    SESSION,
    assert_no_event,
    discovered,
    opened,
    status,
    store_events,
    store_session,
)
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("documented_answers")

# An id that no event has: a stream that resumes from this id sends a snapshot first.
NOT_STORED = 10**6
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def replace_snapshot(monkeypatch, running, snapshot):
    """Replace the snapshot of sessions by `snapshot`, in the same position."""
    snapshots, real = running.app.events.snapshots, running.app.provisioning.service.snapshot
    assert real in snapshots.sources
    monkeypatch.setattr(
        snapshots, "sources", tuple(snapshot if source == real else source for source in snapshots.sources)
    )


@pytest.fixture
def set_session_snapshot(monkeypatch):
    """`set_session_snapshot(running, *events)` sets the snapshot of sessions; returns the requested session ids."""

    def set_snapshot(running, *events):
        requested = []

        async def snapshot(session_id):
            requested.append(session_id)
            return [event for event in events if session_id in (None, event.session_id)]

        replace_snapshot(monkeypatch, running, snapshot)
        return requested

    return set_snapshot


# Frames.


async def test_stream_begins_with_established_frame(daemon):
    newest = await store_events(daemon, "network.status_changed")
    async with opened(daemon.admin, BATCH, headers={"X-Request-Id": "mine"}) as stream:
        for name, value in HEADERS.items():
            assert stream.headers.getall(name) == [value]
        assert stream.headers["X-Request-Id"] == "mine"
        assert "Content-Length" not in stream.headers
        first, second, *_ = stream.raw.decode().split("\n\n")
        assert re.fullmatch(
            r"retry: 3000\nevent:connection\.established\n"
            rf'data:{{"version":"1\.0","type":"connection\.established","timestamp":"{TIME}",'
            rf'"payload":{{"message":"Connected to batch provisioning events","last_event_id":{newest}}}}}',
            first,
        )
        assert second == first.partition("\n")[2].partition("\n")[2], "the unnamed copy, without a second `retry`"


async def test_event_is_sent_named_and_unnamed_with_one_id(daemon):
    async with opened(daemon.admin, BATCH) as stream:
        newest = await store_events(daemon, "network.status_changed", payload={"ssid": "a\nb", "is_active": True})
        named, unnamed = await stream.frame(), await stream.frame()
    assert (named.name, unnamed.name) == ("network.status_changed", None)
    assert named.id == unnamed.id == str(newest)
    (row,) = await event_log.between(
        daemon.app.resources.database, newest - 1, newest, event_filter=event_log.EventFilter()
    )
    assert named.data == unnamed.data
    assert named.data == {
        "version": "1.0",
        "type": "network.status_changed",
        "timestamp": row.at,
        "payload": {"ssid": "a\nb", "is_active": True},
    }


async def test_stream_sends_id_before_first_event(daemon):
    """Without this id, a client that is disconnected before its first event would miss events until it reconnects."""
    newest = await store_events(daemon, "scan.started", "scan.ended")
    async with opened(daemon.api) as stream:
        await store_events(daemon, "scan.started")
        event = await stream.event()
        assert (stream.established.id, stream.retry) == (None, 3000)
        assert f"\n\nid:{newest}\n\n".encode() in stream.raw
        assert event.id == str(newest + 1)


@pytest.mark.parametrize("path", [BATCH, EVENTS])
async def test_reload_switches_unnamed_copy(rig, path):
    async with (
        rig.daemon(connected=False, http={"sse_unnamed_copy": False}) as running,
        opened(running.admin, path, established=False) as stream,
    ):
        assert (await stream.event(copy=False)).type == "connection.established"
        await store_events(running, "network.status_changed", "network.status_changed")
        assert [event.payload for event in await stream.events(2, copy=False)] == [{"n": 0}, {"n": 1}]
        assert running.daemon.apply(rig.settings()) == []
        await store_events(running, "network.status_changed")
        assert (await stream.event(copy=True)).payload == {"n": 0}


async def test_heartbeat_every_15_s_has_no_id(rig, clock):
    async with (
        rig.daemon(connected=False, clock=clock) as running,
        opened(running.admin, BATCH) as batch,
        opened(running.api) as everything,
    ):
        await clock.advance(14.9)
        await store_events(running, "network.status_changed")
        assert (await batch.event()).type == (await everything.event()).type == "network.status_changed"
        for turn in range(1, 4):
            await clock.advance(0.1 if turn == 1 else 15)
            for stream in (batch, everything):
                beat = await stream.event()
                assert (beat.type, beat.id, beat.payload) == ("connection.heartbeat", None, None)
                assert set(beat.data) == {"version", "type", "timestamp", "payload"}
                assert beat.data["timestamp"] == f"2026-01-22T15:00:{15 * turn}.000000Z"


async def test_head_returns_headers_and_ends(daemon):
    for path in (BATCH, EVENTS):
        answer = await exchange(daemon, "HEAD", path, [("X-API-Key", daemon.admin.key)])
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream")
    assert await daemon.metric("piorch_stream_clients") == 0


async def test_http_1_0_client_gets_frames_without_chunks(daemon):
    address = daemon.daemon.listen[0]
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(f"GET {EVENTS} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert (await reader.readuntil(b"\n\n")).startswith(b"retry: 3000\nevent:connection.established\n")
    writer.close()


# Filters.


async def test_provisioning_stream_sends_only_its_types(daemon):
    expected = ["device.discovered", "device.state_changed", "error", "network.status_changed", "session.status"]
    mixed = ["scan.started", *expected, "camera.onboarded", "device.found", "error.x", "session"]
    async with opened(daemon.admin, BATCH) as stream:
        await store_events(daemon, *mixed, session_id=SESSION)
        await store_events(daemon, "network.status_changed", payload={"last": True})
        seen = [await stream.event() for _ in range(6)]
    assert [event.type for event in seen] == [*expected, "network.status_changed"]
    assert [event.data.get("session_id") for event in seen] == [SESSION] * 5 + [None]


async def test_session_filter_sends_its_events_and_those_without_session(daemon):
    await store_session(daemon)
    async with opened(daemon.admin, BATCH, session_id=SESSION.upper()) as stream:
        assert stream.established.payload["session_id"] == stream.established.data["session_id"] == SESSION
        for session_id in (OTHER, SESSION, None, OTHER, SESSION):
            await store_events(daemon, "error", session_id=session_id)
        events = await stream.events(3)
    assert [event.data.get("session_id") for event in events] == [SESSION, None, SESSION]


@pytest.mark.parametrize("state", [SessionState.ACTIVE, SessionState.CLOSED])
async def test_open_and_closed_session_can_be_streamed(daemon, state):
    await store_session(daemon, state=state)
    async with opened(daemon.admin, BATCH, session_id=SESSION) as stream:
        assert stream.established.payload["session_id"] == SESSION


async def test_unknown_session_is_404_and_malformed_is_400(daemon):
    answer = await daemon.admin.get(BATCH, params={"session_id": OTHER})
    assert (answer.status, answer.json["code"]) == (404, "SESSION_NOT_FOUND")
    for wrong in ("", "x", SESSION + "0", SESSION[:-1], f" {SESSION}", SESSION.replace("-", ""), f"{SESSION}\n", "'"):
        answer = await daemon.admin.get(BATCH, params={"session_id": wrong})
        assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED"), wrong
        assert answer.json["error"]["details"].startswith("session_id: ")


@pytest.mark.parametrize(
    "types, expected",
    [
        (None, ["camera.onboarded", "camera.x.y", "cameras", "scan.ended", "error"]),
        ("scan.ended", ["scan.ended"]),
        ("camera.*", ["camera.onboarded", "camera.x.y"]),
        ("camera.x.*,error", ["camera.x.y", "error"]),
        ("camera", []),
        ("scan.ended,scan.ended,scan.*", ["scan.ended"]),
    ],
)
async def test_types_filter_events(daemon, types, expected):
    published = ["camera.onboarded", "camera.x.y", "cameras", "scan.ended", "error"]
    start = await store_events(daemon, "before")
    for after in (None, start):  # live, then from the log
        async with opened(daemon.api, types=types, last_event_id=after) as stream:
            if after is None:
                await store_events(daemon, *published)
            assert [(await stream.event()).type for _ in expected] == expected
            await assert_no_event(stream, daemon)


async def test_malformed_types_are_named_in_error(daemon):
    many = ",".join(["a"] * 21)
    odd = ["", ",", "a,", ",a", "a,,b", "a b", "A", "*", ".*", "a*", "a.*.b", "a.", "a..b", "a.**", "a;b", "é", "a\n"]
    for types in (*odd, many, "%", "_%'", "*.*"):
        with case(types):
            answer = await daemon.api.get(EVENTS, params={"types": types})
            assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED")
            assert answer.json["error"]["details"].startswith("types: ")


async def test_20_types_are_accepted(daemon):
    async with opened(daemon.api, types=",".join(f"a{'b' * n}" for n in range(20))) as stream:
        assert stream.established


# Resumption.


async def test_missed_events_are_sent_before_new_ones(daemon):
    start = await store_events(daemon, *["scan.started"] * 5)
    newest = await store_events(daemon, *["scan.ended"] * 700)
    async with opened(daemon.api, last_event_id=start) as stream:
        assert stream.established.payload == {"message": "Connected to events", "last_event_id": newest}
        await store_events(daemon, "scan.started")
        ids = [int((await stream.event()).id) for _ in range(701)]
    assert ids == list(range(start + 1, newest + 2))


async def test_last_event_id_header_precedes_query(daemon):
    newest = await store_events(daemon, *["scan.started"] * 10)
    for headers, query, first in (
        ({}, newest - 5, newest - 4),
        ({"Last-Event-ID": str(newest - 3)}, None, newest - 2),
        ({"last-event-id": str(newest - 2)}, newest - 5, newest - 1),
        ({"LAST-EVENT-ID": f"{newest - 1:019}"}, 0, newest),
    ):
        async with opened(daemon.api, headers=headers, last_event_id=query) as stream:
            assert (await stream.event()).id == str(first)


WRONG_IDS = ["", " ", "x", "-1", "+1", "1.0", "1e3", "0x1", "1_0", "１", "null", str(2**63), "9" * 30, "1,2", "%31"]


@pytest.mark.parametrize("path", [BATCH, EVENTS])
async def test_malformed_event_id_is_named_in_error(daemon, path):
    key = ("X-API-Key", daemon.admin.key)
    for wrong in WRONG_IDS:
        with case(wrong):
            answer = await daemon.admin.get(path, params={"last_event_id": wrong})
            assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED")
            assert answer.json["error"]["details"].startswith("last_event_id: ")
            answer = await exchange(daemon, "GET", f"{path}?last_event_id=0", [key, ("Last-Event-ID", wrong)])
            assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED")
            assert answer.json["error"]["details"].startswith("Last-Event-ID: ")


async def test_invalid_parameters_are_named_in_error(daemon):
    answer = await daemon.admin.get(
        BATCH, params={"session_id": "x", "last_event_id": "x"}, headers={"Last-Event-ID": "x"}
    )
    faults = answer.json["error"]["details"].split("; ")
    assert [fault.split(":")[0] for fault in faults] == ["session_id", "last_event_id", "Last-Event-ID"]


@settings(max_examples=repeats(15, slow=60), deadline=None, database=None)
@given(st.text(max_size=30))
def test_event_id_accepts_only_digits(text):
    good = re.fullmatch(r"[0-9]{1,19}", text) and int(text) < 2**63
    try:
        assert BatchQuery.model_validate({"last_event_id": text}).last_event_id == int(text)
        assert good
    except ValueError:
        assert not good


async def test_stream_resumes_after_restart(rig):
    async with rig.daemon(connected=False) as running, opened(running.api) as stream:
        newest = await store_events(running, "scan.started", "scan.ended")
        assert [event.id for event in await stream.events(2)] == [str(newest - 1), str(newest)]
    async with rig.daemon(connected=False) as running:
        await store_events(running, "camera.onboarded", "camera.status_changed")
        async with opened(running.api, headers={"Last-Event-ID": str(newest)}) as stream:
            events = await stream.events(2)
    assert [(event.type, event.id) for event in events] == [
        ("camera.onboarded", str(newest + 1)),
        ("camera.status_changed", str(newest + 2)),
    ]


async def test_events_during_replay_are_sent_once_in_order(daemon):
    """Clients connect at any moment while events are stored at full speed."""
    start = await store_events(daemon, *["scan.started"] * 1500)
    done = asyncio.Event()

    async def produce():
        for number in count():
            await store_events(daemon, *["scan.ended"] * (number % 7 + 1))
            if done.is_set():
                break
        return await store_events(daemon, "last")

    async def read(after):
        async with opened(daemon.api, last_event_id=after) as stream:
            return [int(event.id) for event in await stream.until("last")]

    producing = asyncio.create_task(produce())
    reading = [asyncio.create_task(read(start - 40 * number)) for number in range(20)]
    await asyncio.sleep(0.3)
    late = [asyncio.create_task(read(start)) for _ in range(5)]
    await asyncio.sleep(0.3)
    done.set()
    newest = await producing
    for number, ids in enumerate(await asyncio.gather(*reading)):
        assert ids == list(range(start - 40 * number + 1, newest + 1))
    for ids in await asyncio.gather(*late):
        assert ids == list(range(start + 1, newest + 1))


# Snapshots.


async def trim(running, keep):
    await running.app.resources.database.write(lambda tx: event_log.keep_newest(tx, keep=keep))


@pytest.mark.parametrize("after", ["trimmed", "of another database", "too far back"])
async def test_long_gap_sends_snapshot(daemon, set_session_snapshot, monkeypatch, after):
    monkeypatch.setattr(feeds, "MAX_REPLAY", 50)
    newest = await store_events(daemon, *["network.status_changed"] * 60)
    if after == "trimmed":
        await trim(daemon, 10)
    last = {"trimmed": newest - 11, "of another database": newest + 1, "too far back": newest - 51}[after]
    state = [status(SESSION), discovered(SESSION, 1), discovered(SESSION, 2), status(OTHER)]
    requested = set_session_snapshot(daemon, *state)
    async with opened(daemon.admin, BATCH, last_event_id=last) as stream:
        assert stream.established.payload == {
            "message": "Connected to batch provisioning events",
            "last_event_id": newest,
            "snapshot": True,
        }
        assert stream.last_id is None, "a client that is disconnected here must request the snapshot again"
        seen = await stream.events(4)
        await store_events(daemon, "network.status_changed")
        live = await stream.event()
    assert [(event.type, event.data["session_id"], event.payload) for event in seen] == [
        (event.type, event.session_id, event.payload) for event in state
    ]
    assert {event.data["timestamp"] for event in seen} == {AT}
    assert [event.id for event in seen] == [None, None, None, str(newest)]
    assert live.id == str(newest + 1)
    assert requested == [None]


@pytest.mark.parametrize("missed", [0, 1, 50])
async def test_short_gap_is_replayed(daemon, set_session_snapshot, monkeypatch, missed):
    monkeypatch.setattr(feeds, "MAX_REPLAY", 50)
    newest = await store_events(daemon, *["network.status_changed"] * 60)
    await trim(daemon, 50)
    requested = set_session_snapshot(daemon, status(SESSION))
    async with opened(daemon.admin, BATCH, last_event_id=newest - missed) as stream:
        assert "snapshot" not in stream.established.payload
        await store_events(daemon, "network.status_changed")
        events = await stream.events(missed + 1)
    assert [event.id for event in events] == [str(newest - missed + n) for n in range(1, missed + 2)]
    assert requested == []


async def test_session_snapshot_has_only_that_session(daemon, set_session_snapshot):
    await store_session(daemon)
    requested = set_session_snapshot(daemon, status(OTHER), status(SESSION), discovered(SESSION, 1))
    async with opened(daemon.admin, BATCH, session_id=SESSION, last_event_id=NOT_STORED) as stream:
        assert stream.established.payload["snapshot"] is True
        assert [event.type for event in await stream.events(2)] == ["session.status", "device.discovered"]
    assert requested == [SESSION]


async def test_snapshot_has_open_sessions_with_devices(daemon):
    await store_session(daemon, devices=("24:6F:28:00:00:10", "24:6F:28:00:00:20"))
    await store_session(daemon, OTHER)
    for session_id, expected in ((None, [SESSION] * 3 + [OTHER]), (SESSION, [SESSION] * 3), (OTHER, [OTHER])):
        async with opened(daemon.admin, BATCH, session_id=session_id, last_event_id=NOT_STORED) as stream:
            seen = await stream.events(len(expected))
            await assert_no_event(stream, daemon)
        assert [event.data["session_id"] for event in seen] == expected
        for event in seen:
            if event.type == "session.status":
                assert event.payload["session"]["id"] == event.data["session_id"]
            else:
                assert event.type == "device.discovered"
                assert event.payload["device"]["mac"] == event.payload["mac"]
        assert [event.id for event in seen[:-1]] == [None] * (len(seen) - 1)
        assert seen[-1].id == str(stream.established.payload["last_event_id"])


async def test_empty_snapshot_sends_id(daemon, set_session_snapshot):
    newest = await store_events(daemon, "scan.started", "scan.ended")
    set_session_snapshot(daemon)
    async with opened(daemon.admin, BATCH, last_event_id=NOT_STORED) as stream:
        await store_events(daemon, "network.status_changed")
        assert (await stream.event()).id == str(newest + 1)
        assert f"\n\nid:{newest}\n\n".encode() in stream.raw


async def test_events_during_snapshot_are_sent_after_it(daemon, monkeypatch):
    """The state may include them or not: sending them twice is harmless, losing them is not."""
    newest = await store_events(daemon, "scan.started")

    async def snapshot(session_id):
        await store_events(daemon, "network.status_changed", payload={"during": True})
        return [status(SESSION)]

    replace_snapshot(monkeypatch, daemon, snapshot)
    async with opened(daemon.admin, BATCH, last_event_id=NOT_STORED) as stream:
        state, event = await stream.events(2)
    assert (state.type, state.id) == ("session.status", str(newest))
    assert (event.payload, event.id) == ({"during": True}, str(newest + 1))


async def test_events_during_opening_follow_established_frame(daemon, monkeypatch):
    async def snapshot(session_id):
        daemon.app.events.streams.send_heartbeats()
        get_logger("pi_orchestrator.test").warning("logged while a stream opens")
        return [status(SESSION)]

    replace_snapshot(monkeypatch, daemon, snapshot)
    async with opened(daemon.admin, types="log,session.*", last_event_id=NOT_STORED) as stream:
        assert stream.established.type == "connection.established"
        assert (await stream.event()).type == "session.status"
        while (await stream.event()).payload["message"] != "logged while a stream opens":
            pass  # skip lines of the daemon itself


async def test_full_snapshot_includes_cameras(rig, set_session_snapshot):
    async with rig.daemon() as running, rig.fleet(3):
        await eventually(lambda: len(running.app.cameras.cache) == 3)
        listed = (await running.api.get("/api/v1/cameras")).data
        set_session_snapshot(running, status(SESSION), discovered(SESSION, 1))
        async with opened(running.admin, last_event_id=NOT_STORED) as stream:
            *seen, cameras = await stream.events(3)
        assert [event.type for event in seen] == ["session.status", "device.discovered"]
        assert [event.id for event in seen] == [None, None]
        assert (cameras.type, int(cameras.id)) == ("camera.list", stream.established.payload["last_event_id"])
        assert cameras.payload.keys() == {"cameras", "count"}
        assert [camera["id"] for camera in cameras.payload["cameras"]] == [camera["id"] for camera in listed["cameras"]]
        async with opened(running.api, last_event_id=NOT_STORED) as stream:
            assert (await stream.event()).type == "camera.list", "a client without a key receives no sessions"
        async with opened(running.admin, types="session.*", last_event_id=NOT_STORED) as stream:
            only = await stream.event()
            assert (only.type, int(only.id)) == ("session.status", stream.established.payload["last_event_id"])


async def test_large_snapshot_is_complete(daemon, set_session_snapshot):
    devices = [discovered(SESSION, f"{number} " + "x" * 5000) for number in range(300)]
    set_session_snapshot(daemon, *devices)
    async with opened(daemon.admin, BATCH, last_event_id=NOT_STORED) as stream:
        events = await stream.events(300)
    assert [event.payload for event in events] == [device.payload for device in devices]


async def test_failed_snapshot_returns_error(daemon, monkeypatch):
    async def snapshot(session_id):
        raise StorageError("the database refused this")

    replace_snapshot(monkeypatch, daemon, snapshot)
    answer = await daemon.admin.get(BATCH, params={"last_event_id": NOT_STORED})
    assert (answer.status, answer.json["code"]) == (500, "DATABASE_ERROR")
    assert await daemon.metric("piorch_stream_clients") == 0


async def test_sent_events_match_schema(daemon):
    schema = {"$ref": "#/components/schemas/StreamEvent"}
    for path in (BATCH, EVENTS):
        content = DOCUMENT["paths"][path]["get"]["responses"]["200"]["content"]["text/event-stream"]
        assert content["schema"]["contentSchema"] == {"$ref": "#/components/schemas/StreamEvent"}
        blocks = [block for block in content["example"].split("\n\n") if "data:" in block]
        assert len(blocks) == 3
        for block in blocks:
            validate(json.loads(block.partition("data:")[2]), schema, closed=True)
        async with opened(daemon.admin, path) as stream:
            await store_events(daemon, "network.status_changed", session_id=SESSION)
            for event in (stream.established, await stream.event()):
                validate(event.data, schema, closed=True)
