"""CameraHttpClient with real sockets: `POST /provision` is sent once, limited in time and size, and leaks no secret."""

import asyncio
import base64
import contextlib
import gzip
import json
import logging
import os
import socket
import time
import traceback
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from pi_orchestrator.core.errors import OrchestratorError, ProvisionError
from pi_orchestrator.core.wifi import Credentials, MqttAccess
from pi_orchestrator.net.camera_http import CameraHttpClient, new_session
from pi_orchestrator.sandbox.fleet import Fleet
from pi_orchestrator.sandbox.options import CameraOptions
from pi_orchestrator.sandbox.server import tcp_server
from tests.support.broker import free_port
from tests.support.waiting import HANG_S, eventually

ADDRESS = f"127.{100 + os.getpid() % 100}.9.9"
WIFI_PASSWORD, BROKER_PASSWORD = "Canary\"4711\\wifi'&", "canary-0815-brökér"
FULL = {
    "ssid": "Küche 📷",
    "password": WIFI_PASSWORD,
    "mqtt": {"host": "10.0.0.1", "port": 1883, "username": "camera", "password": BROKER_PASSWORD},
    "container_id": "kitchen",
    "request_id": "4a1c7b1e-0000-4000-8000-000000000001",
}
BARE = {"ssid": "Open", "password": "", "mqtt": {"host": "broker.local", "port": 8883}, "request_id": "r"}
REJECTED, UNREACHABLE, TIMEOUT = "DEVICE_REJECTED", "DEVICE_UNREACHABLE", "DEVICE_TIMEOUT"
MAY_HAVE_ARRIVED, NOT_ARRIVED = True, False


class ClientUnderTest:
    """The client, and the requests that the server at its port has received."""

    def __init__(self, session, port):
        self.http, self.port = CameraHttpClient(session=session, port=port), port
        self.requests = []
        self.closed = asyncio.Event()

    async def provision(self, fields=FULL, *, timeout_s=1.5, address=ADDRESS):
        """Send credentials; returns the ProvisionError that was raised, or None."""
        mqtt = fields["mqtt"]
        password = mqtt.get("password")
        try:
            await self.http.provision(
                address,
                credentials=Credentials(fields["ssid"], SecretStr(fields["password"])),
                mqtt=MqttAccess(
                    mqtt["host"], mqtt["port"], mqtt.get("username"), None if password is None else SecretStr(password)
                ),
                container_id=fields.get("container_id"),
                request_id=fields["request_id"],
                timeout_s=timeout_s,
            )
        except ProvisionError as error:
            return error


@contextlib.asynccontextmanager
async def camera_server(answer=b""):
    """A server that answers each request, then closes the connection; yields a client of it.

    `answer`: the bytes to send, or `async answer(reader, writer)` that sends them.
    """
    sock = socket.create_server((ADDRESS, 0))

    async def respond(reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0] or 0)
            client.requests.append((head, await reader.readexactly(length)))
            if callable(answer):
                await answer(reader, writer)
            else:
                writer.write(answer)
        finally:
            client.closed.set()

    async with new_session() as session:
        port = sock.getsockname()[1]
        client = ClientUnderTest(session, port)
        async with tcp_server(sock, respond):
            yield client


def raw_answer(status, body=b"", *headers, length=None):
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def json_answer(body, status="202 Accepted", *headers):
    return raw_answer(status, json.dumps(body).encode(), *headers)


def chunked(payload):
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + payload


def endless(head, chunk, pause=0.0):
    async def write(_, writer):
        writer.write(head)
        while True:
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(pause)

    return write


async def hang(reader, _):
    """Wait until the client closes the connection."""
    await reader.read()


# Requests.


async def test_body_is_utf_8_without_escapes():
    """Every parser reads plain UTF-8."""
    async with camera_server(json_answer({"accepted": True})) as client:
        assert await client.provision() is None
        _, body = client.requests[0]
        assert "Küche 📷".encode() in body


async def test_lone_surrogate_in_body_is_replaced():
    """A lone surrogate cannot be encoded; the error of an attempt would contain the whole body."""
    async with camera_server(json_answer({"accepted": True})) as client:
        assert await client.provision(FULL | {"mqtt": FULL["mqtt"] | {"password": "caf\udce9"}}) is None
        _, body = client.requests[0]
        assert json.loads(body)["mqtt"]["password"] == "caf?"


@pytest.mark.parametrize("fields", [FULL, BARE])
async def test_each_call_sends_one_request_as_in_contract(fields):
    async with camera_server(json_answer({"accepted": True})) as client:
        assert await client.provision(fields) is None
        assert await client.provision(fields) is None
        assert len(client.requests) == 2
        for head, body in client.requests:
            assert json.loads(body) == fields
            line, *headers = head.rstrip().split("\r\n")
            assert line == "POST /provision HTTP/1.1"
            found = {name.lower(): value for name, value in (header.split(": ", 1) for header in headers)}
            assert found.pop("host").startswith(ADDRESS)
            assert found.pop("content-length") == str(len(body))
            assert found == {
                "content-type": "application/json",
                "accept": "application/json",
                "accept-encoding": "identity",
                "user-agent": "pi-orchestrator",
                "connection": "close",
            }


@pytest.mark.parametrize(
    "answer",
    [
        json_answer({"accepted": True}),
        json_answer({"accepted": True}, "200 OK"),
        json_answer({"accepted": True, "request_id": "other", "more": [1, {"a": None}]}),
        chunked(b'7\r\n {"acce\r\na\r\npted":true\r\n2\r\n} \r\n0\r\n\r\n'),
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + json_answer({"accepted": True}),
        b'HTTP/1.0 200 OK\r\n\r\n{"accepted": true}',
        json_answer({"accepted": True, "pad": "x" * 65_000}),
    ],
)
async def test_accepting_answer_succeeds(answer):
    async with camera_server(answer) as client:
        assert await client.provision() is None
        assert len(client.requests) == 1


# Answers. Wherever possible, the camera repeats the secrets.

ECHO = json.dumps({"accepted": False, "error": f"cannot join with {WIFI_PASSWORD} and {BROKER_PASSWORD}"}).encode()
KIB = 1024
ANSWERS = {
    # name: (answer, error code, may_have_arrived)
    "bad request": (raw_answer("400 Bad Request", ECHO), REJECTED, NOT_ARRIVED),
    "unauthorized": (
        raw_answer("401 Unauthorized", ECHO, f'WWW-Authenticate: Basic realm="{WIFI_PASSWORD}"'),
        REJECTED,
        NOT_ARRIVED,
    ),
    "forbidden": (raw_answer("403 Forbidden", ECHO), REJECTED, NOT_ARRIVED),
    "not found": (raw_answer("404 Not Found", ECHO), REJECTED, NOT_ARRIVED),
    "conflict": (raw_answer("409 Conflict", ECHO), REJECTED, NOT_ARRIVED),
    "unprocessable": (raw_answer("422 Unprocessable", ECHO), REJECTED, NOT_ARRIVED),
    "too many requests": (raw_answer("429 Too Many Requests", b"", "Retry-After: 99999999"), REJECTED, NOT_ARRIVED),
    "secret in the reason": (raw_answer(f"422 {WIFI_PASSWORD}"), REJECTED, NOT_ARRIVED),
    "secret in a header": (
        raw_answer("403 Forbidden", b"", f"X-Password: {WIFI_PASSWORD}", f"Set-Cookie: p={BROKER_PASSWORD}"),
        REJECTED,
        NOT_ARRIVED,
    ),
    "forbidden, endless": (endless(b"HTTP/1.1 403 Forbidden\r\n\r\n", ECHO * 100), REJECTED, NOT_ARRIVED),
    "not accepted, status 200": (raw_answer("200 OK", ECHO), REJECTED, NOT_ARRIVED),
    "not accepted, status 202": (raw_answer("202 Accepted", ECHO), REJECTED, NOT_ARRIVED),
    "server error": (raw_answer("500 Internal Server Error", ECHO), UNREACHABLE, MAY_HAVE_ARRIVED),
    "unavailable": (raw_answer("503 Service Unavailable", ECHO), UNREACHABLE, MAY_HAVE_ARRIVED),
    "created": (json_answer({"accepted": True}, "201 Created"), UNREACHABLE, MAY_HAVE_ARRIVED),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", UNREACHABLE, MAY_HAVE_ARRIVED),
    "redirect": (raw_answer("302 Found", ECHO, f"Location: /{WIFI_PASSWORD}"), UNREACHABLE, MAY_HAVE_ARRIVED),
    "switching protocols": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        UNREACHABLE,
        MAY_HAVE_ARRIVED,
    ),
    "unknown status": (raw_answer("999 Whatever", ECHO), UNREACHABLE, MAY_HAVE_ARRIVED),
    "no answer": (b"", UNREACHABLE, MAY_HAVE_ARRIVED),
    "empty body": (raw_answer("202 Accepted"), UNREACHABLE, MAY_HAVE_ARRIVED),
    "not JSON": (raw_answer("202 Accepted", WIFI_PASSWORD.encode()), UNREACHABLE, MAY_HAVE_ARRIVED),
    "array": (json_answer([{"accepted": True}]), UNREACHABLE, MAY_HAVE_ARRIVED),
    "field missing": (json_answer({"error": WIFI_PASSWORD}), UNREACHABLE, MAY_HAVE_ARRIVED),
    "accepted as text": (json_answer({"accepted": "true"}), UNREACHABLE, MAY_HAVE_ARRIVED),
    "accepted as a number": (json_answer({"accepted": 1}), UNREACHABLE, MAY_HAVE_ARRIVED),
    "rejected as a number": (json_answer({"accepted": 0}), UNREACHABLE, MAY_HAVE_ARRIVED),
    "accepted as null": (json_answer({"accepted": None}), UNREACHABLE, MAY_HAVE_ARRIVED),
    "infinite number": (raw_answer("202 Accepted", b'{"accepted": true, "n": 1e99999}'), UNREACHABLE, MAY_HAVE_ARRIVED),
    "60,000 brackets": (raw_answer("202 Accepted", b"[" * 60_000), UNREACHABLE, MAY_HAVE_ARRIVED),
    "nine levels": (raw_answer("202 Accepted", b'{"a":' * 9 + b"1" + b"}" * 9), UNREACHABLE, MAY_HAVE_ARRIVED),
    "Latin-1": (raw_answer("202 Accepted", b'{"accepted": true, "name": "K\xfcche"}'), UNREACHABLE, MAY_HAVE_ARRIVED),
    "over 64 KiB": (
        raw_answer("202 Accepted", b'{"accepted": true}' + b" " * (64 * KIB - 17)),
        UNREACHABLE,
        MAY_HAVE_ARRIVED,
    ),
    "huge content length": (raw_answer("202 Accepted", ECHO, length=10**18), UNREACHABLE, MAY_HAVE_ARRIVED),
    "two content lengths": (
        json_answer({"accepted": True}, "202 Accepted", "Content-Length: 3"),
        UNREACHABLE,
        MAY_HAVE_ARRIVED,
    ),
    "truncated body": (raw_answer("202 Accepted", b'{"accepted": true}', length=500), UNREACHABLE, MAY_HAVE_ARRIVED),
    "gzip": (
        raw_answer("202 Accepted", gzip.compress(b'{"accepted": true}'), "Content-Encoding: gzip"),
        UNREACHABLE,
        MAY_HAVE_ARRIVED,
    ),
    "gzip header only": (
        json_answer({"accepted": True}, "202 Accepted", "Content-Encoding: gzip"),
        UNREACHABLE,
        MAY_HAVE_ARRIVED,
    ),
    "not HTTP": (f"{WIFI_PASSWORD}\r\n{BROKER_PASSWORD}\r\n\r\n".encode(), UNREACHABLE, MAY_HAVE_ARRIVED),
    "TLS": (b"\x16\x03\x03\x00\x02\x02\x28", UNREACHABLE, MAY_HAVE_ARRIVED),
    "invalid status": (raw_answer(f"{WIFI_PASSWORD} OK"), UNREACHABLE, MAY_HAVE_ARRIVED),
    "NUL in a header": (
        json_answer({"accepted": True}, "202 Accepted", f"X-Pad: {WIFI_PASSWORD}\0"),
        UNREACHABLE,
        MAY_HAVE_ARRIVED,
    ),
    "invalid header": (json_answer({"accepted": True}, "202 Accepted", WIFI_PASSWORD), UNREACHABLE, MAY_HAVE_ARRIVED),
    "secret as chunk size": (chunked(WIFI_PASSWORD.encode() + b"\r\n{}"), UNREACHABLE, MAY_HAVE_ARRIVED),
    "endless header": (
        endless(b"HTTP/1.1 202 Accepted\r\nX-Pad: ", WIFI_PASSWORD.encode() * 4000),
        UNREACHABLE,
        MAY_HAVE_ARRIVED,
    ),
    "endless headers": (
        endless(b"HTTP/1.1 202 Accepted\r\n", b"X-Pad: aaaa\r\n" * 1000),
        UNREACHABLE,
        MAY_HAVE_ARRIVED,
    ),
    "endless body": (
        endless(b'HTTP/1.1 202 Accepted\r\n\r\n{"accepted": true,', b" " * 9999),
        UNREACHABLE,
        MAY_HAVE_ARRIVED,
    ),
    "endless one-byte chunks": (endless(chunked(b""), b"1\r\n \r\n" * 1000), UNREACHABLE, MAY_HAVE_ARRIVED),
    "endless early hints": (endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100), TIMEOUT, MAY_HAVE_ARRIVED),
    "slow body": (
        endless(b'HTTP/1.1 202 Accepted\r\n\r\n{"accepted": true', b" ", pause=0.05),
        TIMEOUT,
        MAY_HAVE_ARRIVED,
    ),
    "hanging": (hang, TIMEOUT, MAY_HAVE_ARRIVED),
}


def leaks(text):
    """The forms of either password in this text: plain or encoded, whole or its first 12 characters."""
    forms = []
    for secret in (WIFI_PASSWORD, BROKER_PASSWORD):
        for part in (secret, secret[:12]):
            raw = part.encode()
            forms += [part, json.dumps(part)[1:-1], repr(part)[1:-1], repr(raw)[2:-1], quote(part), raw.hex()]
        forms += [base64.b64encode(secret.encode()).decode()[:12]]
    return [form for form in forms if form in text]


@pytest.mark.parametrize("name", ANSWERS)
async def test_failing_answer_has_code_and_leaks_nothing(name, caplog, capsys):
    answer, code, may_have_arrived = ANSWERS[name]
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    async with camera_server(answer) as client:
        began = time.monotonic()
        error = await client.provision(timeout_s=1.5 if code == TIMEOUT else HANG_S)
        took = time.monotonic() - began
    assert (error.code, error.may_have_arrived) == (code, may_have_arrived)
    assert len(client.requests) == 1
    if code == TIMEOUT:
        assert took > 1.4, "not before the timeout of 1.5 s"
    assert isinstance(error, OrchestratorError)
    assert error.retryable
    assert (error.__context__, error.__cause__) == (None, None), "another error could contain the request"
    frames = traceback.TracebackException.from_exception(error, capture_locals=True).format()
    # Local variables of the client must not show a secret; those of this test do.
    client_frames = [line for line in frames if "net/camera_http.py" in line and "test_camera_http" not in line]
    assert client_frames
    captured = capsys.readouterr()
    texts = [str(error), repr(error), error.message, repr(error.args), repr(error.__dict__), *client_frames]
    for text in (*texts, caplog.text, captured.out, captured.err):
        assert leaks(text) == []


def test_leak_is_detected():
    forms = (
        ECHO.decode(),
        repr(WIFI_PASSWORD),
        WIFI_PASSWORD.encode().hex(),
        base64.b64encode(BROKER_PASSWORD.encode()).decode(),
        BROKER_PASSWORD.encode().decode("latin-1"),  # UTF-8 read as Latin-1: only the ASCII start is unchanged
    )
    for text in forms:
        assert leaks(f"error: {text}!")


# Failed connections.


async def test_failed_connect_reports_request_not_arrived():
    async with new_session() as session:
        client = ClientUnderTest(session, free_port())
        error = await client.provision()
        assert (error.code, error.may_have_arrived) == (UNREACHABLE, NOT_ARRIVED)
        assert "refused" in error.message
        error = await client.provision(address="255.255.255.255")
        assert (error.code, error.may_have_arrived) == (UNREACHABLE, NOT_ARRIVED)


async def test_connect_timeout_reports_request_not_arrived():
    # A socket without accept: connections beyond its backlog get no answer.
    with socket.create_server((ADDRESS, 0), backlog=0) as full, contextlib.ExitStack() as stack:
        port = full.getsockname()[1]
        for _ in range(3):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex((ADDRESS, port))
        async with new_session() as session:
            began = time.monotonic()
            error = await ClientUnderTest(session, port).provision(timeout_s=0.5)
        assert time.monotonic() - began > 0.4
        assert (error.code, error.may_have_arrived) == (TIMEOUT, NOT_ARRIVED)
        assert "connect" in error.message


async def test_cancelled_request_closes_connection():
    async with camera_server(hang) as client:
        sending = asyncio.create_task(client.provision(timeout_s=60))
        await eventually(lambda: client.requests)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await asyncio.wait_for(client.closed.wait(), HANG_S)
    async with camera_server(hang) as client:
        assert (await client.provision(timeout_s=0.3)).code == TIMEOUT
        await asyncio.wait_for(client.closed.wait(), HANG_S)


# Redirects and proxies.


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_redirect_is_not_followed(status):
    async with camera_server(json_answer({"accepted": True})) as other:
        port = other.port
        async with camera_server(raw_answer(status, b"", f"Location: http://{ADDRESS}:{port}/provision")) as client:
            error = await client.provision()
        assert (error.code, error.may_have_arrived) == (UNREACHABLE, MAY_HAVE_ARRIVED)
        assert other.requests == []


async def test_proxy_in_environment_is_ignored(monkeypatch):
    async with camera_server(json_answer({"accepted": True})) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{ADDRESS}:{proxy.port}")
        async with camera_server(json_answer({"accepted": True})) as client:
            assert await client.provision() is None
            assert len(client.requests) == 1
        assert proxy.requests == []


# Sandbox cameras.

OUTCOMES = {
    # fault, None for a healthy camera: (error code, may_have_arrived), None for success
    None: None,
    "no-mac": None,
    "provision-vanish": None,
    "provision-moved": None,
    "wrong-password": None,
    "provision-boot-loop": None,
    "provision-reject": (REJECTED, NOT_ARRIVED),
    "provision-echo": (REJECTED, NOT_ARRIVED),
    "provision-hang": (TIMEOUT, MAY_HAVE_ARRIVED),
    "provision-500": (UNREACHABLE, MAY_HAVE_ARRIVED),
    "provision-flaky": (UNREACHABLE, MAY_HAVE_ARRIVED),
    "answer-lost": (UNREACHABLE, MAY_HAVE_ARRIVED),
    "slow": (TIMEOUT, MAY_HAVE_ARRIVED),
    "bad-json": (UNREACHABLE, MAY_HAVE_ARRIVED),
    "http-500": (UNREACHABLE, MAY_HAVE_ARRIVED),
    "endless": (UNREACHABLE, MAY_HAVE_ARRIVED),
    "redirect": (UNREACHABLE, MAY_HAVE_ARRIVED),
    "silent": (TIMEOUT, MAY_HAVE_ARRIVED),
    "close": (UNREACHABLE, MAY_HAVE_ARRIVED),
    "gzip-bomb": (UNREACHABLE, MAY_HAVE_ARRIVED),
    "many-headers": (UNREACHABLE, MAY_HAVE_ARRIVED),
    "tls-bytes": (UNREACHABLE, MAY_HAVE_ARRIVED),
    "no-http": (UNREACHABLE, NOT_ARRIVED),
}


async def test_sandbox_fault_has_expected_outcome(broker):
    options = CameraOptions(broker_host=broker.host, broker_port=broker.port, http_port=free_port(), rejoin_s=60)
    faults = [fault for fault in OUTCOMES if fault]
    network = ADDRESS.rpartition(".")[0] + ".0/24"
    fleet = Fleet(count=len(OUTCOMES), options=options, network=network, faults=faults, storm=True)
    fields = FULL | {"password": "canary-4711", "mqtt": {"host": broker.host, "port": broker.port}}
    async with fleet, new_session() as session:
        await fleet.wait_until_reported()
        client = ClientUnderTest(session, options.http_port)
        outcomes = {}
        for simulated in fleet.cameras:
            fault = simulated.fault
            hangs = OUTCOMES[fault] is not None and OUTCOMES[fault][0] == TIMEOUT
            error = await client.provision(fields, address=str(simulated.address), timeout_s=1 if hangs else HANG_S)
            outcomes[fault] = error and (error.code, error.may_have_arrived)
            if error and not error.may_have_arrived:
                assert not simulated.provisioned
            assert bool(simulated.provisioned) is (error is None or fault == "answer-lost")
        assert outcomes == OUTCOMES


# SSID in /status.


@pytest.mark.parametrize(
    "reported, ssid",
    [
        ("DeliCasa-AP", "DeliCasa-AP"),
        ("Küche 📷", "Küche 📷"),
        (" a\r\n\x1b[2Jb ", "a[2Jb"),
        ("x" * 500, "x" * 32),
        ("", None),
        (7, None),
        (["DeliCasa-AP"], None),
        (None, None),
    ],
)
async def test_ssid_in_status_is_cleaned(reported, ssid):
    async with camera_server(json_answer({"mac": "24:6F:28:B0:F7:F1", "ssid": reported}, "200 OK")) as client:
        assert (await client.http.status(ADDRESS, timeout_s=2)).ssid == ssid
