"""`POST /provision` as the daemon sends it, to real sockets: sent once, bounded, and silent about what it holds."""

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

from pi_orchestrator.domain.wifi import Credentials, MqttAccess
from pi_orchestrator.errors import OrchestratorError, ProvisionError
from pi_orchestrator.net.espcam import EspCamClient, new_session
from pi_orchestrator.sandbox.fleet import Fleet
from pi_orchestrator.sandbox.options import CameraOptions
from tests.support.broker import free_port
from tests.support.waiting import eventually

ADDRESS = f"127.{100 + os.getpid() % 100}.9.9"
WIFI, BROKER = "Canary\"4711\\wifi'&", "canary-0815-brökér"
FULL = {
    "ssid": "Küche 📷",
    "password": WIFI,
    "mqtt": {"host": "10.0.0.1", "port": 1883, "username": "camera", "password": BROKER},
    "container_id": "kitchen",
    "request_id": "4a1c7b1e-0000-4000-8000-000000000001",
}
PLAIN = {"ssid": "Open", "password": "", "mqtt": {"host": "broker.local", "port": 8883}, "request_id": "r"}
REJECTED, UNREACHABLE, TIMEOUT = "DEVICE_REJECTED", "DEVICE_UNREACHABLE", "DEVICE_TIMEOUT"
MAYBE, NEVER = True, False


class Camera:
    """A client for one address, and everything that has come there."""

    def __init__(self, client):
        self.client = client
        self.requests = []
        self.cut = asyncio.Event()

    async def provision(self, fields=FULL, *, timeout_s=1.5, address=ADDRESS):
        """None, or the ProvisionError."""
        mqtt = fields["mqtt"]
        password = mqtt.get("password")
        try:
            await self.client.provision(
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
async def camera(answer=b""):
    """A camera that answers with these bytes, or as a coroutine function of its streams does; then it hangs up."""
    connections, port = set(), free_port()

    async def handle(reader, writer):
        connections.add(asyncio.current_task())
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0] or 0)
            one.requests.append((head, await reader.readexactly(length)))
            if callable(answer):
                await answer(reader, writer)
            else:
                writer.write(answer)
            writer.close()
            await writer.wait_closed()
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the other side has gone, or the test is over
        finally:
            one.cut.set()
            connections.discard(asyncio.current_task())
            writer.transport.abort()

    async with new_session() as session:
        one = Camera(EspCamClient(session=session, port=port))
        server = await asyncio.start_server(handle, ADDRESS, port)
        try:
            yield one
        finally:
            server.close()
            closing = tuple(connections)
            for task in closing:
                task.cancel()
            await asyncio.gather(*closing, return_exceptions=True)
            await server.wait_closed()


def http(status, body=b"", *headers, length=None):
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def says(body, status="202 Accepted", *headers):
    return http(status, json.dumps(body).encode(), *headers)


def chunked(payload):
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + payload


def forever(head, piece, pause=0.0):
    async def write(_, writer):
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return write


async def hang(reader, _):
    """Until the other side goes."""
    await reader.read()


# What is sent.


async def test_text_goes_out_as_plain_utf_8_and_what_has_none_breaks_nothing():
    async with camera(says({"accepted": True})) as one:
        assert await one.provision(FULL | {"mqtt": FULL["mqtt"] | {"password": "caf\udce9"}}) is None
        _, body = one.requests[0]
        assert "Küche 📷".encode() in body
        assert json.loads(body)["mqtt"]["password"] == "caf?"


@pytest.mark.parametrize("fields", [FULL, PLAIN])
async def test_what_is_sent_is_what_the_contract_says_and_is_sent_once(fields):
    async with camera(says({"accepted": True})) as one:
        assert await one.provision(fields) is None
        assert await one.provision(fields) is None
        assert len(one.requests) == 2
        for head, body in one.requests:
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
        says({"accepted": True}),
        says({"accepted": True}, "200 OK"),
        says({"accepted": True, "request_id": "other", "more": [1, {"a": None}]}),
        chunked(b'7\r\n {"acce\r\na\r\npted":true\r\n2\r\n} \r\n0\r\n\r\n'),
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + says({"accepted": True}),
        b'HTTP/1.0 200 OK\r\n\r\n{"accepted": true}',
        says({"accepted": True, "pad": "x" * 65_000}),
    ],
)
async def test_whoever_says_that_it_accepts_is_believed(answer):
    async with camera(answer) as one:
        assert await one.provision() is None
        assert len(one.requests) == 1


# What may come back. Wherever there is room for it, the camera says back what it was told.

ECHO = json.dumps({"accepted": False, "error": f"cannot join with {WIFI} and {BROKER}"}).encode()
KIB = 1024
LATIN = f"{WIFI} {BROKER}".encode("latin-1").decode("latin-1")
ANSWERS = {
    # name: (answer, code, whether it may have acted on it)
    "bad request": (http("400 Bad Request", ECHO), REJECTED, NEVER),
    "unauthorized": (http("401 Unauthorized", ECHO, f'WWW-Authenticate: Basic realm="{WIFI}"'), REJECTED, NEVER),
    "forbidden": (http("403 Forbidden", ECHO), REJECTED, NEVER),
    "not found": (http("404 Not Found", ECHO), REJECTED, NEVER),
    "conflict": (http("409 Conflict", ECHO), REJECTED, NEVER),
    "unprocessable": (http("422 Unprocessable", ECHO), REJECTED, NEVER),
    "too many requests": (http("429 Too Many Requests", b"", "Retry-After: 99999999"), REJECTED, NEVER),
    "a reason that tells": (http(f"422 {WIFI}"), REJECTED, NEVER),
    "a header that tells": (
        http("403 Forbidden", b"", f"X-Password: {WIFI}", f"Set-Cookie: p={BROKER}"),
        REJECTED,
        NEVER,
    ),
    "forbidden without end": (forever(b"HTTP/1.1 403 Forbidden\r\n\r\n", ECHO * 100), REJECTED, NEVER),
    "not accepted": (http("200 OK", ECHO), REJECTED, NEVER),
    "not accepted, later": (http("202 Accepted", ECHO), REJECTED, NEVER),
    "a fault": (http("500 Internal Server Error", ECHO), UNREACHABLE, MAYBE),
    "unavailable": (http("503 Service Unavailable", ECHO), UNREACHABLE, MAYBE),
    "created": (says({"accepted": True}, "201 Created"), UNREACHABLE, MAYBE),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", UNREACHABLE, MAYBE),
    "a redirect": (http("302 Found", ECHO, f"Location: /{WIFI}"), UNREACHABLE, MAYBE),
    "a switch of protocols": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        UNREACHABLE,
        MAYBE,
    ),
    "an unknown status": (http("999 Whatever", ECHO), UNREACHABLE, MAYBE),
    "nothing at all": (b"", UNREACHABLE, MAYBE),
    "an empty body": (http("202 Accepted"), UNREACHABLE, MAYBE),
    "no JSON": (http("202 Accepted", WIFI.encode()), UNREACHABLE, MAYBE),
    "an array": (says([{"accepted": True}]), UNREACHABLE, MAYBE),
    "no word of it": (says({"error": WIFI}), UNREACHABLE, MAYBE),
    "accepted as text": (says({"accepted": "true"}), UNREACHABLE, MAYBE),
    "accepted as a number": (says({"accepted": 1}), UNREACHABLE, MAYBE),
    "refused as a number": (says({"accepted": 0}), UNREACHABLE, MAYBE),
    "accepted as null": (says({"accepted": None}), UNREACHABLE, MAYBE),
    "a number beyond all": (http("202 Accepted", b'{"accepted": true, "n": 1e99999}'), UNREACHABLE, MAYBE),
    "60,000 brackets": (http("202 Accepted", b"[" * 60_000), UNREACHABLE, MAYBE),
    "nine levels": (http("202 Accepted", b'{"a":' * 9 + b"1" + b"}" * 9), UNREACHABLE, MAYBE),
    "Latin-1": (http("202 Accepted", b'{"accepted": true, "name": "K\xfcche"}'), UNREACHABLE, MAYBE),
    "64 KiB and a byte": (http("202 Accepted", b'{"accepted": true}' + b" " * (64 * KIB - 17)), UNREACHABLE, MAYBE),
    "a length that nobody has": (http("202 Accepted", ECHO, length=10**18), UNREACHABLE, MAYBE),
    "two lengths": (says({"accepted": True}, "202 Accepted", "Content-Length: 3"), UNREACHABLE, MAYBE),
    "less than was promised": (http("202 Accepted", b'{"accepted": true}', length=500), UNREACHABLE, MAYBE),
    "gzip": (
        http("202 Accepted", gzip.compress(b'{"accepted": true}'), "Content-Encoding: gzip"),
        UNREACHABLE,
        MAYBE,
    ),
    "gzip in name only": (says({"accepted": True}, "202 Accepted", "Content-Encoding: gzip"), UNREACHABLE, MAYBE),
    "no HTTP": (f"{WIFI}\r\n{BROKER}\r\n\r\n".encode(), UNREACHABLE, MAYBE),
    "TLS": (b"\x16\x03\x03\x00\x02\x02\x28", UNREACHABLE, MAYBE),
    "a status that is no number": (http(f"{WIFI} OK"), UNREACHABLE, MAYBE),
    "a header with a NUL": (says({"accepted": True}, "202 Accepted", f"X-Pad: {WIFI}\0"), UNREACHABLE, MAYBE),
    "a header that is none": (says({"accepted": True}, "202 Accepted", WIFI), UNREACHABLE, MAYBE),
    "a chunk size that tells": (chunked(WIFI.encode() + b"\r\n{}"), UNREACHABLE, MAYBE),
    "a header without end": (forever(b"HTTP/1.1 202 Accepted\r\nX-Pad: ", WIFI.encode() * 4000), UNREACHABLE, MAYBE),
    "headers without end": (forever(b"HTTP/1.1 202 Accepted\r\n", b"X-Pad: aaaa\r\n" * 1000), UNREACHABLE, MAYBE),
    "a body without end": (
        forever(b'HTTP/1.1 202 Accepted\r\n\r\n{"accepted": true,', b" " * 9999),
        UNREACHABLE,
        MAYBE,
    ),
    "one-byte chunks without end": (forever(chunked(b""), b"1\r\n \r\n" * 1000), UNREACHABLE, MAYBE),
    "early hints without end": (forever(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100), TIMEOUT, MAYBE),
    "a byte now and then": (
        forever(b'HTTP/1.1 202 Accepted\r\n\r\n{"accepted": true', b" ", pause=0.05),
        TIMEOUT,
        MAYBE,
    ),
    "silence": (hang, TIMEOUT, MAYBE),
}


def leaks(text):
    """What is told of either secret in this text, in any of six encodings, whole or in large part."""
    forms = []
    for secret in (WIFI, BROKER):
        for part in (secret, secret[:12]):
            raw = part.encode()
            forms += [part, json.dumps(part)[1:-1], repr(part)[1:-1], repr(raw)[2:-1], quote(part), raw.hex()]
        forms += [base64.b64encode(secret.encode()).decode()[:12]]
    return [form for form in forms if form in text]


@pytest.mark.parametrize("name", ANSWERS)
async def test_whatever_a_camera_answers_has_its_code_and_is_not_repeated(name, caplog, capsys):
    answer, code, may_have_arrived = ANSWERS[name]
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    async with camera(answer) as one:
        began = time.monotonic()
        error = await one.provision()
        took = time.monotonic() - began
    assert (error.code, error.may_have_arrived) == (code, may_have_arrived)
    assert len(one.requests) == 1
    assert 1.4 < took < 3 if code == TIMEOUT else took < 1.4
    assert isinstance(error, OrchestratorError)
    assert error.retryable
    assert (error.__context__, error.__cause__) == (None, None)
    frames = traceback.TracebackException.from_exception(error, capture_locals=True).format()
    # The frames of this test know it; those of the client show it not even in their local variables.
    ours = [line for line in frames if "espcam.py" in line and "test_espcam" not in line]
    assert ours
    captured = capsys.readouterr()
    texts = [str(error), repr(error), error.message, repr(error.args), repr(error.__dict__), *ours]
    for text in (*texts, caplog.text, captured.out, captured.err):
        assert leaks(text) == []


def test_a_leak_would_be_seen():
    for text in (ECHO.decode(), repr(WIFI), base64.b64encode(BROKER.encode()).decode(), WIFI.encode().hex(), LATIN):
        assert leaks(f"error: {text}!")


# Where it never arrives.


async def test_where_nothing_listens_it_has_not_arrived():
    async with new_session() as session:
        one = Camera(EspCamClient(session=session, port=free_port()))
        error = await one.provision()
        assert (error.code, error.may_have_arrived) == (UNREACHABLE, NEVER)
        assert "refused" in error.message
        error = await one.provision(address="255.255.255.255")
        assert (error.code, error.may_have_arrived) == (UNREACHABLE, NEVER)


async def test_a_time_out_while_connecting_is_told_from_one_after_it():
    # A socket that nobody accepts from: what is beyond its queue is not answered at all.
    with socket.create_server((ADDRESS, 0), backlog=0) as full, contextlib.ExitStack() as stack:
        port = full.getsockname()[1]
        for _ in range(3):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex((ADDRESS, port))
        async with new_session() as session:
            began = time.monotonic()
            error = await Camera(EspCamClient(session=session, port=port)).provision(timeout_s=0.5)
        assert 0.4 < time.monotonic() - began < 2
        assert (error.code, error.may_have_arrived) == (TIMEOUT, NEVER)
        assert "connect" in error.message


async def test_giving_up_cuts_the_connection():
    async with camera(hang) as one:
        sending = asyncio.create_task(one.provision(timeout_s=60))
        await eventually(lambda: one.requests)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await asyncio.wait_for(one.cut.wait(), 5)
    async with camera(hang) as one:
        assert (await one.provision(timeout_s=0.3)).code == TIMEOUT
        await asyncio.wait_for(one.cut.wait(), 5)


# Where it must not go.


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_a_redirect_is_not_followed(status):
    async with camera(says({"accepted": True})) as thief:
        port = thief.client._port
        async with camera(http(status, b"", f"Location: http://{ADDRESS}:{port}/provision")) as one:
            error = await one.provision()
        assert (error.code, error.may_have_arrived) == (UNREACHABLE, MAYBE)
        assert thief.requests == []


async def test_a_proxy_in_the_environment_learns_nothing(monkeypatch):
    async with camera(says({"accepted": True})) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{ADDRESS}:{proxy.client._port}")
        async with camera(says({"accepted": True})) as one:
            assert await one.provision() is None
            assert len(one.requests) == 1
        assert proxy.requests == []


# With the cameras of the sandbox.

OUTCOMES = {
    None: None,
    "no-mac": None,
    "provision-vanish": None,
    "provision-moved": None,
    "wrong-password": None,
    "boot-loop": None,
    "provision-reject": (REJECTED, NEVER),
    "provision-echo": (REJECTED, NEVER),
    "provision-hang": (TIMEOUT, MAYBE),
    "provision-500": (UNREACHABLE, MAYBE),
    "provision-flaky": (UNREACHABLE, MAYBE),
    "answer-lost": (UNREACHABLE, MAYBE),
    "slow": (TIMEOUT, MAYBE),
    "bad-json": (UNREACHABLE, MAYBE),
    "http-500": (UNREACHABLE, MAYBE),
    "endless": (UNREACHABLE, MAYBE),
    "redirect": (UNREACHABLE, MAYBE),
    "silent": (TIMEOUT, MAYBE),
    "close": (UNREACHABLE, MAYBE),
    "gzip-bomb": (UNREACHABLE, MAYBE),
    "many-headers": (UNREACHABLE, MAYBE),
    "tls-bytes": (UNREACHABLE, MAYBE),
    "no-http": (UNREACHABLE, NEVER),
}


async def test_every_fault_of_the_sandbox_has_its_outcome_and_its_effect(broker):
    options = CameraOptions(broker_host=broker.host, broker_port=broker.port, http_port=free_port(), rejoin_s=60)
    faults = [fault for fault in OUTCOMES if fault]
    network = ADDRESS.rpartition(".")[0] + ".0/24"
    fleet = Fleet(count=len(OUTCOMES), options=options, network=network, faults=faults, storm=True)
    fields = FULL | {"password": "canary-4711", "mqtt": {"host": broker.host, "port": broker.port}}
    async with fleet, new_session() as session:
        await fleet.reported()
        one = Camera(EspCamClient(session=session, port=options.http_port))
        found = {}
        for camera in fleet.cameras:
            error = await one.provision(fields, address=str(camera.address), timeout_s=1)
            found[camera.fault] = error and (error.code, error.may_have_arrived)
            # What surely has not arrived has changed nothing, and what has is never called sure.
            assert not (camera.provisioned and error and not error.may_have_arrived)
            assert bool(camera.provisioned) is (error is None or camera.fault == "answer-lost")
        assert found == OUTCOMES


# The network that /status names.


@pytest.mark.parametrize(
    "told, ssid",
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
async def test_status_names_the_network_that_a_camera_is_on(told, ssid):
    async with camera(says({"mac": "24:6F:28:B0:F7:F1", "ssid": told}, "200 OK")) as one:
        assert (await one.client.status(ADDRESS, timeout_s=2)).ssid == ssid
