"""A client of event streams that reads them as a browser does, and events to be read."""

import asyncio
import contextlib
import json
import socket
from dataclasses import dataclass

import aiohttp

from pi_orchestrator.domain.candidate import Candidate
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.session import Session, SessionConfig, SessionState
from pi_orchestrator.events import Logged
from pi_orchestrator.storage import event_log, sessions
from tests.support.waiting import eventually

BATCH = "/api/v1/provisioning/batch/events"
EVENTS = "/api/v1/events"
SESSION = "550e8400-e29b-41d4-a716-446655440000"
OTHER = "661f9511-f30c-42e5-b827-557766551111"


@dataclass(frozen=True)
class Frame:
    """A block that holds data: its name (None: unnamed), its id (None: none), the decoded data."""

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
    """An open stream; `last_id` and `retry` are what a browser would remember of it."""

    def __init__(self, response):
        self.response = response
        self.headers = response.headers
        self.last_id = None
        self.retry = None
        self.raw = b""
        self._rest = b""

    async def frame(self, within=10):
        """The next block that holds data; EOFError when the stream has ended."""
        async with asyncio.timeout(within):
            while True:
                while b"\n\n" not in self._rest:
                    try:
                        chunk = await self.response.content.readany()
                    except aiohttp.ClientError:
                        chunk = b""  # cut off
                    if not chunk:
                        raise EOFError
                    self.raw += chunk
                    self._rest += chunk
                block, self._rest = self._rest.split(b"\n\n", 1)
                if frame := self._read(block.decode()):
                    return frame

    def _read(self, block):
        fields = dict(line.split(":", 1) for line in block.split("\n"))
        assert len(fields) == block.count("\n") + 1, f"a field comes twice: {block}"
        assert set(fields) <= {"retry", "id", "event", "data"}, block
        self.retry = int(fields["retry"]) if "retry" in fields else self.retry
        self.last_id = fields.get("id", self.last_id)
        return Frame(fields.get("event"), fields.get("id"), json.loads(fields["data"])) if "data" in fields else None

    async def event(self, *, copy=True, within=10):
        """The next event: a frame with its name, then the same without it."""
        named = await self.frame(within)
        assert named.name == named.type
        if copy:
            assert await self.frame(within) == Frame(None, named.id, named.data)
        return named

    async def events(self, count, **how):
        return [await self.event(**how) for _ in range(count)]

    async def until(self, type_, **how):
        """Every event up to the first of a type, and that one."""
        seen = [await self.event(**how)]
        while seen[-1].type != type_:
            seen.append(await self.event(**how))
        return seen

    async def ended(self, within=10):
        """Whatever still comes until the other side ends it."""
        rest = []
        with contextlib.suppress(EOFError):
            while True:
                rest.append(await self.frame(within))
        return rest


@contextlib.asynccontextmanager
async def opened(api, path=EVENTS, *, headers=None, established=True, **params):
    """A stream of the API; the first event is read already unless `established` is False."""
    given = dict(headers or {}) | ({"X-API-Key": api.key} if api.key else {})
    query = {name: str(value) for name, value in params.items() if value is not None}
    async with api.session.get(api.url + path, headers=given, params=query) as response:
        assert response.status == 200, await response.text()
        stream = Stream(response)
        if established:
            stream.established = await stream.event()
            assert stream.established.type == "connection.established"
        yield stream


@contextlib.asynccontextmanager
async def stalled(running, path=EVENTS):
    """A client that reads the beginning and then nothing more, in a window as small as it gets."""
    where = running.daemon.listen[0]
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (where.host, where.port))
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {running.admin.key}\r\n\r\n"
    await loop.sock_sendall(sock, request.encode())
    seen = b""
    while b"connection.established" not in seen:
        seen += await loop.sock_recv(sock, 1024)
    try:
        yield sock
    finally:
        sock.close()


def is_cut_off(sock):
    """Whether the other side has aborted; reads what is there."""
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    return True


async def say(running, *types, session_id=None, payload=None):
    """Events, stored in one transaction; the id of the last."""

    async def job(tx):
        for number, type_ in enumerate(types):
            told = {"n": number} if payload is None else payload
            await event_log.append(tx, Logged(type_, told, session_id=session_id))

    await running.services.database.write(job)
    return (await event_log.bounds(running.services.database)).newest


async def hears_nothing(stream, running):
    """AssertionError unless everything that the stream is to have was read."""
    streams = running.services.streams
    await eventually(lambda: not any(client.behind for client in streams._clients))
    streams._heartbeat()
    assert (await stream.event()).type == "connection.heartbeat"


async def store_session(running, session_id=SESSION, *, state=SessionState.ACTIVE, devices=()):
    at = running.services.clock.wall()
    session = Session(session_id, SessionState.ACTIVE, f"if-{session_id[:8]}", "Net", SessionConfig(), at, at)

    async def job(tx):
        await sessions.insert(tx, session, None)
        for mac in devices:
            await sessions.put_candidate(tx, Candidate(session_id, Mac(mac), "192.168.10.21", at))
        if state is SessionState.CLOSED:
            await tx.run("UPDATE sessions SET state = 'closed' WHERE id = ?", (session_id,))

    await running.services.database.write(job)


def status(session_id, **more):
    """A session.status as a snapshot holds it."""
    return Logged("session.status", {"session": {"id": session_id}} | more, session_id=session_id, at=AT)


def discovered(session_id, number):
    return Logged("device.discovered", {"mac": f"device {number}"}, session_id=session_id, at=AT)


AT = "2026-01-22T15:00:00.000000Z"
