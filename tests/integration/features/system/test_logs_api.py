"""The log API: pages, streams that resume, floods and slow clients."""

import asyncio
import json
import logging
import threading
import time

import pytest

from pi_orchestrator.core import log_buffer
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.http import sse
from tests.support.api import DOCUMENT, case, validate
from tests.support.process import daemon as process_daemon
from tests.support.sse import EVENTS, assert_no_event, opened, stalled_client, store_events
from tests.support.waiting import HANG_S, eventually
from tests.unit.core.test_logging import CANARY, HOSTILE

pytestmark = pytest.mark.usefixtures("documented_answers")

LOGS = "/api/v1/system/logs"
STREAM = f"{LOGS}/stream"

logger = get_logger("pi_orchestrator.test.part")


@pytest.fixture
async def daemon(rig):
    """A daemon that has logged all lines of its start."""
    async with rig.daemon() as running:
        await eventually(lambda: "mqtt connected" in messages(running))
        yield running


def messages(running):
    return [json.loads(line.json(0))["message"] for _, line in running.app.resources.log_buffer.all()]


class Lines:
    """Reads log lines from a `tests.support.sse.Stream`."""

    def __init__(self, stream):
        self.stream = stream

    async def line(self, *, copy=True, within=10):
        """The next line: a frame named `log`, then its copy without a name."""
        frame = await self.stream.frame(within)
        while frame.name in ("connection.established", "keepalive"):
            frame = await self.stream.frame(within)
        assert frame.name == "log"
        if copy:
            unnamed = await self.stream.frame(within)
            assert (unnamed.name, unnamed.id, unnamed.data) == (None, frame.id, frame.data)
        assert frame.id == str(frame.data["id"])
        return frame.data

    async def number(self):
        """The field `n` of the next line that has one; the daemon may log lines in between."""
        while "n" not in (fields := (await self.line()).get("fields", {})):
            pass
        return fields["n"]

    async def until(self, message, **options):
        """Lines up to the first with this message."""
        seen = [await self.line(**options)]
        while seen[-1]["message"] != message:
            seen.append(await self.line(**options))
        return seen


def listening(running, **query):
    return opened(running.api, STREAM, established=False, **query)


async def page(running, **query):
    return (await running.api.get(LOGS, params=query)).data


# Pages.


async def test_logs_page_returns_newest_first(daemon):
    for number in range(3):
        logger.warning("test line", n=number)
    data = await page(daemon, limit=3)
    assert [line["fields"]["n"] for line in data["logs"]] == [2, 1, 0]
    assert data["count"] == 3
    line = data["logs"][0]
    assert (line["level"], line["component"], line["message"]) == ("warn", "test.part", "test line")
    assert list(line) == ["id", "timestamp", "level", "component", "message", "fields"]
    everything = await page(daemon)
    assert "ready" in [line["message"] for line in everything["logs"]], "lines of the start are stored too"


async def test_logs_pages_have_no_gaps_during_writes(daemon):
    for number in range(25):
        logger.info("page me", n=number)
    seen, before = [], None
    while True:
        data = await page(daemon, source="test", limit=10, **({"before": before} if before else {}))
        seen += [line["fields"]["n"] for line in data["logs"]]
        assert data["pagination"]["total"] == 25
        assert data["pagination"]["limit"] == 10
        get_logger("pi_orchestrator.other").info("another line")
        if not data["pagination"]["has_more"]:
            break
        before = data["pagination"]["before"]
    assert seen == list(range(24, -1, -1))
    assert "before" not in data["pagination"]


async def test_logs_level_and_source_filter(daemon):
    logger.debug("one")
    logger.info("two")
    logger.warning("three")
    logger.error("four")
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


async def test_logs_invalid_query_is_named_in_error(daemon):
    for query in (
        {"level": "loud"}, {"level": ""}, {"source": ""}, {"source": "a b"}, {"source": ".a"}, {"source": "a" * 65},
        {"limit": 0}, {"limit": 1001}, {"before": -1}, {"before": "x"}, {"source": "net'; --"}, {"source": "a\n"},
    ):  # fmt: skip
        with case(query):
            answer = await daemon.api.get(LOGS, params=query)
            assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED")
            assert answer.json["error"]["details"].startswith(f"{next(iter(query))}: ")


async def test_hostile_lines_are_masked_and_printable(daemon):
    async with listening(daemon, tail=0) as stream:
        logger.error(HOSTILE, api_key=CANARY, url=f"http://u:{CANARY}@h/?password={CANARY}", data=HOSTILE.encode())
        logging.getLogger("library").error("%s token=%s", HOSTILE, CANARY)
        lines = [await Lines(stream).line(), await Lines(stream).line()]
        assert CANARY not in stream.raw.decode()
        assert b"\r" not in stream.raw
    answer = await daemon.api.get(LOGS, params={"limit": 2})
    assert CANARY not in answer.body.decode()
    assert answer.data["logs"] == lines[::-1]
    assert "all is well" in lines[0]["message"], "the rest of the message is kept"
    for line in lines:
        for value in (line["message"], *line["fields"].values()):
            assert value.isprintable()


# Streams.


async def test_log_stream_sends_last_lines(daemon):
    for number in range(150):
        logger.info("before", n=number)
    newest = (await page(daemon, limit=1))["logs"][0]["id"]
    async with listening(daemon, source="test") as stream:
        lines = Lines(stream)
        first = await stream.frame()
        assert (first.name, first.id) == ("connection.established", None)
        assert first.data["payload"] == {"message": "Connected to logs", "last_event_id": newest}
        assert [(await lines.line())["fields"]["n"] for _ in range(100)] == list(range(50, 150))
        logger.warning("after")
        last = await lines.line()
        assert (last["message"], last["level"]) == ("after", "warn")
        assert stream.retry == 3000
    content = DOCUMENT["paths"][STREAM]["get"]["responses"]["200"]["content"]["text/event-stream"]
    assert content["schema"]["contentSchema"] == {"$ref": "#/components/schemas/LogLine"}
    validate(last, {"$ref": "#/components/schemas/LogLine"}, closed=True)


async def test_unnamed_frames_are_only_lines(rig, clock):
    """`onmessage` receives unnamed frames only: neither `connection.established` nor `keepalive` is one."""
    async with rig.daemon(clock=clock) as running:
        await eventually(lambda: "mqtt connected" in messages(running))
        async with listening(running, tail=0) as stream:
            await clock.advance(15)
            logger.info("a line")
            frames = [await stream.frame() for _ in range(4)]
    assert [frame.name for frame in frames] == ["connection.established", "keepalive", "log", None]
    assert frames[1].data == {"timestamp": "2026-01-22T15:00:15.000000Z"}
    assert frames[1].id is None


async def test_unnamed_copy_of_lines_can_be_disabled(rig):
    async with (
        rig.daemon(connected=False, http={"sse_unnamed_copy": False}) as running,
        listening(running, tail=0) as stream,
    ):
        logger.info("one")
        logger.info("two")
        lines = Lines(stream)
        assert [(await lines.line(copy=False))["message"] for _ in range(2)] == ["one", "two"]


async def test_log_stream_resumes_after_id(daemon):
    for number in range(10):
        logger.info("x", n=number)
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
        logger.info("new")
        assert (await Lines(stream).line())["message"] == "new"


@pytest.mark.parametrize("after", [0, 2**53, 2**63 - 1])
async def test_log_stream_with_unknown_id_sends_all_lines(daemon, after):
    logger.info("the last")
    buffer = daemon.app.resources.log_buffer
    async with listening(daemon, last_event_id=after) as stream:
        established = await stream.frame()
        assert established.data["payload"]["snapshot"] is True
        seen = await Lines(stream).until("the last")
    assert [line["id"] for line in seen] == list(range(buffer.oldest, buffer.newest + 1))


async def test_log_stream_sends_id_before_first_line(daemon):
    async with listening(daemon, tail=0) as stream:
        await stream.frame()
        logger.info("x")
        line = await Lines(stream).line()
        assert f"\n\nid:{line['id'] - 1}\n\n".encode() in stream.raw


async def test_line_ids_rise_over_restarts(rig, tmp_path):
    seen = []
    for turn in range(3):
        async with process_daemon(rig, tmp_path) as process:
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
    assert ids == sorted(set(ids)), "no id is used twice"
    assert ids[-1] < 2**53


# Lines among events.


async def test_event_stream_sends_lines_only_on_request(daemon):
    async with (
        opened(daemon.api, types="scan.*,log") as both,
        opened(daemon.api, types="log") as only,
        opened(daemon.api) as neither,
        opened(daemon.api, types="scan.*,log.*") as family,
    ):
        logger.info("a line")
        newest = await store_events(daemon, "scan.started")
        events = {event.type: event for event in await both.events(2)}
        line = events["log"]
        assert line.id is None, "ids of this stream belong to events"
        assert line.payload == (await page(daemon, limit=1, source="test"))["logs"][0]
        assert line.data["timestamp"] == line.payload["timestamp"]
        assert events["scan.started"].id == str(newest)
        validate(line.data, {"$ref": "#/components/schemas/StreamEvent"}, closed=True)
        assert (await only.event()).payload == line.payload
        for stream in (neither, family):
            assert (await stream.event()).type == "scan.started"
            await assert_no_event(stream, daemon)


async def test_event_stream_with_lines_resumes_events(daemon):
    start = await store_events(daemon, *["scan.started"] * 600)
    logger.info("before")
    async with opened(daemon.api, types="scan.*,log", last_event_id=start - 500) as stream:
        logger.info("now")
        events = await stream.events(501)
    assert [int(event.id) for event in events if event.id] == list(range(start - 499, start + 1))
    assert [event.payload["message"] for event in events if not event.id] == ["now"]


# Floods and slow clients.


async def test_log_stream_logs_no_lines(daemon):
    """Sending a line must not log a line, or the log would never end."""
    async with listening(daemon, tail=0) as stream, opened(daemon.api, types="log") as events_stream:
        buffer = daemon.app.resources.log_buffer
        await stream.frame()
        newest = buffer.newest
        logger.info("one")
        await Lines(stream).line()
        await events_stream.event()
        daemon.app.events.streams.send_heartbeats()
        assert (await stream.frame()).name == "keepalive"
        assert buffer.newest == newest + 1


async def test_slow_log_client_misses_lines_but_stays_connected(daemon, monkeypatch):
    monkeypatch.setattr(log_buffer, "MAX_LINES", 500)
    async with stalled_client(daemon, f"{STREAM}?tail=0"), listening(daemon, tail=0) as good:
        await good.frame()
        slow = next(
            client for client in daemon.app.events.streams.all_clients if client is not _client_of(daemon, good)
        )
        for number in range(3000):
            logger.info("x" * 500, n=number)
            if number % 100 == 99:
                for expected in range(number - 99, number + 1):
                    assert await Lines(good).number() == expected
        await eventually(lambda: slow.writing_since is not None)
        assert slow.queued < 3 * sse.QUEUE_BYTES
        assert not slow.is_ended
        assert daemon.app.events.streams.dropped == 0


def _client_of(daemon, stream):
    port = stream.response.connection.transport.get_extra_info("sockname")[1]
    clients = daemon.app.events.streams.all_clients
    return next(client for client in clients if client.transport.get_extra_info("peername")[1] == port)


async def test_stalled_log_client_is_disconnected(rig, clock):
    async with rig.daemon(connected=False, clock=clock) as running, stalled_client(running, f"{STREAM}?tail=0"):
        (slow,) = running.app.events.streams.all_clients
        for number in range(3000):
            logger.info("x" * 900, n=number)
            if number % 500 == 0:
                await asyncio.sleep(0.01)
        await eventually(lambda: slow.writing_since is not None)
        await clock.advance(15)
        assert slow.is_ended


async def test_log_flood_from_thread_does_not_block_loop(daemon):
    """100,000 lines as fast as possible, and more until the API has answered, while streams are read."""
    buffer, answered_often, done = daemon.app.resources.log_buffer, threading.Event(), threading.Event()
    line = {"event": "flood", "level": "info", "component": "test", "timestamp": "2026-01-22T15:00:00Z", "n": 1}

    def flood():
        batches = 0
        while batches < 100 or not (answered_often.is_set() or batches == 10_000):
            for _ in range(1000):
                buffer.append(line)
            time.sleep(0.001)  # let other threads run
            batches += 1
        done.set()

    async with listening(daemon, tail=0) as stream, opened(daemon.api, types="log") as events_stream:
        await stream.frame()

        async def last_event():
            while (await events_stream.event()).payload["message"] != "last line":
                pass

        reading = asyncio.gather(Lines(stream).until("last line", within=HANG_S), last_event())
        thread, answered = threading.Thread(target=flood), 0
        thread.start()
        while not done.is_set():
            answered += (await daemon.api.get("/health")).status == 200
            if answered > 10:
                answered_often.set()
        thread.join()
        assert answered > 10, "the loop continues"
        logger.info("last line")
        async with asyncio.timeout(HANG_S):
            seen, _ = await reading
        ids = [line["id"] for line in seen]
        assert ids == sorted(set(ids))
    assert buffer.newest - buffer.oldest < log_buffer.MAX_LINES
    assert daemon.app.events.streams.dropped == 0


async def test_stop_ends_log_streams(rig):
    async with rig.daemon(connected=False) as running, listening(running) as stream:
        running.app.events.streams.close()
        await stream.ended()


async def test_logs_need_key_in_required_mode(rig):
    async with rig.daemon(connected=False, auth={"mode": "required"}) as running:
        for path in (LOGS, STREAM, f"{EVENTS}?types=log"):
            assert (await running.api.get(path)).status == 401
            assert (await running.admin.get(path)).status == 200
