"""The daemon's log over its API: pages, streams that resume, and that neither a flood nor a fool holds anything up."""

import asyncio
import json
import logging
import threading
import time

import pytest

from pi_orchestrator import log_ring
from pi_orchestrator.api import sse
from pi_orchestrator.logs import get_logger
from tests.support.api import DOCUMENT, case, closed, validate
from tests.support.process import daemon as process_daemon
from tests.support.sse import EVENTS, hears_nothing, opened, say, stalled
from tests.support.waiting import eventually
from tests.unit.test_logs import CANARY, HOSTILE

LOGS = "/api/v1/system/logs"
STREAM = f"{LOGS}/stream"

speak = get_logger("pi_orchestrator.test.part")


@pytest.fixture
async def daemon(world):
    """A daemon that has said all that it says of its start."""
    async with world.daemon() as running:
        await eventually(lambda: "mqtt connected" in messages(running))
        yield running


def messages(running):
    return [json.loads(line.json(0))["message"] for _, line in running.services.log_ring.all()]


class Lines:
    """A stream of lines, as `tests.support.sse.Stream` reads frames."""

    def __init__(self, stream):
        self.stream = stream

    async def line(self, *, copy=True, within=10):
        """The next line: a frame named `log`, then the same without a name."""
        frame = await self.stream.frame(within)
        while frame.name in ("connection.established", "keepalive"):
            frame = await self.stream.frame(within)
        assert frame.name == "log"
        if copy:
            again = await self.stream.frame(within)
            assert (again.name, again.id, again.data) == (None, frame.id, frame.data)
        assert frame.id == str(frame.data["id"])
        return frame.data

    async def until(self, message, **how):
        """Messages up to one of these words."""
        seen = [await self.line(**how)]
        while seen[-1]["message"] != message:
            seen.append(await self.line(**how))
        return seen


def listening(running, **query):
    return opened(running.api, STREAM, established=False, **query)


async def page(running, **query):
    return (await running.api.get(LOGS, params=query)).data


# Pages.


async def test_the_last_lines_newest_first_as_the_contract_has_them(daemon):
    for number in range(3):
        speak.warning("it rains", n=number)
    data = await page(daemon, limit=3)
    assert [line["fields"]["n"] for line in data["logs"]] == [2, 1, 0]
    assert data["count"] == 3
    line = data["logs"][0]
    assert (line["level"], line["component"], line["message"]) == ("warn", "test.part", "it rains")
    assert list(line) == ["id", "timestamp", "level", "component", "message", "fields"]
    everything = await page(daemon)
    assert "ready" in [line["message"] for line in everything["logs"]], "a start is told, too"


async def test_pages_go_back_without_gaps_whatever_is_written_meanwhile(daemon):
    for number in range(25):
        speak.info("page me", n=number)
    seen, before = [], None
    while True:
        data = await page(daemon, source="test", limit=10, **({"before": before} if before else {}))
        seen += [line["fields"]["n"] for line in data["logs"]]
        assert data["pagination"]["total"] == 25
        assert data["pagination"]["limit"] == 10
        speak_elsewhere = get_logger("pi_orchestrator.elsewhere")
        speak_elsewhere.info("another line")
        if not data["pagination"]["has_more"]:
            break
        before = data["pagination"]["before"]
    assert seen == list(range(24, -1, -1))
    assert "before" not in data["pagination"]


async def test_level_and_source_choose(daemon):
    speak.debug("one")
    speak.info("two")
    speak.warning("three")
    speak.error("four")
    get_logger("pi_orchestrator.testing").error("other")
    for level, messages in (
        ("debug", ["four", "three", "two", "one"]),
        ("info", ["four", "three", "two"]),
        ("warn", ["four", "three"]),
        ("WARNING", ["four", "three"]),
        ("error", ["four"]),
    ):
        data = await page(daemon, level=level, source="test")
        assert [line["message"] for line in data["logs"]] == messages
    assert (await page(daemon, source="test.par"))["logs"] == []


async def test_what_is_no_query_is_named(daemon):
    for query in (
        {"level": "loud"}, {"level": ""}, {"source": ""}, {"source": "a b"}, {"source": ".a"}, {"source": "a" * 65},
        {"limit": 0}, {"limit": 1001}, {"before": -1}, {"before": "x"}, {"source": "net'; --"}, {"source": "a\n"},
    ):  # fmt: skip
        with case(query):
            answer = await daemon.api.get(LOGS, params=query)
            assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED")
            assert answer.json["error"]["details"].startswith(f"{next(iter(query))}: ")


async def test_what_is_said_is_safe_in_pages_and_streams(daemon):
    async with listening(daemon, tail=0) as stream:
        speak.error(HOSTILE, api_key=CANARY, url=f"http://u:{CANARY}@h/?password={CANARY}", data=HOSTILE.encode())
        logging.getLogger("library").error("%s token=%s", HOSTILE, CANARY)
        lines = [await Lines(stream).line(), await Lines(stream).line()]
        assert CANARY not in stream.raw.decode()
        assert b"\r" not in stream.raw
    answer = await daemon.api.get(LOGS, params={"limit": 2})
    assert CANARY not in answer.body.decode()
    assert answer.data["logs"] == lines[::-1]
    assert "all is well" in lines[0]["message"], "it is told all the same"
    for line in lines:
        for value in (line["message"], *line["fields"].values()):
            assert value.isprintable()


# Streams.


async def test_a_stream_of_lines_begins_with_the_last_ones_and_goes_on(daemon):
    for number in range(150):
        speak.info("before", n=number)
    newest = (await page(daemon, limit=1))["logs"][0]["id"]
    async with listening(daemon, source="test") as stream:
        lines = Lines(stream)
        first = await stream.frame()
        assert (first.name, first.id) == ("connection.established", None)
        assert first.data["payload"] == {"message": "Connected to logs", "last_event_id": newest}
        assert [(await lines.line())["fields"]["n"] for _ in range(100)] == list(range(50, 150))
        speak.warning("after")
        last = await lines.line()
        assert (last["message"], last["level"]) == ("after", "warn")
        assert stream.retry == 3000
    content = DOCUMENT["paths"][STREAM]["get"]["responses"]["200"]["content"]["text/event-stream"]
    assert content["schema"]["contentSchema"] == {"$ref": "#/components/schemas/LogLine"}
    validate(last, closed({"$ref": "#/components/schemas/LogLine"}))


async def test_only_lines_reach_who_listens_to_no_names(world, clock):
    """`onmessage` gets what has no name: neither the beginning nor the keep-alive is a line."""
    async with world.daemon(clock=clock) as running:
        await eventually(lambda: "mqtt connected" in messages(running))
        async with listening(running, tail=0) as stream:
            await clock.advance(15)
            speak.info("a line")
            frames = [await stream.frame() for _ in range(4)]
    assert [frame.name for frame in frames] == ["connection.established", "keepalive", "log", None]
    assert frames[1].data == {"timestamp": "2026-01-22T15:00:15.000000Z"}
    assert frames[1].id is None


async def test_the_copy_of_a_line_can_be_turned_off(world):
    async with (
        world.daemon(connected=False, http={"sse_unnamed_copy": False}) as running,
        listening(running, tail=0) as stream,
    ):
        speak.info("one")
        speak.info("two")
        lines = Lines(stream)
        assert [(await lines.line(copy=False))["message"] for _ in range(2)] == ["one", "two"]


async def test_a_stream_of_lines_goes_on_where_it_was(daemon):
    for number in range(10):
        speak.info("x", n=number)
    newest = (await page(daemon, limit=1))["logs"][0]["id"]
    for headers, query in (
        ({"Last-Event-ID": str(newest - 4)}, None),
        ({}, newest - 4),
        ({"Last-Event-ID": str(newest - 4)}, 0),
    ):
        async with opened(daemon.api, STREAM, established=False, headers=headers, last_event_id=query) as stream:
            lines = Lines(stream)
            assert [(await lines.line())["fields"]["n"] for _ in range(4)] == [6, 7, 8, 9]
    async with listening(daemon, last_event_id=newest) as stream:
        speak.info("new")
        assert (await Lines(stream).line())["message"] == "new"


@pytest.mark.parametrize("after", [0, 2**53, 2**63 - 1])
async def test_an_id_that_is_not_known_gets_all_that_is_kept(daemon, after):
    speak.info("the last")
    ring = daemon.services.log_ring
    async with listening(daemon, last_event_id=after) as stream:
        established = await stream.frame()
        assert established.data["payload"]["snapshot"] is True
        seen = await Lines(stream).until("the last")
    assert [line["id"] for line in seen] == list(range(ring.oldest, ring.newest + 1))


async def test_a_client_knows_where_it_is_before_the_first_line(daemon):
    async with listening(daemon, tail=0) as stream:
        await stream.frame()
        speak.info("x")
        line = await Lines(stream).line()
        assert f"\n\nid:{line['id'] - 1}\n\n".encode() in stream.raw


async def test_a_restart_of_the_process_goes_on_with_higher_ids(world, tmp_path):
    seen = []
    for turn in range(3):
        async with process_daemon(world, tmp_path) as process:
            headers = {"Last-Event-ID": str(seen[-1]["id"])} if seen else {}
            async with opened(process.api, STREAM, established=False, headers=headers) as stream:
                lines = await Lines(stream).until("mqtt connected")
            assert "ready" in [line["message"] for line in lines]
            seen += lines
            if turn == 1:
                await process.kill()
            else:
                assert await process.stop() == 0
    ids = [line["id"] for line in seen]
    assert ids == sorted(set(ids)), "none is given twice"
    assert ids[-1] < 2**53


# Lines among events.


async def test_lines_come_among_events_only_where_they_are_asked_for(daemon):
    async with (
        opened(daemon.api, types="scan.*,log") as both,
        opened(daemon.api, types="log") as only,
        opened(daemon.api) as neither,
        opened(daemon.api, types="scan.*,log.*") as family,
    ):
        speak.info("a line")
        newest = await say(daemon, "scan.started")
        events = {event.type: event for event in await both.events(2)}
        line = events["log"]
        assert line.id is None, "the ids of this stream are the events'"
        assert line.payload == (await page(daemon, limit=1, source="test"))["logs"][0]
        assert line.data["timestamp"] == line.payload["timestamp"]
        assert events["scan.started"].id == str(newest)
        validate(line.data, closed({"$ref": "#/components/schemas/StreamEvent"}))
        assert (await only.event()).payload == line.payload
        for stream in (neither, family):
            assert (await stream.event()).type == "scan.started"
            await hears_nothing(stream, daemon)


async def test_with_lines_among_them_events_resume_all_the_same(daemon):
    start = await say(daemon, *["scan.started"] * 600)
    speak.info("before")
    async with opened(daemon.api, types="scan.*,log", last_event_id=start - 500) as stream:
        speak.info("now")
        events = await stream.events(501)
    assert [int(event.id) for event in events if event.id] == list(range(start - 499, start + 1))
    assert [event.payload["message"] for event in events if not event.id] == ["now"]


# A flood, and fools.


async def test_a_stream_says_nothing_of_itself(daemon):
    """At its most talkative: what is told of a line must not be a line."""
    async with listening(daemon, tail=0) as stream, opened(daemon.api, types="log") as among:
        ring = daemon.services.log_ring
        await stream.frame()
        newest = ring.newest
        speak.info("one")
        await Lines(stream).line()
        await among.event()
        daemon.services.streams._heartbeat()
        assert (await stream.frame()).name == "keepalive"
        assert ring.newest == newest + 1


async def test_who_does_not_read_costs_nobody_anything_and_misses_what_is_gone(daemon, monkeypatch):
    monkeypatch.setattr(log_ring, "MOST_LINES", 500)
    async with stalled(daemon, f"{STREAM}?tail=0"), listening(daemon, tail=0) as good:
        await good.frame()
        slow = next(one for one in daemon.services.streams._clients if one is not _client_of(daemon, good))
        for number in range(3000):
            speak.info("x" * 500, n=number)
            if number % 100 == 99:
                for wanted in range(number - 99, number + 1):
                    assert (await Lines(good).line())["fields"]["n"] == wanted
        await eventually(lambda: slow.writing_since is not None)
        assert slow.queued < 3 * sse.QUEUE_BYTES
        assert not slow.ended
        assert daemon.services.streams.dropped == 0


def _client_of(daemon, stream):
    port = stream.response.connection.transport.get_extra_info("sockname")[1]
    clients = daemon.services.streams._clients
    return next(one for one in clients if one._transport.get_extra_info("peername")[1] == port)


async def test_who_takes_nothing_at_all_is_cut_off(world, clock):
    async with world.daemon(connected=False, clock=clock) as running, stalled(running, f"{STREAM}?tail=0"):
        (slow,) = running.services.streams._clients
        for number in range(3000):
            speak.info("x" * 900, n=number)
            if number % 500 == 0:
                await asyncio.sleep(0.01)
        await eventually(lambda: slow.writing_since is not None)
        await clock.advance(15)
        assert slow.ended


async def test_a_storm_from_another_thread_stalls_neither_loop_nor_memory(daemon):
    """100,000 lines as fast as they come, while streams read and the API answers."""
    ring, done = daemon.services.log_ring, threading.Event()
    line = {"event": "storm", "level": "info", "component": "test", "timestamp": "2026-01-22T15:00:00Z", "n": 1}

    def storm():
        for _ in range(100):
            for _ in range(1000):
                ring.hear(line)
            time.sleep(0.001)  # other threads want to live, too
        done.set()

    late, loop = [], asyncio.get_running_loop()
    async with listening(daemon, tail=0) as stream, opened(daemon.api, types="log") as among:
        await stream.frame()
        thread = threading.Thread(target=storm)
        thread.start()
        while not done.is_set():
            began = loop.time()
            await asyncio.sleep(0.01)
            late.append(loop.time() - began - 0.01)
            assert (await daemon.api.get("/health")).status == 200
        thread.join()
        speak.info("it is over")
        seen = await Lines(stream).until("it is over", within=20)
        ids = [one["id"] for one in seen]
        assert ids == sorted(set(ids))
        async with asyncio.timeout(20):
            while (await among.event()).payload["message"] != "it is over":
                pass
    assert ring.newest - ring.oldest < log_ring.MOST_LINES
    assert sorted(late)[len(late) // 2] < 0.1, "the loop goes on"
    assert max(late) < 3.0
    assert daemon.services.streams.dropped == 0


async def test_a_stop_does_not_wait_for_streams_of_lines(world):
    async with world.daemon(connected=False) as running, listening(running) as stream:
        running.services.streams.close()
        await stream.ended()


async def test_lines_need_a_key_where_everything_does(world):
    async with world.daemon(connected=False, auth={"mode": "required"}) as running:
        for path in (LOGS, STREAM, f"{EVENTS}?types=log"):
            assert (await running.api.get(path)).status == 401
            assert (await running.admin.get(path)).status == 200
