"""Server-sent events: one engine serves every client, and no client can delay another.

An event is rendered once, to bytes that all queues share. Each client's task writes what is queued for it. A client
whose queue grows too long, or that accepts no data for too long, is disconnected; it reconnects with the last id that
it received. A client that is behind in a `Source`, because it is new or because events may have been missed, reads the
source page by page at its own speed. It changes to live events in the same step of the event loop in which the source
has no further entry, so no entry is lost or sent twice.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Protocol, TypeVar

from aiohttp import web
from pydantic import BeforeValidator, Field, WithJsonSchema

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import FieldError, OrchestratorError, RateLimitedError
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.supervisor import Beat
from pi_orchestrator.http.model import RequestModel

T = TypeVar("T")

MAX_CLIENTS = 256
HEARTBEAT_S = 15.0
CHECKS_PER_HEARTBEAT = 3
STALLED_AFTER_S = 10.0
RETRY_MS = 3000
QUEUE_BYTES = 1024 * 1024
WRITE_BYTES = 32 * 1024
SEND_BUFFER_BYTES = 64 * 1024
TCP_USER_TIMEOUT_MS = 30_000
WARNING_INTERVAL_S = 60.0
MAX_EVENT_ID = 2**63 - 1
_ID = re.compile(r"[0-9]{1,19}", re.ASCII)

log = get_logger(__name__)


def parse_event_id(value: object) -> int:
    """Parse an event id sent by a client; FieldError if it is invalid."""
    text = str(value)
    if not _ID.fullmatch(text) or int(text) > MAX_EVENT_ID:
        raise FieldError(f"an event id is a whole number from 0 to {MAX_EVENT_ID}")
    return int(text)


EventId = Annotated[
    int, BeforeValidator(parse_event_id), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": MAX_EVENT_ID})
]


class ResumeHeaders(RequestModel):
    """Headers that a browser sends automatically when it reconnects to a stream."""

    last_event_id: EventId | None = Field(
        None, alias="Last-Event-ID", description="the last id that the client received; takes precedence over the query"
    )


def frame(name: str, document: bytes, *, event_id: int | None = None, copy: bool) -> bytes:
    """A one-line document as a named event; with `copy` also without a name, for clients that use only `onmessage`."""
    data = b"data:%b\n\n" % document
    id_line = b"" if event_id is None else b"id:%d\n" % event_id
    return b"%bevent:%b\n%b%b" % (id_line, name.encode(), data, id_line + data if copy else b"")


def bookmark(event_id: int) -> bytes:
    """A block with an id but no event: gives a client its position before the first event."""
    return b"id:%d\n\n" % event_id


class Source(Protocol):
    """Numbered entries that are stored for a limited time."""

    @property
    def newest(self) -> int:
        """The id of the newest entry that may be sent."""

    async def page(self, cursor: Cursor, *, copy: bool) -> list[bytes] | None:
        """The next entries that the cursor selects, as frames; moves the cursor. None if some of them are lost."""


@dataclass(slots=True)
class Cursor:
    """A client's position in a source, and its filter of entries; while `behind`, the client gets no live entries."""

    source: Source
    entry_filter: Any
    position: int = 0
    behind: bool = True


@dataclass(frozen=True, slots=True)
class Opening:
    """The start of a stream: its first bytes, and the positions in its sources after them.

    The ids that the client receives are those of the first cursor.
    """

    first_frames: bytes
    cursors: Sequence[Cursor]


class Feed(ABC, Generic[T]):
    """What a handler returns for a stream; `T` is the model of a frame's data."""

    @abstractmethod
    async def open(self, *, copy: bool) -> Opening:
        """The start of the stream for a new client; OrchestratorError refuses the client."""

    @abstractmethod
    def heartbeat(self, *, copy: bool) -> bytes:
        """A frame for an idle client, so that both sides notice a dead connection."""


class Client:
    """A connected client: its queue, and its positions in its sources.

    `queued`: bytes in the queue. `is_greeted`: the first frames of the stream are queued, so heartbeats may follow.
    """

    def __init__(
        self,
        *,
        cursors: Sequence[Cursor],
        transport: asyncio.Transport,
        may_continue: Callable[[], bool],
        heartbeat: Callable[..., bytes] | None = None,
    ) -> None:
        self.cursors = cursors
        self.may_continue = may_continue
        self.heartbeat = heartbeat
        self.is_greeted = False
        self.is_ended = False
        self.queued = 0
        self.writing_since: float | None = None
        self.wakeup = asyncio.Event()
        self._queue: deque[bytes | memoryview] = deque()
        self.transport = transport

    @property
    def first_behind(self) -> Cursor | None:
        """The first cursor that is behind, if any."""
        return next((cursor for cursor in self.cursors if cursor.behind), None)

    @property
    def is_disconnected(self) -> bool:
        """Whether the client has disconnected."""
        return self.transport.is_closing()

    def put(self, data: bytes) -> None:
        """Queue bytes for sending."""
        self._queue.append(data)
        self.queued += len(data)
        self.wakeup.set()

    def take(self) -> bytes | memoryview:
        """Remove and return queued bytes, at most WRITE_BYTES."""
        taken: list[bytes | memoryview] = []
        capacity = WRITE_BYTES
        while self._queue and capacity:
            first = self._queue.popleft()
            if len(first) > capacity:
                view = memoryview(first)
                first = view[:capacity]
                self._queue.appendleft(view[capacity:])
            taken.append(first)
            capacity -= len(first)
        self.queued -= WRITE_BYTES - capacity
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def end(self) -> None:
        """Let the task of the client end; a client that reconnects requests the events that it has not received."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        self.is_ended = True
        self.wakeup.set()

    def abort(self) -> None:
        """Close the connection immediately."""
        self.transport.abort()
        self.end()


class EventStreams:
    """All open streams; `unnamed_copy` (send each event also without its name) may change at run time.

    `sent`: events queued, counted once per client; no heartbeats. `dropped`: clients that were too slow.
    """

    def __init__(self, *, clock: Clock, unnamed_copy: bool) -> None:
        self.unnamed_copy = unnamed_copy
        self.sent = 0
        self.dropped = 0
        self._clock = clock
        self._clients: set[Client] = set()
        self._closed = False
        self._next_warning_at = 0.0

    @property
    def client_count(self) -> int:
        """Number of connected clients."""
        for client in self._clients:
            if client.is_disconnected:
                client.end()  # its task would notice the disconnection only at its next write
        return sum(not client.is_ended for client in self._clients)

    @property
    def all_clients(self) -> Collection[Client]:
        """The clients, including those whose disconnection was not noticed yet."""
        return self._clients

    def close(self) -> None:
        """End every stream, and each that is opened later."""
        self._closed = True
        for client in self._clients:
            client.end()

    async def serve(
        self, feed: Feed[Any], request: web.Request, response: web.StreamResponse, *, may_continue: Callable[[], bool]
    ) -> None:
        """Send a feed until the client disconnects, loses access, or the server stops.

        Raises only before the response has begun.
        """
        if self.client_count >= MAX_CLIENTS:
            raise RateLimitedError(f"the limit of {MAX_CLIENTS} streams is reached")
        transport = request.transport
        if transport is None:
            return
        client = Client(cursors=(), transport=transport, may_continue=may_continue, heartbeat=feed.heartbeat)
        self._clients.add(client)
        try:
            opening = await feed.open(copy=self.unnamed_copy)
            client.cursors = opening.cursors
            _limit_buffers(transport)
            await self._send(client, b"retry: %d\n%b" % (RETRY_MS, opening.first_frames), request, response)
        finally:
            client.is_ended = True
            self._clients.discard(client)

    def broadcast(
        self, source: Source, event_id: int, *, selects: Callable[[Any], bool], data: Callable[[], bytes]
    ) -> int:
        """Send a new entry to every live client whose filter selects it; returns the number of clients."""
        rendered, receivers = b"", 0
        for client in self._clients:
            for cursor in client.cursors:
                if cursor.source is not source or cursor.behind or cursor.position >= event_id:
                    continue
                cursor.position = event_id
                if selects(cursor.entry_filter) and not client.is_ended:
                    rendered = rendered or data()
                    client.put(rendered)
                    receivers += 1
                    if client.queued > QUEUE_BYTES:
                        self._drop(client)
        self.sent += receivers
        return receivers

    def mark_behind(self, source: Source) -> None:
        """Make every client read a source from its own position, because entries may have been missed."""
        for client in self._clients:
            for cursor in client.cursors:
                if cursor.source is source:
                    cursor.behind = True
                    client.wakeup.set()

    async def watch(self, beat: Beat) -> None:
        """Disconnect stalled clients and send heartbeats, until cancelled."""
        for number in itertools.count(1):
            await self._clock.sleep(HEARTBEAT_S / CHECKS_PER_HEARTBEAT)
            beat()
            stalled_since = self._clock.monotonic() - STALLED_AFTER_S
            for client in self._clients:
                if not client.is_ended and client.writing_since is not None and client.writing_since <= stalled_since:
                    self._drop(client)
            if number % CHECKS_PER_HEARTBEAT == 0:
                self.send_heartbeats()

    def send_heartbeats(self) -> None:
        """Send a heartbeat to every client that is not behind, and end streams that may not continue."""
        for client in self._clients:
            if client.is_ended:
                continue
            if not client.may_continue():
                client.end()
            elif client.heartbeat and client.is_greeted and not client.first_behind:
                client.put(client.heartbeat(copy=self.unnamed_copy))

    async def _send(
        self, client: Client, first_frames: bytes, request: web.Request, response: web.StreamResponse
    ) -> None:
        # Once the response has begun, no error can be sent as an answer: every failure closes the connection.
        try:
            writer = await response.prepare(request)
            if writer is None or self._closed:
                return
            client.put(first_frames)
            client.is_greeted = True
            for cursor in client.cursors:
                cursor.behind = cursor.position < cursor.source.newest
            while not client.is_ended:
                if client.queued:
                    client.writing_since = self._clock.monotonic()
                    await writer.write(client.take())
                    await writer.drain()
                    client.writing_since = None
                elif cursor_behind := client.first_behind:
                    await self._read_page(client, cursor_behind)
                else:
                    await client.wakeup.wait()
                    client.wakeup.clear()
        except ConnectionError:
            pass  # the client has disconnected
        except OrchestratorError as error:
            log.warning("stream failed", code=error.code, reason=error.message)
            client.abort()
        except Exception:
            log.exception("stream failed")
            client.abort()

    async def _read_page(self, client: Client, cursor: Cursor) -> None:
        """Queue one page of a source for a client that is behind in it."""
        page = await cursor.source.page(cursor, copy=self.unnamed_copy)
        if page is None:
            client.end()  # entries are lost: the client reconnects and gets a snapshot
            return
        for data in page:
            client.put(data)
        self.sent += len(page)

    def _drop(self, client: Client) -> None:
        client.abort()
        self.dropped += 1
        now = self._clock.monotonic()
        if now >= self._next_warning_at:
            self._next_warning_at = now + WARNING_INTERVAL_S
            log.warning("stream client too slow, disconnected", dropped=self.dropped)


def _limit_buffers(transport: asyncio.Transport) -> None:
    """Limit unsent bytes in this process and in the kernel, and detect a vanished client."""
    transport.set_write_buffer_limits(high=WRITE_BYTES)
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
