"""Server-sent events: one engine feeds every client, and none of them can hold up another.

An event is rendered once, to bytes that all queues share. Each client's task writes what is queued for it; one whose
queue grows too long, or that takes nothing for too long, is cut off and comes back by itself with the id that it got
to. A client that is behind in a source (`sources.py`), because it has just come or because this part was, reads it
page by page at its own speed. It goes on live in the very step of the loop in which the source holds nothing more, so
nothing is lost or doubled. Lines of the log are always read that way: they can come faster than anybody takes them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from aiohttp import web

from pi_orchestrator.api.sources import Cursor, LogLines, StoredEvents, bookmark, event_frame, frames, named
from pi_orchestrator.clock import Clock, rfc3339
from pi_orchestrator.errors import OrchestratorError, RateLimitedError
from pi_orchestrator.events import Event, Hub, Logged
from pi_orchestrator.log_ring import LineWanted, LogRing
from pi_orchestrator.logs import get_logger
from pi_orchestrator.storage.database import Database
from pi_orchestrator.storage.event_log import Bounds, Wanted
from pi_orchestrator.supervisor import Beat

T = TypeVar("T")

CLIENTS = 256
HEARTBEAT_S = 15.0
TURNS_A_HEARTBEAT = 3
STUCK_S = 10.0
RETRY_MS = 3000
ESTABLISHED = "connection.established"
HEARTBEAT = "connection.heartbeat"
KEEPALIVE = "keepalive"
LONGEST_REPLAY = 5000
BACKLOG = 16_384
QUEUE_BYTES = 1024 * 1024
WRITE_BYTES = 32 * 1024
SEND_BUFFER_BYTES = 64 * 1024
UNACKNOWLEDGED_MS = 30_000
WORK_AT_ONCE = 1000
COMPLAINT_S = 60.0

log = get_logger(__name__)
_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Feed(Generic[T]):
    """What a client is sent: a `message` to begin with, then events after the id `after` (None: from now on).

    Where the event log does not reach back that far, the events of `state` stand for what was missed. Lines of the
    log come among them from now on, where `lines` says which. `T` is the model of what is in a frame.
    """

    message: str
    wanted: Wanted
    after: int | None
    state: Callable[[], Awaitable[list[Logged]]]
    lines: LineWanted | None = None


@dataclass(frozen=True, slots=True)
class LineFeed(Generic[T]):
    """What a client of the log is sent: lines after the id `after`, or from the last `tail` lines on where it is None.

    Where the ring does not reach back that far, all that it holds comes.
    """

    message: str
    wanted: LineWanted
    after: int | None
    tail: int = 0


class Client:
    """A connected client: what is queued for it, and where it stands in what it reads.

    The ids that it is sent are those of the first of its `cursors`.
    """

    def __init__(
        self,
        *,
        cursors: Sequence[Cursor],
        transport: asyncio.Transport,
        stands: Callable[[], bool],
        heartbeat: str = HEARTBEAT,
    ) -> None:
        self.cursors = cursors
        self.stands = stands
        self.heartbeat = heartbeat
        self.ended = False
        self.queued = 0
        self.writing_since: float | None = None
        self.woken = asyncio.Event()
        self._queue: deque[bytes | memoryview] = deque()
        self._transport = transport

    @property
    def behind(self) -> Cursor | None:
        """The source that its task has to read on in, if there is one."""
        return next((cursor for cursor in self.cursors if cursor.behind), None)

    @property
    def gone(self) -> bool:
        """Whether the other side has closed."""
        return self._transport.is_closing()

    def put(self, data: bytes) -> None:
        """Queue bytes for the task."""
        self._queue.append(data)
        self.queued += len(data)
        self.woken.set()

    def take(self) -> bytes | memoryview:
        """All that is queued, or as much of it as is written at once."""
        taken: list[bytes | memoryview] = []
        room = WRITE_BYTES
        while self._queue and room:
            first = self._queue.popleft()
            if len(first) > room:
                view = memoryview(first)
                first = view[:room]
                self._queue.appendleft(view[room:])
            taken.append(first)
            room -= len(first)
        self.queued -= WRITE_BYTES - room
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def end(self) -> None:
        """Let the task end; what the client has not taken by now, it will ask for when it comes back."""
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        self.ended = True
        self.woken.set()

    def abort(self) -> None:
        """Cut it off, whatever its task is doing."""
        self._transport.abort()
        self.end()


class Streams:
    """Every open stream; `unnamed_copy` may change while they run."""

    def __init__(self, *, hub: Hub, database: Database, log_ring: LogRing, clock: Clock, unnamed_copy: bool) -> None:
        self.unnamed_copy = unnamed_copy
        self.sent = 0
        self.dropped = 0
        self._hub = hub
        self._log_ring = log_ring
        self._clock = clock
        self._clients: set[Client] = set()
        self._events = StoredEvents(database)
        self._lines = LogLines(log_ring, among_events=False)
        self._lines_among_events = LogLines(log_ring, among_events=True)
        self._closed = False
        self._complain_at = 0.0

    @property
    def clients(self) -> int:
        """How many are connected."""
        for client in self._clients:
            if client.gone:
                client.end()  # its task would find out with its next write
        return sum(not client.ended for client in self._clients)

    async def run(self, beat: Beat) -> None:
        """Feed the clients, until cancelled."""
        beat()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="streams-events")
            tasks.create_task(self._follow_lines(), name="streams-lines")
            tasks.create_task(self._watch(beat), name="streams-watch")

    def close(self) -> None:
        """End every stream at once, and each that is asked for from now on."""
        self._closed = True
        for client in self._clients:
            client.end()

    async def serve(
        self,
        feed: Feed[Any] | LineFeed[Any],
        request: web.Request,
        response: web.StreamResponse,
        *,
        stands: Callable[[], bool],
    ) -> None:
        """Send a feed until the client goes, may not stay (`stands`), or the daemon stops.

        Raises only while the response has not begun.
        """
        if self.clients >= CLIENTS:
            raise RateLimitedError(f"there are {CLIENTS} streams already")
        transport = request.transport
        if transport is None:
            return
        client = Client(
            cursors=self._cursors(feed),
            transport=transport,
            stands=stands,
            heartbeat=KEEPALIVE if isinstance(feed, LineFeed) else HEARTBEAT,
        )
        self._clients.add(client)
        try:
            greeting = (
                self._line_greeting(feed, client) if isinstance(feed, LineFeed) else await self._greeting(feed, client)
            )
            _bound(transport)
            await self._send(client, b"retry: %d\n%b" % (RETRY_MS, greeting), request, response)
        finally:
            client.ended = True
            self._clients.discard(client)

    def _cursors(self, feed: Feed[Any] | LineFeed[Any]) -> list[Cursor]:
        if isinstance(feed, LineFeed):
            return [Cursor(self._lines, feed.wanted)]
        cursors = [Cursor(self._events, feed.wanted)]
        if feed.lines is not None:
            cursors.append(Cursor(self._lines_among_events, feed.lines, position=self._log_ring.newest))
        return cursors

    async def _greeting(self, feed: Feed[Any], client: Client) -> bytes:
        """The first frames, and where the client stands in the event log after them."""
        cursor = client.cursors[0]
        session_id = feed.wanted.session_id
        bounds = await self._events.bounds()
        payload: dict[str, Any] = {"message": feed.message}
        if session_id is not None:
            payload["session_id"] = session_id
        payload["last_event_id"] = cursor.position = bounds.newest
        if feed.after is None:
            rest = bookmark(bounds.newest)
        elif _reaches(bounds, feed.after):
            cursor.position = feed.after
            rest = b""
        else:
            # The state is newer than the id: what happens in between is told twice rather than never.
            payload["snapshot"] = True
            rest = self._snapshot(await feed.state(), feed.wanted, bounds.newest)
        established = self._frames(ESTABLISHED, payload=payload, session_id=session_id, copy=self.unnamed_copy)
        return established + rest

    def _line_greeting(self, feed: LineFeed[Any], client: Client) -> bytes:
        """The first frame, and where the client stands in the ring after it."""
        ring = self._log_ring
        payload: dict[str, Any] = {"message": feed.message, "last_event_id": ring.newest}
        if feed.after is None:
            position = ring.before_last(feed.tail, wanted=feed.wanted)
        elif ring.oldest - 1 <= feed.after <= ring.newest:
            position = feed.after
        else:
            payload["snapshot"] = True
            position = ring.oldest - 1
        client.cursors[0].position = position
        # Whoever listens to no names takes every frame for a line: this one is for those who do.
        return self._frames(ESTABLISHED, payload=payload, copy=False) + bookmark(position)

    def _snapshot(self, state: Iterable[Logged], wanted: Wanted, newest: int) -> bytes:
        """The state as frames, of which the last alone carries the id: a client cut off before it asks again."""
        events = [event for event in state if wanted.takes(event)]
        if not events:
            return bookmark(newest)
        last = events.pop()
        told = [*(event_frame(event, None, copy=self.unnamed_copy) for event in events)]
        return b"".join([*told, event_frame(last, newest, copy=self.unnamed_copy)])

    async def _send(self, client: Client, greeting: bytes, request: web.Request, response: web.StreamResponse) -> None:
        # An answer that has begun cannot become another: whatever goes wrong from here on, the connection ends.
        try:
            writer = await response.prepare(request)
            if writer is None or self._closed:
                return
            client.put(greeting)
            for cursor in client.cursors:
                cursor.behind = cursor.position < cursor.source.newest
            while not client.ended:
                if client.queued:
                    client.writing_since = self._clock.monotonic()
                    await writer.write(client.take())
                    await writer.drain()
                    client.writing_since = None
                elif behind := client.behind:
                    await self._read_on(client, behind)
                else:
                    await client.woken.wait()
                    client.woken.clear()
        except ConnectionError:
            pass  # it went away
        except OrchestratorError as error:
            log.warning("a stream broke off", code=error.code, reason=error.message)
            client.abort()
        except Exception:
            log.exception("a stream broke off")
            client.abort()

    async def _read_on(self, client: Client, cursor: Cursor) -> None:
        """One page of a source for a client that is behind in it; at its end it goes on live."""
        page = await cursor.source.page(cursor, copy=self.unnamed_copy)
        if page is None:
            client.end()  # it was too slow: it comes back, and gets the state
            return
        for frame in page:
            client.put(frame)
        self.sent += len(page)

    async def _follow(self) -> None:
        while True:
            with self._hub.subscribe(_is_logged, maxsize=BACKLOG) as subscription:
                self._leave_to_log((await self._events.bounds()).newest)
                work = 0
                async for event in subscription:
                    if isinstance(event, Logged):
                        self._tell(event)
                    work += 1 + len(self._clients)
                    if work > WORK_AT_ONCE:
                        work = 0
                        await asyncio.sleep(0)  # a flood: let it be written

    def _tell(self, event: Logged) -> None:
        if event.id <= self._events.newest:
            return
        if event.id > self._events.newest + 1:
            self._leave_to_log(event.id)
            return
        self._events.newest = event.id
        data = b""
        for client in self._clients:
            cursor = client.cursors[0]
            if cursor.source is not self._events or cursor.behind or cursor.position >= event.id:
                continue
            cursor.position = event.id
            if cursor.wanted.takes(event) and not client.ended:
                data = data or event_frame(event, event.id, copy=self.unnamed_copy)
                client.put(data)
                self.sent += 1
                if client.queued > QUEUE_BYTES:
                    self._drop(client)

    def _leave_to_log(self, newest: int) -> None:
        """Events up to `newest` may have escaped us: whoever has not got them reads them in the log."""
        self._events.newest = max(self._events.newest, newest)
        for client in self._clients:
            cursor = client.cursors[0]
            if cursor.source is self._events:
                cursor.behind = True
                client.woken.set()

    async def _follow_lines(self) -> None:
        bell = _Bell()
        with self._log_ring.told(bell.ring):
            while True:
                for client in self._clients:
                    cursor = client.cursors[-1]
                    if cursor.source is not self._events:
                        cursor.behind = True
                        client.woken.set()
                await bell.rung()

    async def _watch(self, beat: Beat) -> None:
        for turn in itertools.count(1):
            await self._clock.sleep(HEARTBEAT_S / TURNS_A_HEARTBEAT)
            beat()
            since = self._clock.monotonic() - STUCK_S
            for client in self._clients:
                if not client.ended and client.writing_since is not None and client.writing_since <= since:
                    self._drop(client)
            if turn % TURNS_A_HEARTBEAT == 0:
                self._heartbeat()

    def _heartbeat(self) -> None:
        at = rfc3339(self._clock.wall())
        beats = {
            HEARTBEAT: self._frames(HEARTBEAT, payload=None, copy=self.unnamed_copy),
            KEEPALIVE: named(KEEPALIVE, _encode({"timestamp": at}).encode(), copy=False),
        }
        for client in self._clients:
            if client.ended:
                continue
            if not client.stands():
                client.end()
            elif not client.behind:
                client.put(beats[client.heartbeat])

    def _drop(self, client: Client) -> None:
        client.abort()
        self.dropped += 1
        now = self._clock.monotonic()
        if now >= self._complain_at:
            self._complain_at = now + COMPLAINT_S
            log.warning("a stream's client does not keep up and was cut off", dropped=self.dropped)

    def _frames(self, type_: str, *, payload: object, session_id: str | None = None, copy: bool) -> bytes:
        return frames(type_, at=rfc3339(self._clock.wall()), payload=payload, session_id=session_id, copy=copy)


class _Bell:
    """Rung from any thread; however often that is before the loop gets to it, it gets to it once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._heard = asyncio.Event()
        self._is_ringing = False

    def ring(self) -> None:
        if not self._is_ringing:
            self._is_ringing = True
            self._loop.call_soon_threadsafe(self._hear)

    async def rung(self) -> None:
        await self._heard.wait()
        self._heard.clear()

    def _hear(self) -> None:
        self._is_ringing = False
        self._heard.set()


def _is_logged(event: Event) -> bool:
    return isinstance(event, Logged)


def _reaches(bounds: Bounds, after: int) -> bool:
    """Whether the log holds everything since this id, and that is not too much."""
    return bounds.oldest - 1 <= after <= bounds.newest <= after + LONGEST_REPLAY


def _bound(transport: asyncio.Transport) -> None:
    """Keep what a client does not take out of our memory and the kernel's, and notice one that left without a word."""
    transport.set_write_buffer_limits(high=WRITE_BYTES)
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
