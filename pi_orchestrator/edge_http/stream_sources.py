"""The sources of the edge's streams: the event log on disk, and the last log lines in memory.

`StreamWorker` follows both. An event is sent to every live client as soon as it is committed. Log lines only wake their
clients, which always read them page by page, because lines can come faster than a client accepts them.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from pi_orchestrator.core.event_bus import EventBus
from pi_orchestrator.core.events import StoredEvent
from pi_orchestrator.core.log_buffer import Line, LineFilter, LogBuffer
from pi_orchestrator.core.supervisor import Beat
from pi_orchestrator.http.sse import Cursor, EventStreams, frame
from pi_orchestrator.storage import event_store
from pi_orchestrator.storage.database import Database

PAGE_ENTRIES = 250
PAGE_BYTES = 256 * 1024
BACKLOG = 16_384
"""Events that may be queued on the bus; with more, clients read the event log."""
WORK_PER_STEP = 1000
"""Events sent to clients before other tasks run: one event to 9 clients counts as 10."""
LOG_LINE = "log"
"""The event type of a log line."""
_encode = json.JSONEncoder(separators=(",", ":")).encode


def event_frame(
    type_: str, *, at: str, payload: object, session_id: str | None = None, event_id: int | None = None, copy: bool
) -> bytes:
    """An event as a frame named by its type: `{version, type, timestamp, session_id?, payload}`."""
    envelope: dict[str, Any] = {"version": "1.0", "type": type_, "timestamp": at}
    if session_id is not None:
        envelope["session_id"] = session_id
    envelope["payload"] = payload
    # ASCII JSON is always one line.
    return frame(type_, _encode(envelope).encode(), event_id=event_id, copy=copy)


def stored_frame(event: StoredEvent, event_id: int | None, *, copy: bool) -> bytes:
    """A stored event as a frame."""
    return event_frame(
        event.type, at=event.at, payload=event.payload, session_id=event.session_id, event_id=event_id, copy=copy
    )


class StoredEvents:
    """The event log; `newest` is the id of the last event that streams may send, not always of the last stored one."""

    def __init__(self, database: Database) -> None:
        self.newest = 0
        self._database = database

    async def bounds(self) -> event_store.Bounds:
        """The range of ids in the log."""
        return await event_store.bounds(self._database)

    async def page(self, cursor: Cursor, *, copy: bool) -> list[bytes] | None:
        """See `Source`."""
        end = min(cursor.position + PAGE_ENTRIES, self.newest)
        events = await event_store.between(self._database, cursor.position, end, event_filter=cursor.entry_filter)
        # Read after the page, to detect rows that were deleted before the page was read.
        if (await self.bounds()).oldest > cursor.position + 1:
            return None
        cursor.position = end
        cursor.behind = end < self.newest
        return [stored_frame(event, event.id, copy=copy) for event in events]


class LogLines:
    """The log buffer; a slow client misses lines, which it can see from their ids.

    With `among_events`, lines have the envelope of events and no ids, because ids on such a stream are those of events.
    """

    def __init__(self, buffer: LogBuffer, *, among_events: bool) -> None:
        self._buffer = buffer
        self._among_events = among_events

    @property
    def newest(self) -> int:
        """See `Source`."""
        return self._buffer.newest

    async def page(self, cursor: Cursor, *, copy: bool) -> list[bytes] | None:
        """See `Source`."""
        lines = self._buffer.after(cursor.position, max_lines=PAGE_ENTRIES, max_bytes=PAGE_BYTES)
        cursor.position = lines[-1][0] if lines else cursor.position
        cursor.behind = cursor.position < self._buffer.newest
        await asyncio.sleep(0)  # in a flood there is always a next page: let other tasks run
        line_filter: LineFilter = cursor.entry_filter
        return [self._frame(line_id, line, copy=copy) for line_id, line in lines if line_filter.matches(line)]

    def _frame(self, line_id: int, line: Line, *, copy: bool) -> bytes:
        document = line.json(line_id)
        if not self._among_events:
            return frame(LOG_LINE, document, event_id=line_id, copy=copy)
        return frame(
            LOG_LINE,
            b'{"version":"1.0","type":"log","timestamp":%b,"payload":%b}' % (_encode(line.at).encode(), document),
            copy=copy,
        )


class StreamWorker:
    """Feeds open streams from the event bus and the log buffer."""

    def __init__(self, *, streams: EventStreams, events: StoredEvents, bus: EventBus, buffer: LogBuffer) -> None:
        self._streams = streams
        self._events = events
        self._bus = bus
        self._buffer = buffer
        self.lines = LogLines(buffer, among_events=False)
        self.lines_among_events = LogLines(buffer, among_events=True)

    async def run(self, beat: Beat) -> None:
        """Feed the streams until cancelled."""
        beat()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_events(), name="streams-events")
            tasks.create_task(self._follow_lines(), name="streams-lines")
            tasks.create_task(self._streams.watch(beat), name="streams-watch")

    async def _follow_events(self) -> None:
        while True:
            with self._bus.subscribe(StoredEvent, maxsize=BACKLOG) as subscription:
                self._read_from_event_log((await self._events.bounds()).newest)
                work = 0
                async for event in subscription:
                    self.send(event)
                    work += 1 + len(self._streams.all_clients)
                    if work > WORK_PER_STEP:
                        work = 0
                        await asyncio.sleep(0)  # a flood: let the clients' tasks write

    def send(self, event: StoredEvent) -> None:
        """Send an event live, once; if an earlier one is missing, clients read the event log instead."""
        if event.id <= self._events.newest:
            return
        if event.id > self._events.newest + 1:
            self._read_from_event_log(event.id)
            return
        self._events.newest = event.id
        copy = self._streams.unnamed_copy
        self._streams.broadcast(
            self._events,
            event.id,
            selects=lambda event_filter: event_filter.matches(event),
            data=lambda: stored_frame(event, event.id, copy=copy),
        )

    def _read_from_event_log(self, newest: int) -> None:
        """Make clients read events up to `newest` from the event log, because some may have been missed."""
        self._events.newest = max(self._events.newest, newest)
        self._streams.mark_behind(self._events)

    async def _follow_lines(self) -> None:
        signal = _Signal()
        with self._buffer.listening(signal.send):
            while True:
                self._streams.mark_behind(self.lines)
                self._streams.mark_behind(self.lines_among_events)
                await signal.received()


class _Signal:
    """Can be sent from any thread; signals sent before the event loop handles one are received as one."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._is_pending = False

    def send(self) -> None:
        if not self._is_pending:
            self._is_pending = True
            self._loop.call_soon_threadsafe(self._receive)

    async def received(self) -> None:
        await self._event.wait()
        self._event.clear()

    def _receive(self) -> None:
        self._is_pending = False
        self._event.set()
