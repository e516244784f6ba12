"""Event streams: what is sent, in which form, and how a client goes on where it was."""

import asyncio
import json
import re
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_orchestrator.api import sse
from pi_orchestrator.api.streams import BatchQuery
from pi_orchestrator.domain.session import SessionState
from pi_orchestrator.errors import StorageError
from pi_orchestrator.storage import event_log
from tests.support.api import DOCUMENT, case, closed, exchange, validate
from tests.support.sse import (
    AT,
    BATCH,
    EVENTS,
    OTHER,
    SESSION,
    discovered,
    hears_nothing,
    opened,
    say,
    status,
    store_session,
)
from tests.support.waiting import eventually

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


@pytest.fixture
def sessions_are(monkeypatch):
    """Say what the snapshot of sessions is; returns the sessions that it was asked for."""

    def say_so(running, *events):
        asked = []

        async def snapshot(session_id):
            asked.append(session_id)
            return [event for event in events if session_id in (None, event.session_id)]

        monkeypatch.setattr(running.services.provisioning, "snapshot", snapshot)
        return asked

    return say_so


# Frames.


async def test_the_stream_begins_as_the_source_document_shows_it(daemon):
    newest = await say(daemon, "network.status_changed")
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
        assert second == first.partition("\n")[2].partition("\n")[2], "the copy, and `retry` only once"


async def test_every_event_comes_by_name_and_then_without_with_one_id(daemon):
    async with opened(daemon.admin, BATCH) as stream:
        newest = await say(daemon, "network.status_changed", payload={"ssid": "a\nb", "is_active": True})
        named, unnamed = await stream.frame(), await stream.frame()
    assert (named.name, unnamed.name) == ("network.status_changed", None)
    assert named.id == unnamed.id == str(newest)
    (row,) = await event_log.between(daemon.services.database, newest - 1, newest, wanted=event_log.Wanted())
    assert named.data == unnamed.data
    assert named.data == {
        "version": "1.0",
        "type": "network.status_changed",
        "timestamp": row.at,
        "payload": {"ssid": "a\nb", "is_active": True},
    }


async def test_a_client_knows_where_it_is_before_the_first_event(daemon):
    """Else what happens between its first disconnect and its return would be lost."""
    newest = await say(daemon, "scan.started", "scan.ended")
    async with opened(daemon.api) as stream:
        await say(daemon, "scan.started")
        event = await stream.event()
        assert (stream.established.id, stream.retry) == (None, 3000)
        assert f"\n\nid:{newest}\n\n".encode() in stream.raw
        assert event.id == str(newest + 1)


@pytest.mark.parametrize("path", [BATCH, EVENTS])
async def test_the_copy_can_be_turned_off_and_on_by_a_reload(world, path):
    async with (
        world.daemon(connected=False, http={"sse_unnamed_copy": False}) as running,
        opened(running.admin, path, established=False) as stream,
    ):
        assert (await stream.event(copy=False)).type == "connection.established"
        await say(running, "network.status_changed", "network.status_changed")
        assert [event.payload for event in await stream.events(2, copy=False)] == [{"n": 0}, {"n": 1}]
        assert running.daemon.apply(world.settings()) == []
        await say(running, "network.status_changed")
        assert (await stream.event(copy=True)).payload == {"n": 0}


async def test_a_heartbeat_comes_every_15_seconds_without_an_id(world, clock):
    async with (
        world.daemon(connected=False, clock=clock) as running,
        opened(running.admin, BATCH) as batch,
        opened(running.api) as everything,
    ):
        await clock.advance(14.9)
        await say(running, "network.status_changed")
        assert (await batch.event()).type == (await everything.event()).type == "network.status_changed"
        for turn in range(1, 4):
            await clock.advance(0.1 if turn == 1 else 15)
            for stream in (batch, everything):
                beat = await stream.event()
                assert (beat.type, beat.id, beat.payload) == ("connection.heartbeat", None, None)
                assert set(beat.data) == {"version", "type", "timestamp", "payload"}
                assert beat.data["timestamp"] == f"2026-01-22T15:00:{15 * turn}.000000Z"


async def test_head_says_what_get_would_and_ends(daemon):
    for path in (BATCH, EVENTS):
        answer = await exchange(daemon, "HEAD", path, [("X-API-Key", daemon.admin.key)])
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream")
    assert await daemon.metric("piorch_stream_clients") == 0


async def test_an_http_1_0_client_gets_frames_without_chunks(daemon):
    where = daemon.daemon.listen[0]
    reader, writer = await asyncio.open_connection(where.host, where.port)
    writer.write(f"GET {EVENTS} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert (await reader.readuntil(b"\n\n")).startswith(b"retry: 3000\nevent:connection.established\n")
    writer.close()


# Which events.


async def test_the_provisioning_stream_has_its_five_types_and_no_other(daemon):
    wanted = ["device.discovered", "device.state_changed", "error", "network.status_changed", "session.status"]
    mixed = ["scan.started", *wanted, "camera.onboarded", "device.found", "error.x", "session"]
    async with opened(daemon.admin, BATCH) as stream:
        await say(daemon, *mixed, session_id=SESSION)
        await say(daemon, "network.status_changed", payload={"last": True})
        seen = [await stream.event() for _ in range(6)]
    assert [event.type for event in seen] == [*wanted, "network.status_changed"]
    assert [event.data.get("session_id") for event in seen] == [SESSION] * 5 + [None]


async def test_with_a_session_only_its_events_and_those_of_none_come(daemon):
    await store_session(daemon)
    async with opened(daemon.admin, BATCH, session_id=SESSION.upper()) as stream:
        assert stream.established.payload["session_id"] == stream.established.data["session_id"] == SESSION
        for session_id in (OTHER, SESSION, None, OTHER, SESSION):
            await say(daemon, "error", session_id=session_id)
        events = await stream.events(3)
    assert [event.data.get("session_id") for event in events] == [SESSION, None, SESSION]


@pytest.mark.parametrize("state", [SessionState.ACTIVE, SessionState.CLOSED])
async def test_a_session_is_known_while_it_is_open_and_when_it_is_closed(daemon, state):
    await store_session(daemon, state=state)
    async with opened(daemon.admin, BATCH, session_id=SESSION) as stream:
        assert stream.established.payload["session_id"] == SESSION


async def test_an_unknown_session_is_404_and_a_malformed_one_400(daemon):
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
async def test_types_choose_what_comes(daemon, types, expected):
    told = ["camera.onboarded", "camera.x.y", "cameras", "scan.ended", "error"]
    start = await say(daemon, "before")
    for after in (None, start):  # live, then from the log
        async with opened(daemon.api, types=types, last_event_id=after) as stream:
            if after is None:
                await say(daemon, *told)
            assert [(await stream.event()).type for _ in expected] == expected
            await hears_nothing(stream, daemon)


async def test_types_that_are_none_are_named(daemon):
    many = ",".join(["a"] * 21)
    odd = ["", ",", "a,", ",a", "a,,b", "a b", "A", "*", ".*", "a*", "a.*.b", "a.", "a..b", "a.**", "a;b", "é", "a\n"]
    for types in (*odd, many, "%", "_%'", "*.*"):
        with case(types):
            answer = await daemon.api.get(EVENTS, params={"types": types})
            assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED")
            assert answer.json["error"]["details"].startswith("types: ")


async def test_twenty_types_are_not_too_many(daemon):
    async with opened(daemon.api, types=",".join(f"a{'b' * n}" for n in range(20))) as stream:
        assert stream.established


# Where it goes on.


async def test_what_was_missed_is_sent_first_and_then_what_happens(daemon):
    start = await say(daemon, *["scan.started"] * 5)
    newest = await say(daemon, *["scan.ended"] * 700)
    async with opened(daemon.api, last_event_id=start) as stream:
        assert stream.established.payload == {"message": "Connected to events", "last_event_id": newest}
        await say(daemon, "scan.started")
        ids = [int((await stream.event()).id) for _ in range(701)]
    assert ids == list(range(start + 1, newest + 2))


async def test_header_and_query_say_where_and_the_header_counts_before(daemon):
    newest = await say(daemon, *["scan.started"] * 10)
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
async def test_what_is_no_id_is_named(daemon, path):
    key = ("X-API-Key", daemon.admin.key)
    for wrong in WRONG_IDS:
        with case(wrong):
            answer = await daemon.admin.get(path, params={"last_event_id": wrong})
            assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED")
            assert answer.json["error"]["details"].startswith("last_event_id: ")
            answer = await exchange(daemon, "GET", f"{path}?last_event_id=0", [key, ("Last-Event-ID", wrong)])
            assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED")
            assert answer.json["error"]["details"].startswith("Last-Event-ID: ")


async def test_every_wrong_parameter_is_named_at_once(daemon):
    answer = await daemon.admin.get(
        BATCH, params={"session_id": "x", "last_event_id": "x"}, headers={"Last-Event-ID": "x"}
    )
    faults = answer.json["error"]["details"].split("; ")
    assert [fault.split(":")[0] for fault in faults] == ["session_id", "last_event_id", "Last-Event-ID"]


@settings(max_examples=60, deadline=None, database=None)
@given(st.text(max_size=30))
def test_an_id_is_digits_and_nothing_else(text):
    good = re.fullmatch(r"[0-9]{1,19}", text) and int(text) < 2**63
    try:
        assert BatchQuery.model_validate({"last_event_id": text}).last_event_id == int(text)
        assert good
    except ValueError:
        assert not good


async def test_a_restart_loses_nothing(world):
    async with world.daemon(connected=False) as running, opened(running.api) as stream:
        newest = await say(running, "scan.started", "scan.ended")
        assert [event.id for event in await stream.events(2)] == [str(newest - 1), str(newest)]
    async with world.daemon(connected=False) as running:
        await say(running, "camera.onboarded", "camera.status_changed")
        async with opened(running.api, headers={"Last-Event-ID": str(newest)}) as stream:
            events = await stream.events(2)
    assert [(event.type, event.id) for event in events] == [
        ("camera.onboarded", str(newest + 1)),
        ("camera.status_changed", str(newest + 2)),
    ]


async def test_what_happens_while_it_is_replayed_comes_once_and_in_order(daemon):
    """Clients come, at every moment, while events are made as fast as they are stored."""
    start = await say(daemon, *["scan.started"] * 1500)
    done = asyncio.Event()

    async def make():
        for number in count():
            await say(daemon, *["scan.ended"] * (number % 7 + 1))
            if done.is_set():
                break
        return await say(daemon, "last")

    async def read(after):
        async with opened(daemon.api, last_event_id=after) as stream:
            return [int(event.id) for event in await stream.until("last")]

    making = asyncio.create_task(make())
    reading = [asyncio.create_task(read(start - 40 * number)) for number in range(20)]
    await asyncio.sleep(0.3)
    late = [asyncio.create_task(read(start)) for _ in range(5)]
    await asyncio.sleep(0.3)
    done.set()
    newest = await making
    for number, ids in enumerate(await asyncio.gather(*reading)):
        assert ids == list(range(start - 40 * number + 1, newest + 1))
    for ids in await asyncio.gather(*late):
        assert ids == list(range(start + 1, newest + 1))


# Snapshots.


async def trimmed(running, keep):
    await running.services.database.write(lambda tx: event_log.trim(tx, keep=keep))


@pytest.mark.parametrize("after", ["trimmed", "of another database", "too far back"])
async def test_a_gap_that_cannot_be_replayed_is_answered_with_the_state(daemon, sessions_are, monkeypatch, after):
    monkeypatch.setattr(sse, "LONGEST_REPLAY", 50)
    newest = await say(daemon, *["network.status_changed"] * 60)
    if after == "trimmed":
        await trimmed(daemon, 10)
    last = {"trimmed": newest - 11, "of another database": newest + 1, "too far back": newest - 51}[after]
    state = [status(SESSION), discovered(SESSION, 1), discovered(SESSION, 2), status(OTHER)]
    asked = sessions_are(daemon, *state)
    async with opened(daemon.admin, BATCH, last_event_id=last) as stream:
        assert stream.established.payload == {
            "message": "Connected to batch provisioning events",
            "last_event_id": newest,
            "snapshot": True,
        }
        assert stream.last_id is None, "a client that is cut off here has to ask again"
        told = await stream.events(4)
        await say(daemon, "network.status_changed")
        live = await stream.event()
    assert [(event.type, event.data["session_id"], event.payload) for event in told] == [
        (event.type, event.session_id, event.payload) for event in state
    ]
    assert {event.data["timestamp"] for event in told} == {AT}
    assert [event.id for event in told] == [None, None, None, str(newest)]
    assert live.id == str(newest + 1)
    assert asked == [None]


@pytest.mark.parametrize("missed", [0, 1, 50])
async def test_a_gap_within_the_limits_is_replayed(daemon, sessions_are, monkeypatch, missed):
    monkeypatch.setattr(sse, "LONGEST_REPLAY", 50)
    newest = await say(daemon, *["network.status_changed"] * 60)
    await trimmed(daemon, 50)
    asked = sessions_are(daemon, status(SESSION))
    async with opened(daemon.admin, BATCH, last_event_id=newest - missed) as stream:
        assert "snapshot" not in stream.established.payload
        await say(daemon, "network.status_changed")
        events = await stream.events(missed + 1)
    assert [event.id for event in events] == [str(newest - missed + n) for n in range(1, missed + 2)]
    assert asked == []


async def test_a_snapshot_of_one_session_holds_that_session(daemon, sessions_are):
    await store_session(daemon)
    asked = sessions_are(daemon, status(OTHER), status(SESSION), discovered(SESSION, 1))
    async with opened(daemon.admin, BATCH, session_id=SESSION, last_event_id=10**6) as stream:
        assert stream.established.payload["snapshot"] is True
        assert [event.type for event in await stream.events(2)] == ["session.status", "device.discovered"]
    assert asked == [SESSION]


async def test_a_snapshot_is_the_sessions_that_are_open_with_their_devices(daemon):
    await store_session(daemon, devices=("24:6F:28:00:00:10", "24:6F:28:00:00:20"))
    await store_session(daemon, OTHER)
    for asked, expected in ((None, [SESSION] * 3 + [OTHER]), (SESSION, [SESSION] * 3), (OTHER, [OTHER])):
        async with opened(daemon.admin, BATCH, session_id=asked, last_event_id=10**6) as stream:
            told = await stream.events(len(expected))
            await hears_nothing(stream, daemon)
        assert [event.data["session_id"] for event in told] == expected
        for event in told:
            if event.type == "session.status":
                assert event.payload["session"]["id"] == event.data["session_id"]
            else:
                assert event.type == "device.discovered"
                assert event.payload["device"]["mac"] == event.payload["mac"]
        assert [event.id for event in told[:-1]] == [None] * (len(told) - 1)
        assert told[-1].id == str(stream.established.payload["last_event_id"])


async def test_a_snapshot_of_nothing_still_says_where_the_client_is(daemon, sessions_are):
    newest = await say(daemon, "scan.started", "scan.ended")
    sessions_are(daemon)
    async with opened(daemon.admin, BATCH, last_event_id=10**6) as stream:
        await say(daemon, "network.status_changed")
        assert (await stream.event()).id == str(newest + 1)
        assert f"\n\nid:{newest}\n\n".encode() in stream.raw


async def test_events_between_the_id_and_the_state_are_told_again(daemon, monkeypatch):
    """The state may hold them or not: telling them twice is harmless, losing them is not."""
    newest = await say(daemon, "scan.started")

    async def snapshot(session_id):
        await say(daemon, "network.status_changed", payload={"meanwhile": True})
        return [status(SESSION)]

    monkeypatch.setattr(daemon.services.provisioning, "snapshot", snapshot)
    async with opened(daemon.admin, BATCH, last_event_id=10**6) as stream:
        state, meanwhile = await stream.events(2)
    assert (state.type, state.id) == ("session.status", str(newest))
    assert (meanwhile.payload, meanwhile.id) == ({"meanwhile": True}, str(newest + 1))


async def test_a_snapshot_of_everything_has_the_cameras_too(world, sessions_are):
    async with world.daemon() as running, world.fleet(3):
        await eventually(lambda: len(running.services.roster) == 3)
        listed = (await running.api.get("/api/v1/cameras")).data
        sessions_are(running, status(SESSION), discovered(SESSION, 1))
        async with opened(running.admin, last_event_id=10**6) as stream:
            *told, cameras = await stream.events(3)
        assert [event.type for event in told] == ["session.status", "device.discovered"]
        assert [event.id for event in told] == [None, None]
        assert (cameras.type, int(cameras.id)) == ("camera.list", stream.established.payload["last_event_id"])
        assert cameras.payload.keys() == {"cameras", "count"}
        assert [one["id"] for one in cameras.payload["cameras"]] == [one["id"] for one in listed["cameras"]]
        async with opened(running.api, last_event_id=10**6) as stream:
            assert (await stream.event()).type == "camera.list", "who has no key is told of no session"
        async with opened(running.admin, types="session.*", last_event_id=10**6) as stream:
            only = await stream.event()
            assert (only.type, int(only.id)) == ("session.status", stream.established.payload["last_event_id"])


async def test_a_large_snapshot_arrives_whole(daemon, sessions_are):
    devices = [discovered(SESSION, f"{number} " + "x" * 5000) for number in range(300)]
    sessions_are(daemon, *devices)
    async with opened(daemon.admin, BATCH, last_event_id=10**6) as stream:
        events = await stream.events(300)
    assert [event.payload for event in events] == [device.payload for device in devices]


async def test_the_answer_is_an_error_where_the_state_cannot_be_read(daemon, monkeypatch):
    async def snapshot(session_id):
        raise StorageError("the database refused this")

    monkeypatch.setattr(daemon.services.provisioning, "snapshot", snapshot)
    answer = await daemon.admin.get(BATCH, params={"last_event_id": 10**6})
    assert (answer.status, answer.json["code"]) == (500, "DATABASE_ERROR")
    assert await daemon.metric("piorch_stream_clients") == 0


async def test_every_event_of_the_document_is_what_is_sent(daemon):
    schema = closed({"$ref": "#/components/schemas/StreamEvent"})
    for path in (BATCH, EVENTS):
        content = DOCUMENT["paths"][path]["get"]["responses"]["200"]["content"]["text/event-stream"]
        assert content["schema"]["contentSchema"] == {"$ref": "#/components/schemas/StreamEvent"}
        blocks = [block for block in content["example"].split("\n\n") if "data:" in block]
        assert len(blocks) == 3
        for block in blocks:
            validate(json.loads(block.partition("data:")[2]), schema)
        async with opened(daemon.admin, path) as stream:
            await say(daemon, "network.status_changed", session_id=SESSION)
            for event in (stream.established, await stream.event()):
                validate(event.data, schema)
