"""Status messages: invalid ones are counted and dropped; all spellings of an id are one camera."""

import json
import random

import pytest

from tests.support.clock import FakeClock
from tests.support.sampling import repeats
from tests.support.waiting import eventually

MAC = "24:6F:28:B0:F7:F0"
INVALID = 'piorch_status_messages_total{kind="invalid"}'
CONTRADICTION = 'piorch_status_messages_total{kind="contradiction"}'
KIB = 1024


def payload_of_size(size):
    body = json.dumps({"mac": MAC, "pad": ""}).encode()
    return body[:-2] + b"x" * (size - len(body)) + body[-2:]


def nested_objects(levels):
    return b'{"a":' * levels + b"1" + b"}" * levels


BROKEN = {
    "nothing": b"",
    "no JSON": b"ONLINE",
    "cut JSON": b'{"mac": "24:6F',
    "a list": b"[]",
    "a string": b'"online"',
    "null": b"null",
    "not UTF-8": b'{"mac": "\xff\xfe"}',
    "UTF-16": json.dumps({"mac": MAC}).encode("utf-16"),
    "a byte over 16 KiB": payload_of_size(16 * KIB + 1),
    "a megabyte": payload_of_size(1024 * KIB),
    "nine levels": nested_objects(9),
    "a thousand levels": nested_objects(1000),
    "ten thousand brackets": b"[" * 10_000,
    "nine levels with lists": b'{"a":' + b"[" * 8 + b"]" * 8 + b"}",
    "NaN": b'{"rssi": NaN}',
    "infinity": b'{"rssi": -Infinity}',
    "a number over the largest float": b'{"rssi": 1e999}',
    "an integer of 5,000 digits": b'{"rssi": ' + b"9" * 5000 + b"}",
    "two objects": b"{}{}",
    "another camera's MAC": b'{"mac": "24:6F:28:00:00:10"}',
    "a device id that is another MAC": b'{"device_id": "246F28000010"}',
    "two MACs, neither the topic's": b'{"mac": "24:6F:28:00:00:10", "device_id": "24-6F-28-00-00-20"}',
}

BAD_TOPICS = [
    "camera/status/" + "x" * 65,
    "camera/status/a b",
    "camera/status/a.b",
    "camera/status/..",
    "camera/status/K\u00fcche",
    "camera/status/a%2Fb",
    "camera/status/$SYS",
    "camera/status/",
    "delicasa/c1/camera/a b/status",
    "delicasa/c1/camera//status",
]


def one_is_rejected(messages):
    return messages["invalid"] + messages["contradiction"] == 1


@pytest.mark.parametrize("name", BROKEN)
async def test_invalid_payload_is_counted_and_dropped(rig, name):
    async with rig.camera(1, mac=MAC) as camera, rig.daemon() as running:
        await rig.broker.publish(f"camera/status/{MAC}", BROKEN[name])
        await eventually(lambda: one_is_rejected(running.app.cameras.presence.messages))
        assert await running.metric(INVALID) + await running.metric(CONTRADICTION) == 1
        assert running.app.devices.registry.get(MAC) is None
        assert await running.camera(MAC) is None
        await camera.publish_status()
        await eventually(lambda: MAC in running.app.cameras.cache)
        assert await running.metric('piorch_component_restarts_total{component="mqtt"}') == 0
        assert running.app.resources.mqtt.connections == 1


@pytest.mark.parametrize(
    "payload",
    [
        payload_of_size(16 * KIB),
        nested_objects(8).replace(b"1", b'"deep"'),
        b"{}",
        b' \n{"mac":null,"ip":null}\t',
        b'{"a":1,"a":2}',
    ],
)
async def test_payload_within_limits_is_accepted(rig, payload):
    async with rig.daemon() as running:
        await rig.broker.publish(f"camera/status/{MAC}", payload)
        await eventually(lambda: running.app.cameras.presence.messages["live"] == 1)
        assert running.app.cameras.presence.messages["invalid"] == 0
        assert (await running.camera(MAC))["status"] in ("discovered", "pairing")


async def test_invalid_topic_id_is_counted_and_dropped(rig):
    async with rig.daemon() as running:
        for topic in BAD_TOPICS:
            await rig.publish(topic, {"mac": MAC, "ip": rig.address(1)})
        await running.wait_until_processed(rig)
        assert running.app.cameras.presence.messages["invalid"] == len(BAD_TOPICS)
        assert running.app.devices.registry.get(MAC) is None


async def test_noise_does_not_block_camera(rig):
    dice, count = random.Random(1), repeats(2_000, slow=10_000)
    async with rig.camera(1) as camera, rig.daemon() as running:
        async with rig.broker.client() as client:
            for number in range(count):
                noise = dice.randbytes(dice.randrange(200))
                await client.publish(f"camera/status/noise-{number % 7}", noise, qos=0)
            await camera.publish_status(client=client)
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        counted = running.app.cameras.presence.messages
        assert counted["invalid"] + running.app.resources.mqtt.discarded == count
        assert await running.metric(INVALID) == counted["invalid"]


async def test_invalid_fields_are_left_out(rig):
    invalid = {
        "rssi_dbm": "strong",
        "free_heap_bytes": -5,
        "uptime_ms": [1],
        "firmware_version": {"major": 2},
        "camera_initialized": "yes",
        "state": 17,
        "timestamp": 12,
        "last_error": ["a"],
        "resolution": 640,
        "container_id": None,
        "unknown_field": {"deep": [1, 2, 3]},
    }
    async with rig.camera(1) as camera, rig.daemon() as running:
        await rig.publish(f"camera/status/{camera.mac}", {"ip": camera.address} | invalid)
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        shown = await running.camera(camera.mac)
        assert (shown["status"], shown["firmware_version"]) == ("online", "2.4.1")
        assert shown["health"] == {
            **dict.fromkeys(("wifi_rssi", "free_heap", "heap", "uptime", "uptime_seconds"), 0),
            "firmware_version": "2.4.1",
        }


@pytest.mark.parametrize(
    "fields",
    [
        {
            "mac": MAC,
            "ip": "IP",
            "rssi_dbm": -61,
            "free_heap_bytes": 1234,
            "uptime_ms": 90_000,
            "firmware_version": "7",
        },
        {"mac_address": MAC, "ip_address": "IP", "wifi_rssi": -61, "free_heap": 1234, "uptime": 90, "firmware": "7"},
        {"mac": MAC, "ip": "IP", "rssi": -61, "heap": 1234, "uptime_seconds": 90, "version": "7", "status": "online"},
    ],
)
@pytest.mark.parametrize("topic", ["camera/status/{}", "delicasa/c1/camera/{}/status"])
async def test_field_aliases_are_equivalent(rig, fields, topic):
    async with rig.camera(1, mac=MAC, firmware_version=None) as camera, rig.daemon() as running:
        given = {name: camera.address if value == "IP" else value for name, value in fields.items()}
        await rig.publish(topic.format(MAC), given | {"device_id": "espcam-b0f7f0"})
        await eventually(lambda: MAC in running.app.cameras.cache)
        shown = await running.camera(MAC)
        assert (shown["id"], shown["mac_address"], shown["ip_address"]) == ("espcam-b0f7f0", MAC, camera.address)
        assert (shown["status"], shown["firmware_version"]) == ("online", "7")
        health = shown["health"]
        assert (health["wifi_rssi"], health["free_heap"], health["heap"]) == (-61, 1234, 1234)
        assert health["uptime"] == health["uptime_seconds"] == 90


async def test_mac_spellings_and_device_id_are_one_camera(rig):
    spellings = [MAC, MAC.lower(), MAC.replace(":", "-"), MAC.replace(":", ""), MAC.replace(":", "").lower()]
    async with rig.camera(1, mac=MAC) as camera, rig.daemon() as running:
        topics = [f"camera/status/{spelling}" for spelling in spellings]
        topics += [f"delicasa/c1/camera/{spelling}/status" for spelling in spellings]
        topics += ["camera/status/espcam-b0f7f0"]
        for index, topic in enumerate(topics):
            await camera.publish_status(topic=topic, mac=spellings[index % len(spellings)])
        await camera.publish_status(topic="camera/status/espcam-b0f7f0", mac=None, device_id=None)
        await running.wait_until_processed(rig)
        await eventually(lambda: MAC in running.app.cameras.cache)
        assert rig.rows("SELECT mac, device_id FROM cameras") == [(MAC, "espcam-b0f7f0")]
        assert rig.rows("SELECT count(*) FROM assignments") == [(1,)]
        assert (await running.status())["metrics"]["attempts"] == 1
        (listed,) = [
            entry for entry in (await running.api.get("/api/v1/cameras")).data["cameras"] if entry["ip_address"]
        ]
        assert listed["mac_address"] == MAC
        for name in [*spellings, "espcam-b0f7f0", MAC.replace(":", "%3A")]:
            assert (await running.camera(name))["mac_address"] == MAC


async def test_mac_without_leading_zeros_is_one_camera(rig):
    async with rig.daemon() as running, rig.fleet(1, faults=["mac-short"]) as fleet:
        (camera,) = fleet.cameras
        short = camera.status()["mac"]
        assert len(short) < len(camera.mac)
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        (named,) = {row["mac_address"] for row in (await running.api.get("/api/v1/cameras")).data["cameras"]}
        assert named == camera.mac
        assert (await running.camera(short))["mac_address"] == camera.mac, "in a path"
        assert await running.onboarding_stages(short) == await running.onboarding_stages(camera.mac) != []
        capture = await running.api.post(f"/api/v1/cameras/{short}/capture")
        assert (capture.status, capture.headers["X-Capture-Source"]) == (200, "mqtt"), "command and answer topics match"
        allowlist = "/api/v1/provisioning/allowlist"
        await running.admin.post(allowlist, json={"mac": short})
        upload = {"data": f"mac,description\n{short},new\n".encode(), "headers": {"Content-Type": "text/csv"}}
        imported = (await running.admin.post(f"{allowlist}/import", **upload)).data
        assert [(row["mac"], row["effect"]) for row in imported["rows"]] == [(camera.mac, "update")], "in body and CSV"


async def test_device_id_without_mac_is_resolved_later(rig):
    async with rig.camera(1, mac=MAC) as camera, rig.daemon() as running:
        for _ in range(3):
            await camera.publish_status(topic="camera/status/espcam-b0f7f0", mac=None)
        await running.wait_until_processed(rig)
        assert await running.camera("espcam-b0f7f0") is None, "an id without a MAC is no camera yet"
        assert camera.requests == 0
        await camera.publish_status(topic="camera/status/espcam-b0f7f0")
        await eventually(lambda: MAC in running.app.cameras.cache)
        assert (await running.camera("espcam-b0f7f0"))["mac_address"] == MAC
        await camera.publish_status("OFFLINE", topic="camera/status/espcam-b0f7f0", mac=None)
        await eventually(lambda: running.app.devices.registry.get(MAC).state == "offline")
        assert rig.rows("SELECT mac FROM cameras") == [(MAC,)]


async def test_unresolved_last_will_expires(rig):
    """A last will whose device id had no known MAC must not take offline a camera that published later."""
    clock = FakeClock()
    async with rig.camera(1, mac=MAC) as camera, rig.daemon(clock=clock) as running:
        await camera.publish_status("OFFLINE", topic="camera/status/espcam-b0f7f0", mac=None)
        await running.wait_until_processed(rig)
        await camera.publish_status(uptime=5)
        await eventually(lambda: MAC in running.app.cameras.cache)
        await clock.advance(11)
        assert (await running.camera(MAC))["status"] == "online"


async def test_device_id_is_known_after_restart(rig):
    async with rig.camera(1, mac=MAC) as camera:
        async with rig.daemon(clock=FakeClock()) as running:
            await camera.publish_status()
            await eventually(lambda: MAC in running.app.cameras.cache)
        async with rig.daemon(clock=FakeClock(boot_id="boot-2")) as running:
            assert (await running.camera(MAC))["status"] == "offline"
            await camera.publish_status(topic="camera/status/espcam-b0f7f0", mac=None)
            await eventually(lambda: running.app.devices.registry.get(MAC).state == "online")
            assert (await running.camera("espcam-b0f7f0"))["status"] == "online"


async def test_many_spellings_do_not_hide_device_id(rig):
    spellings = [MAC, MAC.lower(), MAC.replace(":", "-"), MAC.replace(":", ""), MAC.replace(":", "_")]
    async with rig.daemon(auto_onboard={"enabled": False}) as running:
        for spelling in spellings:
            await rig.publish(f"camera/status/{spelling}", {"ip": rig.address(1)})
        await rig.publish(f"camera/status/{MAC}", {"mac": MAC, "device_id": "espcam-b0f7f0", "rssi": -42})
        await running.wait_until_processed(rig)
        assert (await running.camera("espcam-b0f7f0"))["health"]["wifi_rssi"] == -42


async def test_shared_device_id_keeps_cameras_apart(rig):
    shared = {"device_id": "kitchen"}
    async with rig.camera(1, **shared) as first, rig.camera(2, **shared) as second, rig.daemon() as running:
        await first.publish_status(device_id="kitchen")
        await eventually(lambda: first.mac in running.app.cameras.cache)
        await second.publish_status(device_id="kitchen")
        await eventually(lambda: second.mac in running.app.cameras.cache)
        assert (await running.camera("kitchen"))["mac_address"] == first.mac
        ids = dict(rig.rows("SELECT mac, device_id FROM cameras"))
        assert ids == {first.mac: "kitchen", second.mac: second.mac}
        assert (await running.camera(ids[second.mac]))["mac_address"] == second.mac


async def test_number_of_device_ids_per_camera_is_bounded(rig):
    async with rig.daemon(auto_onboard={"enabled": False}) as running:
        async with rig.broker.client() as client:
            for number in range(500):
                fields = {"mac": MAC, "device_id": f"other-{number}"}
                await rig.publish(f"camera/status/name-{number}", fields, client=client)
            for number in range(500):
                await rig.publish(f"camera/status/unknown-{number}", {"ip": rig.address(1)}, client=client)
        await running.wait_until_processed(rig)
        found = [name for name in range(500) if await running.camera(f"name-{name}")]
        assert len(found) < 10
        assert (await running.camera(MAC))["status"] == "discovered"
