"""Server-sent events: one subscription to the hub feeds every client, and none of them can hold up another.

An event is rendered once, to bytes that all queues share. Each client's task writes what is queued for it; one whose
queue grows too long, or that takes nothing for too long, is cut off and comes back by itself with the id that it got
to. A client that is behind, because it has just come or because this part was, reads the log page by page at its own
speed. It goes on live in the very step of the loop in which the log holds nothing more, so nothing is lost or doubled.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from aiohttp import web

from pi_orchestrator.clock import Clock, rfc3339
from pi_orchestrator.errors import OrchestratorError, RateLimitedError
from pi_orchestrator.events import Event, Hub, Logged
from pi_orchestrator.logs import get_logger
from pi_orchestrator.storage import event_log
from pi_orchestrator.storage.database import Database
from pi_orchestrator.storage.event_log import Bounds, Wanted
from pi_orchestrator.supervisor import Beat

T = TypeVar("T")

CLIENTS = 256
HEARTBEAT_S = 15.0
TURNS_A_HEARTBEAT = 3
STUCK_S = 10.0
RETRY_MS = 3000
LONGEST_REPLAY = 5000
PAGE = 250
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
    """What a client is sent: a `message` to begin with, then what is wanted after the id `after` (None: from now on).

    Where the log does not reach back that far, the events of `state` stand for what was missed. `T` is the model of
    what is in a frame.
    """

    message: str
    wanted: Wanted
    after: int | None
    state: Callable[[], Awaitable[list[Logged]]]


def frames(
    type_: str, *, at: str, payload: object, session_id: str | None = None, event_id: int | None = None, copy: bool
) -> bytes:
    """An event as it is sent: under its name, and with `copy` once more without one, for those who listen to none."""
    envelope: dict[str, Any] = {"version": "1.0", "type": type_, "timestamp": at}
    if session_id is not None:
        envelope["session_id"] = session_id
    envelope["payload"] = payload
    # JSON in ASCII is one line, whatever is in it.
    data = f"data:{_encode(envelope)}\n\n"
    mark = "" if event_id is None else f"id:{event_id}\n"
    return f"{mark}event:{type_}\n{data}{mark + data if copy else ''}".encode()


def bookmark(event_id: int) -> bytes:
    """A block without an event, by which a client learns where it stands before it has got one."""
    return b"id:%d\n\n" % event_id


class Client:
    """A connected client: what is queued for it, and the id up to which that is all that it wants.

    One that is `behind` is told nothing: its task reads the log.
    """

    def __init__(self, *, wanted: Wanted, transport: asyncio.Transport, stands: Callable[[], bool]) -> None:
        self.wanted = wanted
        self.stands = stands
        self.position = 0
        self.behind = True
        self.ended = False
        self.queued = 0
        self.writing_since: float | None = None
        self.woken = asyncio.Event()
        self._queue: deque[bytes | memoryview] = deque()
        self._transport = transport

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

    def __init__(self, *, hub: Hub, database: Database, clock: Clock, unnamed_copy: bool) -> None:
        self.unnamed_copy = unnamed_copy
        self.sent = 0
        self.dropped = 0
        self._hub = hub
        self._database = database
        self._clock = clock
        self._clients: set[Client] = set()
        self._newest = 0  # the last event that was told; what comes after it, the clients will be told
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
            tasks.create_task(self._watch(beat), name="streams-watch")

    def close(self) -> None:
        """End every stream at once, and each that is asked for from now on."""
        self._closed = True
        for client in self._clients:
            client.end()

    async def serve(
        self, feed: Feed[Any], request: web.Request, response: web.StreamResponse, *, stands: Callable[[], bool]
    ) -> None:
        """Send a feed until the client goes, may not stay (`stands`), or the daemon stops.

        Raises only while the response has not begun.
        """
        if self.clients >= CLIENTS:
            raise RateLimitedError(f"there are {CLIENTS} streams already")
        transport = request.transport
        if transport is None:
            return
        client = Client(wanted=feed.wanted, transport=transport, stands=stands)
        self._clients.add(client)
        try:
            greeting = await self._greeting(feed, client)
            _bound(transport)
            await self._send(client, greeting, request, response)
        finally:
            client.ended = True
            self._clients.discard(client)

    async def _greeting(self, feed: Feed[Any], client: Client) -> bytes:
        """The first frames, and where the client stands after them."""
        session_id = feed.wanted.session_id
        bounds = await event_log.bounds(self._database)
        payload: dict[str, Any] = {"message": feed.message}
        if session_id is not None:
            payload["session_id"] = session_id
        payload["last_event_id"] = client.position = bounds.newest
        if feed.after is None:
            rest = bookmark(bounds.newest)
        elif _reaches(bounds, feed.after):
            client.position = feed.after
            rest = b""
        else:
            # The state is newer than the id: what happens in between is told twice rather than never.
            payload["snapshot"] = True
            rest = self._snapshot(await feed.state(), feed.wanted, bounds.newest)
        established = self._frames("connection.established", payload=payload, session_id=session_id)
        return b"retry: %d\n" % RETRY_MS + established + rest

    def _snapshot(self, state: Iterable[Logged], wanted: Wanted, newest: int) -> bytes:
        """The state as frames, of which the last alone carries the id: a client cut off before it asks again."""
        events = [event for event in state if wanted.takes(event)]
        if not events:
            return bookmark(newest)
        last = events.pop()
        return b"".join([*(self._event(event, None) for event in events), self._event(last, newest)])

    async def _send(self, client: Client, greeting: bytes, request: web.Request, response: web.StreamResponse) -> None:
        # An answer that has begun cannot become another: whatever goes wrong from here on, the connection ends.
        try:
            writer = await response.prepare(request)
            if writer is None or self._closed:
                return
            client.put(greeting)
            client.behind = client.position < self._newest
            while not client.ended:
                if client.queued:
                    client.writing_since = self._clock.monotonic()
                    await writer.write(client.take())
                    await writer.drain()
                    client.writing_since = None
                elif client.behind:
                    await self._read_on(client)
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

    async def _read_on(self, client: Client) -> None:
        """One page of the log for a client that is behind; at its end it goes on live."""
        upto = min(client.position + PAGE, self._newest)
        events = await event_log.between(self._database, client.position, upto, wanted=client.wanted)
        # Asked afterwards, so that it shows what was trimmed before the page was read.
        bounds = await event_log.bounds(self._database)
        if bounds.oldest > client.position + 1:
            client.end()  # it was too slow: it comes back, and gets the state
            return
        for event in events:
            client.put(self._event(event, event.id))
        self.sent += len(events)
        client.position = upto
        client.behind = upto < self._newest

    async def _follow(self) -> None:
        while True:
            with self._hub.subscribe(_is_logged, maxsize=BACKLOG) as subscription:
                self._leave_to_log((await event_log.bounds(self._database)).newest)
                work = 0
                async for event in subscription:
                    if isinstance(event, Logged):
                        self._tell(event)
                    work += 1 + len(self._clients)
                    if work > WORK_AT_ONCE:
                        work = 0
                        await asyncio.sleep(0)  # a flood: let it be written

    def _tell(self, event: Logged) -> None:
        if event.id <= self._newest:
            return
        if event.id > self._newest + 1:
            self._leave_to_log(event.id)
            return
        self._newest = event.id
        data = b""
        for client in self._clients:
            if client.behind or client.position >= event.id:
                continue
            client.position = event.id
            if client.wanted.takes(event) and not client.ended:
                data = data or self._event(event, event.id)
                client.put(data)
                self.sent += 1
                if client.queued > QUEUE_BYTES:
                    self._drop(client)

    def _leave_to_log(self, newest: int) -> None:
        """Events up to `newest` may have escaped us: whoever has not got them reads them in the log."""
        self._newest = max(self._newest, newest)
        for client in self._clients:
            client.behind = True
            client.woken.set()

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
        data = self._frames("connection.heartbeat", payload=None)
        for client in self._clients:
            if client.ended:
                continue
            if not client.stands():
                client.end()
            elif not client.behind:
                client.put(data)

    def _drop(self, client: Client) -> None:
        client.abort()
        self.dropped += 1
        now = self._clock.monotonic()
        if now >= self._complain_at:
            self._complain_at = now + COMPLAINT_S
            log.warning("a stream's client does not keep up and was cut off", dropped=self.dropped)

    def _event(self, event: Logged, event_id: int | None) -> bytes:
        return frames(
            event.type,
            at=event.at,
            payload=event.payload,
            session_id=event.session_id,
            event_id=event_id,
            copy=self.unnamed_copy,
        )

    def _frames(self, type_: str, *, payload: object, session_id: str | None = None) -> bytes:
        at = rfc3339(self._clock.wall())
        return frames(type_, at=at, payload=payload, session_id=session_id, copy=self.unnamed_copy)


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
