"""Hostile cameras: each gets its own code, hurts only itself, and costs bounded memory and time."""

import asyncio
import contextlib
import gzip
import json
import re
import socket
import time
from pathlib import Path

import pytest
from aiohttp import web

from pi_orchestrator.sandbox.faults import Fault
from tests.support import process
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

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


async def outcome(running, mac):
    """The code of a camera's first attempt once it is over; None for success."""
    trail = await eventually(lambda: finished(running, mac), what=f"the attempt of {mac} is over")
    return trail[1][1]


async def finished(running, mac):
    trail = await running.trail(mac)
    return trail if len(trail) > 1 else None


async def test_every_fault_has_its_code_and_a_good_camera_beside_them_is_paired_promptly(world):
    faults = [fault.value for fault in CODES]
    timeout = {"verification_timeout_sec": 4}
    async with (
        world.daemon(auto_onboard=timeout) as running,
        world.fleet(1 + len(faults), faults=faults) as fleet,
    ):
        (good,) = fleet.with_fault(None)
        await fleet.reported()
        await eventually(lambda: good.mac in running.services.roster, within=3)
        codes = {camera.fault: await outcome(running, camera.mac) for camera in fleet.cameras if camera.fault}
        assert codes == CODES
        assert len(running.services.roster) == 1
        assert await running.trail(good.mac) == [
            (stage, None) for stage in ("discovered", "verified", "registered", "paired")
        ]
        for camera in fleet.cameras:
            if camera.fault:
                failed = (await running.audit(mac=camera.mac, stage="failed"))[0]
                assert failed["error_message"]
                assert failed["ip_address"] == str(camera.address)
                took = failed["duration_ms"] / 1000
                if CODES[camera.fault] == "VERIFY_TIMEOUT":
                    assert 3.9 < took < 5
                else:
                    assert took < 3.9
        assert await running.metric('piorch_component_restarts_total{component="onboarding"}') == 0


# What a camera may also send, by hand: bytes, or a function that writes until it is stopped.


def http(body, *headers, status="200 OK", length=None):
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


def forever(head, piece):
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
    # name: (what is sent, as bytes or made from the MAC; what the audit says)
    "the plainest answer that will do": (lambda mac: http(status_of(mac)), OK),
    "just 64 KiB": (lambda mac: http(padded(mac, 64 * KIB)), OK),
    "a byte more": (lambda mac: http(padded(mac, 64 * KIB + 1)), BODY),
    "64 KiB in chunks, and a byte": (
        lambda mac: chunked(b"10001\r\n" + padded(mac, 64 * KIB + 1) + b"\r\n0\r\n\r\n"),
        BODY,
    ),
    "a length that nobody has": (lambda mac: http(status_of(mac), length=10**18), BODY),
    "a negative length": (lambda mac: http(status_of(mac), length=-1), BODY),
    "a length that is no number": (lambda mac: http(status_of(mac), length="many"), BODY),
    "two lengths": (lambda mac: http(status_of(mac), "Content-Length: 3"), BODY),
    "less than was promised": (lambda mac: http(status_of(mac), length=500), BODY),
    "a chunk of 2^64 bytes": (chunked(b"FFFFFFFFFFFFFFFF\r\n{}"), BODY),
    "a chunk size that is no number": (chunked(b"zz\r\n{}"), BODY),
    "nothing at all": (b"", BODY),
    "an empty body": (http(b""), BODY),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", STATUS),
    "partial content": (lambda mac: http(status_of(mac), status="206 Partial Content"), STATUS),
    "not found": (http(b"", status="404 Not Found"), STATUS),
    "an unknown status": (lambda mac: http(status_of(mac), status="999 Whatever"), STATUS),
    "a status of five digits": (lambda mac: http(status_of(mac), status="20000 OK"), BODY),
    "a status that is no number": (lambda mac: http(status_of(mac), status="OK"), BODY),
    "no HTTP": (b"220 camera ESMTP ready\r\n", BODY),
    "HTTP of another age": (lambda mac: http(status_of(mac)).replace(b"HTTP/1.1", b"HTTP/99.9"), BODY),
    "a switch of protocols": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", STATUS),
    "a header with a NUL": (lambda mac: http(status_of(mac), "X-Pad: a\0b"), BODY),
    "brotli": (lambda mac: http(b"\x0b\x00\x80{}\x03", "Content-Encoding: br"), BODY),
    "gzip of a good answer": (lambda mac: http(gzip.compress(status_of(mac)), "Content-Encoding: gzip"), BODY),
    "a permanent redirect": (http(b"", "Location: /status2", status="308 Permanent Redirect"), STATUS),
    "an array": (http(b"[1, 2]"), BODY),
    "a bare number": (http(b"1"), BODY),
    "NaN": (lambda mac: http(status_of(mac, rssi=float("nan"))), BODY),
    "a number beyond all": (lambda mac: http(status_of(mac)[:-1] + b', "rssi": 1e999}'), BODY),
    "an integer of 60,000 digits": (lambda mac: http(status_of(mac)[:-1] + b', "n": ' + b"9" * 60_000 + b"}"), BODY),
    "60,000 brackets": (http(b"[" * 60_000), BODY),
    "nine levels": (lambda mac: http(status_of(mac)[:-1] + b', "a": ' + b'{"a":' * 8 + b"1" + b"}" * 9), BODY),
    "Latin-1": (lambda mac: http(status_of(mac)[:-1] + b', "name": "K\xfcche"}'), BODY),
    "HTML": (http(b"<html><body>camera</body></html>", "Content-Type: text/html"), BODY),
    "a MAC that is a number": (http(b'{"mac": 12345}'), BODY),
    "a MAC that is a list": (lambda mac: http(json.dumps({"mac": [mac]}).encode()), BODY),
    "a multicast MAC": (http(b'{"mac": "01:00:5E:00:00:01"}'), BODY),
    "the zero MAC": (http(b'{"mac": "00:00:00:00:00:00"}'), BODY),
    "no MAC": (http(b'{"framesize": 8, "quality": 10}'), BODY),
    "another camera's MAC": (http(status_of("24:6F:28:AA:AA:A0")), MISMATCH),
    "the soft-AP MAC of the same ESP32": (lambda mac: http(status_of(mac[:-1] + "1")), MISMATCH),
    "the right MAC under the other name": (
        lambda mac: http(json.dumps({"mac_address": mac.lower().replace(":", "-")}).encode()),
        OK,
    ),
    "a header without end": (forever(b"HTTP/1.1 200 OK\r\nX-Pad: ", b"a" * 65_536), BODY),
    "headers without end": (forever(b"HTTP/1.1 200 OK\r\n", b"X-Pad: aaaa\r\n" * 1000), BODY),
    "a status line without end": (forever(b"HTTP/1.1 200 ", b"a" * 65_536), BODY),
    "a body without end": (forever(b"HTTP/1.1 200 OK\r\n\r\n{", b" " * 65_536), BODY),
    "chunks without end": (forever(chunked(b""), b"1000\r\n" + b" " * 0x1000 + b"\r\n"), BODY),
    "a chunk extension without end": (forever(chunked(b"1;"), b"a" * 65_536), TIMEOUT),
    "one-byte chunks without end": (forever(chunked(b""), b"1\r\n \r\n" * 1000), BODY),
    "trailers without end": (forever(chunked(b"2\r\n{}\r\n0\r\n"), b"X-Pad: aaaa\r\n" * 1000), BODY),
    "early hints without end": (forever(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100), TIMEOUT),
}


@contextlib.asynccontextmanager
async def raw_camera(world, number, answer):
    """Plain TCP at the n-th address: one request, one answer, and the connection is closed."""
    mac = world.mac(number)
    connections = set()

    async def handle(reader, writer):
        connections.add(asyncio.current_task())
        try:
            await reader.readuntil(b"\r\n\r\n")
            made = answer
            if not isinstance(made, bytes):
                made = made(mac) if made.__code__.co_argcount == 1 else await made(writer, mac)
            writer.write(made)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the other side has gone, or the test is over
        finally:
            connections.discard(asyncio.current_task())
            writer.transport.abort()

    server = await asyncio.start_server(handle, world.address(number), world.camera_port)
    try:
        yield mac
    finally:
        server.close()
        closing = tuple(connections)
        for task in closing:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)
        await server.wait_closed()


@pytest.mark.parametrize("name", ANSWERS)
async def test_whatever_a_camera_sends_has_its_code(world, name):
    answer, code = ANSWERS[name]
    timeout = {"verification_timeout_sec": 1.5}
    async with world.daemon(auto_onboard=timeout) as running, raw_camera(world, 1, answer) as mac:
        await world.announce(1)
        assert await outcome(running, mac) == code
        assert (mac in running.services.roster) is (code is OK)


async def test_a_redirect_is_not_followed_to_a_server_on_the_pi(world):
    """The address of the redirect is the daemon's own machine, where other programs trust the loopback."""
    reached = []

    async def answer(request):
        reached.append(request.path)
        return web.json_response({"mac": world.mac(1)})

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    site = web.SockSite(runner, socket.create_server(("127.0.0.1", 0)))
    await site.start()
    port = runner.addresses[0][1]
    try:
        redirect = http(b"", f"Location: http://127.0.0.1:{port}/status", status="302 Found")
        async with world.daemon() as running, raw_camera(world, 1, redirect) as mac:
            await world.announce(1)
            assert await outcome(running, mac) == STATUS
            assert reached == []
    finally:
        await runner.cleanup()


async def test_a_proxy_in_the_environment_is_not_used(world, monkeypatch):
    """Addresses of the camera network mean nothing to a proxy, and a proxy must not learn of them."""
    asked = []

    async def proxy(writer, mac):
        asked.append(mac)
        return http(b"", status="502 Bad Gateway")

    async with raw_camera(world, 9, proxy), world.camera(1) as camera:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{world.address(9)}:{world.camera_port}")
        async with world.daemon() as running:
            await camera.say()
            assert await outcome(running, camera.mac) is OK
            assert asked == []


async def test_what_a_camera_says_is_safe_to_log_store_and_show(world):
    """Control characters, lone surrogates and lengths are cut before they reach a log line, a row or a page."""
    nasty = "2.0\r\n\x1b[2J\x00\ud800<script>" + "A" * 500
    async with world.camera(1, firmware_version=nasty, device_id="a/../b\n") as camera, world.daemon() as running:
        await camera.say(device_id=None, firmware_version=nasty, last_error=nasty, ssid=nasty)
        await eventually(lambda: camera.mac in running.services.roster)
        shown = await running.camera(camera.mac)
        rows = await running.audit(mac=camera.mac)
        texts = [shown["firmware_version"], shown["health"]["last_error"], shown["id"]]
        texts += [row["firmware_version"] for row in rows] + [row["device_id"] for row in rows if "device_id" in row]
        for text in texts:
            assert text.isprintable()
            assert len(text) <= 128


async def test_a_camera_that_misbehaved_is_tried_again_later_and_then_succeeds(world):
    clock = FakeClock()
    answers = [http(b"", status="500 Oops"), b"\x16\x03\x03\x00\x02\x02\x28", http(b"{"), OK]
    turn = iter(answers)

    async def moody(writer, mac):
        return next(turn) or http(status_of(mac))

    async with world.daemon(clock=clock) as running, raw_camera(world, 1, moody) as mac:
        for attempt in range(1, 5):
            await world.announce(1)
            await eventually(lambda attempt=attempt: running.services.onboarding.metrics.attempts == attempt)
            await eventually(lambda: not running.services.onboarding.is_onboarding(mac))
            await clock.advance(41)
        assert [code for stage, code in await running.trail(mac) if stage == "failed"] == [STATUS, BODY, BODY]
        assert (await running.trail(mac))[-1] == ("paired", None)


async def test_an_attack_from_many_sides_costs_bounded_memory_and_leaves_the_api_quick(world, tmp_path):
    """A daemon of its own, so that its memory and its time are not the attackers'."""
    endless = [name for name in ANSWERS if "without end" in name]
    sections = {"auto_onboard": {"verification_timeout_sec": 1.5, "concurrency": 64}}
    async with contextlib.AsyncExitStack() as stack:
        daemon = await stack.enter_async_context(process.daemon(world, tmp_path, **sections))
        async with world.camera(900) as camera:  # everything that is loaded at first use is loaded
            await camera.say()
            await eventually(lambda: daemon_knows(daemon, camera.mac))
        before = daemon.resident_kib()
        numbers = range(1, 3 * len(endless) + 1)
        macs = [
            await stack.enter_async_context(raw_camera(world, number, ANSWERS[endless[number % len(endless)]][0]))
            for number in numbers
        ]
        latencies = []
        async with world.broker.client() as client:
            for number in numbers:
                await world.announce(number, client=client)
        async with asyncio.timeout(30):
            while await failures(daemon) < len(macs):
                began = time.monotonic()
                assert (await daemon.api.get("/healthz")).status == 200
                latencies.append(time.monotonic() - began)
        peak = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{daemon.pid}/status").read_text())[1])
        assert peak - before < 32 * KIB
        assert max(latencies) < 1


async def daemon_knows(daemon, mac):
    return mac in {camera["mac_address"] for camera in (await daemon.api.get("/api/v1/espcam/paired")).data["cameras"]}


async def failures(daemon):
    return (await daemon.api.get("/api/v1/onboarding/auto/status")).data["metrics"]["failed"]
