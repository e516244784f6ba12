"""Padded, plain-text and unreadable status messages, with a real broker: what API and commands show of them."""

import asyncio
import json

import pytest

from pi_orchestrator.features.devices import unreadable
from tests.support.broker import free_port
from tests.support.process import command, write_toml
from tests.support.waiting import eventually

DAMAGED = b'{"ip":"192.168.10.5","error":"the "lens" is dirty"}'
PROBLEM = "what is no JSON: unescaped quote at byte 35"


@pytest.fixture
async def client(rig):
    async with rig.broker.client() as client:
        yield client


async def publish(client, topic, payload):
    await client.publish(topic, payload, qos=1)


async def unreadable_topics(running):
    return (await running.api.get("/api/v1/devices")).data["unreadable"]


@pytest.mark.parametrize(
    "padded",
    [
        '{"mac":"%s"}\0',
        '{"mac":"%s"}' + "\0" * 200,
        '\ufeff{"mac":"%s"}',
        ' \r\n{"mac":"%s"} \n',
        '\ufeff\t{"mac":"%s"}\r\n\0',
    ],
    ids=["zero byte", "zero bytes", "byte order mark", "spaces", "all"],
)
async def test_padded_status_brings_camera_online(rig, client, padded):
    async with rig.daemon() as running:
        await publish(client, "camera/status/cam", (padded % rig.mac(1)).encode())
        await eventually(lambda: running.app.devices.registry.get(rig.mac(1)))
        assert running.app.devices.registry.get(rig.mac(1)).shown == "online"
        assert await unreadable_topics(running) == []


async def test_camera_with_padded_messages_is_onboarded(rig):
    """The camera's HTTP answer to `/status` is padded, too."""
    async with rig.daemon() as running, rig.fleet(1, faults=["padded-json"]) as fleet:
        await eventually(lambda: fleet.cameras[0].mac in running.app.cameras.cache)


async def test_unreadable_status_is_shown_everywhere(rig, client, tmp_path):
    mac, port = rig.mac(1), free_port()
    listen = {"http": {"listen": [f"127.0.0.1:{port}"]}}
    async with rig.daemon(**listen) as running:
        await rig.announce(1, client=client)
        await eventually(lambda: running.app.devices.registry.get(mac))
        assert (await running.api.get(f"/api/v1/onboarding/auto/policy/explain?mac={mac}")).data["unreadable"] == []
        await publish(client, f"camera/status/{mac}", DAMAGED)
        await publish(client, "camera/status/unknown-1", b"busy")
        await eventually(lambda: len(running.app.devices.unreadable) == 2)

        own, unknown = await unreadable_topics(running)
        assert own["text"] == f"publishes on camera/status/{mac} {PROBLEM}"
        assert (own["mac_address"], own["count"]) == (mac, 1)
        assert (unknown["topic"], "mac_address" in unknown) == ("camera/status/unknown-1", False)
        discovered = (await running.api.get("/api/v1/espcam/discovered")).data["unreadable"]
        assert [topic["text"] for topic in discovered] == [own["text"], unknown["text"]]
        assert own["text"] in (await running.api.get(f"/api/v1/devices/{mac}")).data["why"]
        (diagnosed,) = (await running.api.get("/api/v1/cameras/diagnostics")).json
        assert diagnosed["diagnostics"]["unreadable"] == own["text"]
        explained = await running.api.get(f"/api/v1/onboarding/auto/policy/explain?mac={mac}")
        assert explained.data["unreadable"] == [own["text"]]
        other = await running.api.get(f"/api/v1/onboarding/auto/policy/explain?mac={rig.mac(9)}")
        assert other.data["unreadable"] == [f"an unknown device {unknown['text']}"]

        config = write_toml(tmp_path / "config.toml", rig.tree(**listen))
        listed = await command("devices", "--config", config)
        assert f"{mac} publishes on camera/status/{mac} {PROBLEM}" in " ".join(listed.out.split())
        explain = await command("onboarding", "explain", mac, "--config", config)
        assert f"cannot be read: {own['text']}." in " ".join(explain.out.split())
        doctor = await command("doctor", "--json", "--config", config)
        (finding,) = [entry for entry in doctor.json if entry["check"] == "messages"]
        assert finding["result"] == "warn"
        assert own["text"] in finding["what"]
        assert "camera/status/unknown-1" in finding["what"]

        await rig.announce(1, client=client)

        async def only_the_other_is_left():
            return [topic["topic"] for topic in await unreadable_topics(running)] == ["camera/status/unknown-1"]

        await eventually(only_the_other_is_left)
        assert "publishes on camera" not in (await running.api.get(f"/api/v1/devices/{mac}")).data["why"]


async def test_camera_with_bad_status_is_reported(rig):
    async with rig.daemon() as running, rig.fleet(2, faults=["bad-status"]) as fleet:
        healthy, faulty = fleet.cameras
        await eventually(lambda: healthy.mac in running.app.cameras.cache)
        await eventually(lambda: len(running.app.devices.unreadable))
        explained = await running.api.get(f"/api/v1/onboarding/auto/policy/explain?mac={faulty.mac}")
        text = f"publishes on camera/status/{faulty.mac} what is no JSON: unescaped quote at byte 18"
        assert explained.data["unreadable"] == [text]
        assert [topic["text"] for topic in await unreadable_topics(running)] == [text]


async def test_flood_of_unreadable_topics_is_bounded(rig, client):
    mac = rig.mac(1)
    async with rig.daemon() as running:
        await rig.announce(1, client=client)
        await eventually(lambda: running.app.devices.registry.get(mac))
        await publish(client, f"camera/status/{mac}", DAMAGED)
        tasks = [publish(client, f"camera/status/x{number}", b"\xff" * 20_000) for number in range(300)]
        await asyncio.gather(*tasks)
        await eventually(lambda: running.app.cameras.presence.messages["invalid"] == 301)
        assert len(running.app.devices.unreadable) == unreadable.MAX_TOPICS + 1
        assert (await unreadable_topics(running))[0]["mac_address"] == mac
        assert running.app.devices.registry.get(mac).shown == "online"


@pytest.mark.parametrize("will", [b"offline", b"Offline", b"OFFLINE", b"0"], ids=repr)
@pytest.mark.parametrize("by_id", [False, True], ids=["topic with MAC", "topic with device id"])
async def test_plain_will_takes_camera_offline(rig, client, will, by_id):
    mac = rig.mac(1)
    topic = "camera/status/cam-1" if by_id else f"camera/status/{mac}"
    async with rig.daemon() as running:
        await rig.publish(topic, {"mac": mac, "device_id": "cam-1"}, client=client)
        await eventually(lambda: running.app.devices.registry.get(mac))
        await publish(client, topic, will)
        await eventually(lambda: running.app.devices.registry.get(mac).shown == "offline")
        assert await unreadable_topics(running) == []
        await rig.publish(topic, {"mac": mac, "device_id": "cam-1"}, client=client)
        await eventually(lambda: running.app.devices.registry.get(mac).shown == "online")


async def test_plain_will_of_unknown_device_adds_no_device(rig, client):
    async with rig.daemon() as running:
        await publish(client, f"camera/status/{rig.mac(1)}", b"offline")
        await publish(client, "camera/status/cam-9", b"offline")
        await running.wait_until_processed(rig)
        assert running.app.devices.registry.get(rig.mac(1)) is None
        assert await unreadable_topics(running) == []


async def test_simulated_plain_will_is_seen(rig):
    async with rig.daemon() as running, rig.fleet(1, faults=["plain-will"]) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        await camera.power_off()
        await eventually(lambda: running.app.devices.registry.get(camera.mac).shown == "offline")


async def test_plain_birth_is_no_status(rig, client):
    """The text `online` has no fields: its topic is listed as unreadable until the camera's first status arrives."""
    topic = "camera/status/cam-1"
    async with rig.daemon() as running:
        await publish(client, topic, b"online")
        await eventually(lambda: len(running.app.devices.unreadable) == 1)
        (entry,) = await unreadable_topics(running)
        assert entry["text"] == "publishes on camera/status/cam-1 what is no JSON: no { at byte 1"
        await publish(client, topic, json.dumps({"mac": rig.mac(1)}))
        await eventually(lambda: running.app.devices.registry.get(rig.mac(1)))
        assert await unreadable_topics(running) == []


async def test_deletion_of_a_retained_message_is_no_problem(rig, client):
    async with rig.daemon() as running:
        await publish(client, "camera/status/cam-1", b"")
        await eventually(lambda: running.app.cameras.presence.messages["invalid"] == 1)
        assert await unreadable_topics(running) == []
