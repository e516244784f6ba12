"""What cameras publish: broken messages are counted and dropped, and many spellings are one camera."""

import json
import random

import pytest

from tests.support.clock import FakeClock
from tests.support.waiting import eventually

MAC = "24:6F:28:B0:F7:F0"
INVALID = 'piorch_status_messages_total{kind="invalid"}'
CONTRADICTION = 'piorch_status_messages_total{kind="contradiction"}'
KIB = 1024


def sized(size):
    body = json.dumps({"mac": MAC, "pad": ""}).encode()
    return body[:-2] + b"x" * (size - len(body)) + body[-2:]


def nested(levels):
    return b'{"a":' * levels + b"1" + b"}" * levels


BROKEN = {
    "nothing": b"",
    "no JSON": b"ONLINE",
    "JSON that breaks off": b'{"mac": "24:6F',
    "a list": b"[]",
    "a string": b'"online"',
    "null": b"null",
    "not UTF-8": b'{"mac": "\xff\xfe"}',
    "UTF-16": json.dumps({"mac": MAC}).encode("utf-16"),
    "a byte over 16 KiB": sized(16 * KIB + 1),
    "a megabyte": sized(1024 * KIB),
    "nine levels": nested(9),
    "a thousand levels": nested(1000),
    "ten thousand brackets": b"[" * 10_000,
    "a list as deep as that": b'{"a":' + b"[" * 8 + b"]" * 8 + b"}",
    "NaN": b'{"rssi": NaN}',
    "infinity": b'{"rssi": -Infinity}',
    "a number beyond all": b'{"rssi": 1e999}',
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


def counted(messages):
    return messages["invalid"] + messages["contradiction"] == 1


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_payload_is_counted_dropped_and_forgotten(world, name):
    async with world.camera(1, mac=MAC) as camera, world.daemon() as running:
        await world.broker.publish(f"camera/status/{MAC}", BROKEN[name])
        await eventually(lambda: counted(running.services.presence.messages))
        assert await running.metric(INVALID) + await running.metric(CONTRADICTION) == 1
        assert running.services.registry.get(MAC) is None
        assert await running.camera(MAC) is None
        await camera.say()
        await eventually(lambda: MAC in running.services.roster)
        assert await running.metric('piorch_component_restarts_total{component="mqtt"}') == 0
        assert running.services.mqtt.connections == 1


@pytest.mark.parametrize(
    "payload",
    [sized(16 * KIB), nested(8).replace(b"1", b'"deep"'), b"{}", b' \n{"mac":null,"ip":null}\t', b'{"a":1,"a":2}'],
)
async def test_what_is_just_within_the_limits_is_taken(world, payload):
    async with world.daemon() as running:
        await world.broker.publish(f"camera/status/{MAC}", payload)
        await eventually(lambda: running.services.presence.messages["live"] == 1)
        assert running.services.presence.messages["invalid"] == 0
        assert (await running.camera(MAC))["status"] in ("discovered", "pairing")


async def test_topics_with_bad_ids_are_counted_and_dropped(world):
    async with world.daemon() as running:
        for topic in BAD_TOPICS:
            await world.publish(topic, {"mac": MAC, "ip": world.address(1)})
        await running.considered(world)
        assert running.services.presence.messages["invalid"] == len(BAD_TOPICS)
        assert running.services.registry.get(MAC) is None


async def test_ten_thousand_pieces_of_noise_do_not_keep_a_camera_out(world):
    dice = random.Random(1)
    async with world.camera(1) as camera, world.daemon() as running:
        async with world.broker.client() as client:
            for number in range(10_000):
                noise = dice.randbytes(dice.randrange(200))
                await client.publish(f"camera/status/noise-{number % 7}", noise, qos=0)
            await camera.say(client=client)
        await eventually(lambda: camera.mac in running.services.roster)
        counted = running.services.presence.messages
        assert counted["invalid"] + running.services.mqtt.discarded == 10_000
        assert await running.metric(INVALID) == counted["invalid"]


async def test_fields_of_the_wrong_type_or_out_of_range_are_left_out_and_the_message_counts(world):
    wrong = {
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
        "never_heard_of": {"deep": [1, 2, 3]},
    }
    async with world.camera(1) as camera, world.daemon() as running:
        await world.publish(f"camera/status/{camera.mac}", {"ip": camera.address} | wrong)
        await eventually(lambda: camera.mac in running.services.roster)
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
async def test_every_alias_of_a_field_says_the_same(world, fields, topic):
    async with world.camera(1, mac=MAC, firmware_version=None) as camera, world.daemon() as running:
        given = {name: camera.address if value == "IP" else value for name, value in fields.items()}
        await world.publish(topic.format(MAC), given | {"device_id": "espcam-b0f7f0"})
        await eventually(lambda: MAC in running.services.roster)
        shown = await running.camera(MAC)
        assert (shown["id"], shown["mac_address"], shown["ip_address"]) == ("espcam-b0f7f0", MAC, camera.address)
        assert (shown["status"], shown["firmware_version"]) == ("online", "7")
        health = shown["health"]
        assert (health["wifi_rssi"], health["free_heap"], health["heap"]) == (-61, 1234, 1234)
        assert health["uptime"] == health["uptime_seconds"] == 90


async def test_every_spelling_of_a_mac_and_the_device_id_are_one_camera(world):
    spellings = [MAC, MAC.lower(), MAC.replace(":", "-"), MAC.replace(":", ""), MAC.replace(":", "").lower()]
    async with world.camera(1, mac=MAC) as camera, world.daemon() as running:
        topics = [f"camera/status/{spelling}" for spelling in spellings]
        topics += [f"delicasa/c1/camera/{spelling}/status" for spelling in spellings]
        topics += ["camera/status/espcam-b0f7f0"]
        for turn, topic in enumerate(topics):
            await camera.say(topic=topic, mac=spellings[turn % len(spellings)])
        await camera.say(topic="camera/status/espcam-b0f7f0", mac=None, device_id=None)
        await running.considered(world)
        await eventually(lambda: MAC in running.services.roster)
        assert world.rows("SELECT mac, device_id FROM cameras") == [(MAC, "espcam-b0f7f0")]
        assert world.rows("SELECT count(*) FROM assignments") == [(1,)]
        assert camera.requests == 1
        (listed,) = [one for one in (await running.api.get("/api/v1/cameras")).data["cameras"] if one["ip_address"]]
        assert listed["mac_address"] == MAC
        for name in [*spellings, "espcam-b0f7f0", MAC.replace(":", "%3A")]:
            assert (await running.camera(name))["mac_address"] == MAC


async def test_a_device_id_first_without_its_mac_and_then_with_it_is_one_camera(world):
    async with world.camera(1, mac=MAC) as camera, world.daemon() as running:
        for _ in range(3):
            await camera.say(topic="camera/status/espcam-b0f7f0", mac=None)
        await running.considered(world)
        assert await running.camera("espcam-b0f7f0") is None, "an id alone is nobody yet"
        assert camera.requests == 0
        await camera.say(topic="camera/status/espcam-b0f7f0")
        await eventually(lambda: MAC in running.services.roster)
        assert (await running.camera("espcam-b0f7f0"))["mac_address"] == MAC
        await camera.say("OFFLINE", topic="camera/status/espcam-b0f7f0", mac=None)
        await eventually(lambda: running.services.registry.get(MAC).state == "offline")
        assert world.rows("SELECT mac FROM cameras") == [(MAC,)]


async def test_what_an_id_said_before_its_mac_was_known_does_not_come_true_later(world):
    """An id's last will, kept while nobody knew whose it was, must not put the camera offline that has spoken since."""
    clock = FakeClock()
    async with world.camera(1, mac=MAC) as camera, world.daemon(clock=clock) as running:
        await camera.say("OFFLINE", topic="camera/status/espcam-b0f7f0", mac=None)
        await running.considered(world)
        await camera.say(uptime=5)
        await eventually(lambda: MAC in running.services.roster)
        await clock.advance(11)
        assert (await running.camera(MAC))["status"] == "online"


async def test_a_device_id_is_known_after_a_restart(world):
    async with world.camera(1, mac=MAC) as camera:
        async with world.daemon(clock=FakeClock()) as running:
            await camera.say()
            await eventually(lambda: MAC in running.services.roster)
        async with world.daemon(clock=FakeClock(boot_id="boot-2")) as running:
            assert (await running.camera(MAC))["status"] == "offline"
            await camera.say(topic="camera/status/espcam-b0f7f0", mac=None)
            await eventually(lambda: running.services.registry.get(MAC).state == "online")
            assert (await running.camera("espcam-b0f7f0"))["status"] == "online"


async def test_a_camera_with_many_spellings_still_has_its_device_id_learned(world):
    spellings = [MAC, MAC.lower(), MAC.replace(":", "-"), MAC.replace(":", ""), MAC.replace(":", "_")]
    async with world.daemon(auto_onboard={"enabled": False}) as running:
        for spelling in spellings:
            await world.publish(f"camera/status/{spelling}", {"ip": world.address(1)})
        await world.publish("camera/status/espcam-b0f7f0", {"mac": MAC, "device_id": "espcam-b0f7f0"})
        await world.publish("camera/status/espcam-b0f7f0", {"rssi": -42})
        await running.considered(world)
        assert (await running.camera("espcam-b0f7f0"))["health"]["wifi_rssi"] == -42


async def test_two_cameras_that_claim_one_device_id_stay_two(world):
    async with world.camera(1) as one, world.camera(2) as two, world.daemon() as running:
        await one.say(device_id="kitchen")
        await eventually(lambda: one.mac in running.services.roster)
        await two.say(device_id="kitchen")
        await eventually(lambda: two.mac in running.services.roster)
        assert (await running.camera("kitchen"))["mac_address"] == one.mac
        ids = dict(world.rows("SELECT mac, device_id FROM cameras"))
        assert ids == {one.mac: "kitchen", two.mac: two.mac}
        assert (await running.camera(ids[two.mac]))["mac_address"] == two.mac


async def test_a_camera_that_changes_its_id_with_every_message_fills_no_memory(world):
    async with world.daemon(auto_onboard={"enabled": False}) as running:
        async with world.broker.client() as client:
            for number in range(500):
                fields = {"mac": MAC, "device_id": f"other-{number}"}
                await world.publish(f"camera/status/name-{number}", fields, client=client)
            for number in range(500):
                await world.publish(f"camera/status/nobody-{number}", {"ip": world.address(1)}, client=client)
        await running.considered(world)
        known = [name for name in range(500) if await running.camera(f"name-{name}")]
        assert len(known) < 10
        assert (await running.camera(MAC))["status"] == "discovered"
