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

from pi_orchestrator.core.errors import StartupError
from pi_orchestrator.core.mac import parse_mac
from pi_orchestrator.sandbox import faults
from pi_orchestrator.sandbox.faults import Fault
from pi_orchestrator.sandbox.fleet import Fleet
from pi_orchestrator.sandbox.options import CameraOptions, IdStyle, MacStyle, TopicStyle
from tests.support.broker import Broker
from tests.support.mqtt_listener import has_state, listening
from tests.support.waiting import HANG_S

NETWORK = f"127.{100 + os.getpid() % 100}.0.0/16"  # addresses differ between concurrent test processes


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(20)) as session:
        yield session


def options(broker, **changes):
    values = {"interval": 30.0, "http_port": 8099, "reboot_s": 0.1, "flap_s": 0.6} | changes
    return CameraOptions(broker_host=broker.host, broker_port=broker.port, **values)


def fleet_of(broker, *specs, count=1, **changes):
    return Fleet(count=count, options=options(broker, **changes), network=NETWORK, faults=specs, storm=True)


async def test_fleet_of_250_cameras_answers(broker, http):
    fleet = fleet_of(broker, count=250)
    macs = set()
    async with listening(broker, "camera/status/+") as listener, fleet:
        while len(macs) < 250:
            message, body = await listener.until(has_state("ONLINE"))
            assert message.topic.value == f"camera/status/{body['mac']}"
            macs.add(parse_mac(body["mac"]))
        assert macs == {camera.mac for camera in fleet.cameras}
        assert body.keys() == {
            *("device_id", "mac", "state", "timestamp", "ip", "rssi_dbm", "free_heap_bytes", "uptime_ms"),
            *("firmware_version", "camera_initialized", "capture_ready", "ssid", "message_count"),
        }

        async def request_status(camera):
            async with http.get(f"{camera.url}/status") as answer:
                found = await answer.json()
            return found["mac"] == camera.mac and answer.status == 200

        assert all(await asyncio.gather(*map(request_status, fleet.cameras)))
    with pytest.raises(aiohttp.ClientConnectionError):
        await http.get(f"{fleet.cameras[0].url}/status")


async def test_capture_answers_a_jpeg(broker, http):
    async with fleet_of(broker) as fleet:
        await fleet.wait_until_reported()
        async with http.get(f"{fleet.cameras[0].url}/capture") as answer:
            body = await answer.read()
            assert answer.content_type == "image/jpeg"
    assert body[:2] == b"\xff\xd8"
    assert body[-2:] == b"\xff\xd9"
    with Image.open(io.BytesIO(body)) as image:
        image.load()
        assert image.size == (640, 480)


async def test_unknown_path_is_refused(broker, http):
    async with fleet_of(broker) as fleet:
        await fleet.wait_until_reported()
        async with http.get(f"{fleet.cameras[0].url}/nothing") as answer:
            assert answer.status == 404
        async with http.get(f"{fleet.cameras[0].url}/reboot") as answer:
            assert answer.status == 405


async def test_power_loss_sends_last_will(broker, http):
    async with listening(broker) as listener, fleet_of(broker) as fleet:
        camera = fleet.cameras[0]
        await listener.until(has_state("ONLINE"))
        await camera.power_off()
        _, will = await listener.until(has_state("OFFLINE"))
        assert will["reason"] == "last_will"
        assert (will["mac"], will["device_id"]) == (camera.mac, camera.device_id)
        with pytest.raises(aiohttp.ClientConnectionError):
            await http.get(f"{camera.url}/status")
        camera.power_on()
        _, birth = await listener.until(has_state("ONLINE"))
        assert birth["message_count"] == 1


async def test_power_loss_while_birth_is_sent_sends_last_will(broker):
    async with listening(broker) as listener, fleet_of(broker) as fleet:
        for _ in range(30):
            await listener.until(has_state("ONLINE"))
            await fleet.cameras[0].power_off()  # would hang here if the cancellation were lost
            await listener.until(has_state("OFFLINE"))
            fleet.cameras[0].power_on()


async def test_clean_stop_sends_no_last_will(broker):
    async with listening(broker) as listener:
        async with fleet_of(broker) as fleet:
            await fleet.wait_until_reported()
        await listener.client.publish("end", "{}", qos=1)
        await listener.until(has_state("ONLINE"))
        message, _ = await listener.until(lambda message, _: True)
        assert message.topic.value == "end"


@pytest.mark.parametrize("retain", [True, False])
async def test_birth_and_will_retained_if_set(broker, retain):
    async with fleet_of(broker, retain=retain) as fleet:
        await fleet.wait_until_reported()
        await fleet.cameras[0].power_off()
        async with listening(broker, "camera/status/+", "marker") as listener:
            await listener.client.publish("marker", "{}", qos=1)
            message, _ = await listener.until(lambda message, _: True)
            if message.topic.value != "marker":  # retained messages are delivered first
                assert message.retain
            assert (message.topic.value != "marker") is retain


async def send_command(listener, camera, payload, **topic):
    await listener.client.publish(camera.topic("command", **topic), json.dumps(payload), qos=1)


async def test_ping_is_answered(broker):
    async with listening(broker) as listener, fleet_of(broker) as fleet:
        await fleet.wait_until_reported()
        await send_command(listener, fleet.cameras[0], {"action": "ping", "request_id": "r-1"})
        _, answer = await listener.until(lambda message, _: message.topic.value == "camera/response/r-1")
        assert answer["success"] is True
        assert (answer["request_id"], answer["status"]) == ("r-1", "complete")


async def test_unknown_command_answers_error(broker):
    async with listening(broker) as listener, fleet_of(broker) as fleet:
        await fleet.wait_until_reported()
        camera = fleet.cameras[0]
        await send_command(listener, camera, {"action": "dance", "request_id": "r-2"})
        _, answer = await listener.until(lambda message, _: message.topic.value == "camera/response/r-2/error")
        assert answer["success"] is False
        for bad in ("nonsense", [], {"action": "ping"}, {"action": "ping", "request_id": "a/b"}):
            await send_command(listener, camera, bad)
            await listener.until(lambda message, _: message.topic.value == "camera/response/_invalid/error")


@pytest.mark.parametrize("trigger", ["mqtt", "http", "call"])
async def test_restart_resets_uptime(broker, http, trigger):
    async with listening(broker) as listener, fleet_of(broker, interval=0.05) as fleet:
        camera = fleet.cameras[0]
        await listener.until(lambda _, body: body and body.get("message_count", 0) >= 5)
        before = camera.uptime_s
        if trigger == "mqtt":
            await send_command(listener, camera, {"action": "restart", "request_id": "r-3"})
        elif trigger == "http":
            async with http.post(f"{camera.url}/reboot") as answer:
                assert answer.status == 200
        else:
            camera.restart()
        _, body = await listener.until(has_state("REBOOTING"))
        assert body["uptime_ms"] >= before * 1000 - 1
        _, body = await listener.until(lambda _, body: body.get("state") in {"ONLINE", "OFFLINE"})
        assert body["state"] == "ONLINE"  # a reboot disconnects cleanly: no last will
        assert body["message_count"] == 1
        assert body["uptime_ms"] < before * 1000
        async with http.get(f"{camera.url}/status") as answer:
            assert answer.status == 200


async def test_fleet_reconnects_to_broker(broker):
    fleet = fleet_of(broker, count=20)
    async with fleet:
        await fleet.wait_until_reported()
        for _ in range(2):
            await broker.stop()
            async with asyncio.timeout(HANG_S):
                while any(camera.connected.is_set() for camera in fleet.cameras):
                    await asyncio.sleep(0.01)
            await broker.start()
            async with asyncio.timeout(HANG_S):
                await asyncio.gather(*(camera.connected.wait() for camera in fleet.cameras))


async def test_fleet_without_broker_stops(tmp_path):
    fleet = fleet_of(Broker(tmp_path), count=20)
    async with fleet:
        async with asyncio.timeout(HANG_S):
            while not all(camera.has_booted for camera in fleet.cameras):
                await asyncio.sleep(0)
    assert not any(camera.reported.is_set() for camera in fleet.cameras)


async def test_fleet_on_hanging_broker_stops(tmp_path):
    connections = []
    server = await asyncio.start_server(lambda *pair: connections.append(pair), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with fleet_of(Broker(tmp_path, port), count=20):
        async with asyncio.timeout(HANG_S):
            while len(connections) < 20:
                await asyncio.sleep(0.01)
    server.close()
    for _, writer in connections:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_fleet_stop_leaks_no_socket(broker):
    def descriptors():
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    async with fleet_of(broker, count=5) as fleet:  # the first fleet opens descriptors that stay open
        await fleet.wait_until_reported()
    before = await asyncio.to_thread(descriptors)
    for turns in range(0, 60, 2):
        async with fleet_of(broker, count=5):
            for _ in range(turns):
                await asyncio.sleep(0)
        assert await asyncio.to_thread(descriptors) == before


async def test_restart_without_power_is_ignored(broker):
    async with fleet_of(broker) as fleet:
        await fleet.wait_until_reported()
        await fleet.cameras[0].power_off()
        fleet.cameras[0].restart()
        await fleet.cameras[0].power_off()
        assert not fleet.cameras[0].connected.is_set()


async def test_foreign_address_has_remedy(broker):
    fleet = Fleet(count=1, options=options(broker), network="192.0.2.0/24", storm=True)
    with pytest.raises(StartupError, match="cannot listen on 192.0.2.10:8099") as caught:
        async with fleet:
            await fleet.wait_until_reported()
    assert "127.0.0.0/8" in caught.value.remedy


async def test_mixed_style_receives_all_spellings(broker):
    async with (
        listening(broker) as listener,
        fleet_of(broker, interval=0.02, mac_style=MacStyle.MIXED) as fleet,
    ):
        camera, seen = fleet.cameras[0], set()
        while len(seen) < 4:
            message, body = await listener.until(has_state("ONLINE"))
            assert message.topic.value == f"camera/status/{body['mac']}"
            assert parse_mac(body["mac"]) == camera.mac
            seen.add(body["mac"])
        for turn in range(4):
            await send_command(listener, camera, {"action": "ping", "request_id": f"t{turn}"}, turn=turn)
            await listener.until(lambda message, _, turn=turn: message.topic.value == f"camera/response/t{turn}")


@pytest.mark.parametrize("style", [{"id_style": IdStyle.DEVICE_ID}, {"topic_style": TopicStyle.DELICASA}])
async def test_topic_styles_carry_same_messages(broker, style):
    async with listening(broker) as listener, fleet_of(broker, **style) as fleet:
        camera = fleet.cameras[0]
        message, body = await listener.until(has_state("ONLINE"))
        assert message.topic.value == camera.topic("status")
        assert body["mac"] == camera.mac
        await fleet.wait_until_reported()
        await send_command(listener, camera, {"action": "ping", "request_id": "r"})
        await listener.until(lambda message, _: message.topic.value == camera.topic("response/r"))


# Each fault on the wire, read without an HTTP library.


@contextlib.asynccontextmanager
async def status_request(broker, fault, limit=2**16):
    """Send `GET /status` to a camera with this fault; yields (camera, reader of the answer)."""
    async with fleet_of(broker, fault) as fleet:
        await fleet.wait_until_reported()
        host, port = str(fleet.cameras[0].address), fleet.cameras[0].options.http_port
        reader, writer = await asyncio.open_connection(host, port, limit=limit)
        writer.write(b"GET /status HTTP/1.1\r\nHost: camera\r\nConnection: close\r\n\r\n")
        try:
            async with asyncio.timeout(HANG_S):
                yield fleet.cameras[0], reader
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def read_answer(broker, fault):
    """(camera, status code, headers, body) of `GET /status` to a camera with this fault."""
    async with status_request(broker, fault) as (camera, reader):
        head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        return camera, int(lines[0].split()[1]), headers, body


async def test_fault_wrong_mac_reports_other_mac(broker):
    camera, status, _, body = await read_answer(broker, "wrong-mac")
    assert status == 200
    assert parse_mac(json.loads(body)["mac"]) != camera.mac


async def test_fault_no_mac_omits_mac(broker):
    _, status, _, body = await read_answer(broker, "no-mac")
    assert status == 200
    assert json.loads(body).keys() >= {"framesize", "quality"}
    assert "mac" not in json.loads(body)


async def test_fault_bad_json_is_truncated(broker):
    _, status, headers, body = await read_answer(broker, "bad-json")
    assert status == 200
    assert int(headers["content-length"]) == len(body)
    with pytest.raises(ValueError):
        json.loads(body)


async def test_fault_http_500_answers_500(broker):
    _, status, _, _ = await read_answer(broker, "http-500")
    assert status == 500


async def test_fault_redirect_answers_302(broker):
    _, status, headers, _ = await read_answer(broker, "redirect")
    assert (status, headers["location"]) == (302, "http://127.0.0.1/")


async def test_fault_close_truncates_answer(broker):
    _, status, headers, body = await read_answer(broker, "close")
    assert status == 200
    assert 0 < len(body) < int(headers["content-length"])


async def test_fault_gzip_bomb_unpacks(broker):
    _, _, headers, body = await read_answer(broker, "gzip-bomb")
    assert headers["content-encoding"] == "gzip"
    assert len(body) < 65_536
    assert len(await asyncio.to_thread(gzip.decompress, body)) > faults.BOMB_BYTES


async def test_fault_many_headers_sends_10000_headers(broker):
    _, _, headers, body = await read_answer(broker, "many-headers")
    assert sum(name.startswith("x-pad-") for name in headers) == 10_000
    assert json.loads(body)


async def test_fault_tls_bytes_sends_a_tls_record(broker):
    async with status_request(broker, "tls-bytes") as (_, reader):
        answer = await reader.read(-1)
        assert answer[:3] == b"\x16\x03\x03"
        assert len(answer) == 5 + int.from_bytes(answer[3:5], "big") + 7, "a complete record, then an alert of 7 bytes"


async def test_fault_endless_never_ends_body(broker):
    async with status_request(broker, "endless") as (_, reader):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"content-length" not in head.lower()
        assert len(await reader.readexactly(2**20)) == 2**20


async def test_fault_slow_sends_single_bytes(broker, monkeypatch):
    monkeypatch.setattr(faults, "BYTE_INTERVAL_S", 0.1)
    async with status_request(broker, "slow") as (_, reader):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head
        started = time.monotonic()
        assert await reader.readexactly(4) == b'{"de'
        assert time.monotonic() - started > 0.3


async def test_fault_silent_never_answers(broker):
    async with status_request(broker, "silent") as (_, reader):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.5)


@pytest.mark.parametrize("fault", ["ghost", "no-http"])
async def test_fault_no_http_refuses_connections(broker, fault):
    async with fleet_of(broker, fault) as fleet:
        await fleet.wait_until_reported()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(str(fleet.cameras[0].address), 8099)


async def test_fault_ghost_is_one_retained_message(broker):
    async with listening(broker) as listener:
        async with fleet_of(broker, "ghost", interval=0.01) as fleet:
            await fleet.wait_until_reported()
            async with listening(broker) as late_listener:
                message, body = await late_listener.until(has_state("ONLINE"))
                assert message.retain
                assert body["device_id"] == fleet.cameras[0].device_id
        await listener.until(has_state("ONLINE"))
        message, body = await listener.until(lambda message, _: True)
        assert message.payload == b"", "the stop of the fleet deletes the retained message"


async def test_fault_flapping_repeats_birth(broker):
    async with listening(broker) as listener, fleet_of(broker, "flapping"):
        for _ in range(2):
            _, birth = await listener.until(lambda _, body: body["state"] in {"ONLINE", "OFFLINE"})
            assert (birth["state"], birth["message_count"]) == ("ONLINE", 1)
            _, will = await listener.until(lambda _, body: body["state"] in {"ONLINE", "OFFLINE"})
            assert will["state"] == "OFFLINE"


async def test_fleet_of_every_fault_stops(broker):
    fleet = fleet_of(broker, *Fault, count=len(Fault) + 1)
    async with fleet:
        await fleet.wait_until_reported()
        writers = []
        for camera in fleet.cameras:
            if camera.fault is None or camera.fault.accepts_tcp:
                with contextlib.suppress(ConnectionRefusedError):  # the flapping camera may be off
                    _, writer = await asyncio.open_connection(str(camera.address), 8099)
                    writer.write(b"GET /status HTTP/1.1\r\nHost: camera\r\n\r\n")
                    writers.append(writer)
    for writer in writers:
        writer.transport.abort()
