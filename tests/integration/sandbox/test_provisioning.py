"""Simulated cameras that are provisioned, with real MQTT and real HTTP; faults are in test_provision_faults.py."""

import asyncio
import contextlib
import json
import logging
import time

import aiohttp
import pytest

from pi_orchestrator.sandbox.options import TopicStyle
from pi_orchestrator.sandbox.provisioning import Provisioned
from tests.support.broker import Broker
from tests.support.mqtt_listener import has_state, listening
from tests.support.process import COMMAND, environment
from tests.support.provision import (
    CONNECTION_ERRORS,
    DIGEST,
    HOME,
    NETWORK,
    PASSWORD,
    PORT,
    TARGET,
    body_of,
    fleet_of,
    is_online_on,
    post,
    provisioned_networks,
    status,
)
from tests.support.waiting import HANG_S, eventually


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(15)) as session:
        yield session


async def test_provisioned_camera_joins_target(broker, http):
    events = []
    fleet = fleet_of(broker, on_event=lambda _, event, detail: events.append((event, detail)))
    async with listening(broker) as listener, fleet:
        camera = fleet.cameras[0]
        address = camera.address
        _, birth = await listener.until(has_state("ONLINE"))
        assert (birth["ssid"], (await status(http, camera))["ssid"]) == (HOME, HOME)
        assert birth.keys().isdisjoint({"container_id", "last_error"})
        started = time.monotonic()
        assert await post(http, camera, body_of(broker)) == (202, {"accepted": True, "request_id": "r-1"})
        _, leaving = await listener.until(lambda *_: True)
        assert (leaving["state"], leaving["ssid"]) == ("REBOOTING", HOME)
        _, birth = await listener.until(lambda *_: True)  # no last will in between
        assert time.monotonic() - started > 0.2
        assert (birth["state"], birth["ssid"], birth["container_id"]) == ("ONLINE", TARGET, "kitchen")
        assert birth["message_count"] == 1
        assert birth["uptime_ms"] < (time.monotonic() - started) * 1000
        assert birth["ip"] == str(address)
        found = await status(http, camera)
        assert (found["ssid"], found["mac"], camera.address) == (TARGET, camera.mac, address)
        assert camera.provisioned == [
            Provisioned(request_id="r-1", ssid=TARGET, container_id="kitchen", password_sha256=DIGEST)
        ]
        assert camera.provision_requests == 1
        await eventually(lambda: events[-1][0] == "joined")  # reported shortly after its message
    assert events == [
        ("online", ""),
        ("rebooting", ""),
        ("provisioned", f"{TARGET} r-1"),
        ("online", ""),
        ("joined", TARGET),
    ]


async def test_camera_is_unreachable_while_it_changes_network(broker, http):
    left = asyncio.Event()
    fleet = fleet_of(broker, rejoin_s=60, on_event=lambda _, event, __: event == "provisioned" and left.set())
    async with fleet:
        await fleet.wait_until_reported()
        camera = fleet.cameras[0]
        assert (await post(http, camera, body_of(broker)))[0] == 202
        await asyncio.wait_for(left.wait(), HANG_S)
        assert not camera.connected.is_set()
        with pytest.raises(aiohttp.ClientConnectorError):
            await status(http, camera)


async def test_repeated_request_is_not_applied(broker, http):
    async with listening(broker) as listener, fleet_of(broker) as fleet:
        await fleet.wait_until_reported()
        camera = fleet.cameras[0]
        await post(http, camera, body_of(broker))
        await listener.until(is_online_on(TARGET))
        for _ in range(3):
            repeat = body_of(broker, ssid="Elsewhere", password="other-password")
            assert await post(http, camera, repeat) == (202, {"accepted": True, "request_id": "r-1"})
        # A power loss does not change this.
        await camera.power_off()
        camera.power_on()
        await listener.until(is_online_on(TARGET))
        assert (await post(http, camera, body_of(broker)))[0] == 202
        assert (await status(http, camera))["ssid"] == TARGET
        assert provisioned_networks(camera) == [("r-1", TARGET)]
        assert camera.provision_requests == 5


async def test_request_with_new_id_is_applied(broker, http):
    async with listening(broker) as listener, fleet_of(broker) as fleet:
        await fleet.wait_until_reported()
        camera = fleet.cameras[0]
        await post(http, camera, body_of(broker))
        await listener.until(is_online_on(TARGET))
        await post(http, camera, body_of(broker, request_id="r-2", ssid="Other", container_id=None))
        _, birth = await listener.until(is_online_on("Other"))
        assert birth["container_id"] == "kitchen"
        assert provisioned_networks(camera) == [("r-1", TARGET), ("r-2", "Other")]


@pytest.mark.parametrize("has_same_id", [True, False])
async def test_concurrent_requests_apply_one(broker, http, has_same_id):
    async def send(number):
        request_id = "r-1" if has_same_id else f"r-{number}"
        with contextlib.suppress(*CONNECTION_ERRORS):  # the camera leaves while other requests are open
            return await post(http, camera, body_of(broker, request_id=request_id, ssid=f"Target {number}"))

    async with listening(broker) as listener, fleet_of(broker) as fleet:
        await fleet.wait_until_reported()
        camera = fleet.cameras[0]
        answers = [answer for answer in await asyncio.gather(*map(send, range(20))) if answer]
        accepted = [body for code, body in answers if code == 202]
        assert len(provisioned_networks(camera)) == 1
        assert accepted if has_same_id else len(accepted) == 1
        assert {code for code, _ in answers} <= ({202} if has_same_id else {202, 409})
        assert camera.provision_requests >= len(answers)
        await listener.until(is_online_on(camera.provisioned[0].ssid))


async def test_fleet_is_provisioned_concurrently(broker, http):
    async with listening(broker) as listener, fleet_of(broker, count=20) as fleet:
        await fleet.wait_until_reported()
        answers = [
            await post(http, camera, body_of(broker, request_id=f"r-{number}"))
            for number, camera in enumerate(fleet.cameras)
        ]
        assert [code for code, _ in answers] == [202] * 20
        joined = set()
        while len(joined) < 20:
            joined.add((await listener.until(is_online_on(TARGET)))[1]["mac"])
        assert joined == {camera.mac for camera in fleet.cameras}
        assert all(len(camera.provisioned) == 1 for camera in fleet.cameras)


async def test_topics_follow_container(broker, http):
    async with listening(broker) as listener, fleet_of(broker, topic_style=TopicStyle.DELICASA) as fleet:
        message, _ = await listener.until(has_state("ONLINE"))
        assert message.topic.value.startswith("delicasa/sandbox/camera/")
        await post(http, fleet.cameras[0], body_of(broker))
        message, _ = await listener.until(is_online_on(TARGET))
        assert message.topic.value.startswith("delicasa/kitchen/camera/")


async def test_camera_uses_new_broker(broker, http, tmp_path):
    (tmp_path / "other").mkdir()
    other = Broker(tmp_path / "other")
    await other.start()
    try:
        async with listening(other) as listener, fleet_of(broker) as fleet:
            await fleet.wait_until_reported()
            await post(http, fleet.cameras[0], body_of(broker, mqtt={"host": other.host, "port": other.port}))
            await listener.until(is_online_on(TARGET))
    finally:
        await other.stop()


async def test_camera_uses_broker_credentials(broker, http):
    packets = asyncio.Queue()

    async def read_packet(reader, writer):
        packets.put_nowait(await reader.read(1024))
        writer.close()

    server = await asyncio.start_server(read_packet, "127.0.0.1", 0)
    access = {
        "host": "127.0.0.1",
        "port": server.sockets[0].getsockname()[1],
        "username": "cam",
        "password": "brokerkey",
    }
    async with fleet_of(broker) as fleet:
        await fleet.wait_until_reported()
        await post(http, fleet.cameras[0], body_of(broker, mqtt=access))
        packet = await asyncio.wait_for(packets.get(), HANG_S)
    server.close()
    await server.wait_closed()
    assert b"\x00\x03cam\x00\x09brokerkey" in packet


@pytest.mark.parametrize("moment", ["before leaving", "while off"])
async def test_power_loss_keeps_accepted_request(broker, http, moment):
    left = asyncio.Event()
    fleet = fleet_of(broker, on_event=lambda _, event, __: event == "provisioned" and left.set())
    async with listening(broker) as listener, fleet:
        await fleet.wait_until_reported()
        camera = fleet.cameras[0]
        await post(http, camera, body_of(broker))
        if moment == "while off":
            await asyncio.wait_for(left.wait(), HANG_S)
        await camera.power_off()
        camera.power_on()
        await listener.until(is_online_on(TARGET))
        assert provisioned_networks(camera) == [("r-1", TARGET)]


INVALID = {
    "no JSON": b"ssid=x",
    "an array": b"[]",
    "nothing": b"",
    "not UTF-8": b'{"ssid": "\xff"}',
    "too deep": b'{"a":' * 40 + b"1" + b"}" * 40,
    "too much": {"pad": "x" * 5000},
    "no ssid": {"ssid": None},
    "an ssid of 33 bytes": {"ssid": "x" * 33},
    "an ssid that is a number": {"ssid": 5},
    "a control character": {"ssid": "a\nb"},
    "no password": {"password": None},
    "a short password": {"password": "canary"},
    "a password that is a number": {"password": 12345678},
    "a password of other characters": {"password": PASSWORD + "é"},
    "no broker": {"mqtt": None},
    "a broker that is text": {"mqtt": "127.0.0.1:1883"},
    "a broker without a port": {"mqtt": {"host": "127.0.0.1"}},
    "a port that is true": {"mqtt": {"host": "127.0.0.1", "port": True}},
    "a port too large": {"mqtt": {"host": "127.0.0.1", "port": 65536}},
    "an empty host": {"mqtt": {"host": "", "port": 1883}},
    "a username that is a list": {"mqtt": {"host": "h", "port": 1883, "username": []}},
    "a broker password that is a number": {"mqtt": {"host": "h", "port": 1883, "password": 1}},
    "a container that is a number": {"container_id": 7},
    "a container with a slash": {"container_id": "a/b"},
    "no request_id": {"request_id": None},
    "an empty request_id": {"request_id": ""},
    "a request_id with a newline": {"request_id": "r\n"},
}


async def test_invalid_body_is_refused(broker, http):
    async with listening(broker) as listener, fleet_of(broker) as fleet:
        await fleet.wait_until_reported()
        camera = fleet.cameras[0]
        for name, content in INVALID.items():
            body = content if isinstance(content, bytes) else body_of(broker, **content)
            code, answer = await post(http, camera, body)
            assert (code, answer["accepted"]) == (422, False), name
            assert "canary" not in answer["error"], name
        assert camera.provisioned == []
        assert camera.provision_requests == len(INVALID)
        async with http.get(f"{camera.url}/provision") as answer:
            assert answer.status == 405
        assert (await post(http, camera, body_of(broker)))[0] == 202
        await listener.until(is_online_on(TARGET))


async def test_aborted_requests_change_nothing(broker, http, caplog):
    async with fleet_of(broker) as fleet:
        await fleet.wait_until_reported()
        camera = fleet.cameras[0]
        for rest in (b"Content-Length: 500\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"Content-Le"):
            _, writer = await asyncio.open_connection(str(camera.address), PORT)
            writer.write(b"POST /provision HTTP/1.1\r\nHost: camera\r\n" + rest)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        assert (await post(http, camera, body_of(broker)))[0] == 202
        assert provisioned_networks(camera) == [("r-1", TARGET)]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_open_network_has_empty_password(broker, http):
    async with listening(broker) as listener, fleet_of(broker, wifi_password="") as fleet:
        await fleet.wait_until_reported()
        assert (await post(http, fleet.cameras[0], body_of(broker, password="")))[0] == 202
        await listener.until(is_online_on(TARGET))


async def test_command_prints_events(broker, http):
    options = f"--network {NETWORK} --http-port {PORT} --broker {broker.host}:{broker.port} --count 2 --storm --json"
    options += " --fault wrong-password --rejoin 0.1 --ssid Start --interval 30"
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "sandbox", "cameras", *options.split(), stdout=asyncio.subprocess.PIPE, env=environment()
    )
    try:
        async with asyncio.timeout(HANG_S):
            events = [json.loads(await process.stdout.readline()) for _ in range(2)]
            urls = {event["fault"]: event["url"] for event in events}
            for fault, url in urls.items():
                async with http.get(f"{url}/status") as answer:
                    assert (await answer.json())["ssid"] == "Start"
                data = json.dumps(body_of(broker, request_id=f"r-{fault}", ssid="Ziel\u202e"))
                async with http.post(f"{url}/provision", data=data) as answer:
                    assert answer.status == 202
            # Each camera: rebooting, provisioned, online; the healthy camera also: joined.
            events = [json.loads(await process.stdout.readline()) for _ in range(7)]
        process.terminate()
        assert await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    healthy = [(event["event"], event["detail"]) for event in events if event["fault"] is None]
    assert healthy == [("rebooting", ""), ("provisioned", "Ziel r-None"), ("online", ""), ("joined", "Ziel")]
    assert [event["event"] for event in events if event["fault"]] == ["rebooting", "provisioned", "online"]
