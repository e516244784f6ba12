"""Hostile cameras: each fails with its own code, affects no other camera, and costs bounded memory and time."""

import asyncio
import contextlib
import gzip
import json
import re
import socket
from pathlib import Path

import pytest
from aiohttp import web

from pi_orchestrator.sandbox.faults import Fault
from pi_orchestrator.sandbox.server import http_server, tcp_server
from tests.support import process
from tests.support.clock import FakeClock
from tests.support.waiting import HANG_S, eventually

CODES = {
    Fault.SLOW: "VERIFY_TIMEOUT",
    Fault.WRONG_MAC: "MAC_MISMATCH",
    Fault.NO_MAC: "VERIFY_BAD_BODY",
    Fault.BAD_JSON: "VERIFY_BAD_BODY",
    Fault.HTTP_500: "VERIFY_BAD_STATUS",
    Fault.ENDLESS: "VERIFY_BAD_BODY",
    Fault.REDIRECT: "VERIFY_BAD_STATUS",
    Fault.SILENT: "VERIFY_TIMEOUT",
    Fault.CLOSE: "VERIFY_BAD_BODY",
    Fault.GZIP_BOMB: "VERIFY_BAD_BODY",
    Fault.MANY_HEADERS: "VERIFY_BAD_BODY",
    Fault.TLS_BYTES: "VERIFY_BAD_BODY",
    Fault.NO_HTTP: "VERIFY_UNREACHABLE",
}


async def first_code(running, mac):
    """The error code of a camera's first attempt, None for success."""
    stages = await eventually(lambda: finished_stages(running, mac), what=f"the attempt of {mac} has ended")
    return stages[1][1]


async def finished_stages(running, mac):
    stages = await running.onboarding_stages(mac)
    return stages if len(stages) > 1 else None


async def test_each_fault_has_its_code_and_good_camera_is_paired(rig):
    faults = [fault.value for fault in CODES]
    timeout = {"verification_timeout_sec": 4}
    async with (
        rig.daemon(auto_onboard=timeout) as running,
        rig.fleet(1 + len(faults), faults=faults) as fleet,
    ):
        (good,) = fleet.with_fault(None)
        await fleet.wait_until_reported()
        await eventually(lambda: good.mac in running.app.cameras.cache)
        codes = {camera.fault: await first_code(running, camera.mac) for camera in fleet.cameras if camera.fault}
        assert codes == CODES
        assert len(running.app.cameras.cache) == 1
        assert await running.onboarding_stages(good.mac) == [
            (stage, None) for stage in ("discovered", "verified", "registered", "paired")
        ]
        for camera in fleet.cameras:
            if camera.fault:
                failed = (await running.onboarding_events(mac=camera.mac, stage="failed"))[0]
                assert failed["error_message"]
                assert failed["ip_address"] == str(camera.address)
                duration_s = failed["duration_ms"] / 1000
                if CODES[camera.fault] == "VERIFY_TIMEOUT":
                    assert 3.9 < duration_s < 5
                else:
                    assert duration_s < 3.9
        assert await running.metric('piorch_component_restarts_total{component="onboarding"}') == 0


# Other answers: bytes, a function of the MAC, or a coroutine that writes until it is cancelled.


def http_response(body, *headers, status="200 OK", length=None):
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {size}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def chunked(payload):
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + payload


def status_of(mac, **more):
    return json.dumps({"mac": mac, "device_id": "espcam-x", **more}).encode()


def padded(mac, size):
    body = status_of(mac)
    return body + b" " * (size - len(body))


def endless(head, piece):
    """A function that writes `head`, then `piece` again and again."""

    async def write(writer, _):
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    return write


OK = None
BODY, STATUS, TIMEOUT, MISMATCH = "VERIFY_BAD_BODY", "VERIFY_BAD_STATUS", "VERIFY_TIMEOUT", "MAC_MISMATCH"
KIB = 1024
ANSWERS = {
    # name: (answer, expected code of the onboarding event)
    "the minimal valid answer": (lambda mac: http_response(status_of(mac)), OK),
    "exactly 64 KiB": (lambda mac: http_response(padded(mac, 64 * KIB)), OK),
    "64 KiB and one byte": (lambda mac: http_response(padded(mac, 64 * KIB + 1)), BODY),
    "64 KiB and one byte in chunks": (
        lambda mac: chunked(b"10001\r\n" + padded(mac, 64 * KIB + 1) + b"\r\n0\r\n\r\n"),
        BODY,
    ),
    "a huge length": (lambda mac: http_response(status_of(mac), length=10**18), BODY),
    "a negative length": (lambda mac: http_response(status_of(mac), length=-1), BODY),
    "a length that is not a number": (lambda mac: http_response(status_of(mac), length="many"), BODY),
    "two lengths": (lambda mac: http_response(status_of(mac), "Content-Length: 3"), BODY),
    "a body shorter than its length": (lambda mac: http_response(status_of(mac), length=500), BODY),
    "a chunk of 2^64 bytes": (chunked(b"FFFFFFFFFFFFFFFF\r\n{}"), BODY),
    "a chunk size that is not a number": (chunked(b"zz\r\n{}"), BODY),
    "no answer": (b"", BODY),
    "an empty body": (http_response(b""), BODY),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", STATUS),
    "partial content": (lambda mac: http_response(status_of(mac), status="206 Partial Content"), STATUS),
    "not found": (http_response(b"", status="404 Not Found"), STATUS),
    "an unknown status": (lambda mac: http_response(status_of(mac), status="999 Whatever"), STATUS),
    "a status of five digits": (lambda mac: http_response(status_of(mac), status="20000 OK"), BODY),
    "a status that is not a number": (lambda mac: http_response(status_of(mac), status="OK"), BODY),
    "no HTTP": (b"220 camera ESMTP ready\r\n", BODY),
    "an unknown HTTP version": (lambda mac: http_response(status_of(mac)).replace(b"HTTP/1.1", b"HTTP/99.9"), BODY),
    "a switch of protocols": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", STATUS),
    "a header with a NUL": (lambda mac: http_response(status_of(mac), "X-Pad: a\0b"), BODY),
    "brotli": (lambda mac: http_response(b"\x0b\x00\x80{}\x03", "Content-Encoding: br"), BODY),
    "gzip of a good answer": (lambda mac: http_response(gzip.compress(status_of(mac)), "Content-Encoding: gzip"), BODY),
    "a permanent redirect": (http_response(b"", "Location: /status2", status="308 Permanent Redirect"), STATUS),
    "an array": (http_response(b"[1, 2]"), BODY),
    "a bare number": (http_response(b"1"), BODY),
    "NaN": (lambda mac: http_response(status_of(mac, rssi=float("nan"))), BODY),
    "a number out of range": (lambda mac: http_response(status_of(mac)[:-1] + b', "rssi": 1e999}'), BODY),
    "an integer of 60,000 digits": (
        lambda mac: http_response(status_of(mac)[:-1] + b', "n": ' + b"9" * 60_000 + b"}"),
        BODY,
    ),
    "60,000 brackets": (http_response(b"[" * 60_000), BODY),
    "nine levels": (lambda mac: http_response(status_of(mac)[:-1] + b', "a": ' + b'{"a":' * 8 + b"1" + b"}" * 9), BODY),
    "Latin-1": (lambda mac: http_response(status_of(mac)[:-1] + b', "name": "K\xfcche"}'), BODY),
    "HTML": (http_response(b"<html><body>camera</body></html>", "Content-Type: text/html"), BODY),
    "a MAC that is a number": (http_response(b'{"mac": 12345}'), BODY),
    "a MAC that is a list": (lambda mac: http_response(json.dumps({"mac": [mac]}).encode()), BODY),
    "a multicast MAC": (http_response(b'{"mac": "01:00:5E:00:00:01"}'), BODY),
    "the zero MAC": (http_response(b'{"mac": "00:00:00:00:00:00"}'), BODY),
    "no MAC": (http_response(b'{"framesize": 8, "quality": 10}'), BODY),
    "another camera's MAC": (http_response(status_of("24:6F:28:AA:AA:A0")), MISMATCH),
    "the soft-AP MAC of the same ESP32": (lambda mac: http_response(status_of(mac[:-1] + "1")), MISMATCH),
    "the right MAC in the field mac_address": (
        lambda mac: http_response(json.dumps({"mac_address": mac.lower().replace(":", "-")}).encode()),
        OK,
    ),
    "a header without end": (endless(b"HTTP/1.1 200 OK\r\nX-Pad: ", b"a" * 65_536), BODY),
    "headers without end": (endless(b"HTTP/1.1 200 OK\r\n", b"X-Pad: aaaa\r\n" * 1000), BODY),
    "a status line without end": (endless(b"HTTP/1.1 200 ", b"a" * 65_536), BODY),
    "a body without end": (endless(b"HTTP/1.1 200 OK\r\n\r\n{", b" " * 65_536), BODY),
    "chunks without end": (endless(chunked(b""), b"1000\r\n" + b" " * 0x1000 + b"\r\n"), BODY),
    "a chunk extension without end": (endless(chunked(b"1;"), b"a" * 65_536), TIMEOUT),
    "one-byte chunks without end": (endless(chunked(b""), b"1\r\n \r\n" * 1000), BODY),
    "trailers without end": (endless(chunked(b"2\r\n{}\r\n0\r\n"), b"X-Pad: aaaa\r\n" * 1000), BODY),
    "early hints without end": (endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100), TIMEOUT),
}


@contextlib.asynccontextmanager
async def raw_camera(rig, number, answer):
    """A TCP server at the n-th address: it answers one request and closes the connection; yields the MAC."""
    mac = rig.mac(number)

    async def respond(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        content = answer
        if not isinstance(content, bytes):
            content = content(mac) if content.__code__.co_argcount == 1 else await content(writer, mac)
        writer.write(content)
        await writer.drain()

    async with tcp_server(socket.create_server((rig.address(number), rig.camera_port)), respond):
        yield mac


@pytest.mark.parametrize("name", ANSWERS)
async def test_each_answer_has_its_code(rig, name):
    answer, code = ANSWERS[name]
    timeout = {"verification_timeout_sec": 1.5 if code is TIMEOUT else 20}
    async with rig.daemon(auto_onboard=timeout) as running, raw_camera(rig, 1, answer) as mac:
        await rig.announce(1)
        assert await first_code(running, mac) == code
        assert (mac in running.app.cameras.cache) is (code is OK)


async def test_redirect_is_not_followed(rig):
    """The redirect points to the daemon's machine, where other programs trust the loopback."""
    reached = []

    async def answer(request):
        reached.append(request.path)
        return web.json_response({"mac": rig.mac(1)})

    sock = socket.create_server(("127.0.0.1", 0))
    redirect = http_response(b"", f"Location: http://127.0.0.1:{sock.getsockname()[1]}/status", status="302 Found")
    async with http_server(sock, answer), rig.daemon() as running, raw_camera(rig, 1, redirect) as mac:
        await rig.announce(1)
        assert await first_code(running, mac) == STATUS
        assert reached == []


async def test_proxy_environment_is_ignored(rig, monkeypatch):
    """A proxy cannot reach the camera network, and must not learn its addresses."""
    requests = []

    async def proxy(writer, mac):
        requests.append(mac)
        return http_response(b"", status="502 Bad Gateway")

    async with raw_camera(rig, 9, proxy), rig.camera(1) as camera:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{rig.address(9)}:{rig.camera_port}")
        async with rig.daemon() as running:
            await camera.publish_status()
            assert await first_code(running, camera.mac) is OK
            assert requests == []


async def test_camera_texts_are_sanitized(rig):
    """Control characters, lone surrogates and lengths are cut before they reach a log line, a row or a page."""
    hostile = "2.0\r\n\x1b[2J\x00\ud800<script>" + "A" * 500
    async with rig.camera(1, firmware_version=hostile, device_id="a/../b\n") as camera, rig.daemon() as running:
        await camera.publish_status(device_id=None, firmware_version=hostile, last_error=hostile, ssid=hostile)
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        shown = await running.camera(camera.mac)
        rows = await running.onboarding_events(mac=camera.mac)
        texts = [shown["firmware_version"], shown["health"]["last_error"], shown["id"]]
        texts += [row["firmware_version"] for row in rows] + [row["device_id"] for row in rows if "device_id" in row]
        for text in texts:
            assert text.isprintable()
            assert len(text) <= 128


async def test_failed_camera_is_retried_and_succeeds(rig):
    clock = FakeClock()
    answers = [http_response(b"", status="500 Oops"), b"\x16\x03\x03\x00\x02\x02\x28", http_response(b"{"), OK]
    turn = iter(answers)

    async def changing(writer, mac):
        return next(turn) or http_response(status_of(mac))

    async with rig.daemon(clock=clock) as running, raw_camera(rig, 1, changing) as mac:
        for attempt in range(1, 5):
            await rig.announce(1)
            await eventually(lambda attempt=attempt: running.app.onboarding.worker.metrics.attempts == attempt)
            await eventually(lambda: not running.app.onboarding.worker.is_onboarding(mac))
            await clock.advance(41)  # longer than the back-off after four failures
        assert [code for stage, code in await running.onboarding_stages(mac) if stage == "failed"] == [
            STATUS,
            BODY,
            BODY,
        ]
        assert (await running.onboarding_stages(mac))[-1] == ("paired", None)


async def test_many_hostile_cameras_cost_bounded_memory(rig, tmp_path):
    """The daemon is a separate process, so that its memory and time are measured alone."""
    endless_answers = [name for name in ANSWERS if "without end" in name]
    sections = {"auto_onboard": {"verification_timeout_sec": 1.5, "concurrency": 64}}
    async with contextlib.AsyncExitStack() as stack:
        daemon = await stack.enter_async_context(process.daemon(rig, tmp_path, **sections))
        async with rig.camera(900) as camera:  # load all modules that are loaded at first use
            await camera.publish_status()
            await eventually(lambda: is_paired(daemon, camera.mac))
        before = daemon.resident_kib()
        numbers = range(1, 3 * len(endless_answers) + 1)
        macs = [
            await stack.enter_async_context(
                raw_camera(rig, number, ANSWERS[endless_answers[number % len(endless_answers)]][0])
            )
            for number in numbers
        ]
        async with rig.broker.client() as client:
            for number in numbers:
                await rig.announce(number, client=client)
        async with asyncio.timeout(HANG_S):
            while await failed_count(daemon) < len(macs):
                assert (await daemon.api.get("/healthz")).status == 200
        peak = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{daemon.pid}/status").read_text())[1])
        assert peak - before < 32 * KIB


async def is_paired(daemon, mac):
    return mac in {camera["mac_address"] for camera in (await daemon.api.get("/api/v1/espcam/paired")).data["cameras"]}


async def failed_count(daemon):
    return (await daemon.api.get("/api/v1/onboarding/auto/status")).data["metrics"]["failed"]
