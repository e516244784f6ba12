"""Pictures, with a real broker and cameras that are played or simulated: good ones, bad ones, late ones."""

import asyncio
import base64
import contextlib
import io
import json
import random
import socket
from pathlib import Path

import pytest

from pi_orchestrator.api import paced
from pi_orchestrator.domain import capture
from pi_orchestrator.sandbox.faults import Fault
from pi_orchestrator.sandbox.options import IdStyle, MacStyle, TopicStyle
from pi_orchestrator.workers import captures
from tests.support.waiting import eventually

JPEG = b"\xff\xd8" + bytes(random.Random(1).randbytes(20_000)) + b"\xff\xd9"  # noqa: S311
NO_CACHE = {"cameras": {"capture_cache_s": 0, "auto_reboot": False}}


@pytest.fixture
def impatient(monkeypatch):
    """Every wait of the contract, a tenth as long or less."""
    for name, seconds in {"ACK_S": 0.4, "STALL_S": 0.6, "LATE_S": 0.2, "LIMIT_S": 3.0}.items():
        monkeypatch.setattr(capture, name, seconds)
    monkeypatch.setattr(captures, "HTTP_S", 0.5)
    monkeypatch.setattr(captures, "VERIFY_S", 0.5)


class PlayedCamera:
    """A camera on MQTT alone, played by the test: `commands` come in, `say` goes out."""

    def __init__(self, world, number, client):
        self.world, self.client = world, client
        self.mac, self.device_id = world.mac(number), f"espcam-{world.mac(number).replace(':', '').lower()[-6:]}"
        self.commands = asyncio.Queue()

    async def announce(self, **fields):
        usual = {"mac": self.mac, "device_id": self.device_id, "uptime_ms": 60_000}
        await self.world.publish(f"camera/status/{self.mac}", usual | fields, client=self.client)

    async def command(self):
        async with asyncio.timeout(5):
            return await self.commands.get()

    async def say(self, topic, **fields):
        await self.world.publish(f"camera/response/{topic}", fields, client=self.client)

    async def send(self, rid, jpeg=JPEG, *, size=1500, order=None, **info):
        """A whole picture; `order` of its chunks."""
        chunks = [jpeg[at : at + size] for at in range(0, len(jpeg), size)]
        await self.say(f"{rid}/ack", request_id=rid, device_id=self.device_id, status="in_progress")
        told = {"success": True, "total_size": len(jpeg), "total_chunks": len(chunks)} | info
        await self.say(f"{rid}/info", request_id=rid, device_id=self.device_id, **told)
        for index in order(len(chunks)) if order else range(len(chunks)):
            await self.chunk(rid, index, chunks[index])
        await self.say(f"{rid}/complete", request_id=rid, success=True, status="complete", chunks_sent=len(chunks))

    async def chunk(self, rid, index, data):
        text = base64.b64encode(data).decode()
        await self.say(f"{rid}/chunk", request_id=rid, chunk_index=index, chunk_data=text)


@contextlib.asynccontextmanager
async def played(world, running, number=1):
    """A camera that the daemon has heard; nothing answers for it by HTTP."""
    async with world.broker.client() as client:
        camera = PlayedCamera(world, number, client)
        await client.subscribe(f"camera/command/{camera.mac}", qos=1)

        async def listen():
            async for message in client.messages:
                camera.commands.put_nowait(json.loads(message.payload))

        listening = asyncio.create_task(listen())
        await camera.announce()
        await eventually(lambda: running.services.registry.get(camera.mac))
        try:
            yield camera
        finally:
            listening.cancel()
            await asyncio.wait([listening])


@contextlib.asynccontextmanager
async def asked(world, **sections):
    """A daemon, a played camera, and a picture of it that has been asked for: (running, camera, request id, task)."""
    async with world.daemon(**(NO_CACHE | sections)) as running, played(world, running) as camera:
        asking = asyncio.create_task(running.api.post(f"/api/v1/cameras/{camera.mac}/capture"))
        command = await camera.command()
        assert command["action"] == "capture"
        try:
            yield running, camera, command["request_id"], asking
        finally:
            asking.cancel()
            await asyncio.wait([asking])


def refused(answer, status, code):
    assert (answer.status, answer.json["code"]) == (status, code), answer.body
    assert answer.json["error"]["retryable"] is True
    return answer.json["error"]


# Good pictures.


@pytest.mark.parametrize(
    "order",
    [
        None,
        lambda n: reversed(range(n)),
        lambda n: random.Random(7).sample(range(n), n),  # noqa: S311
        lambda n: [i for i in range(n) for _ in range(3)],
    ],
    ids=["in order", "backwards", "shuffled", "each three times"],
)
async def test_chunks_may_come_in_any_order_and_more_than_once(world, order):
    async with asked(world) as (running, camera, rid, asking):
        await camera.send(rid, order=order)
        answer = await asking
        assert (answer.status, answer.body) == (200, JPEG)
        assert answer.headers["Content-Type"] == "image/jpeg"
        assert answer.headers["X-Capture-Source"] == "mqtt"
        assert answer.headers["X-Capture-Time"].endswith("Z")
        assert running.services.captures._exchanges.budget.used == 0


async def test_those_who_take_nothing_of_a_large_picture_are_let_go(world, monkeypatch):
    """They cost a connection for a while, and not a copy of the picture for ever."""
    monkeypatch.setattr(paced, "STALL_S", 0.5)
    jpeg = b"\xff\xd8" + bytes(capture.MAX_IMAGE_BYTES - 4) + b"\xff\xd9"

    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    async with asked(world) as (running, camera, rid, asking):
        await camera.send(rid, jpeg, size=1024 * 1024)
        assert (await asking).body == jpeg
        host, port = running.api.url.removeprefix("http://").split(":")
        before = descriptors()
        readers = []
        for _ in range(5):
            reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader._transport.pause_reading()
            writer.write(f"GET /api/v1/cameras/{camera.mac}/image HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            readers.append(writer)
        await eventually(lambda: descriptors() == before + 10, what="both ends of each are open")
        whole = await running.api.get(f"/api/v1/cameras/{camera.mac}/image")
        assert whole.body == jpeg, "nobody waits for them"
        await eventually(lambda: descriptors() <= before + 5, what="the daemon has let go of its ends")
        for writer in readers:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def test_the_picture_in_json_and_the_last_one_without_asking_the_camera(world):
    async with asked(world) as (running, camera, rid, asking):
        path = f"/api/v1/cameras/{camera.device_id}"
        missing = await running.api.get(f"{path}/image")
        assert (missing.status, missing.json["code"]) == (404, "NOT_FOUND")
        await camera.send(rid)
        await asking
        last = await running.api.get(f"{path}/image")
        assert (last.status, last.body, last.headers["Cache-Control"]) == (200, JPEG, "private, no-cache")
        same = await running.api.get(f"{path}/image", headers={"If-None-Match": last.headers["ETag"]})
        assert (same.status, same.body, same.headers["ETag"]) == (304, b"", last.headers["ETag"])
        other = await running.api.get(f"{path}/image", headers={"If-None-Match": '"other"'})
        assert other.status == 200
        running.services.captures.cache_s = 60
        told = (await running.api.post(f"{path}/snapshot", headers={"Accept": "application/json"})).json
        assert base64.b64decode(told.pop("image")) == JPEG
        assert told == {
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
async def test_commands_go_where_the_camera_listens(world, style):
    async with world.daemon(**NO_CACHE) as running, world.fleet(1, **style) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: camera.mac in running.services.roster)
        answer = await running.api.post(f"/api/v1/cameras/{camera.mac}/capture")
        assert (answer.status, answer.headers["X-Capture-Source"]) == (200, "mqtt")


async def test_a_real_picture_by_either_way(world):
    from PIL import Image

    async with world.daemon(**NO_CACHE) as running, world.fleet(2) as fleet:
        await eventually(lambda: all(one.mac in running.services.roster for one in fleet.cameras))
        by_mqtt, by_http = fleet.cameras
        running.services.registry.get(by_http.mac).said = None
        for camera, source in ((by_mqtt, "mqtt"), (by_http, "http")):
            answer = await running.api.post(f"/api/v1/cameras/{camera.mac}/capture")
            assert (answer.status, answer.headers["X-Capture-Source"]) == (200, source)
            assert Image.open(io.BytesIO(answer.body)).size == (640, 480)
        event = await eventually(lambda: world.rows("SELECT mac, payload FROM events WHERE type = 'camera.captured'"))
        assert event[0][0] == by_mqtt.mac
        assert json.loads(event[0][1]).keys() == {"mac", "at", "size", "took_ms", "source"}


async def test_who_is_taken_off_the_record_leaves_no_picture_behind(world):
    async with world.daemon(**NO_CACHE) as running, world.fleet(1) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: camera.mac in running.services.roster)
        assert (await running.api.post(f"/api/v1/cameras/{camera.mac}/capture")).status == 200
        assert running.services.captures.last(camera.mac)
        assert (await running.admin.delete(f"/api/v1/espcam/paired/{camera.mac}")).status == 200
        await eventually(lambda: running.services.captures.last(camera.mac) is None)
        assert running.services.captures._kept_bytes == 0


# Bad ones.


async def test_words_of_another_camera_are_not_mixed_in(world, impatient):
    """By name in the message, by name in the topic, and by a request id that is another's."""
    other = "24:6F:28:77:77:70"
    async with asked(world) as (running, camera, rid, asking):
        poison = base64.b64encode(b"poison").decode()
        for name in ({"device_id": "espcam-777770"}, {"mac": other}, {"device_id": other.lower()}):
            await camera.say(f"{rid}/chunk", request_id=rid, chunk_index=0, chunk_data=poison, **name)
            await camera.say(f"{rid}/info", request_id=rid, total_size=5, total_chunks=1, **name)
            await camera.say(f"{rid}/error", request_id=rid, success=False, error="not me", **name)
            await camera.say(rid, request_id=rid, success=False, status="error", **name)
        await camera.say(f"{rid}/chunk", request_id="another", chunk_index=0, chunk_data=poison)
        await world.publish(
            f"delicasa/box/camera/{other}/response/{rid}/chunk",
            {"request_id": rid, "chunk_index": 0, "chunk_data": poison},
            client=camera.client,
        )
        for wrong in ("nobody", "_invalid", rid[:-1], rid.upper()):
            await camera.say(f"{wrong}/chunk", request_id=wrong, chunk_index=0, chunk_data=poison)
        await camera.send(rid)
        assert (await asking).body == JPEG
        assert running.services.captures._exchanges.messages["foreign"] == 14


async def test_what_the_broker_has_retained_is_no_answer(world):
    async with world.broker.client() as client:
        chunk = {"chunk_index": 0, "chunk_data": "AAAA"}
        for topic in ("camera/response/old", "camera/response/old/chunk", "delicasa/b/camera/x/response/old/chunk"):
            await world.publish(topic, chunk | {"request_id": "old"}, client=client, retain=True)
        async with world.daemon() as running:
            messages = running.services.captures._exchanges.messages
            await eventually(lambda: messages["retained"] == 3)
            assert messages.keys() == {"retained"}


async def test_a_camera_that_says_no_is_not_asked_another_way(world):
    async with asked(world) as (_, camera, rid, asking):
        await camera.say(
            f"{rid}/error",
            success=False,
            status="error",
            error="frame buffer timeout",
            error_code="CAM_FB",
            retry_after_ms=9000,
            diagnostics={"free_heap_bytes": 12000},
        )
        error = refused(await asking, 502, "CAPTURE_FAILED")
        assert error["message"] == "the camera could not take a picture: frame buffer timeout (CAM_FB)"
        assert error["details"] == "free_heap_bytes 12000"
        assert error["retry_after_seconds"] == 9


@pytest.mark.parametrize(
    "wrong",
    [{"total_size": 9 * 1024 * 1024}, {"total_chunks": 5000}, {"total_size": 5}, {"total_chunks": 2}],
    ids=str,
)
async def test_a_picture_that_is_not_as_announced_fails_at_once(world, wrong):
    async with asked(world) as (_, camera, rid, asking):
        await camera.send(rid, **wrong)
        refused(await asking, 502, "CAPTURE_FAILED")


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
    Fault.CAPTURE_ERROR: (502, "CAPTURE_FAILED"),
    Fault.CAPTURE_HANGS: (504, "CAPTURE_TIMEOUT"),
}


async def test_each_fault_of_a_camera_has_its_answer(world, impatient):
    """HTTP stands in where only MQTT is broken; each is asked on its own, all at the same time."""
    faults = [fault.value for fault in FAULTS]
    async with world.daemon(**NO_CACHE) as running, world.fleet(len(faults), faults=faults) as fleet:
        await eventually(lambda: len(running.services.roster) == len(faults))
        asking = [running.api.post(f"/api/v1/cameras/{camera.mac}/capture") for camera in fleet.cameras]
        answers = await asyncio.gather(*asking)
        told = {
            camera.fault: (answer.status, answer.headers.get("X-Capture-Source") or answer.json["code"])
            for camera, answer in zip(fleet.cameras, answers, strict=True)
        }
        assert told == FAULTS
        assert running.services.captures._exchanges.budget.used == 0
        assert running.services.captures._exchanges._open == {}


async def test_silence_is_a_time_out_and_a_camera_that_is_away_is_offline(world, impatient):
    async with asked(world) as (running, camera, rid, asking):
        error = refused(await asking, 504, "CAPTURE_TIMEOUT")
        assert "did not answer within" in error["message"]
        assert "by HTTP: " in error["details"]
        asking_again = asyncio.create_task(running.api.post(f"/api/v1/cameras/{camera.mac}/capture"))
        again = (await camera.command())["request_id"]
        assert again != rid
        await camera.say(f"{again}/ack", request_id=again)
        assert "fell silent" in refused(await asking_again, 504, "CAPTURE_TIMEOUT")["message"]
        await camera.announce(state="OFFLINE")
        await eventually(lambda: running.services.registry.get(camera.mac).state == "offline")
        assert refused(await running.api.post(f"/api/v1/cameras/{camera.mac}/capture"), 503, "CAMERA_OFFLINE")
        await camera.announce(state="REBOOTING")
        await eventually(lambda: running.services.registry.get(camera.mac).state == "rebooting")
        error = refused(await running.api.post(f"/api/v1/cameras/{camera.mac}/capture"), 503, "CAMERA_OFFLINE")
        assert "rebooting" in error["message"]
        unknown = await running.api.post("/api/v1/cameras/24:6F:28:99:99:90/capture")
        assert (unknown.status, unknown.json["code"]) == (404, "CAMERA_NOT_FOUND")
        assert camera.commands.empty(), "who is away is not asked"


async def test_a_camera_that_reboots_in_the_middle_is_over_in_time_and_gives_a_picture_later(world, impatient):
    async with world.daemon(**NO_CACHE) as running, world.fleet(1, faults=["capture-reboots"]) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: camera.mac in running.services.roster)
        answer = await running.api.post(f"/api/v1/cameras/{camera.mac}/capture")
        assert answer.status in (200, 502, 503, 504)
        assert answer.headers.get("X-Capture-Source") != "mqtt"
        camera.fault = camera.desk._fault = None
        await eventually(lambda: running.services.registry.get(camera.mac).state == "online")

        async def works():
            return (await running.api.post(f"/api/v1/cameras/{camera.mac}/capture")).status == 200

        await eventually(works)


async def test_a_broker_that_dies_in_the_middle_ends_the_wait_at_once(world):
    """The contract's own 10 s are not waited for, and it is not the camera's fault."""
    async with asked(world) as (running, camera, rid, asking):
        await camera.say(f"{rid}/ack", request_id=rid)
        await eventually(lambda: running.services.captures._exchanges.messages["taken"] == 1)
        world.broker.process.kill()
        async with asyncio.timeout(4):
            answer = await asking
        assert "the MQTT broker went away" in refused(answer, 502, "CAPTURE_FAILED")["message"]
        assert running.services.remedies.of(camera.mac).failures == 0


# Many who ask.


async def test_ten_viewers_are_one_picture(world):
    async with asked(world) as (running, camera, rid, asking):
        others = [
            asyncio.create_task(running.api.post(f"/api/v1/cameras/{name}/capture"))
            for name in [camera.mac, camera.device_id, camera.mac.lower().replace(":", "-")] * 3
        ]
        flight = running.services.captures._flights[camera.mac]
        await eventually(lambda: flight.callers == 10)
        running.services.captures.cache_s = 60
        await camera.send(rid)
        answers = await asyncio.gather(asking, *others)
        assert {(answer.status, answer.body) for answer in answers} == {(200, JPEG)}
        late = await running.api.post(f"/api/v1/cameras/{camera.mac}/capture")
        assert late.headers["X-Capture-Source"] == "cache"
        assert camera.commands.empty()
        rows = world.rows("SELECT outcome FROM operator_actions WHERE action = 'camera.capture'")
        assert rows == [("ok",)], "what goes on all day is not written all day"


async def test_a_caller_who_leaves_takes_nothing_from_the_others_and_the_last_one_ends_it(world):
    async with asked(world) as (running, camera, rid, asking):
        taking = running.services.captures
        flight = taking._flights[camera.mac]
        other = asyncio.create_task(taking.take(camera.mac))
        await eventually(lambda: flight.callers == 2)
        asking.cancel()
        await eventually(lambda: flight.callers == 1)
        assert not flight.task.done()
        await camera.send(rid)
        assert (await other).jpeg == JPEG

        alone = asyncio.create_task(taking.take(camera.mac))
        await camera.command()
        alone.cancel()
        await asyncio.wait([alone])
        await eventually(lambda: not taking._exchanges._open)
        assert (taking._flights, taking.assembling, taking._exchanges.budget.used) == ({}, 0, 0)

        again = asyncio.create_task(taking.take(camera.mac))
        await camera.send((await camera.command())["request_id"])
        assert (await again).jpeg == JPEG


async def test_stopping_in_the_middle_tells_who_waits(world):
    async with asked(world) as (running, camera, rid, asking):
        await camera.say(f"{rid}/ack", request_id=rid)
        running.services.captures.close()
        assert "stopping" in refused(await asking, 502, "CAPTURE_FAILED")["message"]
        late = await running.api.post(f"/api/v1/cameras/{camera.mac}/capture")
        assert "stopping" in refused(late, 502, "CAPTURE_FAILED")["message"]


async def test_the_last_pictures_are_kept_within_their_bound(world, monkeypatch):
    monkeypatch.setattr(captures, "MIB", 5_000)  # the smallest bound is eight of these: two pictures
    small = {"cameras": {"capture_cache_s": 0, "images_kept_mb": 8}}
    async with world.daemon(**small) as running, contextlib.AsyncExitStack() as stack:
        everyone = [await stack.enter_async_context(played(world, running, number)) for number in (1, 2, 3)]
        for camera in everyone:
            asking = asyncio.create_task(running.api.post(f"/api/v1/cameras/{camera.mac}/capture"))
            await camera.send((await camera.command())["request_id"])
            assert (await asking).status == 200
        kept = [bool(running.services.captures.last(camera.mac)) for camera in everyone]
        assert kept == [False, False, True] or kept == [False, True, True]
        assert running.services.captures._kept_bytes <= 40_000
