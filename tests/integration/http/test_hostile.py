"""Hostile or faulty clients: slow, many, oversized or malformed requests, and log injection."""

import asyncio
import contextlib
import gzip
import json
import resource
import time
from dataclasses import replace
from urllib.parse import quote

import pytest
from pydantic import BaseModel, Field

from pi_orchestrator.edge_http.key_store import Scope
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.http import server
from pi_orchestrator.http.model import Message
from pi_orchestrator.http.protocols import Limits
from tests.support.api import connection, exchange, with_routes
from tests.support.waiting import HANG_S, eventually

pytestmark = pytest.mark.usefixtures("documented_answers")

KEYS = "/api/v1/keys"
STATUS = "/api/v1/onboarding/auto/status"
DISABLE = "/api/v1/onboarding/auto/disable"
MIB = 1024 * 1024
CLIENTS = 1000


@pytest.fixture
async def daemon(rig, log):
    async with rig.daemon(connected=False) as running:
        yield running


def limit(running, **limits):
    """Change the limits of a running API."""
    object.__setattr__(running.app.api, "limits", replace(running.app.api.limits, **limits))


def entries(log):
    """The log's lines; each must be a JSON object, whatever a client has sent."""
    lines = [json.loads(line) for line in log.getvalue().split("\n") if line]
    assert all(isinstance(entry, dict) for entry in lines)
    return lines


def warnings(log):
    """The warnings and errors of the log, without the first, which is about the new admin key."""
    return [entry for entry in entries(log) if entry["level"] in ("warning", "error", "critical")][1:]


def head(running, *headers, method="POST", path=KEYS):
    """The head of a JSON request with the admin key."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"X-API-Key: {running.admin.key}",
        "Content-Type: application/json",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def assert_served(running, within=1.0):
    async with asyncio.timeout(within):
        assert (await exchange(running, "GET", STATUS)).status == 200


# Slow clients.


def test_body_and_idle_limit_are_ten_seconds():
    assert Limits().body_s == server.KEEPALIVE_S == 10


@pytest.mark.parametrize("drip", [b"", b" "])
async def test_slow_body_times_out(daemon, log, drip):
    limit(daemon, body_s=0.3)
    async with connection(daemon) as sock:
        await sock.send(head(daemon, "Content-Length: 1000") + b"{")
        started = time.monotonic()

        async def keep_dripping():
            while drip:
                await sock.send(drip)
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(keep_dripping())
        await assert_served(daemon)
        async with asyncio.timeout(HANG_S):
            answer = await sock.answer()
            assert time.monotonic() - started > 0.25
            assert (answer.status, answer.json["code"]) == (400, "INVALID_REQUEST")
            assert "too long" in answer.json["error"]["message"]
            assert await sock.rest() == b"", "the connection is closed"
        dripping.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await dripping
    assert warnings(log) == []


@pytest.mark.parametrize("start", [b"", b"GET /heal", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: b"])
async def test_endless_headers_time_out(rig, monkeypatch, start):
    monkeypatch.setattr(server, "KEEPALIVE_S", 0.4)
    async with rig.daemon(connected=False) as running, connection(running) as sock:
        started = time.monotonic()

        async def drip():
            with contextlib.suppress(OSError):
                while True:
                    await sock.send(b"a" if start else b"")
                    await asyncio.sleep(0.02)

        await sock.send(start)
        dripping = asyncio.create_task(drip())
        async with asyncio.timeout(HANG_S):
            assert await sock.rest() == b""
        assert time.monotonic() - started > 0.3
        dripping.cancel()


async def test_keepalive_connection_closes_when_idle(rig, monkeypatch):
    monkeypatch.setattr(server, "KEEPALIVE_S", 0.4)
    async with rig.daemon(connected=False) as running, connection(running) as sock:
        for _ in range(50):
            await sock.send(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert (await sock.answer()).status == 200
        async with asyncio.timeout(HANG_S):
            assert await sock.rest() == b""


async def test_pipelined_requests_are_answered_in_order(daemon):
    async with connection(daemon) as sock:
        ids = [f"request-{number}" for number in range(200)]
        lines = (f"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-Id: {name}\r\n\r\n" for name in ids)
        await sock.send("".join(lines).encode())
        assert [(await sock.answer()).headers["X-Request-Id"] for _ in ids] == ids


async def test_stalled_reader_delays_no_client(daemon):
    request = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(50):
            sock = await stack.enter_async_context(connection(daemon))
            sock.writer.write(request * 50)
        for _ in range(5):
            await assert_served(daemon)


# Many clients.


@pytest.fixture
def many_descriptors():
    """Allow this process enough file descriptors for both ends of CLIENTS connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * CLIENTS)), hard))
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 2 * CLIENTS + 200, "raise `ulimit -n` to run this test"
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
async def test_thousand_idle_sockets_are_closed(rig, monkeypatch):
    monkeypatch.setattr(server, "KEEPALIVE_S", 2.0)
    async with rig.daemon(connected=False) as running, contextlib.AsyncExitStack() as stack:
        starts = [b"", b"GET /hea", head(running, "Content-Length: 100") + b"{"]
        clients = []
        for number in range(CLIENTS):
            sock = await stack.enter_async_context(connection(running, source=f"127.0.{number // 250}.2"))
            await sock.send(starts[number % 3] if number % 10 else starts[0])
            clients.append(sock)
        for _ in range(10):
            await assert_served(running)
        idle = [sock for number, sock in enumerate(clients) if number % 10 == 0]
        async with asyncio.timeout(HANG_S):
            assert {await sock.rest() for sock in idle} == {b""}
        await assert_served(running)


async def test_stop_does_not_wait_for_clients(rig):
    """The connections outlive the daemon, which stops when the inner block is left."""
    async with contextlib.AsyncExitStack() as stack, rig.daemon(connected=False) as running:
        for start in (b"", b"GET /hea", head(running, "Content-Length: 100") + b"{"):
            for _ in range(20):
                await (await stack.enter_async_context(connection(running))).send(start)
        await assert_served(running)


# Oversized requests.


@pytest.mark.parametrize(
    "request_line, headers",
    [
        (f"GET /{'a' * 20_000} HTTP/1.1", []),
        (f"GET {STATUS}?{'a' * 20_000} HTTP/1.1", []),
        (f"GET {STATUS} HTTP/1.1", [f"X-Long: {'a' * 20_000}"]),
        (f"GET {STATUS} HTTP/1.1", [f"X-{'a' * 20_000}: b"]),
        (f"GET {STATUS} HTTP/1.1", [f"Cookie: piorch_session={'a' * 20_000}"]),
        (f"GET {STATUS} HTTP/1.1", [f"X-{number}: b" for number in range(10_000)]),
        ("A" * 20_000, []),
    ],
    ids=["path", "query", "header", "header name", "cookie", "10,000 headers", "method"],
)
async def test_oversized_lines_are_refused_unlogged(daemon, log, request_line, headers):
    async with connection(daemon) as sock:
        sent = "\r\n".join([request_line, "Host: 127.0.0.1", *headers, "", ""]).encode()
        with contextlib.suppress(OSError):
            await sock.send(sent)
        answer = await sock.answer()
        assert answer.status == 400
        assert len(answer.body) < len(sent) + 100, "no amplification"
        assert await sock.rest() == b""
    await assert_served(daemon)
    assert warnings(log) == []


async def test_large_body_closes_connection(daemon):
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    for start in (
        head(daemon, f"Content-Length: {MIB + 1}"),
        head(daemon, "Transfer-Encoding: chunked") + chunk * 17,
    ):
        async with connection(daemon) as sock, asyncio.timeout(HANG_S):
            with contextlib.suppress(OSError):
                await sock.send(start)
            answer = await sock.answer()
            assert (answer.status, answer.headers["Connection"]) == (413, "close")
            assert await sock.rest() == b""


@pytest.mark.parametrize("size", [50 * MIB, 2 * MIB])
async def test_gzip_bomb_is_refused(daemon, log, size):
    body = gzip.compress(b" " * size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with connection(daemon) as sock, asyncio.timeout(HANG_S):
        await sock.send(head(daemon, "Content-Encoding: gzip", f"Content-Length: {len(body)}") + body)
        assert (await sock.answer()).status == 413
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024, "at most 16 MiB more"
    assert warnings(log) == []


async def test_gzip_body_within_limits_is_accepted(daemon):
    body = gzip.compress(b'{"name":"packed"}')
    async with connection(daemon) as sock:
        await sock.send(head(daemon, "Content-Encoding: gzip", f"Content-Length: {len(body)}") + body)
        assert (await sock.answer()).status == 201


# Malformed requests.


@pytest.mark.parametrize(
    "headers, body",
    [
        (["Content-Encoding: gzip", "Content-Length: 5"], b"hello"),
        (["Content-Encoding: deflate", "Content-Length: 5"], b"hello"),
        (["Content-Encoding: gzip", "Content-Length: 40"], gzip.compress(b'{"name":"a"}')[:-9].ljust(40, b"\xff")),
        (["Transfer-Encoding: chunked"], b"3\r\n{}\r\nzz\r\n"),
        (["Transfer-Encoding: chunked"], b"-1\r\n{}\r\n0\r\n\r\n"),
        (["Transfer-Encoding: chunked"], b"ffffffffffffffffff\r\n{}"),
        (["Transfer-Encoding: gzip, chunked"], b"2\r\n{}\r\n0\r\n\r\n"),
    ],
    ids=["gzip", "deflate", "truncated gzip", "chunk size", "negative chunk", "endless chunk", "coded chunks"],
)
@pytest.mark.parametrize("in_one_piece", [True, False])
async def test_corrupt_body_is_400(daemon, log, headers, body, in_one_piece):
    limit(daemon, body_s=1.0)
    async with connection(daemon) as sock, asyncio.timeout(HANG_S):
        if in_one_piece:
            await sock.send(head(daemon, *headers) + body)
        else:
            await sock.send(head(daemon, *headers))
            await assert_served(daemon)  # now the handler waits for the body
            await sock.send(body)
        assert (await sock.answer()).status == 400
    await assert_served(daemon)
    assert warnings(log) == []
    assert [key.name for key in daemon.app.api_keys.keyring.stored_keys()] == ["admin"]


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200 + b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /api/v1/cameras/\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: \x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=lambda raw: repr(raw[:12]),
)
async def test_invalid_http_is_refused_unlogged(daemon, log, raw):
    async with connection(daemon) as sock, asyncio.timeout(HANG_S):
        await sock.send(raw)
        answer = await sock.answer()
        assert answer.status == 400
        assert len(answer.body) < 1000
        assert not answer.headers.get("Content-Type", "").startswith("text/html")
        assert await sock.rest() == b""
    await assert_served(daemon)
    assert warnings(log) == []


async def test_request_smuggling_is_refused(daemon):
    """A proxy might read the inner request as a body, and a server as a second request."""
    inner = f"POST {DISABLE} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n"
    for headers in (
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", f"Content-Length: {len(inner) + 5}"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding : chunked"],
    ):
        async with connection(daemon) as sock, asyncio.timeout(HANG_S):
            start = "\r\n".join([f"GET {STATUS} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""])
            await sock.send((start + "0\r\n\r\n" + inner).encode())
            assert (await sock.answer()).status == 400
            assert await sock.rest() == b""
    assert (await daemon.status())["enabled"] is True


async def test_disconnect_in_body_is_not_logged(daemon, log):
    answered = daemon.app.base.answered
    for _ in range(5):
        async with connection(daemon) as sock:
            await sock.send(head(daemon, "Content-Length: 100") + b'{"name":')
            await assert_served(daemon)
    await eventually(lambda: answered[400] >= 5)
    assert answered[500] == 0
    assert warnings(log) == []


# Log injection.


class Name(BaseModel):
    name: str = Field(description="anything")


class Text(BaseModel):
    text: str = Field("", description="anything")


async def fails(path: Name, query: Text) -> Message:
    raise ZeroDivisionError(f"about {path.name}: {query.text}")


FAILS = Route("GET", "/api/v1/fails/{name}", fails, "health", "Fails", Scope.READ)
FORGERIES = [
    'x\n{"event":"forged","level":"info"}',
    'x\r\n{"event":"forged"}',
    '\x1b[2J\x1b[31mforged"}',
    '","event":"forged',
    "\x00forged",
    "\u2028forged\u2029",
    "\x85forged",
]


@pytest.mark.parametrize("forgery", FORGERIES, ids=repr)
async def test_client_cannot_forge_log_line(daemon, log, forgery):
    text = quote(forgery, safe="")
    # A header cannot contain line ends and NUL.
    in_header = forgery.replace("\r", "").replace("\n", " ").replace("\x00", "")
    headers = [(name, in_header) for name in ("X-Request-Id", "X-Correlation-Id", "User-Agent", "Referer")]
    async with with_routes(daemon, FAILS) as api:
        port = int(api.url.rsplit(":", 1)[1])
        plain = await exchange(daemon, "GET", f"/api/v1/fails/x?text={text}", port=port)
        in_path = await exchange(daemon, "GET", f"/api/v1/fails/{text}?text={text}", port=port)
        in_headers = await exchange(daemon, "GET", "/api/v1/fails/x", headers, port=port)
    assert (plain.status, in_headers.status in (400, 500), in_path.status in (404, 500)) == (500, True, True)
    failed = [entry for entry in entries(log) if entry["event"] == "request failed"]
    assert len(failed) == [plain.status, in_path.status, in_headers.status].count(500)
    assert all("forged" in entry["exception"] for entry in failed[: len(failed) - (in_headers.status == 500)])
    own_events = {"admin key created", "ready", "mqtt connected", "request failed"}
    assert {entry["event"] for entry in entries(log)} <= own_events
    printed = log.getvalue().replace("\n", "")
    assert not [char for char in printed if ord(char) < 32 or 127 <= ord(char) < 160]


async def test_forged_line_is_detected(log):
    """`entries`, which the tests above rely on, raises for a line that is no JSON object."""
    log.write('{"event":"good","level":"info"}\nnot json\n')
    with pytest.raises(ValueError, match="Expecting value"):
        entries(log)


async def test_key_in_url_is_masked_in_log(daemon, log):
    async with with_routes(daemon, FAILS) as api:
        assert (await api.get("/api/v1/fails/x?api_key=the-canary&token=the-canary")).status == 500
        assert (await api.get("/api/v1/fails/api_key=the-canary")).status == 500
    assert len([entry for entry in entries(log) if entry["event"] == "request failed"]) == 2
    assert "the-canary" not in log.getvalue()


async def test_log_lines_have_correlation_id(daemon, log):
    async with with_routes(daemon, FAILS) as api:
        for name in ("one", "two"):
            await api.get("/api/v1/fails/x", headers={"X-Request-Id": name})
    failed = [entry for entry in entries(log) if entry["event"] == "request failed"]
    assert [entry["correlation_id"] for entry in failed] == ["one", "two"]
