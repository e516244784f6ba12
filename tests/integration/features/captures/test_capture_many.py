"""Captures of many cameras, of hostile cameras, and during shutdown."""

import asyncio
import base64
import contextlib
import gzip
import json
import re
import signal
import socket
import threading
import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from pi_orchestrator.core.byte_budget import ByteBudget
from pi_orchestrator.core.errors import CaptureError
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.sighting import Sighting, Source
from pi_orchestrator.features.captures import service as captures
from pi_orchestrator.features.captures.service import _parse
from pi_orchestrator.features.commands.model import BUDGET_BYTES, Phase
from pi_orchestrator.net.camera_http import CameraHttpClient, new_session
from pi_orchestrator.sandbox.server import tcp_server
from tests.support import process
from tests.support.waiting import eventually

JPEG = b"\xff\xd8 picture \xff\xd9"
MIB = 1024 * 1024


async def test_250_concurrent_captures_use_bounded_memory(rig, tmp_path):
    """In a separate daemon process: sixteen captures at a time, the others wait."""
    off = {"auto_onboard": {"enabled": False, "mode": "off"}}
    async with process.daemon(rig, tmp_path, **off) as daemon, rig.fleet(250, interval=20.0) as fleet:

        async def are_all_listed():
            return (await daemon.api.get("/api/v1/cameras")).data["count"] == 250

        await eventually(are_all_listed)
        before = daemon.resident_kib()
        tasks = [
            asyncio.create_task(daemon.api.post(f"/api/v1/cameras/{camera.mac}/capture")) for camera in fleet.cameras
        ]
        peak_bytes = 0
        while not all(task.done() for task in tasks):
            page = (await daemon.api.get("/metrics")).body.decode()
            assert metric(page, "piorch_captures_in_assembly") <= 16
            peak_bytes = max(peak_bytes, metric(page, "piorch_capture_held_bytes"))
            await asyncio.sleep(0.1)
        answers = [task.result() for task in tasks]
        assert {answer.status for answer in answers} == {200}
        assert all(answer.body.startswith(b"\xff\xd8") for answer in answers)
        assert peak_bytes < 4 * MIB
        peak = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{daemon.pid}/status").read_text())[1])
        assert peak - before < 40 * 1024
        page = (await daemon.api.get("/metrics")).body.decode()
        assert metric(page, "piorch_capture_held_bytes") == 0


def metric(page, name):
    return float(re.search(rf"^{name} (\S+)$", page, re.M)[1])


async def test_sigterm_during_a_capture_stops_the_daemon(rig, tmp_path):
    async with process.daemon(rig, tmp_path) as daemon, rig.fleet(1, faults=["capture-stalls"]) as fleet:
        (camera,) = fleet.cameras
        await daemon.logged("camera onboarded")
        task = asyncio.create_task(daemon.api.post(f"/api/v1/cameras/{camera.mac}/capture"))
        await eventually(lambda: camera.commands.received_actions == ["capture"])
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
        answer = await task
        assert (answer.status, answer.json["code"]) == (502, "CAPTURE_FAILED")
        assert "stopping" in answer.json["error"]["message"]


# Parsing in threads.


async def test_long_messages_are_parsed_in_a_thread(rig, monkeypatch):
    threads = []

    def record(messages):
        threads.append((sum(len(payload) for _, payload in messages), threading.current_thread()))
        return _parse(messages)

    monkeypatch.setattr(captures, "_parse", record)
    jpeg = b"\xff\xd8" + bytes(8 * MIB - 4) + b"\xff\xd9"
    async with rig.daemon() as running, rig.broker.client() as client:
        mac = rig.mac(1)
        await client.subscribe(f"camera/command/{mac}")
        await rig.announce(1, client=client)
        await eventually(lambda: running.app.devices.registry.get(mac))
        task = asyncio.create_task(running.api.post(f"/api/v1/cameras/{mac}/capture"))
        rid = json.loads((await anext(aiter(client.messages))).payload)["request_id"]
        await rig.publish(f"camera/response/{rid}/ack", {"request_id": rid}, client=client)
        await eventually(lambda: threads)
        whole = base64.b64encode(jpeg).decode()
        for suffix, fields in (
            ("info", {"total_size": len(jpeg), "total_chunks": 1}),
            ("chunk", {"chunk_index": 0, "chunk_data": whole}),
        ):
            await rig.publish(f"camera/response/{rid}/{suffix}", fields, client=client)
        answer = await task
        assert (answer.status, answer.body) == (200, jpeg)
    main = threading.main_thread()
    assert {thread is main for size, thread in threads if size < 10_000} == {True}
    assert {thread is main for size, thread in threads if size > MIB} == {False}


def test_parsing_the_largest_chunk_does_not_block_threads():
    """Decoding is done in pieces, so that the event loop's thread can run in between."""
    payload = json.dumps({"chunk_index": 0, "chunk_data": base64.b64encode(bytes(8 * MIB)).decode()}).encode()
    gaps, stop = [], threading.Event()

    def tick():
        last = time.monotonic()
        while not stop.is_set():
            time.sleep(0.001)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    ticking = threading.Thread(target=tick)
    ticking.start()
    (answer,) = _parse([(Phase.CHUNK, payload)])
    stop.set()
    ticking.join()
    assert len(answer.content.data) == 8 * MIB
    assert max(gaps) < 0.25, "upper bound for a busy machine; an idle one needs a tenth"


# Hostile cameras by HTTP.


def http_response(body=JPEG, *headers, status="200 OK", kind="image/jpeg", length=None):
    size = len(body) if length is None else length
    content_type = () if kind is None else (f"Content-Type: {kind}",)
    lines = [f"HTTP/1.1 {status}", *content_type, f"Content-Length: {size}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def endless(head, piece, pause=0.0):
    """A function that writes `head`, then `piece` again and again."""

    async def write(writer):
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return write


# Headers of an answer without Content-Length: the end of the connection (OPEN) or the last chunk (CHUNKED) ends it.
OPEN = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n\xff\xd8"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n"
FAILED, TIMEOUT = "CAPTURE_FAILED", "CAPTURE_TIMEOUT"
HOSTILE = {
    "a body without end": (endless(OPEN, b"x" * 65_536), FAILED, "over 8192 KiB"),
    "chunks without end": (endless(CHUNKED, b"10000\r\n" + b"x" * 65_536 + b"\r\n"), FAILED, "over 8192 KiB"),
    "an impossible length": (http_response(length=10**15), FAILED, "over 8192 KiB"),
    "a byte a second": (endless(OPEN, b"x", 1.0), TIMEOUT, "within 0.5 s"),
    "nothing": (endless(b"", b"", 1.0), TIMEOUT, "within 0.5 s"),
    "headers without end": (endless(b"HTTP/1.1 200 OK\r\n", b"X-Pad: aaaa\r\n" * 1000), FAILED, "invalid HTTP"),
    "gzip": (http_response(gzip.compress(JPEG), "Content-Encoding: gzip"), FAILED, "compressed"),
    "a redirect": (http_response(b"", "Location: http://127.0.0.1/", status="302 Found"), FAILED, "status 302"),
    "TLS": (b"\x16\x03\x03\x00\x50\x02\x00\x00\x4c\x03\x03" + bytes(74), FAILED, "invalid HTTP"),
    "an error": (http_response(b"no camera", status="500 Oops"), FAILED, "status 500"),
    "HTML": (http_response(b"<html>", kind="text/html"), FAILED, "text/html, not image/jpeg"),
    "HTML without a type": (http_response(b"<html>", kind=None), FAILED, "not a JPEG"),
    "JSON": (http_response(JPEG, kind="application/json"), FAILED, "application/json, not image/jpeg"),
    "padding over the limit": (http_response(JPEG + bytes(8193)), FAILED, "not a JPEG"),
    "a PNG": (http_response(b"\x89PNG", kind="image/jpeg"), FAILED, "not a JPEG"),
    "half a picture": (http_response(JPEG[:9], length=len(JPEG)), FAILED, "the connection was lost"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", FAILED, "status 204"),
    "an immediate close": (b"", FAILED, "the connection was lost"),
}


@contextlib.asynccontextmanager
async def raw_camera(rig, answer):
    """A camera that answers each HTTP request with `answer`: bytes, or a function that writes them."""

    async def respond(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer) if isinstance(answer, bytes) else await answer(writer)
        await writer.drain()

    async with tcp_server(socket.create_server((rig.address(1), rig.camera_port)), respond):
        yield


@pytest.fixture
async def client(rig):
    async with new_session() as session:
        yield CameraHttpClient(session=session, port=rig.camera_port)


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_http_answer_is_refused(rig, client, name):
    answer, code, reason = HOSTILE[name]
    budget = ByteBudget(BUDGET_BYTES, retry_after_s=30.0)
    async with raw_camera(rig, answer):
        timeout_s = 0.5 if code == TIMEOUT else 5
        with pytest.raises(CaptureError) as caught:
            await client.capture(rig.address(1), timeout_s=timeout_s, budget=budget)
    assert caught.value.code == code
    assert reason in caught.value.message
    assert caught.value.message.isprintable()
    assert budget.used == 0


@pytest.mark.parametrize("kind", [None, "application/octet-stream", "image/jpg", "image/pjpeg", "jpeg"], ids=repr)
@pytest.mark.parametrize("padding", [b"", bytes(512), b"\r\n"], ids=len)
async def test_http_picture_is_recognised_by_its_bytes(rig, client, kind, padding):
    budget = ByteBudget(BUDGET_BYTES, retry_after_s=30.0)
    async with raw_camera(rig, http_response(JPEG + padding, kind=kind)):
        assert await client.capture(rig.address(1), timeout_s=5, budget=budget) == JPEG
    assert budget.used == 0


async def test_http_capture_respects_the_budget(rig, client):
    async with raw_camera(rig, http_response()):
        budget = ByteBudget(len(JPEG), retry_after_s=30.0)
        assert await client.capture(rig.address(1), timeout_s=5, budget=budget) == JPEG
        budget.take(1)
        with pytest.raises(CaptureError, match="too many large pictures in transfer") as caught:
            await client.capture(rig.address(1), timeout_s=5, budget=budget)
        assert (caught.value.is_camera_fault, budget.used) == (False, 1)
    with pytest.raises(CaptureError, match="cannot connect"):
        await client.capture(rig.address(1), timeout_s=5, budget=budget)


async def test_device_that_is_no_camera_gets_no_commands(rig):
    """Only `GET /status` is sent to it: a printer may have a /reboot, too."""
    async with rig.daemon() as running, rig.camera(1, firmware_version=None, device_id=None) as other:
        clock, registry = running.app.resources.clock, running.app.devices.registry
        seen = Sighting(Mac(other.mac), Source.ARP, clock.monotonic(), IPv4Address(other.address), binds=True)
        registry.add_sighting(seen, clock.monotonic())
        registry.expire(clock.monotonic())
        for verb, status in (("capture", 502), ("reboot", 502)):
            answer = await running.api.post(f"/api/v1/cameras/{other.mac}/{verb}")
            assert answer.status == status
            assert "is not a camera" in json.dumps(answer.json["error"])
        assert other.requests == 2, "GET /status, each time"
        other.body["camera_initialized"] = True
        assert (await running.api.post(f"/api/v1/cameras/{other.mac}/reboot")).status == 200


async def test_address_of_another_device_is_refused(rig):
    """The identity is verified first, and a mismatch is not a failure of the camera."""
    async with rig.daemon() as running, rig.fleet(1, faults=["wrong-mac"]) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: running.app.devices.registry.get(camera.mac))
        running.app.devices.registry.get(camera.mac).last_status = None
        answer = await running.api.post(f"/api/v1/cameras/{camera.mac}/capture")
        assert (answer.status, answer.json["code"]) == (502, "CAPTURE_FAILED")
        assert "identifies itself as" in answer.json["error"]["message"]
        assert running.app.recovery.tracker.of(camera.mac).failures == 0
        await rig.announce(2, ip="127.0.0.1")
        await rig.announce(3, ip="10.1.2.3")
        for number in (2, 3):
            mac = rig.mac(number)
            await eventually(lambda mac=mac: running.app.devices.registry.get(mac))
            running.app.devices.registry.get(mac).last_status = None
            answer = await running.api.post(f"/api/v1/cameras/{mac}/capture")
            assert (answer.status, answer.json["code"]) == (502, "CAPTURE_FAILED")
            assert "is outside the camera network" in answer.json["error"]["message"]
