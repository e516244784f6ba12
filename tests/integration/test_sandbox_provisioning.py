"""Simulated cameras that are sent to another network, with real MQTT and real HTTP; the faults have their own file."""

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
from tests.support.ear import listening, says
from tests.support.process import COMMAND, environment
from tests.support.provision import (
    CONNECTION,
    DIGEST,
    HOME,
    NETWORK,
    PASSWORD,
    PORT,
    TARGET,
    body_of,
    changed,
    fleet_of,
    on,
    post,
    status,
)
from tests.support.waiting import eventually


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(15)) as session:
        yield session


async def test_a_camera_leaves_and_comes_back_on_the_network_that_it_was_told_of(broker, http):
    told = []
    fleet = fleet_of(broker, on_event=lambda _, event, detail: told.append((event, detail)))
    async with listening(broker) as ear, fleet:
        camera = fleet.cameras[0]
        address = camera.address
        _, birth = await ear.until(says("ONLINE"))
        assert birth["ssid"] == (await status(http, camera))["ssid"] == HOME
        assert birth.keys().isdisjoint({"container_id", "last_error"})
        began = time.monotonic()
        assert await post(http, camera, body_of(broker)) == (202, {"accepted": True, "request_id": "r-1"})
        _, leaving = await ear.until(lambda *_: True)
        assert (leaving["state"], leaving["ssid"]) == ("REBOOTING", HOME)
        _, birth = await ear.until(lambda *_: True)  # and no last will between
        assert time.monotonic() - began > 0.2
        assert (birth["state"], birth["ssid"], birth["container_id"]) == ("ONLINE", TARGET, "kitchen")
        assert birth["message_count"] == 1
        assert birth["uptime_ms"] < (time.monotonic() - began) * 1000
        assert birth["ip"] == str(address)
        found = await status(http, camera)
        assert (found["ssid"], found["mac"], camera.address) == (TARGET, camera.mac, address)
        assert camera.provisioned == [
            Provisioned(request_id="r-1", ssid=TARGET, container_id="kitchen", password_sha256=DIGEST)
        ]
        assert camera.provision_requests == 1
        await eventually(lambda: told[-1][0] == "joined")  # it knows a moment after its broker does
    assert told == [
        ("online", ""),
        ("rebooting", ""),
        ("provisioned", f"{TARGET} r-1"),
        ("online", ""),
        ("joined", TARGET),
    ]


async def test_between_the_networks_nothing_listens(broker, http):
    left = asyncio.Event()
    fleet = fleet_of(broker, rejoin_s=60, on_event=lambda _, event, __: event == "provisioned" and left.set())
    async with fleet:
        await fleet.reported()
        camera = fleet.cameras[0]
        assert (await post(http, camera, body_of(broker)))[0] == 202
        await asyncio.wait_for(left.wait(), 5)
        assert not camera.connected.is_set()
        with pytest.raises(aiohttp.ClientConnectorError):
            await status(http, camera)


async def test_the_same_request_again_is_answered_and_changes_nothing(broker, http):
    async with listening(broker) as ear, fleet_of(broker) as fleet:
        await fleet.reported()
        camera = fleet.cameras[0]
        await post(http, camera, body_of(broker))
        await ear.until(on(TARGET))
        for _ in range(3):
            again = body_of(broker, ssid="Elsewhere", password="other-password")
            assert await post(http, camera, again) == (202, {"accepted": True, "request_id": "r-1"})
        # A power cut does not make it forget, either.
        await camera.die()
        camera.revive()
        await ear.until(on(TARGET))
        assert (await post(http, camera, body_of(broker)))[0] == 202
        assert (await status(http, camera))["ssid"] == TARGET
        assert changed(camera) == [("r-1", TARGET)]
        assert camera.provision_requests == 5


async def test_another_request_is_a_second_change(broker, http):
    async with listening(broker) as ear, fleet_of(broker) as fleet:
        await fleet.reported()
        camera = fleet.cameras[0]
        await post(http, camera, body_of(broker))
        await ear.until(on(TARGET))
        await post(http, camera, body_of(broker, request_id="r-2", ssid="Other", container_id=None))
        _, birth = await ear.until(on("Other"))
        assert birth["container_id"] == "kitchen"
        assert changed(camera) == [("r-1", TARGET), ("r-2", "Other")]


@pytest.mark.parametrize("same", [True, False])
async def test_of_requests_at_the_same_time_one_changes_something(broker, http, same):
    async def one(number):
        request_id = "r-1" if same else f"r-{number}"
        with contextlib.suppress(*CONNECTION):  # it leaves while others are still asking
            return await post(http, camera, body_of(broker, request_id=request_id, ssid=f"Target {number}"))

    async with listening(broker) as ear, fleet_of(broker) as fleet:
        await fleet.reported()
        camera = fleet.cameras[0]
        answers = [answer for answer in await asyncio.gather(*map(one, range(20))) if answer]
        accepted = [body for code, body in answers if code == 202]
        assert len(changed(camera)) == 1
        assert accepted if same else len(accepted) == 1
        assert {code for code, _ in answers} <= ({202} if same else {202, 409})
        assert camera.provision_requests >= len(answers)
        await ear.until(on(camera.provisioned[0].ssid))


async def test_a_fleet_is_sent_to_another_network_at_once(broker, http):
    async with listening(broker) as ear, fleet_of(broker, count=20) as fleet:
        await fleet.reported()
        answers = [
            await post(http, camera, body_of(broker, request_id=f"r-{number}"))
            for number, camera in enumerate(fleet.cameras)
        ]
        assert [code for code, _ in answers] == [202] * 20
        there = set()
        while len(there) < 20:
            there.add((await ear.until(on(TARGET)))[1]["mac"])
        assert there == {camera.mac for camera in fleet.cameras}
        assert all(len(camera.provisioned) == 1 for camera in fleet.cameras)


async def test_topics_follow_the_container(broker, http):
    async with listening(broker) as ear, fleet_of(broker, topic_style=TopicStyle.DELICASA) as fleet:
        message, _ = await ear.until(says("ONLINE"))
        assert message.topic.value.startswith("delicasa/sandbox/camera/")
        await post(http, fleet.cameras[0], body_of(broker))
        message, _ = await ear.until(on(TARGET))
        assert message.topic.value.startswith("delicasa/kitchen/camera/")


async def test_it_reports_to_the_broker_that_it_was_told_of(broker, http, tmp_path):
    (tmp_path / "other").mkdir()
    other = Broker(tmp_path / "other")
    await other.start()
    try:
        async with listening(other) as ear, fleet_of(broker) as fleet:
            await fleet.reported()
            await post(http, fleet.cameras[0], body_of(broker, mqtt={"host": other.host, "port": other.port}))
            await ear.until(on(TARGET))
    finally:
        await other.stop()


async def test_it_names_itself_to_the_broker_as_it_was_told_to(broker, http):
    packets = asyncio.Queue()

    async def take(reader, writer):
        packets.put_nowait(await reader.read(1024))
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    access = {
        "host": "127.0.0.1",
        "port": server.sockets[0].getsockname()[1],
        "username": "cam",
        "password": "brokerkey",
    }
    async with fleet_of(broker) as fleet:
        await fleet.reported()
        await post(http, fleet.cameras[0], body_of(broker, mqtt=access))
        packet = await asyncio.wait_for(packets.get(), 10)
    server.close()
    await server.wait_closed()
    assert b"\x00\x03cam\x00\x09brokerkey" in packet


@pytest.mark.parametrize("moment", ["before it has left", "while it is away"])
async def test_power_lost_on_the_way_is_no_loss_of_what_it_was_told(broker, http, moment):
    left = asyncio.Event()
    fleet = fleet_of(broker, on_event=lambda _, event, __: event == "provisioned" and left.set())
    async with listening(broker) as ear, fleet:
        await fleet.reported()
        camera = fleet.cameras[0]
        await post(http, camera, body_of(broker))
        if moment == "while it is away":
            await asyncio.wait_for(left.wait(), 5)
        await camera.die()
        camera.revive()
        await ear.until(on(TARGET))
        assert changed(camera) == [("r-1", TARGET)]


BAD = {
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


async def test_bad_bodies_are_refused_and_change_nothing(broker, http):
    async with listening(broker) as ear, fleet_of(broker) as fleet:
        await fleet.reported()
        camera = fleet.cameras[0]
        for name, bad in BAD.items():
            code, answer = await post(http, camera, bad if isinstance(bad, bytes) else body_of(broker, **bad))
            assert (code, answer["accepted"]) == (422, False), name
            assert "canary" not in answer["error"], name
        assert camera.provisioned == []
        assert camera.provision_requests == len(BAD)
        async with http.get(f"{camera.url}/provision") as answer:
            assert answer.status == 405
        assert (await post(http, camera, body_of(broker)))[0] == 202
        await ear.until(on(TARGET))


async def test_whoever_breaks_off_in_the_middle_harms_nothing(broker, http, caplog):
    async with fleet_of(broker) as fleet:
        await fleet.reported()
        camera = fleet.cameras[0]
        for rest in (b"Content-Length: 500\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"Content-Le"):
            _, writer = await asyncio.open_connection(str(camera.address), PORT)
            writer.write(b"POST /provision HTTP/1.1\r\nHost: camera\r\n" + rest)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        assert (await post(http, camera, body_of(broker)))[0] == 202
        assert changed(camera) == [("r-1", TARGET)]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_open_networks_have_an_empty_password(broker, http):
    async with listening(broker) as ear, fleet_of(broker, wifi_password="") as fleet:
        await fleet.reported()
        assert (await post(http, fleet.cameras[0], body_of(broker, password="")))[0] == 202
        await ear.until(on(TARGET))


async def test_the_command_tells_who_was_provisioned_and_who_has_joined(broker, http):
    words = f"--network {NETWORK} --http-port {PORT} --broker {broker.host}:{broker.port} --count 2 --storm --json"
    words += " --fault wrong-password --rejoin 0.1 --ssid Start --interval 30"
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "sandbox", "cameras", *words.split(), stdout=asyncio.subprocess.PIPE, env=environment()
    )
    try:
        async with asyncio.timeout(20):
            told = [json.loads(await process.stdout.readline()) for _ in range(2)]
            urls = {event["fault"]: event["url"] for event in told}
            for fault, url in urls.items():
                async with http.get(f"{url}/status") as answer:
                    assert (await answer.json())["ssid"] == "Start"
                data = json.dumps(body_of(broker, request_id=f"r-{fault}", ssid="Ziel\u202e"))
                async with http.post(f"{url}/provision", data=data) as answer:
                    assert answer.status == 202
            # Each: rebooting, provisioned, online; and one of them: joined.
            told = [json.loads(await process.stdout.readline()) for _ in range(7)]
        process.terminate()
        assert await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    well = [(event["event"], event["detail"]) for event in told if event["fault"] is None]
    assert well == [("rebooting", ""), ("provisioned", "Ziel r-None"), ("online", ""), ("joined", "Ziel")]
    assert [event["event"] for event in told if event["fault"]] == ["rebooting", "provisioned", "online"]
