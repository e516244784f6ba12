"""An SSE client that reads event streams like a browser, and events for tests."""

import asyncio
import contextlib
import json
import socket
from dataclasses import dataclass

import aiohttp

from pi_orchestrator.core.events import StoredEvent
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.provisioning import store as sessions
from pi_orchestrator.features.provisioning.session import Session, SessionConfig, SessionState
from pi_orchestrator.features.provisioning.session_device import SessionDevice
from pi_orchestrator.storage import event_store as event_log
from tests.support.events import RawEvent
from tests.support.waiting import HANG_S, eventually

BATCH = "/api/v1/provisioning/batch/events"
EVENTS = "/api/v1/events"
SESSION = "550e8400-e29b-41d4-a716-446655440000"
OTHER = "661f9511-f30c-42e5-b827-557766551111"


@dataclass(frozen=True)
class Frame:
    """An SSE block with data: event name (None if unnamed), id (None if missing), decoded data."""

    name: str | None
    id: str | None
    data: dict

    @property
    def type(self):
        return self.data["type"]

    @property
    def payload(self):
        return self.data["payload"]


class Stream:
    """An open stream; `last_id` and `retry` (ms) are the values that a browser would keep."""

    def __init__(self, response):
        self.response = response
        self.headers = response.headers
        self.last_id = None
        self.retry = None
        self.raw = b""
        self._rest = b""

    async def frame(self, within=HANG_S):
        """The next block with data; raises EOFError at the end of the stream."""
        async with asyncio.timeout(within):
            while True:
                while b"\n\n" not in self._rest:
                    try:
                        chunk = await self.response.content.readany()
                    except aiohttp.ClientError:
                        chunk = b""  # connection lost
                    if not chunk:
                        raise EOFError
                    self.raw += chunk
                    self._rest += chunk
                block, self._rest = self._rest.split(b"\n\n", 1)
                if frame := self._read(block.decode()):
                    return frame

    def _read(self, block):
        fields = dict(line.split(":", 1) for line in block.split("\n"))
        assert len(fields) == block.count("\n") + 1, f"duplicate field: {block}"
        assert set(fields) <= {"retry", "id", "event", "data"}, block
        self.retry = int(fields["retry"]) if "retry" in fields else self.retry
        self.last_id = fields.get("id", self.last_id)
        return Frame(fields.get("event"), fields.get("id"), json.loads(fields["data"])) if "data" in fields else None

    async def event(self, *, copy=True, within=HANG_S):
        """The next event: a named frame, then (if `copy`) the same frame unnamed."""
        named = await self.frame(within)
        assert named.name == named.type
        if copy:
            assert await self.frame(within) == Frame(None, named.id, named.data)
        return named

    async def events(self, count, **options):
        """The next events without heartbeats, which are sent every 15 s on a busy machine, too."""
        found = []
        while len(found) < count:
            event = await self.event(**options)
            if event.type != "connection.heartbeat":
                found.append(event)
        return found

    async def until(self, type_, **options):
        """All events up to and including the first of a type."""
        seen = [await self.event(**options)]
        while seen[-1].type != type_:
            seen.append(await self.event(**options))
        return seen

    async def ended(self, within=HANG_S):
        """The remaining frames up to the end of the stream."""
        rest = []
        with contextlib.suppress(EOFError):
            while True:
                rest.append(await self.frame(within))
        return rest


@contextlib.asynccontextmanager
async def opened(api, path=EVENTS, *, headers=None, established=True, **params):
    """Open a stream; reads connection.established first unless `established` is False."""
    all_headers = dict(headers or {}) | ({"X-API-Key": api.key} if api.key else {})
    query = {name: str(value) for name, value in params.items() if value is not None}
    async with api.session.get(api.url + path, headers=all_headers, params=query) as response:
        assert response.status == 200, await response.text()
        stream = Stream(response)
        if established:
            stream.established = await stream.event()
            assert stream.established.type == "connection.established"
        yield stream


@contextlib.asynccontextmanager
async def stalled_client(running, path=EVENTS):
    """A client with a small receive buffer that stops reading after connection.established; yields its socket."""
    listener = running.daemon.listen[0]
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (listener.host, listener.port))
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {running.admin.key}\r\n\r\n"
    await loop.sock_sendall(sock, request.encode())
    seen = b""
    while b"connection.established" not in seen:
        seen += await loop.sock_recv(sock, 1024)
    try:
        yield sock
    finally:
        sock.close()


def is_disconnected(sock):
    """Whether the peer has closed the connection; reads all available bytes."""
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    return True


async def store_events(running, *types, session_id=None, payload=None):
    """Store events in one transaction; returns the id of the last one."""

    async def job(tx):
        for number, type_ in enumerate(types):
            data = {"n": number} if payload is None else payload
            await event_log.append(tx, RawEvent(type_, data, session_id=session_id))
        return (await tx.run("SELECT max(id) AS id FROM events"))[0]["id"]

    return await running.app.resources.database.write(job)


async def assert_no_event(stream, running):
    """Assert that the stream has no unread event."""
    streams = running.app.events.streams
    await eventually(lambda: not any(client.first_behind for client in streams.all_clients))
    streams.send_heartbeats()
    assert (await stream.event()).type == "connection.heartbeat"


async def store_session(running, session_id=SESSION, *, state=SessionState.ACTIVE, devices=()):
    at = running.app.resources.clock.wall()
    session = Session(session_id, SessionState.ACTIVE, f"if-{session_id[:8]}", "Net", SessionConfig(), at, at)

    async def job(tx):
        await sessions.insert(tx, session, None)
        for mac in devices:
            await sessions.put_device(tx, SessionDevice(session_id, Mac(mac), "192.168.10.21", at))
        if state is SessionState.CLOSED:
            await tx.run("UPDATE sessions SET state = 'closed' WHERE id = ?", (session_id,))

    await running.app.resources.database.write(job)


def status(session_id, **fields):
    """A session.status event as in a snapshot."""
    return StoredEvent("session.status", {"session": {"id": session_id}} | fields, session_id=session_id, at=AT)


def discovered(session_id, number):
    return StoredEvent("device.discovered", {"mac": f"device {number}"}, session_id=session_id, at=AT)


AT = "2026-01-22T15:00:00.000000Z"
