"""Two cameras under one device id, and a client that publishes as a camera: no command reaches the wrong one."""

import asyncio
import contextlib
import io
import json
import time
from ipaddress import IPv4Address

import pytest
from aiomqtt import MqttError
from PIL import Image

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.sighting import Sighting, Source
from pi_orchestrator.features.devices import publishers
from pi_orchestrator.sandbox.faults import SHARED_ID, Fault
from pi_orchestrator.sandbox.options import IdStyle
from tests.support.waiting import eventually

CAMERAS = "/api/v1/cameras"
NO_CACHE = {"cameras": {"capture_cache_s": 0}}
END_MARK = "last"
TEXT = "two cameras share the id esp32cam: flash different ids"


@contextlib.asynccontextmanager
async def cameras_with_one_id(rig, **sections):
    """A daemon and two onboarded cameras with the same device id."""
    async with (
        rig.daemon(**(NO_CACHE | sections)) as running,
        rig.fleet(2, faults=["shared-id:2"], interval=0.2) as fleet,
    ):
        await eventually(lambda: all(camera.mac in running.app.cameras.cache for camera in fleet.cameras))
        await eventually(running.app.devices.registry.names.conflicts)
        yield running, *fleet.cameras


@pytest.fixture
def paint(monkeypatch):
    """`paint(camera, colour)`: each picture of this camera has only this colour, so that a test recognises it."""
    return lambda camera, colour: _paint(monkeypatch, camera, colour)


def _paint(monkeypatch, camera, colour):

    async def picture():
        data = io.BytesIO()
        Image.new("RGB", (64, 48), colour).save(data, "JPEG")
        return data.getvalue()

    for owner in (camera, camera.commands):
        monkeypatch.setattr(owner, "_picture", picture)


def colour_of(jpeg):
    return Image.open(io.BytesIO(jpeg)).convert("RGB").getpixel((20, 20))


def is_red(jpeg):
    red, _, blue = colour_of(jpeg)
    return red > 200 > 50 > blue


async def stored_events(rig, kind):
    return [json.loads(row) for (row,) in rig.rows("SELECT payload FROM events WHERE type = ? ORDER BY id", kind)]


async def test_shared_id_returns_no_picture_of_other_camera(rig, paint):
    async with cameras_with_one_id(rig) as (running, first, second):
        paint(first, "red")
        paint(second, "blue")
        answers = [await running.api.post(f"{CAMERAS}/{first.mac}/capture") for _ in range(12)]
        assert {answer.status for answer in answers} == {200}
        assert [is_red(answer.body) for answer in answers].count(False) == 0
        assert not is_red((await running.api.post(f"{CAMERAS}/{second.mac}/capture")).body)


async def test_reboot_with_shared_id_reaches_one_camera(rig):
    async with cameras_with_one_id(rig) as (running, first, second):
        assert (await running.api.post(f"{CAMERAS}/{first.mac}/reboot")).status == 200
        await eventually(lambda: not running.app.commands.reboots.is_rebooting(first.mac))
        # The broker keeps the order: a command of the daemon would have arrived before this one.
        await rig.publish(first.topic("command"), {"action": "ping", "request_id": "last"})
        await eventually(lambda: first.commands.received_actions and second.commands.received_actions)
        assert first.commands.received_actions == second.commands.received_actions == ["ping"]
        assert (first.restarts, second.restarts) == (1, 0)


async def test_shared_id_refuses_mqtt_command_with_reason(rig):
    async with cameras_with_one_id(rig) as (running, first, _):
        path = f"{CAMERAS}/{first.mac}/commands"
        refused = await running.admin.post(path, json={"action": "set_resolution", "resolution": "SVGA"})
        assert (refused.status, refused.json["code"]) == (503, "MQTT_UNAVAILABLE")
        assert TEXT in refused.json["error"]["message"]
        ping = await running.admin.post(path, json={"action": "ping"})
        assert (ping.status, ping.data["via"]) == (200, "http")


async def test_shared_id_is_shown_everywhere(rig):
    async with cameras_with_one_id(rig) as (running, first, second):
        for camera, other in ((first, second), (second, first)):
            device = (await running.api.get(f"/api/v1/devices/{camera.mac}")).data
            assert device["id_conflict"] == [other.mac]
            assert any(TEXT in note for note in device["notes"])
            shown = await running.camera(camera.mac)
            assert any(TEXT in warning for warning in shown["warnings"])
            assert shown["id"] == camera.mac
            explained = await running.api.get(
                "/api/v1/onboarding/auto/policy/explain", params={"mac": camera.mac, "ip": str(camera.address)}
            )
            assert any(TEXT in note for note in explained.data["notes"])
        assert await running.metric("piorch_id_conflicts") == 1

        async def conflict_events():
            return await stored_events(rig, "device.id_conflict")

        (event,) = await eventually(conflict_events)
        assert (event["id"], event["topic"]) == (SHARED_ID, f"camera/status/{SHARED_ID}")
        assert event["macs"] == sorted([first.mac, second.mac])


async def test_shared_id_is_no_name_in_the_api(rig):
    async with cameras_with_one_id(rig) as (running, first, second):
        for method, path in (
            ("GET", f"{CAMERAS}/{SHARED_ID}"),
            ("POST", f"{CAMERAS}/{SHARED_ID}/capture"),
            ("POST", f"{CAMERAS}/{SHARED_ID}/reboot"),
        ):
            answer = await running.admin.call(method, path)
            assert (answer.status, answer.json["code"]) == (409, "CONFLICT"), path
            assert first.mac in answer.json["error"]["details"]
            assert second.mac in answer.json["error"]["details"]
        assert first.restarts == second.restarts == 0


async def test_message_without_mac_on_shared_topic_is_of_no_camera(rig):
    async with cameras_with_one_id(rig) as (running, first, second):
        before = running.app.cameras.presence.messages["ambiguous"]
        will = {"device_id": SHARED_ID, "state": "OFFLINE", "last_error": "broken"}
        await rig.publish(f"camera/status/{SHARED_ID}", will)
        await eventually(lambda: running.app.cameras.presence.messages["ambiguous"] == before + 1)
        assert {(await running.camera(camera.mac))["status"] for camera in (first, second)} == {"online"}
        assert running.app.devices.registry.get(first.mac).in_mqtt_session


async def test_camera_without_mac_field_is_found_by_its_address(rig):
    """Old firmware has no `mac` field: a message from another camera's address shows that they share a topic."""
    topic = f"camera/status/{SHARED_ID}"
    async with rig.daemon(auto_onboard={"enabled": False}) as running, rig.broker.client() as client:
        registry = running.app.devices.registry
        for number in (1, 2):
            now = time.monotonic()
            sighting = Sighting(Mac(rig.mac(number)), Source.ARP, now, IPv4Address(rig.address(number)), binds=True)
            registry.add_sighting(sighting, now)
        await rig.publish(topic, {"mac": rig.mac(1), "ip": rig.address(1)}, client=client)
        for number in (1, 2, 1):
            await rig.publish(topic, {"ip": rig.address(number)}, client=client)
        await eventually(registry.names.conflicts)
        assert registry.names.conflicts()[0].macs == (rig.mac(1), rig.mac(2))
        assert not running.app.commands.channel.can_reach(Mac(rig.mac(1)))
        await eventually(lambda: running.app.cameras.presence.messages["ambiguous"] == 1)


async def test_pending_command_fails_when_conflict_is_found(rig):
    async with rig.daemon(**NO_CACHE) as running, rig.camera(1) as first, rig.broker.client() as client:
        topic = f"camera/status/{SHARED_ID}"
        await first.publish_status(topic=topic, device_id=SHARED_ID, client=client)
        await eventually(lambda: first.mac in running.app.cameras.cache)
        await client.subscribe(f"camera/command/{SHARED_ID}", qos=1)
        command = {"action": "set_resolution", "resolution": "SVGA"}
        request = asyncio.create_task(running.admin.post(f"{CAMERAS}/{first.mac}/commands", json=command))
        message = await anext(aiter(client.messages))
        assert json.loads(message.payload)["action"] == "set_resolution"
        await rig.publish(topic, {"mac": rig.mac(2), "device_id": SHARED_ID}, client=client)
        answer = await request
        assert (answer.status, answer.json["code"]) == (503, "MQTT_UNAVAILABLE")
        assert TEXT in answer.json["error"]["message"]


async def test_conflict_ends_when_one_camera_is_left(rig, monkeypatch):
    monkeypatch.setattr("pi_orchestrator.features.devices.publishers.NAMES_KEPT_S", 0.0)
    async with cameras_with_one_id(rig) as (running, first, second):
        await second.power_off()
        await eventually(lambda: running.app.commands.channel.can_reach(first.mac))
        answer = await running.admin.post(f"{CAMERAS}/{first.mac}/commands", json={"action": "ping"})
        assert (answer.status, answer.data["via"]) == (200, "mqtt")

        async def resolved_events():
            return await stored_events(rig, "device.id_conflict_resolved")

        (event,) = await eventually(resolved_events)
        assert event["id"] == SHARED_ID


# A client that publishes as another camera.


@contextlib.asynccontextmanager
async def attacked_camera(rig, **options):
    """A daemon, a registered camera with its own topic, and a client that publishes as this camera."""
    settings = NO_CACHE | {"auto_onboard": {"verification_timeout_sec": 2}}
    async with (
        rig.daemon(**settings) as running,
        rig.fleet(2, faults=["topic-takeover"], interval=0.2, **options) as fleet,
    ):
        (victim,) = fleet.with_fault(None)
        (attacker,) = fleet.with_fault(Fault.TOPIC_TAKEOVER)
        await eventually(lambda: victim.mac in running.app.cameras.cache)
        names = running.app.devices.registry.names
        await eventually(lambda: names.topic_of(victim.mac) == victim.topic("status") and names.rivals(victim.mac))
        yield running, victim, attacker


@pytest.mark.parametrize("style", [IdStyle.MAC, IdStyle.DEVICE_ID])
async def test_second_topic_takes_nothing_over(rig, style, paint):
    async with attacked_camera(rig, id_style=style) as (running, victim, attacker):
        paint(victim, "red")
        await eventually(lambda: running.app.devices.registry.names.rivals(victim.mac)[0].messages >= 3)
        await eventually(lambda: running.app.commands.channel.can_reach(victim.mac))
        answers = [await running.api.post(f"{CAMERAS}/{victim.mac}/capture") for _ in range(6)]
        assert [answer.status for answer in answers] == [200] * 6, answers[-1].body
        assert all(is_red(answer.body) for answer in answers)
        assert attacker.commands.received_actions == []
        device = running.app.devices.registry.get(victim.mac)
        assert (device.claims.ip, device.device_id) == (str(victim.address), victim.device_id)
        assert running.app.cameras.cache.get(victim.mac).ip_address == str(victim.address)
        shown = await running.camera(victim.mac)
        assert any("another client publishes as this camera" in warning for warning in shown["warnings"])
        assert victim.restarts == 0
        assert running.app.recovery.tracker.of(victim.mac).failures == 0


async def test_first_publisher_yields_to_camera_itself(rig):
    """After a restart of the daemon, the other client may publish before the camera does."""
    async with rig.daemon(**NO_CACHE) as running, rig.camera(1) as camera, rig.broker.client() as client:
        evil = {"mac": camera.mac, "device_id": "evil-1", "ip": camera.address}
        await rig.publish("camera/status/evil-1", evil, client=client)
        await eventually(lambda: running.app.devices.registry.get(camera.mac))
        await camera.publish_status(topic=f"camera/status/{camera.device_id}", client=client)
        names = running.app.devices.registry.names
        await eventually(lambda: names.topic_of(camera.mac) == f"camera/status/{camera.device_id}")
        assert running.app.commands.channel.refusal(camera.mac) is None


@contextlib.asynccontextmanager
async def listening(rig, *filters):
    """A client that subscribes to these filters; yields the list of topics on which it has received messages."""
    received = []

    async def listen(client):
        with contextlib.suppress(MqttError):  # the test has ended
            while message := await anext(aiter(client.messages)):
                received.append(END_MARK if message.payload == END_MARK.encode() else message.topic.value)

    async with rig.broker.client() as client:
        for topic in filters:
            await client.subscribe(topic, qos=1)
        task = asyncio.create_task(listen(client))
        try:
            yield received
        finally:
            task.cancel()


async def all_received(received, rig, topic):
    """The topics of all messages to a `listening` client until now: the broker keeps the order, so END_MARK is last."""
    async with rig.broker.client() as client:
        await client.publish(topic, END_MARK, qos=1)
    await eventually(lambda: END_MARK in received)
    return received[: received.index(END_MARK)]


@pytest.mark.parametrize("style", [IdStyle.DEVICE_ID, IdStyle.MAC])
async def test_forged_will_and_same_id_take_nothing_over(rig, style, paint):
    """A forged last will, then a message on another topic with the id of the camera."""
    async with (
        rig.daemon(**NO_CACHE) as running,
        rig.fleet(1, interval=0.2, id_style=style) as fleet,
        listening(rig, "delicasa/evil/camera/+/command") as stolen,
        rig.broker.client() as client,
    ):
        (victim,) = fleet.cameras
        await eventually(lambda: victim.mac in running.app.cameras.cache)
        await eventually(lambda: running.app.commands.channel.can_reach(victim.mac))
        paint(victim, "red")
        names, own = running.app.devices.registry.names, victim.topic("status")
        evil = f"delicasa/evil/camera/{own.split('/')[2]}/status"
        await rig.publish(own, {"mac": victim.mac, "state": "OFFLINE"}, client=client)
        await rig.publish(evil, {"mac": victim.mac, "uptime": 5, "last_error": "evil"}, client=client)
        await eventually(lambda: names.rivals(victim.mac) and names.topic_of(victim.mac) == own)
        for _ in range(3):
            await rig.publish(evil, {"mac": victim.mac, "uptime": 5, "last_error": "evil"}, client=client)
            answer = await running.api.post(f"{CAMERAS}/{victim.mac}/capture")
            assert (answer.status, is_red(answer.body)) == (200, True)
        assert (names.topic_of(victim.mac), stolen) == (own, [])
        assert running.app.devices.registry.get(victim.mac).last_error is None


@pytest.mark.parametrize("spelling", ["evil-1", "underscores"])
async def test_first_publisher_after_restart_gets_no_command(rig, spelling):
    """The firmware names no device id by HTTP, its topics have the MAC."""
    async with rig.daemon(**NO_CACHE) as running, rig.camera(1) as camera:
        camera.body["device_id"] = None
        await camera.publish_status()
        await eventually(lambda: camera.mac in running.app.cameras.cache)
    topic = "camera/status/" + (camera.mac.replace(":", "_") if spelling == "underscores" else spelling)
    async with (
        rig.daemon(**NO_CACHE) as running,
        listening(rig, topic.replace("status", "command")) as stolen,
        rig.camera(1) as camera,
        rig.broker.client() as client,
    ):
        camera.body["device_id"] = None
        names = running.app.devices.registry.names
        await rig.publish(topic, {"mac": camera.mac, "ip": camera.address}, client=client)
        await eventually(lambda: names.topic_of(camera.mac))
        await camera.publish_status(client=client)
        await eventually(lambda: names.topic_of(camera.mac) != topic or names.rivals(camera.mac))
        await running.api.post(f"{CAMERAS}/{camera.mac}/capture")  # no client answers by MQTT here
        assert await all_received(stolen, rig, topic.replace("status", "command")) == []


@pytest.mark.parametrize("spelling", ["camera/status/{underscores}", "delicasa/evil/camera/{mac}/status"])
async def test_established_topic_outlives_restart(rig, spelling):
    """Another client publishes first, on a topic with the camera's MAC; the camera has not published yet."""
    async with rig.daemon(**NO_CACHE) as running, rig.camera(1) as camera:
        await camera.publish_status()
        await eventually(lambda: camera.mac in running.app.cameras.cache)
    own = f"camera/status/{camera.mac}"
    assert rig.rows("SELECT topic FROM cameras") == [(own,)]
    topic = spelling.format(mac=camera.mac, underscores=camera.mac.replace(":", "_"))
    commands = topic.replace("status", "command")
    async with (
        rig.daemon(**NO_CACHE) as running,
        listening(rig, commands) as stolen,
        rig.camera(1) as camera,
        rig.broker.client() as client,
    ):
        names = running.app.devices.registry.names
        await rig.publish(topic, {"mac": camera.mac, "ip": camera.address}, client=client)
        await eventually(lambda: names.topic_of(camera.mac) == topic)
        assert running.app.commands.channel.refusal(camera.mac)
        await running.api.post(f"{CAMERAS}/{camera.mac}/capture")
        await running.api.post(f"{CAMERAS}/{camera.mac}/reboot")
        assert await all_received(stolen, rig, commands) == []
        await camera.publish_status(client=client)
        await eventually(lambda: names.topic_of(camera.mac) == own)
    assert rig.rows("SELECT topic FROM cameras") == [(own,)]


async def test_topic_of_other_client_is_not_recorded_while_camera_is_off(rig, monkeypatch):
    monkeypatch.setattr(publishers, "SOLE_PUBLISHER_S", 0.3)
    async with rig.daemon(**NO_CACHE) as running, rig.camera(1) as camera:
        await camera.publish_status()
        await eventually(lambda: camera.mac in running.app.cameras.cache)
    own, other = f"camera/status/{camera.mac}", f"delicasa/evil/camera/{camera.mac}/status"
    assert rig.rows("SELECT topic FROM cameras") == [(own,)]
    async with rig.daemon(**NO_CACHE) as running, rig.broker.client() as client:
        names = running.app.devices.registry.names

        async def is_alone():
            await rig.publish(other, {"mac": camera.mac}, client=client)
            return names.topic_of(camera.mac) == other and names.command_block_reason(camera.mac) is None

        await eventually(is_alone, what="the other client has published alone for SOLE_PUBLISHER_S")
    assert rig.rows("SELECT topic FROM cameras") == [(own,)]


async def test_shared_topic_is_known_after_restart(rig, monkeypatch):
    """After a restart of the daemon, one of two cameras with one id has published, the other one has not yet."""
    topic, command_topic = f"camera/status/{SHARED_ID}", f"camera/command/{SHARED_ID}"
    async with (
        rig.camera(1, device_id=SHARED_ID) as first,
        rig.camera(2, device_id=SHARED_ID) as second,
        rig.broker.client() as client,
    ):
        async with rig.daemon(**NO_CACHE) as running:
            for camera in (first, second):
                await camera.publish_status(topic=topic, client=client, device_id=SHARED_ID)
            await eventually(lambda: {first.mac, second.mac} <= {camera.mac for camera in running.app.cameras.cache})
            recorded = first if running.app.cameras.cache.get(first.mac).device_id == SHARED_ID else second
        async with rig.daemon(**NO_CACHE) as running, listening(rig, command_topic) as sent:
            registry, answers = running.app.devices.registry, []
            confirm = registry.confirm_device_id
            monkeypatch.setattr(registry, "confirm_device_id", lambda *args: answers.append(confirm(*args)))
            await recorded.publish_status(topic=topic, client=client, device_id=SHARED_ID)
            await eventually(lambda: registry.names.topic_of(recorded.mac))
            await eventually(lambda: answers, what="the camera has confirmed its id by HTTP")
            assert running.app.commands.channel.refusal(recorded.mac)
            await running.api.post(f"{CAMERAS}/{recorded.mac}/reboot")
            assert await all_received(sent, rig, command_topic) == []


async def test_flashed_device_id_is_accepted(rig):
    async with rig.daemon(**NO_CACHE) as running, rig.camera(1) as camera, rig.broker.client() as client:
        await camera.publish_status(topic=f"camera/status/{camera.device_id}", client=client)
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        camera.body["device_id"] = "cam-new"
        topic = "camera/status/cam-new"
        await camera.publish_status(topic=topic, device_id="cam-new", client=client)
        await eventually(lambda: running.app.devices.registry.names.topic_of(camera.mac) == topic)


# Device ids that spell another MAC.


async def test_id_with_reversed_mac_is_only_a_name(rig, paint):
    async with rig.daemon(**NO_CACHE) as running, rig.fleet(1, faults=["id-reversed"], interval=0.2) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        paint(camera, "red")
        answer = await running.api.post(f"{CAMERAS}/{camera.mac}/capture")
        assert (answer.status, is_red(answer.body), answer.headers["X-Capture-Source"]) == (200, True, "mqtt")
        device = (await running.api.get(f"/api/v1/devices/{camera.mac}")).data
        assert any("bytes in reverse order" in note for note in device["notes"])
        assert [known.mac for known in running.app.devices.registry] == [camera.mac]


@pytest.mark.parametrize("last", ["01", "02"])
async def test_id_near_own_mac_is_only_a_name(rig, last):
    """Some firmware uses its soft-AP MAC as id; with an odd last byte, the reversed spelling is a multicast address."""
    mac = f"24:6F:28:04:00:{last}"
    near = f"{int(mac.replace(':', ''), 16) + 1:012x}"
    async with rig.daemon() as running, rig.camera(1, mac=mac) as camera:
        await camera.publish_status(topic=f"camera/status/{near}", device_id=near)
        await eventually(lambda: mac in running.app.cameras.cache)
        device = (await running.api.get(f"/api/v1/devices/{mac}")).data
        assert any("another MAC of its ESP32" in note for note in device["notes"])


async def test_last_will_without_mac_ends_session_of_publisher(rig):
    async with rig.daemon() as running, rig.camera(1, mac="24:6F:28:04:00:02") as camera:
        topic = "camera/status/020004286f24"
        await camera.publish_status(topic=topic, device_id="020004286f24")
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        await rig.publish(topic, {"state": "OFFLINE"})
        await eventually(lambda: not running.app.devices.registry.get(camera.mac).in_mqtt_session)
        assert len(running.app.devices.registry) == 1
