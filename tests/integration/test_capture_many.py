"""Pictures of everybody at once, of hostile cameras, and while the daemon stops."""

import asyncio
import base64
import contextlib
import gzip
import json
import re
import signal
import threading
import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from pi_orchestrator.domain.capture import ASSEMBLED_BYTES, Budget
from pi_orchestrator.domain.command import Phase
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.sighting import Sighting, Source
from pi_orchestrator.errors import CaptureError
from pi_orchestrator.net.espcam import EspCamClient, new_session
from pi_orchestrator.workers import captures
from pi_orchestrator.workers.captures import _parsed
from tests.support import process
from tests.support.waiting import eventually

JPEG = b"\xff\xd8 picture \xff\xd9"
MIB = 1024 * 1024


async def test_250_cameras_at_once_cost_bounded_memory_and_everyone_has_a_picture(world, tmp_path):
    """In a daemon of its own: sixteen at a time, the others in line."""
    off = {"auto_onboard": {"enabled": False, "mode": "off"}}
    async with process.daemon(world, tmp_path, **off) as daemon, world.fleet(250, interval=20.0) as fleet:

        async def everyone_is_known():
            return (await daemon.api.get("/api/v1/cameras")).data["count"] == 250

        await eventually(everyone_is_known, within=20)
        before = daemon.resident_kib()
        asking = [
            asyncio.create_task(daemon.api.post(f"/api/v1/cameras/{camera.mac}/capture")) for camera in fleet.cameras
        ]
        peak_bytes = 0
        while not all(task.done() for task in asking):
            page = (await daemon.api.get("/metrics")).body.decode()
            assert metric(page, "piorch_captures_in_assembly") <= 16
            peak_bytes = max(peak_bytes, metric(page, "piorch_capture_held_bytes"))
            await asyncio.sleep(0.1)
        answers = [task.result() for task in asking]
        assert {answer.status for answer in answers} == {200}
        assert all(answer.body.startswith(b"\xff\xd8") for answer in answers)
        assert peak_bytes < 4 * MIB
        peak = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{daemon.pid}/status").read_text())[1])
        assert peak - before < 40 * 1024
        page = (await daemon.api.get("/metrics")).body.decode()
        assert metric(page, "piorch_capture_held_bytes") == 0


def metric(page, name):
    return float(re.search(rf"^{name} (\S+)$", page, re.M)[1])


async def test_sigterm_in_the_middle_of_a_picture_ends_the_daemon_in_time(world, tmp_path):
    async with process.daemon(world, tmp_path) as daemon, world.fleet(1, faults=["capture-stalls"]) as fleet:
        (camera,) = fleet.cameras
        await daemon.logged("camera onboarded")
        asking = asyncio.create_task(daemon.api.post(f"/api/v1/cameras/{camera.mac}/capture"))
        await eventually(lambda: camera.desk.told == ["capture"])
        began = time.monotonic()
        daemon.send(signal.SIGTERM)
        assert await daemon.ended() == 0
        assert time.monotonic() - began < 3
        answer = await asking
        assert (answer.status, answer.json["code"]) == (502, "CAPTURE_FAILED")
        assert "stopping" in answer.json["error"]["message"]


# What takes time is not done on the loop.


async def test_a_long_message_is_read_in_a_thread_and_a_short_one_is_not(world, monkeypatch):
    threads = []

    def noted(messages):
        threads.append((sum(len(payload) for _, payload in messages), threading.current_thread()))
        return _parsed(messages)

    monkeypatch.setattr(captures, "_parsed", noted)
    jpeg = b"\xff\xd8" + bytes(8 * MIB - 4) + b"\xff\xd9"
    async with world.daemon() as running, world.broker.client() as client:
        mac = world.mac(1)
        await client.subscribe(f"camera/command/{mac}")
        await world.announce(1, client=client)
        await eventually(lambda: running.services.registry.get(mac))
        asking = asyncio.create_task(running.api.post(f"/api/v1/cameras/{mac}/capture"))
        rid = json.loads((await anext(aiter(client.messages))).payload)["request_id"]
        await world.publish(f"camera/response/{rid}/ack", {"request_id": rid}, client=client)
        await eventually(lambda: threads)
        whole = base64.b64encode(jpeg).decode()
        for suffix, fields in (
            ("info", {"total_size": len(jpeg), "total_chunks": 1}),
            ("chunk", {"chunk_index": 0, "chunk_data": whole}),
        ):
            await world.publish(f"camera/response/{rid}/{suffix}", fields, client=client)
        answer = await asking
        assert (answer.status, answer.body) == (200, jpeg)
    main = threading.main_thread()
    assert {thread is main for size, thread in threads if size < 10_000} == {True}
    assert {thread is main for size, thread in threads if size > MIB} == {False}


def test_reading_the_largest_chunk_never_holds_the_others_for_long():
    """Decoding is done in pieces: other threads, the loop's among them, have their turn in between."""
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
    (answer,) = _parsed([(Phase.CHUNK, payload)])
    stop.set()
    ticking.join()
    assert len(answer.content.data) == 8 * MIB
    assert max(gaps) < 0.25, "an upper bound for a busy machine; a quiet one needs a tenth of it"


# By HTTP, of a camera that means no good.


def http(body=JPEG, *headers, status="200 OK", kind="image/jpeg", length=None):
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {size}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def forever(head, piece, pause=0.0):
    async def write(writer):
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return write


OPEN = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n\xff\xd8"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n"
FAILED, TIMEOUT = "CAPTURE_FAILED", "CAPTURE_TIMEOUT"
HOSTILE = {
    "a body without end": (forever(OPEN, b"x" * 65_536), FAILED, "over 8192 KiB"),
    "chunks without end": (forever(CHUNKED, b"10000\r\n" + b"x" * 65_536 + b"\r\n"), FAILED, "over 8192 KiB"),
    "a length that nobody has": (http(length=10**15), FAILED, "over 8192 KiB"),
    "a byte a second": (forever(OPEN, b"x", 1.0), TIMEOUT, "within 0.5 s"),
    "nothing": (forever(b"", b"", 1.0), TIMEOUT, "within 0.5 s"),
    "headers without end": (forever(b"HTTP/1.1 200 OK\r\n", b"X-Pad: aaaa\r\n" * 1000), FAILED, "proper HTTP"),
    "gzip": (http(gzip.compress(JPEG), "Content-Encoding: gzip"), FAILED, "compressed"),
    "a redirect": (http(b"", "Location: http://127.0.0.1/", status="302 Found"), FAILED, "status 302"),
    "TLS": (b"\x16\x03\x03\x00\x50\x02\x00\x00\x4c\x03\x03" + bytes(74), FAILED, "proper HTTP"),
    "an error": (http(b"no camera", status="500 Oops"), FAILED, "status 500"),
    "HTML": (http(b"<html>", kind="text/html"), FAILED, "text/html, not image/jpeg"),
    "a PNG": (http(b"\x89PNG", kind="image/jpeg"), FAILED, "no JPEG"),
    "half a picture": (http(JPEG[:9], length=len(JPEG)), FAILED, "the connection broke"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", FAILED, "status 204"),
    "a goodbye": (b"", FAILED, "the connection broke"),
}


@contextlib.asynccontextmanager
async def raw_camera(world, answer):
    connections = set()

    async def handle(reader, writer):
        connections.add(asyncio.current_task())
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer) if isinstance(answer, bytes) else await answer(writer)
            await writer.drain()
            writer.close()
        connections.discard(asyncio.current_task())
        writer.transport.abort()

    server = await asyncio.start_server(handle, world.address(1), world.camera_port)
    try:
        yield
    finally:
        server.close()
        closing = tuple(connections)
        for task in closing:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)
        await server.wait_closed()


@pytest.fixture
async def client(world):
    async with new_session() as session:
        yield EspCamClient(session=session, port=world.camera_port)


@pytest.mark.parametrize("name", HOSTILE)
async def test_whatever_comes_instead_of_a_picture_is_named_and_bounded(world, client, name):
    answer, code, said = HOSTILE[name]
    budget = Budget(ASSEMBLED_BYTES)
    async with raw_camera(world, answer):
        timeout_s = 0.5 if code == TIMEOUT else 5
        with pytest.raises(CaptureError) as caught:
            await client.capture(world.address(1), timeout_s=timeout_s, budget=budget)
    assert caught.value.code == code
    assert said in caught.value.message
    assert caught.value.message.isprintable()
    assert budget.used == 0


async def test_the_plainest_picture_by_http(world, client):
    async with raw_camera(world, http()):
        budget = Budget(len(JPEG))
        assert await client.capture(world.address(1), timeout_s=5, budget=budget) == JPEG
        budget.take(1)
        with pytest.raises(CaptureError, match="too many large pictures at once") as caught:
            await client.capture(world.address(1), timeout_s=5, budget=budget)
        assert (caught.value.ours, budget.used) == (True, 1)
    with pytest.raises(CaptureError, match="cannot connect"):
        await client.capture(world.address(1), timeout_s=5, budget=budget)


async def test_what_has_an_address_and_is_no_camera_is_asked_who_it_is_and_nothing_more(world):
    """Every device is known by its MAC, and a lock or a printer may have a /reboot, too."""
    async with world.daemon() as running, world.camera(1, firmware_version=None, device_id=None) as other:
        clock, registry = running.services.clock, running.services.registry
        seen = Sighting(Mac(other.mac), Source.ARP, clock.monotonic(), IPv4Address(other.address), binds=True)
        registry.sight(seen, clock.monotonic())
        registry.settle(clock.monotonic())
        for verb, status in (("capture", 502), ("reboot", 502)):
            answer = await running.api.post(f"/api/v1/cameras/{other.mac}/{verb}")
            assert answer.status == status
            assert "is no camera" in json.dumps(answer.json["error"])
        assert other.requests == 2, "GET /status, each time"
        other.body["camera_initialized"] = True
        assert (await running.api.post(f"/api/v1/cameras/{other.mac}/reboot")).status == 200


async def test_nothing_is_asked_of_an_address_that_is_another_s(world):
    """Who answers there is proven first; and that another has the address is held against nobody."""
    async with world.daemon() as running, world.fleet(1, faults=["wrong-mac"]) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: running.services.registry.get(camera.mac))
        running.services.registry.get(camera.mac).said = None
        answer = await running.api.post(f"/api/v1/cameras/{camera.mac}/capture")
        assert (answer.status, answer.json["code"]) == (502, "CAPTURE_FAILED")
        assert "says that it is" in answer.json["error"]["message"]
        assert running.services.remedies.of(camera.mac).failures == 0
        await world.announce(2, ip="127.0.0.1")
        await world.announce(3, ip="10.1.2.3")
        for number in (2, 3):
            mac = world.mac(number)
            await eventually(lambda mac=mac: running.services.registry.get(mac))
            running.services.registry.get(mac).said = None
            answer = await running.api.post(f"/api/v1/cameras/{mac}/capture")
            assert (answer.status, answer.json["code"]) == (502, "CAPTURE_FAILED")
            assert "is outside the camera network" in answer.json["error"]["message"]
