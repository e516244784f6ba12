"""The simulated fleet against a real broker and real sockets."""

import asyncio
import contextlib
import gzip
import io
import json
import os
import time
from pathlib import Path

import aiohttp
import pytest
from PIL import Image

from pi_orchestrator.domain.mac import parse_mac
from pi_orchestrator.errors import StartupError
from pi_orchestrator.sandbox import faults
from pi_orchestrator.sandbox.faults import Fault
from pi_orchestrator.sandbox.fleet import Fleet
from pi_orchestrator.sandbox.options import CameraOptions, IdStyle, MacStyle, TopicStyle
from tests.support.broker import Broker
from tests.support.ear import listening, says

NETWORK = f"127.{100 + os.getpid() % 100}.0.0/16"  # test processes beside this one have addresses of their own


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(20)) as session:
        yield session


def options(broker, **more):
    given = {"interval": 30.0, "http_port": 8099, "reboot_s": 0.1, "flap_s": 0.6} | more
    return CameraOptions(broker_host=broker.host, broker_port=broker.port, **given)


def fleet_of(broker, *specs, count=1, **more):
    return Fleet(count=count, options=options(broker, **more), network=NETWORK, faults=specs, storm=True)


async def test_250_cameras_in_one_loop(broker, http):
    fleet = fleet_of(broker, count=250)
    macs, slowest = set(), 0.0
    async with listening(broker, "camera/status/+") as ear, fleet:
        while len(macs) < 250:
            message, body = await ear.until(says("ONLINE"))
            assert message.topic.value == f"camera/status/{body['mac']}"
            macs.add(parse_mac(body["mac"]))
        assert macs == {camera.mac for camera in fleet.cameras}
        assert not body.keys() ^ {
            *("device_id", "mac", "state", "timestamp", "ip", "rssi_dbm", "free_heap_bytes", "uptime_ms"),
            *("firmware_version", "camera_initialized", "capture_ready", "ssid", "message_count"),
        }

        async def ask(camera):
            nonlocal slowest
            began = time.monotonic()
            async with http.get(f"{camera.url}/status") as answer:
                found = await answer.json()
            slowest = max(slowest, time.monotonic() - began)
            return found["mac"] == camera.mac and answer.status == 200

        assert all(await asyncio.gather(*map(ask, fleet.cameras)))
    assert slowest < 10
    with pytest.raises(aiohttp.ClientConnectionError):
        await http.get(f"{fleet.cameras[0].url}/status")


async def test_the_picture_is_a_jpeg(broker, http):
    async with fleet_of(broker) as fleet:
        await fleet.reported()
        async with http.get(f"{fleet.cameras[0].url}/capture") as answer:
            body = await answer.read()
            assert answer.content_type == "image/jpeg"
    assert body[:2] == b"\xff\xd8"
    assert body[-2:] == b"\xff\xd9"
    with Image.open(io.BytesIO(body)) as image:
        image.load()
        assert image.size == (640, 480)


async def test_other_paths_and_methods_are_refused(broker, http):
    async with fleet_of(broker) as fleet:
        await fleet.reported()
        async with http.get(f"{fleet.cameras[0].url}/nothing") as answer:
            assert answer.status == 404
        async with http.get(f"{fleet.cameras[0].url}/reboot") as answer:
            assert answer.status == 405


async def test_losing_power_brings_the_last_will_and_power_a_new_birth(broker, http):
    async with listening(broker) as ear, fleet_of(broker) as fleet:
        camera = fleet.cameras[0]
        await ear.until(says("ONLINE"))
        await camera.die()
        _, will = await ear.until(says("OFFLINE"))
        assert will["reason"] == "last_will"
        assert (will["mac"], will["device_id"]) == (camera.mac, camera.device_id)
        with pytest.raises(aiohttp.ClientConnectionError):
            await http.get(f"{camera.url}/status")
        camera.revive()
        _, birth = await ear.until(says("ONLINE"))
        assert birth["message_count"] == 1


async def test_power_can_be_lost_while_the_birth_is_being_acknowledged(broker):
    async with listening(broker) as ear, fleet_of(broker) as fleet:
        for _ in range(30):
            await ear.until(says("ONLINE"))
            await fleet.cameras[0].die()  # a cancellation that is lost would wait here for ever
            await ear.until(says("OFFLINE"))
            fleet.cameras[0].revive()


async def test_a_clean_stop_sends_no_will(broker):
    async with listening(broker) as ear:
        async with fleet_of(broker) as fleet:
            await fleet.reported()
        await ear.client.publish("end", "{}", qos=1)
        await ear.until(says("ONLINE"))
        message, _ = await ear.until(lambda message, _: True)
        assert message.topic.value == "end"


@pytest.mark.parametrize("retain", [True, False])
async def test_birth_and_will_are_retained_by_the_flag(broker, retain):
    async with fleet_of(broker, retain=retain) as fleet:
        await fleet.reported()
        await fleet.cameras[0].die()
        async with listening(broker, "camera/status/+", "marker") as ear:
            await ear.client.publish("marker", "{}", qos=1)
            message, _ = await ear.until(lambda message, _: True)
            if message.topic.value != "marker":  # retained ones come before
                assert message.retain
            assert (message.topic.value != "marker") is retain


async def order(ear, camera, payload, **topic):
    await ear.client.publish(camera.topic("command", **topic), json.dumps(payload), qos=1)


async def test_ping_is_answered(broker):
    async with listening(broker) as ear, fleet_of(broker) as fleet:
        await fleet.reported()
        await order(ear, fleet.cameras[0], {"action": "ping", "request_id": "r-1"})
        _, answer = await ear.until(lambda message, _: message.topic.value == "camera/response/r-1")
        assert answer["success"] is True
        assert (answer["request_id"], answer["status"]) == ("r-1", "complete")


async def test_what_it_does_not_know_is_said_so(broker):
    async with listening(broker) as ear, fleet_of(broker) as fleet:
        await fleet.reported()
        camera = fleet.cameras[0]
        await order(ear, camera, {"action": "dance", "request_id": "r-2"})
        _, answer = await ear.until(lambda message, _: message.topic.value == "camera/response/r-2/error")
        assert answer["success"] is False
        for bad in ("nonsense", [], {"action": "ping"}, {"action": "ping", "request_id": "a/b"}):
            await order(ear, camera, bad)
            await ear.until(lambda message, _: message.topic.value == "camera/response/_invalid/error")


@pytest.mark.parametrize("way", ["mqtt", "http", "call"])
async def test_a_restart_says_so_and_resets_uptime(broker, http, way):
    async with listening(broker) as ear, fleet_of(broker, interval=0.05) as fleet:
        camera = fleet.cameras[0]
        await ear.until(lambda _, body: body and body.get("message_count", 0) >= 5)
        before = camera.uptime_s
        if way == "mqtt":
            await order(ear, camera, {"action": "restart", "request_id": "r-3"})
        elif way == "http":
            async with http.post(f"{camera.url}/reboot") as answer:
                assert answer.status == 200
        else:
            camera.restart()
        _, body = await ear.until(says("REBOOTING"))
        assert body["uptime_ms"] >= before * 1000 - 1
        _, body = await ear.until(lambda _, body: body.get("state") in {"ONLINE", "OFFLINE"})
        assert body["state"] == "ONLINE"  # a reboot says goodbye: no last will
        assert body["message_count"] == 1
        assert body["uptime_ms"] < before * 1000
        async with http.get(f"{camera.url}/status") as answer:
            assert answer.status == 200


async def test_the_fleet_returns_after_the_broker_did(broker):
    fleet = fleet_of(broker, count=20)
    async with fleet:
        await fleet.reported()
        for _ in range(2):
            await broker.stop()
            async with asyncio.timeout(10):
                while any(camera.connected.is_set() for camera in fleet.cameras):
                    await asyncio.sleep(0.01)
            await broker.start()
            async with asyncio.timeout(15):
                await asyncio.gather(*(camera.connected.wait() for camera in fleet.cameras))


async def test_a_fleet_without_a_broker_stops_at_once(tmp_path):
    fleet = fleet_of(Broker(tmp_path), count=20)
    async with fleet:
        async with asyncio.timeout(5):
            while not all(camera._life for camera in fleet.cameras):
                await asyncio.sleep(0)
    assert not any(camera.reported.is_set() for camera in fleet.cameras)


async def test_a_fleet_on_a_broker_that_hangs_stops_at_once(tmp_path):
    held = []
    server = await asyncio.start_server(lambda *pair: held.append(pair), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with fleet_of(Broker(tmp_path, port), count=20):
        async with asyncio.timeout(5):
            while len(held) < 20:
                await asyncio.sleep(0.01)
        began = time.monotonic()
    assert time.monotonic() - began < 2
    server.close()
    for _, writer in held:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_stopping_in_the_middle_of_the_connect_leaves_no_socket_open(broker):
    def descriptors():
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    async with fleet_of(broker, count=5) as fleet:  # whatever is opened once is open now
        await fleet.reported()
    before = await asyncio.to_thread(descriptors)
    for turns in range(0, 60, 2):
        async with fleet_of(broker, count=5):
            for _ in range(turns):
                await asyncio.sleep(0)
        assert await asyncio.to_thread(descriptors) == before


async def test_a_command_while_it_is_dead_changes_nothing(broker):
    async with fleet_of(broker) as fleet:
        await fleet.reported()
        await fleet.cameras[0].die()
        fleet.cameras[0].restart()
        await fleet.cameras[0].die()
        assert not fleet.cameras[0].connected.is_set()


async def test_an_address_that_is_not_ours_says_what_to_do(broker):
    fleet = Fleet(count=1, options=options(broker), network="192.0.2.0/24", storm=True)
    with pytest.raises(StartupError, match="cannot listen on 192.0.2.10:8099") as caught:
        async with fleet:
            await fleet.reported()
    assert "127.0.0.0/8" in caught.value.remedy


async def test_mixed_spellings_come_from_one_camera_that_hears_all_of_them(broker):
    async with (
        listening(broker) as ear,
        fleet_of(broker, interval=0.02, mac_style=MacStyle.MIXED) as fleet,
    ):
        camera, seen = fleet.cameras[0], set()
        while len(seen) < 4:
            message, body = await ear.until(says("ONLINE"))
            assert message.topic.value == f"camera/status/{body['mac']}"
            assert parse_mac(body["mac"]) == camera.mac
            seen.add(body["mac"])
        for turn in range(4):
            await order(ear, camera, {"action": "ping", "request_id": f"t{turn}"}, turn=turn)
            await ear.until(lambda message, _, turn=turn: message.topic.value == f"camera/response/t{turn}")


@pytest.mark.parametrize("style", [{"id_style": IdStyle.DEVICE_ID}, {"topic_style": TopicStyle.DELICASA}])
async def test_other_topics_carry_the_same(broker, style):
    async with listening(broker) as ear, fleet_of(broker, **style) as fleet:
        camera = fleet.cameras[0]
        message, body = await ear.until(says("ONLINE"))
        assert message.topic.value == camera.topic("status")
        assert body["mac"] == camera.mac
        await fleet.reported()
        await order(ear, camera, {"action": "ping", "request_id": "r"})
        await ear.until(lambda message, _: message.topic.value == camera.topic("response/r"))


# What each fault does on the wire, seen without an HTTP library.


@contextlib.asynccontextmanager
async def asked(broker, fault, limit=2**16):
    async with fleet_of(broker, fault) as fleet:
        await fleet.reported()
        host, port = str(fleet.cameras[0].address), fleet.cameras[0].options.http_port
        reader, writer = await asyncio.open_connection(host, port, limit=limit)
        writer.write(b"GET /status HTTP/1.1\r\nHost: camera\r\nConnection: close\r\n\r\n")
        try:
            async with asyncio.timeout(10):
                yield fleet.cameras[0], reader
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def whole_answer(broker, fault):
    async with asked(broker, fault) as (camera, reader):
        head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        return camera, int(lines[0].split()[1]), headers, body


async def test_wrong_mac(broker):
    camera, status, _, body = await whole_answer(broker, "wrong-mac")
    assert status == 200
    assert parse_mac(json.loads(body)["mac"]) != camera.mac


async def test_no_mac(broker):
    _, status, _, body = await whole_answer(broker, "no-mac")
    assert status == 200
    assert json.loads(body).keys() >= {"framesize", "quality"}
    assert "mac" not in json.loads(body)


async def test_bad_json(broker):
    _, status, headers, body = await whole_answer(broker, "bad-json")
    assert status == 200
    assert int(headers["content-length"]) == len(body)
    with pytest.raises(ValueError):
        json.loads(body)


async def test_http_500(broker):
    _, status, _, _ = await whole_answer(broker, "http-500")
    assert status == 500


async def test_redirect(broker):
    _, status, headers, _ = await whole_answer(broker, "redirect")
    assert (status, headers["location"]) == (302, "http://127.0.0.1/")


async def test_close(broker):
    _, status, headers, body = await whole_answer(broker, "close")
    assert status == 200
    assert 0 < len(body) < int(headers["content-length"])


async def test_gzip_bomb(broker):
    _, _, headers, body = await whole_answer(broker, "gzip-bomb")
    assert headers["content-encoding"] == "gzip"
    assert len(body) < 65_536
    assert len(await asyncio.to_thread(gzip.decompress, body)) > faults.BOMB_BYTES


async def test_many_headers(broker):
    _, _, headers, body = await whole_answer(broker, "many-headers")
    assert sum(name.startswith("x-pad-") for name in headers) == 10_000
    assert json.loads(body)


async def test_tls_bytes(broker):
    async with asked(broker, "tls-bytes") as (_, reader):
        answer = await reader.read(-1)
        assert answer[:3] == b"\x16\x03\x03"
        assert len(answer) == 5 + int.from_bytes(answer[3:5], "big") + 7


async def test_endless(broker):
    async with asked(broker, "endless") as (_, reader):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"content-length" not in head.lower()
        assert len(await reader.readexactly(2**20)) == 2**20


async def test_slow(broker, monkeypatch):
    monkeypatch.setattr(faults, "DRIP_S", 0.1)
    async with asked(broker, "slow") as (_, reader):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head
        began = time.monotonic()
        assert await reader.readexactly(4) == b'{"de'
        assert 0.3 < time.monotonic() - began < 5


async def test_silent(broker):
    async with asked(broker, "silent") as (_, reader):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.5)


@pytest.mark.parametrize("fault", ["ghost", "no-http"])
async def test_nothing_listens(broker, fault):
    async with fleet_of(broker, fault) as fleet:
        await fleet.reported()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(str(fleet.cameras[0].address), 8099)


async def test_a_ghost_is_one_retained_message_that_goes_with_the_fleet(broker):
    async with listening(broker) as ear:
        async with fleet_of(broker, "ghost", interval=0.01) as fleet:
            await fleet.reported()
            async with listening(broker) as late:
                message, body = await late.until(says("ONLINE"))
                assert message.retain
                assert body["device_id"] == fleet.cameras[0].device_id
        await ear.until(says("ONLINE"))
        message, body = await ear.until(lambda message, _: True)
        assert message.payload == b""


async def test_flapping(broker):
    async with listening(broker) as ear, fleet_of(broker, "flapping"):
        for _ in range(2):
            _, birth = await ear.until(lambda _, body: body["state"] in {"ONLINE", "OFFLINE"})
            assert (birth["state"], birth["message_count"]) == ("ONLINE", 1)
            _, will = await ear.until(lambda _, body: body["state"] in {"ONLINE", "OFFLINE"})
            assert will["state"] == "OFFLINE"


async def test_a_fleet_of_every_fault_stops_clean_with_open_connections(broker):
    fleet = fleet_of(broker, *Fault, count=len(Fault) + 1)
    async with fleet:
        await fleet.reported()
        writers = []
        for camera in fleet.cameras:
            if camera.fault is None or camera.fault.listens:
                with contextlib.suppress(ConnectionRefusedError):  # the flapping one may be away
                    _, writer = await asyncio.open_connection(str(camera.address), 8099)
                    writer.write(b"GET /status HTTP/1.1\r\nHost: camera\r\n\r\n")
                    writers.append(writer)
        began = time.monotonic()
    assert time.monotonic() - began < 3
    for writer in writers:
        writer.transport.abort()
