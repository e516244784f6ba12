"""Clients of event streams: who may have which, and what a slow, a gone or one client too many costs the others."""

import asyncio
import contextlib
import json
import signal

import aiohttp
import pytest

from pi_orchestrator.api import sse
from pi_orchestrator.errors import StorageError
from pi_orchestrator.events import CameraSeen, Hub, Logged
from pi_orchestrator.storage import event_log
from pi_orchestrator.supervisor import Supervisor
from tests.support.api import exchange, hold, production_log
from tests.support.process import daemon as process_daemon
from tests.support.sse import BATCH, EVENTS, SESSION, hears_nothing, is_cut_off, opened, say, stalled
from tests.support.waiting import eventually
from tests.support.world import Api

KEYS = "/api/v1/keys"
REQUIRED = {"auth": {"mode": "required"}}
OFF = {"auth": {"mode": "off"}}
ATTACKER = "127.0.0.66"


def with_key(api, key):
    return Api(api.session, api.url, key)


async def make_key(running, name, scope="read"):
    answer = await running.admin.post(KEYS, json={"name": name, "scope": scope})
    return answer.data["secret"]


async def cookie(running, key):
    answer = await with_key(running.api, key).get("/api/v1/cameras")
    return {"Cookie": answer.headers["Set-Cookie"].split(";")[0]}


async def hears(stream, running, *, sessions):
    """AssertionError unless events of sessions come, or do not."""
    await say(running, "session.status", session_id=SESSION)
    await say(running, "network.status_changed")
    seen = [event.type for event in await stream.until("network.status_changed")]
    assert seen == ["session.status", "network.status_changed"][0 if sessions else 1 :]


# Access.


async def test_the_provisioning_stream_needs_a_key_that_may_read(daemon):
    assert (await daemon.api.get(BATCH)).status == 401
    for scope in ("read", "operate", "admin"):
        key = await make_key(daemon, f"a {scope} key", scope)
        async with opened(with_key(daemon.api, key), BATCH) as stream:
            await hears(stream, daemon, sessions=True)


@pytest.mark.parametrize("way", ["header", "cookie", "query"])
async def test_in_required_mode_either_stream_opens_by_header_cookie_and_query(world, way):
    async with world.daemon(connected=False, **REQUIRED) as running:
        key = await make_key(running, "dashboard")
        api = with_key(running.api, key) if way == "header" else running.api
        headers = await cookie(running, key) if way == "cookie" else {}
        for path in (BATCH, EVENTS):
            assert (await running.api.get(path)).status == 401
            async with opened(api, path, headers=headers, api_key=key if way == "query" else None) as stream:
                await hears(stream, running, sessions=True)


async def test_who_shows_no_key_hears_nothing_of_sessions_live_or_replayed(daemon):
    start = await say(daemon, "before")
    async with opened(daemon.api) as live:
        await hears(live, daemon, sessions=False)
    async with opened(daemon.api, last_event_id=start) as replayed:
        assert (await replayed.event()).type == "network.status_changed"
    async with opened(daemon.api, types="session.*", last_event_id=start) as asking:
        await say(daemon, "session.status", session_id=SESSION)
        await hears_nothing(asking, daemon)
    async with opened(daemon.admin, last_event_id=start) as keyed:
        assert [event.type for event in await keyed.events(3)] == [
            "session.status",
            "network.status_changed",
            "session.status",
        ]
    async with opened(daemon.api, headers=await cookie(daemon, daemon.admin.key)) as by_cookie:
        await hears(by_cookie, daemon, sessions=True)
    async with opened(daemon.api, headers={"X-API-Key": "wrong"}) as wrong:
        await hears(wrong, daemon, sessions=False)


async def test_in_mode_off_everybody_hears_everything(world):
    async with world.daemon(connected=False, **OFF) as running:
        for path in (BATCH, EVENTS):
            async with opened(running.api, path) as stream:
                await hears(stream, running, sessions=True)


async def test_a_key_in_the_query_is_for_streams_alone_and_gives_no_cookie(daemon):
    for path in (KEYS, "/api/v1/provisioning/batch/network"):
        assert (await daemon.api.get(path, params={"api_key": daemon.admin.key})).status == 401
    async with opened(daemon.api, BATCH, api_key=daemon.admin.key) as by_query:
        assert "Set-Cookie" not in by_query.headers
    async with opened(daemon.admin, BATCH) as by_header:
        given = by_header.headers["Set-Cookie"]
        assert given.startswith("piorch_session=")
        assert "HttpOnly" in given
        assert "SameSite=Strict" in given
    async with opened(daemon.api, BATCH, headers={"Cookie": given.split(";")[0]}) as by_cookie:
        assert "Set-Cookie" not in by_cookie.headers


async def test_a_key_counts_once_and_the_header_before_the_query(daemon):
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


async def test_guessing_by_query_is_limited_like_guessing_by_header(world, clock):
    async def guess(key):
        answer = await exchange(running, "GET", f"{EVENTS}?api_key={key}", source=ATTACKER)
        hold("GET", EVENTS, answer)
        return answer

    async with world.daemon(connected=False, clock=clock, **REQUIRED) as running:
        answers = [await guess(f"guess-{number}") for number in range(12)]
        assert [answer.status for answer in answers] == [401] * 10 + [429] * 2
        assert (await guess(running.admin.key)).status == 429, "nor is he told that he was right"
        header = await exchange(running, "GET", "/api/v1/cameras", [("X-API-Key", running.admin.key)], source=ATTACKER)
        assert header.status == 429, "the guesses are the same, whichever way they come"
        await clock.advance(30)
        assert (await guess(running.admin.key)).status == 200


async def test_a_key_in_the_query_is_in_no_log_and_in_no_answer(world):
    with production_log() as log:
        async with world.daemon(connected=False) as running:
            key = await make_key(running, "dashboard")
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
                await hears(stream, running, sessions=True)
                for client in running.services.streams._clients:
                    client.abort()
                await stream.ended()
            with contextlib.suppress(Exception):
                await running.api.session.get(f"{running.api.url}{BATCH}?api_key={key}", headers={"Host": "evil"})
            for secret in secrets:
                assert secret not in log.getvalue()


@pytest.mark.parametrize("way", ["header", "cookie", "query"])
async def test_the_streams_of_a_key_end_with_it_by_the_next_heartbeat(world, clock, way):
    async with world.daemon(connected=False, clock=clock) as running:
        key = await make_key(running, "lost")
        api = with_key(running.api, key) if way == "header" else running.api
        headers = await cookie(running, key) if way == "cookie" else {}
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
            assert await everything.ended() == [], "without its key it is no longer what it was"
            assert (await other.event()).type == "connection.heartbeat"


async def test_a_mode_that_changes_ends_what_was_opened_in_another(world, clock):
    async with world.daemon(connected=False, clock=clock) as running:
        async with opened(running.api) as stream:
            running.daemon.apply(world.settings(**REQUIRED))
            await clock.advance(15)
            assert await stream.ended() == []
        assert (await running.api.get(EVENTS)).status == 401


async def test_a_cookie_that_has_run_out_ends_its_stream(world, clock):
    async with (
        world.daemon(connected=False, clock=clock, **REQUIRED) as running,
        opened(running.api, headers=await cookie(running, running.admin.key)) as stream,
    ):
        clock._move_to(clock.monotonic() + 12 * 3600 + 1)
        await clock.advance(15)
        assert await stream.ended() == []


# Many, gone, slow.


async def test_the_257th_stream_is_refused_and_room_is_made_when_one_goes(daemon, monkeypatch):
    assert sse.CLIENTS == 256
    monkeypatch.setattr(sse, "CLIENTS", 3)
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(opened(daemon.api)) for _ in range(3)]
        for path in (EVENTS, BATCH):
            answer = await daemon.admin.get(path)
            hold("GET", path, answer)
            assert (answer.status, answer.json["code"]) == (429, "RATE_LIMITED")
            assert int(answer.headers["Retry-After"]) > 0
        assert (await exchange(daemon, "HEAD", EVENTS)).status == 200
        assert await daemon.metric("piorch_stream_clients") == 3
        streams[0].response.close()

        async def has_room():
            return await daemon.metric("piorch_stream_clients") == 2

        await eventually(has_room)
        async with opened(daemon.api) as another:
            await say(daemon, "scan.started")
            for stream in (*streams[1:], another):
                assert (await stream.event()).type == "scan.started"


async def test_streams_and_what_they_sent_are_counted(daemon):
    before = await daemon.metric("piorch_stream_events_total")
    async with opened(daemon.api), opened(daemon.admin), opened(daemon.admin, BATCH):
        assert await daemon.metric("piorch_stream_clients") == 3
        await say(daemon, "scan.started", "network.status_changed")

        async def counted():
            return await daemon.metric("piorch_stream_events_total") == before + 5

        await eventually(counted)
    assert await daemon.metric("piorch_stream_dropped_total") == 0


async def test_a_client_whose_queue_runs_over_is_cut_off_and_the_others_get_everything(daemon, log):
    payload = {"x": "y" * 2000}
    async with stalled(daemon) as one:
        (slow,) = daemon.services.streams._clients
        async with opened(daemon.admin) as good, opened(daemon.admin) as another:
            for _ in range(60):
                last = await say(daemon, *["scan.ended"] * 20, payload=payload)
                for stream in (good, another):
                    assert (await stream.events(20))[-1].id == str(last)
            assert slow.ended
            assert daemon.services.streams.clients == 2
            assert await daemon.metric("piorch_stream_dropped_total") == 1
        assert is_cut_off(one)
    told = [line for line in log.getvalue().splitlines() if "does not keep up" in line]
    assert len(told) == 1
    assert json.loads(told[0])["dropped"] == 1


async def test_a_client_that_takes_nothing_is_cut_off_after_a_while_though_its_queue_is_short(world, clock):
    async with (
        world.daemon(connected=False, clock=clock) as running,
        stalled(running),
        opened(running.admin) as good,
    ):
        for _ in range(20):
            await say(running, *["scan.ended"] * 10, payload={"x": "y" * 1000})
            await good.events(10)
        slow = next(client for client in running.services.streams._clients if client.writing_since)
        assert not slow.ended
        await clock.advance(9.9)
        assert not slow.ended
        await clock.advance(5.1)
        assert slow.ended
        assert (await good.until("connection.heartbeat"))[-1]
        assert await running.metric("piorch_stream_dropped_total") == 1


async def test_many_that_are_cut_off_are_one_complaint_a_minute(world, clock, log):
    async with world.daemon(connected=False, clock=clock) as running, contextlib.AsyncExitStack() as stack:
        for _ in range(5):
            await stack.enter_async_context(stalled(running))
        for _ in range(40):
            await say(running, *["scan.ended"] * 20, payload={"x": "y" * 2000})
        await eventually(lambda: running.services.streams.dropped == 5)
        assert log.getvalue().count("does not keep up") == 1


async def test_a_client_that_stalls_costs_little_memory_of_its_own(daemon):
    async with stalled(daemon), opened(daemon.admin) as good:
        for _ in range(15):
            await say(daemon, *["scan.ended"] * 10, payload={"x": "y" * 2000})
            await good.events(10)
        slow, quick = sorted(daemon.services.streams._clients, key=lambda client: -client.queued)
        assert slow.queued > 0
        assert quick.queued == 0
        assert slow._transport.get_write_buffer_size() <= 2 * sse.WRITE_BYTES + 100


async def test_a_burst_of_a_thousand_devices_reaches_everybody_once(daemon):
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(opened(daemon.admin)) for _ in range(5)]
        start = (await event_log.bounds(daemon.services.database)).newest
        await say(daemon, *["device.found"] * 3000)
        for stream in streams:
            assert [int(event.id) for event in await stream.events(3000)] == list(range(start + 1, start + 3001))
    assert daemon.services.streams.dropped == 0


async def test_a_hundred_streams_hear_two_hundred_devices_while_one_client_stalls(daemon):
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        contextlib.AsyncExitStack() as stack,
    ):
        api = Api(session, daemon.admin.url, daemon.admin.key)
        await stack.enter_async_context(stalled(daemon, BATCH))
        streams = [await stack.enter_async_context(opened(api, path)) for path in (BATCH, EVENTS) * 50]
        start = (await event_log.bounds(daemon.services.database)).newest
        changes = [
            say(daemon, "device.state_changed", session_id=SESSION, payload={"mac": number, "new_state": "verified"})
            for number in range(200)
        ]
        reading = asyncio.gather(*(stream.events(200, within=30) for stream in streams))
        await asyncio.gather(*changes)
        for events in await reading:
            assert [int(event.id) for event in events] == list(range(start + 1, start + 201))
            assert {event.payload["mac"] for event in events} == set(range(200))


async def test_a_flood_that_overruns_the_hub_s_queue_is_read_in_the_log(world, monkeypatch):
    monkeypatch.setattr(sse, "BACKLOG", 10)
    async with world.daemon(connected=False) as running, contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(opened(running.admin)) for _ in range(3)]
        start = (await event_log.bounds(running.services.database)).newest
        for _ in range(5):
            await say(running, *["device.found"] * 300)
            await say(running, "scan.ended")
        for stream in streams:
            assert [int(event.id) for event in await stream.events(1505)] == list(range(start + 1, start + 1506))
        assert running.daemon.health.get("streams").restarts == 0


async def test_an_event_that_the_hub_never_told_is_read_in_the_log(daemon, monkeypatch):
    async with opened(daemon.api) as stream:
        start = await say(daemon, "scan.started")
        publish = Hub.publish
        monkeypatch.setattr(Hub, "publish", lambda self, event: None)
        await say(daemon, "scan.ended", "scan.ended")
        monkeypatch.setattr(Hub, "publish", publish)
        await say(daemon, "scan.started")
        assert [int(event.id) for event in await stream.events(4)] == [start, start + 1, start + 2, start + 3]


async def test_who_comes_between_the_commit_of_an_event_and_its_telling_gets_it_once_or_had_it(daemon, monkeypatch):
    publish, held = Hub.publish, []
    monkeypatch.setattr(Hub, "publish", lambda self, event: held.append(event))
    newest = await say(daemon, "scan.started")
    monkeypatch.setattr(Hub, "publish", publish)
    async with opened(daemon.api) as fresh, opened(daemon.api, last_event_id=newest - 1) as back:
        assert fresh.established.payload["last_event_id"] == newest
        for event in held:
            daemon.services.streams._hub.publish(event)
        await say(daemon, "scan.ended")
        assert [int(event.id) for event in await back.events(2)] == [newest, newest + 1]
        assert (await fresh.event()).id == str(newest + 1)


async def test_streams_go_on_when_their_worker_was_restarted(daemon, monkeypatch):
    async with opened(daemon.api) as stream:
        tell = sse.Streams._tell

        def fail(self, event):
            monkeypatch.setattr(sse.Streams, "_tell", tell)
            raise ZeroDivisionError("a fault of the worker")

        monkeypatch.setattr(sse.Streams, "_tell", fail)
        start = await say(daemon, "scan.started")
        await say(daemon, "scan.ended")
        assert [int(event.id) for event in await stream.events(2)] == [start, start + 1]
        assert daemon.daemon.health.get("streams").restarts == 1


async def test_what_is_trimmed_under_the_feet_of_a_slow_reader_ends_its_stream(daemon, monkeypatch):
    """Rather than pass over it in silence: when it comes back it gets the state."""
    newest = await say(daemon, *["scan.ended"] * 1000)
    between = event_log.between

    async def trimmed(database, after, upto, *, wanted):
        await database.write(lambda tx: event_log.trim(tx, keep=100))
        return await between(database, after, upto, wanted=wanted)

    monkeypatch.setattr(event_log, "between", trimmed)
    async with opened(daemon.api, last_event_id=newest - 900) as stream:
        assert await stream.ended() == []


@pytest.mark.parametrize("fault", [StorageError("the database refused this"), ZeroDivisionError("a mistake")], ids=repr)
async def test_a_read_that_fails_ends_the_stream_and_nothing_else(daemon, monkeypatch, log, fault):
    newest = await say(daemon, *["scan.ended"] * 10)
    between = event_log.between

    async def refused(database, after, upto, *, wanted):
        monkeypatch.setattr(event_log, "between", between)
        raise fault

    monkeypatch.setattr(event_log, "between", refused)
    async with opened(daemon.api, last_event_id=newest - 5) as stream:
        assert await stream.ended() == []
        assert b"HTTP/" not in stream.raw, "no second answer in the middle of the first"
    async with opened(daemon.api, last_event_id=newest - 5) as stream:
        assert len(await stream.events(5)) == 5
    assert "a stream broke off" in log.getvalue()
    assert "request failed" not in log.getvalue()


async def test_what_is_not_stored_is_not_sent(daemon):
    async with opened(daemon.api, types="scan.*") as stream:
        daemon.services.streams._hub.publish(
            CameraSeen(mac="24:6F:28:B0:F7:F1", ip=None, device_id=None, firmware_version=None, appeared=True)
        )
        newest = await say(daemon, "scan.started")
        assert (await stream.event()).id == str(newest)
        daemon.services.streams._hub.publish(Logged("scan.ended", {}, id=newest))
        newest = await say(daemon, "scan.started")
        assert (await stream.event()).id == str(newest), "and what was told twice is sent once"


# The end.


async def test_every_stream_ends_when_the_daemon_stops(world):
    async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as stack:
        async with world.daemon(connected=False) as running:
            api = Api(session, running.admin.url, running.admin.key)
            streams = [await stack.enter_async_context(opened(api, path)) for path in (BATCH, EVENTS) * 5]
            slow = await stack.enter_async_context(stalled(running))
            await say(running, *["scan.ended"] * 100, payload={"x": "y" * 2000})
            loop = asyncio.get_running_loop()
            began = loop.time()
        assert loop.time() - began < 1.0
        for stream in streams:
            await stream.ended()
        assert is_cut_off(slow)


async def test_streams_end_before_anything_else_is_waited_for(world, monkeypatch):
    stop, ends = Supervisor.stop, []

    async def stop_later(self, *, grace_s):
        await asyncio.gather(*ends)
        await stop(self, grace_s=grace_s)

    monkeypatch.setattr(Supervisor, "stop", stop_later)
    async with (
        aiohttp.ClientSession() as session,
        contextlib.AsyncExitStack() as stack,
        world.daemon(connected=False) as running,
    ):
        api = Api(session, running.admin.url, running.admin.key)
        for path in (BATCH, EVENTS):
            stream = await stack.enter_async_context(opened(api, path))
            ends.append(asyncio.create_task(stream.ended()))


async def test_a_stream_that_is_asked_for_while_the_daemon_stops_ends_at_once(daemon):
    daemon.services.streams.close()
    for path in (BATCH, EVENTS):
        answer = await daemon.admin.get(path)
        assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_process_with_a_hundred_streams_stops_at_once_whatever_they_read(world, tmp_path, number):
    async with process_daemon(world, tmp_path) as process, contextlib.AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        api = Api(session, process.api.url, process.admin.key)
        streams = [await stack.enter_async_context(opened(api, path)) for path in (BATCH, EVENTS) * 50]
        ends = [asyncio.create_task(stream.ended()) for stream in streams[:80]]  # the others never read again
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await process.stop(number) == 0
        assert loop.time() - began < 1.0
        await asyncio.gather(*ends)
        assert "Traceback" not in process.text()
        assert process.entries("workers did not stop in time") == []
