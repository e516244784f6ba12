"""Captures with a real broker and test or simulated cameras: success, invalid data, timeouts, shared captures."""

import asyncio
import base64
import contextlib
import io
import json
import random
import socket
from pathlib import Path

import pytest

from pi_orchestrator.features.captures import model as capture
from pi_orchestrator.features.captures import service as captures
from pi_orchestrator.http import pacing
from pi_orchestrator.net.jpeg import MAX_IMAGE_BYTES
from pi_orchestrator.sandbox.faults import Fault
from pi_orchestrator.sandbox.options import IdStyle, MacStyle, TopicStyle
from tests.support.rig import set_verification_timeout
from tests.support.waiting import HANG_S, eventually

JPEG = b"\xff\xd8" + bytes(random.Random(1).randbytes(20_000)) + b"\xff\xd9"  # noqa: S311
NO_CACHE = {"cameras": {"capture_cache_s": 0, "auto_reboot": False}}


@pytest.fixture
def short_timeouts(monkeypatch):
    """Reduce every timeout of a capture to a tenth or less."""
    for name, seconds in {"ACK_S": 0.4, "STALL_S": 0.6, "LATE_S": 0.2, "LIMIT_S": 3.0}.items():
        monkeypatch.setattr(capture, name, seconds)
    monkeypatch.setattr(captures, "HTTP_S", 0.5)
    set_verification_timeout(monkeypatch, 0.5)


class MqttCamera:
    """A camera that the test controls, on MQTT only: `commands` has what it received; `send` sends a picture."""

    def __init__(self, rig, number, client):
        self.rig, self.client = rig, client
        self.mac, self.device_id = rig.mac(number), f"espcam-{rig.mac(number).replace(':', '').lower()[-6:]}"
        self.commands = asyncio.Queue()

    async def announce(self, **fields):
        defaults = {"mac": self.mac, "device_id": self.device_id, "uptime_ms": 60_000}
        await self.rig.publish(f"camera/status/{self.mac}", defaults | fields, client=self.client)

    async def command(self):
        async with asyncio.timeout(HANG_S):
            return await self.commands.get()

    async def publish_response(self, topic, **fields):
        await self.rig.publish(f"camera/response/{topic}", fields, client=self.client)

    async def send(self, rid, jpeg=JPEG, *, size=1500, order=None, **info):
        """Send a whole picture; `order` maps the number of chunks to their indexes."""
        chunks = [jpeg[start : start + size] for start in range(0, len(jpeg), size)]
        await self.publish_response(f"{rid}/ack", request_id=rid, device_id=self.device_id, status="in_progress")
        fields = {"success": True, "total_size": len(jpeg), "total_chunks": len(chunks)} | info
        await self.publish_response(f"{rid}/info", request_id=rid, device_id=self.device_id, **fields)
        for index in order(len(chunks)) if order else range(len(chunks)):
            await self.chunk(rid, index, chunks[index])
        await self.publish_response(
            f"{rid}/complete", request_id=rid, success=True, status="complete", chunks_sent=len(chunks)
        )

    async def chunk(self, rid, index, data):
        text = base64.b64encode(data).decode()
        await self.publish_response(f"{rid}/chunk", request_id=rid, chunk_index=index, chunk_data=text)


@contextlib.asynccontextmanager
async def mqtt_camera(rig, running, number=1):
    """A camera that the daemon has seen; it does not answer by HTTP."""
    async with rig.broker.client() as client:
        camera = MqttCamera(rig, number, client)
        await client.subscribe(f"camera/command/{camera.mac}", qos=1)

        async def listen():
            async for message in client.messages:
                camera.commands.put_nowait(json.loads(message.payload))

        listening = asyncio.create_task(listen())
        await camera.announce()
        await eventually(lambda: running.app.devices.registry.get(camera.mac))
        try:
            yield camera
        finally:
            listening.cancel()
            await asyncio.wait([listening])


@contextlib.asynccontextmanager
async def pending_capture(rig, **sections):
    """A daemon, an MQTT camera, and a pending capture: (running, camera, request id, task)."""
    async with rig.daemon(**(NO_CACHE | sections)) as running, mqtt_camera(rig, running) as camera:
        task = asyncio.create_task(running.api.post(f"/api/v1/cameras/{camera.mac}/capture"))
        command = await camera.command()
        assert command["action"] == "capture"
        try:
            yield running, camera, command["request_id"], task
        finally:
            task.cancel()
            await asyncio.wait([task])


def check_refused(answer, status, code):
    """Check that the answer is this error, and retryable; return it."""
    assert (answer.status, answer.json["code"]) == (status, code), answer.body
    assert answer.json["error"]["retryable"] is True
    return answer.json["error"]


# Successful captures.


@pytest.mark.parametrize(
    "order",
    [
        None,
        lambda n: reversed(range(n)),
        lambda n: random.Random(7).sample(range(n), n),  # noqa: S311
        lambda n: [i for i in range(n) for _ in range(3)],
    ],
    ids=["in order", "reversed", "shuffled", "repeated"],
)
async def test_chunks_in_any_order_give_the_picture(rig, order):
    async with pending_capture(rig) as (running, camera, rid, task):
        await camera.send(rid, order=order)
        answer = await task
        assert (answer.status, answer.body) == (200, JPEG)
        assert answer.headers["Content-Type"] == "image/jpeg"
        assert answer.headers["X-Capture-Source"] == "mqtt"
        assert answer.headers["X-Capture-Time"].endswith("Z")
        assert running.app.commands.channel.budget.used == 0


async def test_stalled_picture_downloads_are_disconnected(rig, monkeypatch):
    """A client that does not read holds a connection for a limited time, and no copy of the picture."""
    monkeypatch.setattr(pacing, "STALL_S", 0.5)
    jpeg = b"\xff\xd8" + bytes(MAX_IMAGE_BYTES - 4) + b"\xff\xd9"

    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    async with pending_capture(rig) as (running, camera, rid, task):
        await camera.send(rid, jpeg, size=1024 * 1024)
        assert (await task).body == jpeg
        host, port = running.api.url.removeprefix("http://").split(":")
        seen = []

        def is_at_rest():  # connections of earlier requests are closed
            seen.append(descriptors())
            return seen[-20:].count(seen[-1]) == 20

        await eventually(is_at_rest)
        before = seen[-1]
        readers = []
        for _ in range(5):
            _, writer = await asyncio.open_connection(host, int(port), limit=1024)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            writer.transport.pause_reading()
            writer.write(f"GET /api/v1/cameras/{camera.mac}/image HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            readers.append(writer)
        await eventually(lambda: descriptors() == before + 10, what="both ends of each connection are open")
        whole = await running.api.get(f"/api/v1/cameras/{camera.mac}/image")
        assert whole.body == jpeg, "other clients are served"
        await eventually(lambda: descriptors() <= before + 5, what="the daemon has closed its ends")
        for writer in readers:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def test_picture_is_sent_as_json_and_last_picture_is_kept(rig):
    async with pending_capture(rig) as (running, camera, rid, task):
        path = f"/api/v1/cameras/{camera.device_id}"
        missing = await running.api.get(f"{path}/image")
        assert (missing.status, missing.json["code"]) == (404, "NOT_FOUND")
        await camera.send(rid)
        await task
        last = await running.api.get(f"{path}/image")
        assert (last.status, last.body, last.headers["Cache-Control"]) == (200, JPEG, "private, no-cache")
        same = await running.api.get(f"{path}/image", headers={"If-None-Match": last.headers["ETag"]})
        assert (same.status, same.body, same.headers["ETag"]) == (304, b"", last.headers["ETag"])
        other = await running.api.get(f"{path}/image", headers={"If-None-Match": '"other"'})
        assert other.status == 200
        running.app.captures.service.cache_s = 60
        picture = (await running.api.post(f"{path}/snapshot", headers={"Accept": "application/json"})).json
        assert base64.b64decode(picture.pop("image")) == JPEG
        assert picture == {
            "success": True,
            "timestamp": last.headers["X-Capture-Time"],
            "camera_id": camera.device_id,
            "file_size": len(JPEG),
        }
        shown = await running.camera(camera.mac)
        assert shown["health"]["last_capture"] == last.headers["X-Capture-Time"]


@pytest.mark.parametrize(
    "style",
    [{"topic_style": TopicStyle.DELICASA, "mac_style": MacStyle.LOWER}, {"id_style": IdStyle.DEVICE_ID}],
    ids=["delicasa", "device id"],
)
async def test_capture_uses_the_camera_topic_style(rig, style):
    async with rig.daemon(**NO_CACHE) as running, rig.fleet(1, **style) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        answer = await running.api.post(f"/api/v1/cameras/{camera.mac}/capture")
        assert (answer.status, answer.headers["X-Capture-Source"]) == (200, "mqtt")


async def test_capture_works_by_mqtt_and_by_http(rig):
    from PIL import Image

    # One status message of each camera; a second one would tell the daemon that the camera is on MQTT.
    async with rig.daemon(**NO_CACHE) as running, rig.fleet(2, interval=600) as fleet:
        await eventually(lambda: all(camera.mac in running.app.cameras.cache for camera in fleet.cameras))
        by_mqtt, by_http = fleet.cameras
        running.app.devices.registry.get(by_http.mac).last_status = None
        for camera, source in ((by_mqtt, "mqtt"), (by_http, "http")):
            answer = await running.api.post(f"/api/v1/cameras/{camera.mac}/capture")
            assert (answer.status, answer.headers["X-Capture-Source"]) == (200, source)
            assert Image.open(io.BytesIO(answer.body)).size == (640, 480)
        event = await eventually(lambda: rig.rows("SELECT mac, payload FROM events WHERE type = 'camera.captured'"))
        assert event[0][0] == by_mqtt.mac
        assert json.loads(event[0][1]).keys() == {"mac", "at", "size", "took_ms", "source"}


async def test_unpair_drops_the_picture(rig):
    async with rig.daemon(**NO_CACHE) as running, rig.fleet(1) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        assert (await running.api.post(f"/api/v1/cameras/{camera.mac}/capture")).status == 200
        assert running.app.captures.service.last(camera.mac)
        assert (await running.admin.delete(f"/api/v1/espcam/paired/{camera.mac}")).status == 200
        await eventually(lambda: running.app.captures.service.last(camera.mac) is None)
        assert running.app.captures.service.stored_bytes == 0


# Failed captures.


async def test_messages_of_another_camera_are_ignored(rig):
    """Such messages are recognised by the camera's name in message or topic, and by their request id."""
    other = "24:6F:28:77:77:70"
    async with pending_capture(rig) as (running, camera, rid, task):
        poison = base64.b64encode(b"poison").decode()
        for name in ({"device_id": "espcam-777770"}, {"mac": other}, {"device_id": other.lower()}):
            await camera.publish_response(f"{rid}/chunk", request_id=rid, chunk_index=0, chunk_data=poison, **name)
            await camera.publish_response(f"{rid}/info", request_id=rid, total_size=5, total_chunks=1, **name)
            await camera.publish_response(f"{rid}/error", request_id=rid, success=False, error="not me", **name)
            await camera.publish_response(rid, request_id=rid, success=False, status="error", **name)
        await camera.publish_response(f"{rid}/chunk", request_id="another", chunk_index=0, chunk_data=poison)
        await rig.publish(
            f"delicasa/box/camera/{other}/response/{rid}/chunk",
            {"request_id": rid, "chunk_index": 0, "chunk_data": poison},
            client=camera.client,
        )
        for other_id in ("unknown", "_invalid", rid[:-1], rid.upper()):
            await camera.publish_response(f"{other_id}/chunk", request_id=other_id, chunk_index=0, chunk_data=poison)
        await camera.send(rid)
        assert (await task).body == JPEG
        assert running.app.commands.channel.messages["foreign"] == 14


async def test_retained_messages_are_ignored(rig):
    async with rig.broker.client() as client:
        chunk = {"chunk_index": 0, "chunk_data": "AAAA"}
        for topic in ("camera/response/old", "camera/response/old/chunk", "delicasa/b/camera/x/response/old/chunk"):
            await rig.publish(topic, chunk | {"request_id": "old"}, client=client, retain=True)
        async with rig.daemon() as running:
            messages = running.app.commands.channel.messages
            await eventually(lambda: messages["retained"] == 3)
            assert messages.keys() == {"retained"}


async def test_refused_capture_is_not_retried_by_http(rig):
    async with pending_capture(rig) as (_, camera, rid, task):
        await camera.publish_response(
            f"{rid}/error",
            success=False,
            status="error",
            error="frame buffer timeout",
            error_code="CAM_FB",
            retry_after_ms=9000,
            diagnostics={"free_heap_bytes": 12000},
        )
        error = check_refused(await task, 502, "CAPTURE_FAILED")
        assert error["message"] == "the camera could not take a picture: frame buffer timeout (CAM_FB)"
        assert error["details"] == "free_heap_bytes 12000"
        assert error["retry_after_seconds"] == 9


@pytest.mark.parametrize(
    "info",
    [{"total_size": 9 * 1024 * 1024}, {"total_chunks": 5000}, {"total_size": 5}, {"total_chunks": 2}],
    ids=str,
)
async def test_contradicting_info_fails_immediately(rig, info):
    async with pending_capture(rig) as (_, camera, rid, task):
        await camera.send(rid, **info)
        check_refused(await task, 502, "CAPTURE_FAILED")


FAULTS = {
    Fault.CAPTURE_SHUFFLED: (200, "mqtt"),
    Fault.CAPTURE_DOUBLED: (200, "mqtt"),
    Fault.CAPTURE_MISSING: (200, "http"),
    Fault.CAPTURE_OVERSIZED: (200, "http"),
    Fault.CAPTURE_WRONG_INDEX: (200, "http"),
    Fault.CAPTURE_NO_ACK: (200, "http"),
    Fault.CAPTURE_STALLS: (200, "http"),
    Fault.CAPTURE_FOREIGN: (200, "http"),
    Fault.CAPTURE_NOT_JPEG: (502, "CAPTURE_FAILED"),
    Fault.PADDED_JPEG: (200, "mqtt"),
    Fault.NO_CONTENT_TYPE: (200, "http"),
    Fault.CAPTURE_ERROR: (502, "CAPTURE_FAILED"),
    Fault.CAPTURE_HANGS: (504, "CAPTURE_TIMEOUT"),
}


async def test_simulated_faults_have_expected_answers(rig, monkeypatch):
    """If only MQTT fails, the picture comes by HTTP. One camera for each fault, all at the same time."""
    # Long enough for the cameras that answer, when the machine is busy.
    for name, seconds in {"ACK_S": 3, "STALL_S": 5, "LATE_S": 1, "LIMIT_S": 30}.items():
        monkeypatch.setattr(capture, name, seconds)
    monkeypatch.setattr(captures, "HTTP_S", 8)
    faults = [fault.value for fault in FAULTS]
    async with rig.daemon(**NO_CACHE) as running, rig.fleet(len(faults), faults=faults) as fleet:
        await eventually(lambda: len(running.app.cameras.cache) == len(faults))
        requests = [running.api.post(f"/api/v1/cameras/{camera.mac}/capture") for camera in fleet.cameras]
        answers = await asyncio.gather(*requests)
        results = {
            camera.fault: (answer.status, answer.headers.get("X-Capture-Source") or answer.json["code"])
            for camera, answer in zip(fleet.cameras, answers, strict=True)
        }
        assert results == FAULTS
        assert running.app.commands.channel.budget.used == 0
        assert running.app.commands.channel.pending == 0


async def test_silent_camera_times_out_and_offline_camera_is_refused(rig, short_timeouts, monkeypatch):
    async with pending_capture(rig) as (running, camera, rid, task):
        error = check_refused(await task, 504, "CAPTURE_TIMEOUT")
        assert "did not answer within" in error["message"]
        assert "by HTTP: " in error["details"]
        monkeypatch.setattr(capture, "ACK_S", HANG_S)
        second = asyncio.create_task(running.api.post(f"/api/v1/cameras/{camera.mac}/capture"))
        second_rid = (await camera.command())["request_id"]
        assert second_rid != rid
        await camera.publish_response(f"{second_rid}/ack", request_id=second_rid)
        assert "stopped sending" in check_refused(await second, 504, "CAPTURE_TIMEOUT")["message"]
        await camera.announce(state="OFFLINE")
        await eventually(lambda: running.app.devices.registry.get(camera.mac).state == "offline")
        assert check_refused(await running.api.post(f"/api/v1/cameras/{camera.mac}/capture"), 503, "CAMERA_OFFLINE")
        await camera.announce(state="REBOOTING")
        await eventually(lambda: running.app.devices.registry.get(camera.mac).state == "rebooting")
        error = check_refused(await running.api.post(f"/api/v1/cameras/{camera.mac}/capture"), 503, "CAMERA_OFFLINE")
        assert "rebooting" in error["message"]
        unknown = await running.api.post("/api/v1/cameras/24:6F:28:99:99:90/capture")
        assert (unknown.status, unknown.json["code"]) == (404, "CAMERA_NOT_FOUND")
        assert camera.commands.empty(), "no command for an offline camera"


async def test_reboot_during_a_capture_ends_the_capture(rig, short_timeouts):
    async with rig.daemon(**NO_CACHE) as running, rig.fleet(1, faults=["capture-reboots"]) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        answer = await running.api.post(f"/api/v1/cameras/{camera.mac}/capture")
        assert answer.status in (200, 502, 503, 504)
        assert answer.headers.get("X-Capture-Source") != "mqtt"
        camera.fault = None
        await eventually(lambda: running.app.devices.registry.get(camera.mac).state == "online")

        async def is_successful():
            return (await running.api.post(f"/api/v1/cameras/{camera.mac}/capture")).status == 200

        await eventually(is_successful)


async def test_broker_failure_ends_the_capture(rig):
    """The capture ends before its 10 s timeout, and does not count as a failure of the camera."""
    async with pending_capture(rig) as (running, camera, rid, task):
        await camera.publish_response(f"{rid}/ack", request_id=rid)
        await eventually(lambda: running.app.commands.channel.messages["taken"] == 1)
        rig.broker.process.kill()
        async with asyncio.timeout(HANG_S):
            answer = await task
        assert "the MQTT broker disconnected" in check_refused(answer, 502, "CAPTURE_FAILED")["message"]
        assert running.app.recovery.tracker.of(camera.mac).failures == 0


# Shared captures and shutdown.


async def test_concurrent_callers_share_one_capture(rig):
    async with pending_capture(rig) as (running, camera, rid, task):
        others = [
            asyncio.create_task(running.api.post(f"/api/v1/cameras/{name}/capture"))
            for name in [camera.mac, camera.device_id, camera.mac.lower().replace(":", "-")] * 3
        ]
        captures_in_progress = running.app.captures.service.running
        await eventually(lambda: captures_in_progress.callers(camera.mac) == 10)
        running.app.captures.service.cache_s = 60
        await camera.send(rid)
        answers = await asyncio.gather(task, *others)
        assert {(answer.status, answer.body) for answer in answers} == {(200, JPEG)}
        late = await running.api.post(f"/api/v1/cameras/{camera.mac}/capture")
        assert late.headers["X-Capture-Source"] == "cache"
        assert camera.commands.empty()
        rows = rig.rows("SELECT outcome FROM operator_actions WHERE action = 'camera.capture'")
        assert rows == [("ok",)], "repeats are not recorded"


async def test_cancelling_the_last_caller_ends_the_capture(rig):
    async with pending_capture(rig) as (running, camera, rid, task):
        service = running.app.captures.service
        other = asyncio.create_task(service.take(camera.mac))
        await eventually(lambda: service.running.callers(camera.mac) == 2)
        task.cancel()
        await eventually(lambda: service.running.callers(camera.mac) == 1)
        assert service.running.is_running(camera.mac)
        await camera.send(rid)
        assert (await other).jpeg == JPEG

        alone = asyncio.create_task(service.take(camera.mac))
        await camera.command()
        alone.cancel()
        await asyncio.wait([alone])
        await eventually(lambda: not running.app.commands.channel.pending)
        assert (len(service.running), service.assembling, running.app.commands.channel.budget.used) == (0, 0, 0)

        second = asyncio.create_task(service.take(camera.mac))
        await camera.send((await camera.command())["request_id"])
        assert (await second).jpeg == JPEG


async def test_shutdown_during_a_capture_answers_callers(rig):
    async with pending_capture(rig) as (running, camera, rid, task):
        await camera.publish_response(f"{rid}/ack", request_id=rid)
        running.app.captures.service.close()
        assert "stopping" in check_refused(await task, 502, "CAPTURE_FAILED")["message"]
        late = await running.api.post(f"/api/v1/cameras/{camera.mac}/capture")
        assert "stopping" in check_refused(late, 502, "CAPTURE_FAILED")["message"]


async def test_stored_pictures_are_bounded(rig, monkeypatch):
    monkeypatch.setattr(captures, "STORED_BYTES", 40_000)  # two pictures
    async with rig.daemon(cameras={"capture_cache_s": 0}) as running, contextlib.AsyncExitStack() as stack:
        cameras = [await stack.enter_async_context(mqtt_camera(rig, running, number)) for number in (1, 2, 3)]
        for camera in cameras:
            task = asyncio.create_task(running.api.post(f"/api/v1/cameras/{camera.mac}/capture"))
            await camera.send((await camera.command())["request_id"])
            assert (await task).status == 200
        stored = [bool(running.app.captures.service.last(camera.mac)) for camera in cameras]
        assert stored == [False, False, True] or stored == [False, True, True]
        assert running.app.captures.service.stored_bytes <= 40_000
