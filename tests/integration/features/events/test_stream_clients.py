"""Clients of event streams: access, limits, and slow or disconnected clients."""

import asyncio
import contextlib
import json
import signal

import aiohttp
import pytest

from pi_orchestrator.core.errors import StorageError
from pi_orchestrator.core.event_bus import EventBus
from pi_orchestrator.core.events import CameraSeen, StoredEvent
from pi_orchestrator.core.supervisor import Supervisor
from pi_orchestrator.edge_http import stream_sources
from pi_orchestrator.edge_http.stream_sources import StreamWorker
from pi_orchestrator.http import sse
from pi_orchestrator.storage import event_store as event_log
from tests.support.api import check_answer, exchange, production_log
from tests.support.process import daemon as process_daemon
from tests.support.rig import Api
from tests.support.sse import (
    BATCH,
    EVENTS,
    SESSION,
    assert_no_event,
    is_disconnected,
    opened,
    stalled_client,
    store_events,
)
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("documented_answers")

KEYS = "/api/v1/keys"
REQUIRED = {"auth": {"mode": "required"}}
OFF = {"auth": {"mode": "off"}}
ATTACKER = "127.0.0.66"


def with_key(api, key):
    return Api(api.session, api.url, key)


async def secret_of_new_key(running, name, scope="read"):
    """Create an API key; return its secret."""
    answer = await running.admin.post(KEYS, json={"name": name, "scope": scope})
    return answer.data["secret"]


async def cookie_headers(running, key):
    """Request headers with the session cookie that the daemon sets for this key."""
    answer = await with_key(running.api, key).get("/api/v1/cameras")
    return {"Cookie": answer.headers["Set-Cookie"].split(";")[0]}


async def assert_receives(stream, running, *, sessions):
    """Check that a stream receives other events, and events of sessions exactly if `sessions` is true."""
    await store_events(running, "session.status", session_id=SESSION)
    await store_events(running, "network.status_changed")
    seen = [event.type for event in await stream.until("network.status_changed")]
    assert seen == ["session.status", "network.status_changed"][0 if sessions else 1 :]


# Access.


async def test_provisioning_stream_requires_read_scope(daemon):
    assert (await daemon.api.get(BATCH)).status == 401
    for scope in ("read", "operate", "admin"):
        key = await secret_of_new_key(daemon, f"a {scope} key", scope)
        async with opened(with_key(daemon.api, key), BATCH) as stream:
            await assert_receives(stream, daemon, sessions=True)


@pytest.mark.parametrize("way", ["header", "cookie", "query"])
async def test_required_mode_accepts_header_cookie_and_query(rig, way):
    async with rig.daemon(connected=False, **REQUIRED) as running:
        key = await secret_of_new_key(running, "dashboard")
        api = with_key(running.api, key) if way == "header" else running.api
        headers = await cookie_headers(running, key) if way == "cookie" else {}
        for path in (BATCH, EVENTS):
            assert (await running.api.get(path)).status == 401
            async with opened(api, path, headers=headers, api_key=key if way == "query" else None) as stream:
                await assert_receives(stream, running, sessions=True)


async def test_client_without_key_receives_no_session_events(daemon):
    start = await store_events(daemon, "before")
    async with opened(daemon.api) as live:
        await assert_receives(live, daemon, sessions=False)
    async with opened(daemon.api, last_event_id=start) as replayed:
        assert (await replayed.event()).type == "network.status_changed"
    async with opened(daemon.api, types="session.*", last_event_id=start) as filtered:
        await store_events(daemon, "session.status", session_id=SESSION)
        await assert_no_event(filtered, daemon)
    async with opened(daemon.admin, last_event_id=start) as keyed:
        assert [event.type for event in await keyed.events(3)] == [
            "session.status",
            "network.status_changed",
            "session.status",
        ]
    async with opened(daemon.api, headers=await cookie_headers(daemon, daemon.admin.key)) as by_cookie:
        await assert_receives(by_cookie, daemon, sessions=True)
    async with opened(daemon.api, headers={"X-API-Key": "wrong"}) as wrong:
        await assert_receives(wrong, daemon, sessions=False)


async def test_mode_off_sends_all_events_without_key(rig):
    async with rig.daemon(connected=False, **OFF) as running:
        for path in (BATCH, EVENTS):
            async with opened(running.api, path) as stream:
                await assert_receives(stream, running, sessions=True)


async def test_query_key_is_for_streams_only(daemon):
    for path in (KEYS, "/api/v1/provisioning/batch/network"):
        assert (await daemon.api.get(path, params={"api_key": daemon.admin.key})).status == 401
    async with opened(daemon.api, BATCH, api_key=daemon.admin.key) as by_query:
        assert "Set-Cookie" not in by_query.headers
    async with opened(daemon.admin, BATCH) as by_header:
        set_cookie = by_header.headers["Set-Cookie"]
        assert set_cookie.startswith("piorch_session=")
        assert "HttpOnly" in set_cookie
        assert "SameSite=Strict" in set_cookie
    async with opened(daemon.api, BATCH, headers={"Cookie": set_cookie.split(";")[0]}) as by_cookie:
        assert "Set-Cookie" not in by_cookie.headers


async def test_header_key_precedes_query_key(daemon):
    key = daemon.admin.key
    for query, headers, status in (
        (f"api_key={key}", [], 200),
        (f"api_key={key}", [("X-API-Key", key)], 200),
        ("api_key=wrong", [("X-API-Key", key)], 200),
        (f"api_key={key}", [("X-API-Key", "wrong")], 401),
        (f"api_key={key}&api_key={key}", [], 401),
        (f"api_key=wrong&api_key={key}", [], 401),
        ("api_key=", [], 401),
        (f"api-key={key}", [], 401),
        (f"API_KEY={key}", [], 401),
        (f"api_key={key}x", [], 401),
        (f"api_key={key[:-1]}", [], 401),
        (f"api_key={key}%00", [], 401),
    ):
        answer = await exchange(daemon, "GET", f"{BATCH}?{query}", headers, source="127.0.0.5")
        assert answer.status == status, (query.replace(key, "KEY"), headers)


async def test_query_key_guessing_is_rate_limited(rig, clock):
    async def guess(key):
        answer = await exchange(running, "GET", f"{EVENTS}?api_key={key}", source=ATTACKER)
        check_answer("GET", EVENTS, answer)
        return answer

    async with rig.daemon(connected=False, clock=clock, **REQUIRED) as running:
        answers = [await guess(f"guess-{number}") for number in range(12)]
        assert [answer.status for answer in answers] == [401] * 10 + [429] * 2
        assert (await guess(running.admin.key)).status == 429, "a correct guess is limited too"
        header = await exchange(running, "GET", "/api/v1/cameras", [("X-API-Key", running.admin.key)], source=ATTACKER)
        assert header.status == 429, "header and query share the limit"
        await clock.advance(30)
        assert (await guess(running.admin.key)).status == 200


async def test_query_key_is_not_logged_or_returned(rig):
    with production_log() as log:
        async with rig.daemon(connected=False) as running:
            key = await secret_of_new_key(running, "dashboard")
            secrets = (key, key.split("_", 2)[2])
            bad = [f"{BATCH}?api_key={key}x", f"{BATCH}?api_key={key}&session_id=x", f"{BATCH}?session_id={key}"]
            bad += [f"{EVENTS}?api_key={key}&types=%0a{key}", f"{EVENTS}?last_event_id={key}", f"/api/x?api_key={key}"]
            bad += [f"{BATCH}?api_key={key}&session_id={SESSION}", f"/api/{'x' * 9000}?api_key={key}"]
            for path in bad:
                answer = await exchange(running, "GET", path)
                assert answer.status in (400, 401, 404, 414), path
                for secret in secrets:
                    assert secret not in answer.body.decode() + str(answer.headers)
            async with opened(running.api, BATCH, api_key=key) as stream:
                await assert_receives(stream, running, sessions=True)
                for client in running.app.events.streams.all_clients:
                    client.abort()
                await stream.ended()
            with contextlib.suppress(Exception):
                await running.api.session.get(f"{running.api.url}{BATCH}?api_key={key}", headers={"Host": "evil"})
            for secret in secrets:
                assert secret not in log.getvalue()


@pytest.mark.parametrize("way", ["header", "cookie", "query"])
async def test_revoked_key_ends_its_streams(rig, clock, way):
    async with rig.daemon(connected=False, clock=clock) as running:
        key = await secret_of_new_key(running, "lost")
        api = with_key(running.api, key) if way == "header" else running.api
        headers = await cookie_headers(running, key) if way == "cookie" else {}
        query = {"api_key": key if way == "query" else None}
        async with (
            opened(api, BATCH, headers=headers, **query) as batch,
            opened(api, EVENTS, headers=headers, **query) as everything,
            opened(running.admin, BATCH) as other,
        ):
            await clock.advance(15)
            for stream in (batch, everything, other):
                assert (await stream.event()).type == "connection.heartbeat"
            await running.admin.delete(f"{KEYS}/lost")
            await clock.advance(15)
            assert await batch.ended() == []
            assert await everything.ended() == [], "a stream ends when its key is revoked"
            assert (await other.event()).type == "connection.heartbeat"


async def test_auth_mode_change_ends_open_streams(rig, clock):
    async with rig.daemon(connected=False, clock=clock) as running:
        async with opened(running.api) as stream:
            running.daemon.apply(rig.settings(**REQUIRED))
            await clock.advance(15)
            assert await stream.ended() == []
        assert (await running.api.get(EVENTS)).status == 401


async def test_expired_cookie_ends_stream(rig, clock):
    async with (
        rig.daemon(connected=False, clock=clock, **REQUIRED) as running,
        opened(running.api, headers=await cookie_headers(running, running.admin.key)) as stream,
    ):
        clock.skip(12 * 3600 + 1)
        await clock.advance(15)
        assert await stream.ended() == []


# Limits and slow clients.


async def test_stream_over_limit_is_refused(daemon, monkeypatch):
    assert sse.MAX_CLIENTS == 256
    monkeypatch.setattr(sse, "MAX_CLIENTS", 3)
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(opened(daemon.api)) for _ in range(3)]
        for path in (EVENTS, BATCH):
            answer = await daemon.admin.get(path)
            check_answer("GET", path, answer)
            assert (answer.status, answer.json["code"]) == (429, "RATE_LIMITED")
            assert int(answer.headers["Retry-After"]) > 0
        assert (await exchange(daemon, "HEAD", EVENTS)).status == 200
        assert await daemon.metric("piorch_stream_clients") == 3
        streams[0].response.close()

        async def has_capacity():
            return await daemon.metric("piorch_stream_clients") == 2

        await eventually(has_capacity)
        async with opened(daemon.api) as another:
            await store_events(daemon, "scan.started")
            for stream in (*streams[1:], another):
                assert (await stream.event()).type == "scan.started"


async def test_streams_and_sent_events_are_counted(daemon):
    before = await daemon.metric("piorch_stream_events_total")
    async with opened(daemon.api), opened(daemon.admin), opened(daemon.admin, BATCH):
        assert await daemon.metric("piorch_stream_clients") == 3
        await store_events(daemon, "scan.started", "network.status_changed")

        async def counted():
            return await daemon.metric("piorch_stream_events_total") == before + 5

        await eventually(counted)
    assert await daemon.metric("piorch_stream_dropped_total") == 0


async def test_client_with_full_queue_is_disconnected(daemon, log):
    payload = {"x": "y" * 2000}
    async with stalled_client(daemon) as connection:
        (slow,) = daemon.app.events.streams.all_clients
        async with opened(daemon.admin) as good, opened(daemon.admin) as another:
            for _ in range(60):
                last = await store_events(daemon, *["scan.ended"] * 20, payload=payload)
                for stream in (good, another):
                    assert (await stream.events(20))[-1].id == str(last)
            assert slow.is_ended
            assert daemon.app.events.streams.client_count == 2
            assert await daemon.metric("piorch_stream_dropped_total") == 1
        assert is_disconnected(connection)
    warnings = [line for line in log.getvalue().splitlines() if "stream client too slow" in line]
    assert len(warnings) == 1
    assert json.loads(warnings[0])["dropped"] == 1


async def test_stalled_client_with_short_queue_is_disconnected(rig, clock):
    async with (
        rig.daemon(connected=False, clock=clock) as running,
        stalled_client(running),
        opened(running.admin) as good,
    ):
        for _ in range(20):
            await store_events(running, *["scan.ended"] * 10, payload={"x": "y" * 1000})
            await good.events(10)
        slow = next(client for client in running.app.events.streams.all_clients if client.writing_since)
        assert not slow.is_ended
        await clock.advance(9.9)
        assert not slow.is_ended
        await clock.advance(5.1)
        assert slow.is_ended
        assert (await good.until("connection.heartbeat"))[-1]
        assert await running.metric("piorch_stream_dropped_total") == 1


async def test_disconnections_are_logged_once_per_minute(rig, clock, log):
    async with rig.daemon(connected=False, clock=clock) as running, contextlib.AsyncExitStack() as stack:
        for _ in range(5):
            await stack.enter_async_context(stalled_client(running))
        for _ in range(40):
            await store_events(running, *["scan.ended"] * 20, payload={"x": "y" * 2000})
        await eventually(lambda: running.app.events.streams.dropped == 5)
        assert log.getvalue().count("stream client too slow") == 1


async def test_stalled_client_uses_bounded_memory(daemon):
    async with stalled_client(daemon), opened(daemon.admin) as good:
        for _ in range(15):
            await store_events(daemon, *["scan.ended"] * 10, payload={"x": "y" * 2000})
            await good.events(10)
        slow, quick = sorted(daemon.app.events.streams.all_clients, key=lambda client: -client.queued)
        assert slow.queued > 0
        assert quick.queued == 0
        assert slow.transport.get_write_buffer_size() <= 2 * sse.WRITE_BYTES + 100


async def test_burst_of_3000_events_reaches_all_clients_once(daemon):
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(opened(daemon.admin)) for _ in range(5)]
        start = (await event_log.bounds(daemon.app.resources.database)).newest
        await store_events(daemon, *["device.found"] * 3000)
        for stream in streams:
            assert [int(event.id) for event in await stream.events(3000)] == list(range(start + 1, start + 3001))
    assert daemon.app.events.streams.dropped == 0


async def test_100_streams_receive_all_with_stalled_client(daemon):
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        contextlib.AsyncExitStack() as stack,
    ):
        api = Api(session, daemon.admin.url, daemon.admin.key)
        await stack.enter_async_context(stalled_client(daemon, BATCH))
        streams = [await stack.enter_async_context(opened(api, path)) for path in (BATCH, EVENTS) * 50]
        start = (await event_log.bounds(daemon.app.resources.database)).newest
        changes = [
            store_events(
                daemon, "device.state_changed", session_id=SESSION, payload={"mac": number, "new_state": "verified"}
            )
            for number in range(200)
        ]
        reading = asyncio.gather(*(stream.events(200, within=30) for stream in streams))
        await asyncio.gather(*changes)
        for events in await reading:
            assert [int(event.id) for event in events] == list(range(start + 1, start + 201))
            assert {event.payload["mac"] for event in events} == set(range(200))


async def test_flood_over_backlog_is_read_from_event_log(rig, monkeypatch):
    monkeypatch.setattr(stream_sources, "BACKLOG", 10)
    async with rig.daemon(connected=False) as running, contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(opened(running.admin)) for _ in range(3)]
        start = (await event_log.bounds(running.app.resources.database)).newest
        for _ in range(5):
            await store_events(running, *["device.found"] * 300)
            await store_events(running, "scan.ended")
        for stream in streams:
            assert [int(event.id) for event in await stream.events(1505)] == list(range(start + 1, start + 1506))
        assert running.daemon.health.get("streams").restarts == 0


async def test_unpublished_event_is_read_from_event_log(daemon, monkeypatch):
    async with opened(daemon.api) as stream:
        start = await store_events(daemon, "scan.started")
        publish = EventBus.publish
        monkeypatch.setattr(EventBus, "publish", lambda self, event: None)
        await store_events(daemon, "scan.ended", "scan.ended")
        monkeypatch.setattr(EventBus, "publish", publish)
        await store_events(daemon, "scan.started")
        assert [int(event.id) for event in await stream.events(4)] == [start, start + 1, start + 2, start + 3]


async def test_client_connected_between_commit_and_publish_gets_event_once(daemon, monkeypatch):
    publish, held = EventBus.publish, []
    monkeypatch.setattr(EventBus, "publish", lambda self, event: held.append(event))
    newest = await store_events(daemon, "scan.started")
    monkeypatch.setattr(EventBus, "publish", publish)
    async with opened(daemon.api) as fresh, opened(daemon.api, last_event_id=newest - 1) as resumed:
        assert fresh.established.payload["last_event_id"] == newest
        for event in held:
            daemon.app.resources.bus.publish(event)
        await store_events(daemon, "scan.ended")
        assert [int(event.id) for event in await resumed.events(2)] == [newest, newest + 1]
        assert (await fresh.event()).id == str(newest + 1)


async def test_streams_continue_after_worker_restart(daemon, monkeypatch):
    async with opened(daemon.api) as stream:
        send = StreamWorker.send

        def fail(self, event):
            monkeypatch.setattr(StreamWorker, "send", send)
            raise ZeroDivisionError("internal fault")

        monkeypatch.setattr(StreamWorker, "send", fail)
        start = await store_events(daemon, "scan.started")
        await store_events(daemon, "scan.ended")
        assert [int(event.id) for event in await stream.events(2)] == [start, start + 1]
        assert daemon.daemon.health.get("streams").restarts == 1


async def test_trim_during_replay_ends_stream(daemon, monkeypatch):
    """A gap must not be hidden: when the client reconnects, it receives a snapshot."""
    newest = await store_events(daemon, *["scan.ended"] * 1000)
    between = event_log.between

    async def trimmed(database, after, upto, *, event_filter):
        await database.write(lambda tx: event_log.keep_newest(tx, keep=100))
        return await between(database, after, upto, event_filter=event_filter)

    monkeypatch.setattr(event_log, "between", trimmed)
    async with opened(daemon.api, last_event_id=newest - 900) as stream:
        assert await stream.ended() == []


@pytest.mark.parametrize(
    "fault", [StorageError("the database refused this"), ZeroDivisionError("internal fault")], ids=repr
)
async def test_failed_read_ends_one_stream(daemon, monkeypatch, log, fault):
    newest = await store_events(daemon, *["scan.ended"] * 10)
    between = event_log.between

    async def refused(database, after, upto, *, event_filter):
        monkeypatch.setattr(event_log, "between", between)
        raise fault

    monkeypatch.setattr(event_log, "between", refused)
    async with opened(daemon.api, last_event_id=newest - 5) as stream:
        assert await stream.ended() == []
        assert b"HTTP/" not in stream.raw, "no second answer within the first"
    async with opened(daemon.api, last_event_id=newest - 5) as stream:
        assert len(await stream.events(5)) == 5
    assert "stream failed" in log.getvalue()
    assert "request failed" not in log.getvalue()


async def test_unstored_event_is_not_sent(daemon):
    async with opened(daemon.api, types="scan.*") as stream:
        daemon.app.resources.bus.publish(
            CameraSeen(mac="24:6F:28:B0:F7:F1", ip=None, device_id=None, firmware_version=None, appeared=True)
        )
        newest = await store_events(daemon, "scan.started")
        assert (await stream.event()).id == str(newest)
        daemon.app.resources.bus.publish(StoredEvent("scan.ended", {}, id=newest))
        newest = await store_events(daemon, "scan.started")
        assert (await stream.event()).id == str(newest), "an event that is published twice is sent once"


# Shutdown.


async def test_streams_end_when_daemon_stops(rig):
    async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as stack:
        async with rig.daemon(connected=False) as running:
            api = Api(session, running.admin.url, running.admin.key)
            streams = [await stack.enter_async_context(opened(api, path)) for path in (BATCH, EVENTS) * 5]
            slow = await stack.enter_async_context(stalled_client(running))
            await store_events(running, *["scan.ended"] * 100, payload={"x": "y" * 2000})
        # The daemon has stopped; the stalled client did not hold it up.
        for stream in streams:
            await stream.ended()
        assert is_disconnected(slow)


async def test_streams_end_before_workers(rig, monkeypatch):
    stop, ends = Supervisor.stop, []

    async def stop_later(self, *, grace_s):
        await asyncio.gather(*ends)
        await stop(self, grace_s=grace_s)

    monkeypatch.setattr(Supervisor, "stop", stop_later)
    async with (
        aiohttp.ClientSession() as session,
        contextlib.AsyncExitStack() as stack,
        rig.daemon(connected=False) as running,
    ):
        api = Api(session, running.admin.url, running.admin.key)
        for path in (BATCH, EVENTS):
            stream = await stack.enter_async_context(opened(api, path))
            ends.append(asyncio.create_task(stream.ended()))


async def test_stream_opened_during_stop_ends_immediately(daemon):
    daemon.app.events.streams.close()
    for path in (BATCH, EVENTS):
        answer = await daemon.admin.get(path)
        assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_process_with_100_streams_stops(rig, tmp_path, number):
    async with process_daemon(rig, tmp_path) as process, contextlib.AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        api = Api(session, process.api.url, process.admin.key)
        streams = [await stack.enter_async_context(opened(api, path)) for path in (BATCH, EVENTS) * 50]
        ends = [asyncio.create_task(stream.ended()) for stream in streams[:80]]  # the other streams never read again
        assert await process.stop(number) == 0
        await asyncio.gather(*ends)
        assert "Traceback" not in process.text()
        assert process.entries("workers did not stop in time") == []
