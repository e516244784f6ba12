"""Reboots and the other commands, and what is done about cameras that give no pictures."""

import asyncio
import json

import pytest

from pi_orchestrator.domain import capture, remedy
from pi_orchestrator.workers import captures, commands, reboots
from tests.support.waiting import eventually

CAMERAS = "/api/v1/cameras"


@pytest.fixture
def impatient(monkeypatch):
    for name, seconds in {"ACK_S": 0.4, "STALL_S": 0.4, "LIMIT_S": 3.0}.items():
        monkeypatch.setattr(capture, name, seconds)
    monkeypatch.setattr(captures, "HTTP_S", 0.4)
    monkeypatch.setattr(commands, "ANSWER_S", 0.4)
    monkeypatch.setattr(reboots, "BACK_WITHIN_S", 2.0)
    monkeypatch.setattr(remedy, "FIRST_RETRY_S", 0.1)
    monkeypatch.setattr("pi_orchestrator.workers.care.TICK_S", 0.05)


def events(world, kind, mac):
    rows = world.rows("SELECT payload FROM events WHERE type = ? AND mac = ? ORDER BY id", kind, mac)
    return [json.loads(row[0])["state"] for row in rows]


async def status(running, camera):
    return (await running.camera(camera.mac))["status"]


async def registered(running, fleet):
    await eventually(lambda: all(camera.mac in running.services.roster for camera in fleet.cameras))
    return fleet.cameras


async def test_a_reboot_is_shown_until_the_camera_is_back_and_asked_for_once(world):
    async with world.daemon() as running, world.fleet(1, reboot_s=1.0) as fleet:
        (camera,) = await registered(running, fleet)
        path = f"{CAMERAS}/{camera.mac}/reboot"
        together = await asyncio.gather(*(running.api.post(path) for _ in range(3)))
        assert {(one.status, one.json["message"]) for one in together} == {(200, "the camera reboots")}
        assert together[0].data == {"message": "the camera reboots"}
        assert await status(running, camera) == "rebooting"
        again = await running.api.post(path)
        assert (again.status, camera.restarts) == (200, 1)
        away = await running.api.post(f"{CAMERAS}/{camera.mac}/capture")
        assert (away.status, away.json["code"]) == (503, "CAMERA_OFFLINE")
        await eventually(lambda: events(world, "camera.reboot", camera.mac) == ["requested", "back"])
        assert await status(running, camera) == "online"
        actions = world.rows("SELECT outcome FROM operator_actions WHERE action = 'camera.reboot'")
        assert [row[0] for row in actions] == ["ok", "was so already"]


async def test_by_http_where_mqtt_is_not_spoken(world):
    async with world.daemon() as running, world.fleet(1) as fleet:
        (camera,) = await registered(running, fleet)
        running.services.registry.get(camera.mac).said = None
        assert (await running.api.post(f"{CAMERAS}/{camera.mac}/reboot")).status == 200
        assert camera.restarts == 1


@pytest.mark.parametrize(
    "fault, said",
    [("reboot-ignored", "it said yes and did not reboot"), ("reboot-vanish", "it did not come back within 2 s")],
)
async def test_one_that_is_not_back_is_told_with_what_to_do(world, impatient, fault, said):
    async with world.daemon() as running, world.fleet(1, faults=[fault]) as fleet:
        (camera,) = await registered(running, fleet)
        assert (await running.api.post(f"{CAMERAS}/{camera.mac}/reboot")).status == 200
        assert (await running.api.post(f"{CAMERAS}/{camera.mac}/reboot")).status == 200
        assert camera.desk.told == ["restart"], "a repeat is no second reboot"
        await eventually(lambda: events(world, "camera.reboot", camera.mac) == ["requested", "failed"])
        shown = await running.camera(camera.mac)
        assert shown["status"] == "error"
        assert shown["health"]["last_error"] == f"REBOOT_FAILED: {said}"
        (diagnosed,) = (await running.api.get(f"{CAMERAS}/diagnostics")).json
        assert diagnosed["diagnostics"]["remedy"]["state"] == "needs_power_cycle"
        assert "unplug" in diagnosed["diagnostics"]["remedy"]["advice"]
        await camera.die()
        camera.fault = None
        camera.revive()

        async def well():
            return await status(running, camera) == "online"

        await eventually(well, what="a person has unplugged it")
        await eventually(lambda: events(world, "camera.remedy", camera.mac)[-1] == "ok")


async def test_one_that_cannot_be_told_has_not_rebooted(world, impatient):
    async with world.daemon() as running, world.fleet(1, faults=["no-http"]) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: running.services.registry.get(camera.mac))
        running.services.registry.get(camera.mac).said = None
        answer = await running.api.post(f"{CAMERAS}/{camera.mac}/reboot")
        assert (answer.status, answer.json["code"]) == (502, "REBOOT_FAILED")
        assert "by HTTP: cannot connect" in answer.json["error"]["details"]
        assert await status(running, camera) != "rebooting"
        missing = await running.api.post(f"{CAMERAS}/24:6F:28:99:99:90/reboot")
        assert (missing.status, missing.json["code"]) == (404, "CAMERA_NOT_FOUND")


async def test_a_camera_that_hangs_is_tried_again_and_rebooted_by_itself(world, impatient):
    async with world.daemon() as running, world.fleet(1, faults=["capture-hangs"]) as fleet:
        (camera,) = await registered(running, fleet)
        answer = await running.api.post(f"{CAMERAS}/{camera.mac}/capture")
        assert (answer.status, answer.json["code"]) == (504, "CAPTURE_TIMEOUT")
        await eventually(lambda: events(world, "camera.remedy", camera.mac)[-1:] == ["ok"], within=15)
        assert events(world, "camera.remedy", camera.mac) == ["retrying", "rebooting", "retrying", "ok"]
        assert camera.restarts == 1
        actor = world.rows("SELECT actor, target FROM operator_actions WHERE action = 'camera.reboot'")
        assert actor == [("remedy", camera.mac)]
        assert (await running.api.get(f"{CAMERAS}/{camera.mac}/image")).status == 200, "it was asked for proof"


async def test_one_that_a_reboot_does_not_help_is_left_to_a_person(world, impatient):
    async with world.daemon() as running, world.fleet(1, faults=["capture-error"]) as fleet:
        (camera,) = await registered(running, fleet)
        await running.api.post(f"{CAMERAS}/{camera.mac}/capture")
        await eventually(lambda: events(world, "camera.remedy", camera.mac)[-1:] == ["needs_power_cycle"], within=15)
        assert events(world, "camera.remedy", camera.mac)[:2] == ["retrying", "rebooting"]
        assert camera.restarts == 1
        shown = await running.camera(camera.mac)
        assert shown["status"] == "error"
        assert shown["health"]["last_error"].startswith("needs power cycle: CAPTURE_FAILED: ")
        paired = (await running.api.get("/api/v1/espcam/paired")).data["cameras"][0]
        assert (paired["status"], paired["error_message"]) == ("error", shown["health"]["last_error"])


async def test_auto_reboot_can_be_switched_off(world, impatient):
    off = {"cameras": {"auto_reboot": False, "reboot_after": 1}}
    async with world.daemon(**off) as running, world.fleet(1, faults=["capture-error"]) as fleet:
        (camera,) = await registered(running, fleet)
        await running.api.post(f"{CAMERAS}/{camera.mac}/capture")
        await eventually(lambda: running.services.remedies.of(camera.mac).failures >= 3)
        assert events(world, "camera.remedy", camera.mac) == ["retrying"]
        assert camera.restarts == 0
        assert await status(running, camera) == "online"


async def test_commands_and_their_answers(world, impatient):
    async with world.daemon() as running, world.fleet(2, faults=["no-http"]) as fleet:
        camera, deaf = fleet.cameras
        await eventually(lambda: camera.mac in running.services.roster and running.services.registry.get(deaf.mac))

        async def tell(one=camera, **body):
            return await running.admin.post(f"{CAMERAS}/{one.mac}/commands", json=body)

        pong = (await tell(action="ping")).data
        assert (pong["action"], pong["via"], pong["answer"]["success"]) == ("ping", "mqtt", True)
        assert len(pong["request_id"]) == 32
        health = (await tell(action="health_check")).data["answer"]["health"]
        assert health["device_id"] == camera.device_id
        assert (await tell(action="set_resolution", resolution="SVGA")).data["answer"]["resolution"] == "SVGA"
        assert camera.desk.resolution == "SVGA"
        refused = await tell(action="set_resolution", resolution="HUGE")
        assert (refused.status, refused.json["code"]) == (502, "DEVICE_REJECTED")
        assert "resolution is one of" in refused.json["error"]["message"]
        for bad in ({"action": "capture"}, {"action": "ping", "resolution": "VGA"}, {"action": "set_resolution"}):
            assert (await tell(**bad)).status == 400
        assert (await running.api.post(f"{CAMERAS}/{camera.mac}/commands", json={"action": "ping"})).status == 401

        for one in (camera, deaf):
            running.services.registry.get(one.mac).said = None
        by_http = (await tell(action="ping")).data
        assert (by_http["via"], by_http["answer"]["firmware_version"]) == ("http", "2.4.1")
        nowhere = await tell(deaf, action="ping")
        assert (nowhere.status, nowhere.json["code"]) == (502, "DEVICE_UNREACHABLE")
        only_mqtt = await tell(action="reset")
        assert (only_mqtt.status, only_mqtt.json["code"]) == (503, "MQTT_UNAVAILABLE")


async def test_an_answer_is_shown_within_bounds(world):
    nasty = {"text": "a\x1b[2J" + "b" * 999, "deep": {"deeper": {"deepest": 1}, "n": 1e400 and 5}, "null": None}
    nasty |= {f"field {number}": number for number in range(100)}
    async with world.daemon() as running, world.broker.client() as client:
        mac = world.mac(1)
        await client.subscribe(f"camera/command/{mac}")
        await world.announce(1, client=client)
        await eventually(lambda: running.services.registry.get(mac))
        asking = asyncio.create_task(running.admin.post(f"{CAMERAS}/{mac}/commands", json={"action": "ping"}))
        command = json.loads((await anext(aiter(client.messages))).payload)
        await world.publish(f"camera/response/{command['request_id']}", nasty, client=client)
        answer = (await asking).data["answer"]
        assert len(answer) <= 32
        assert answer["text"].isprintable()
        assert len(answer["text"]) <= 128
        assert answer["deep"] == {"n": 5}
