"""Reboots, other commands, and recovery of cameras without pictures."""

import asyncio
import json

import pytest

from pi_orchestrator.features.captures import model as capture
from pi_orchestrator.features.captures import service as captures
from pi_orchestrator.features.commands import reboots
from pi_orchestrator.features.commands import service as commands
from pi_orchestrator.features.devices.model import NEVER
from pi_orchestrator.features.recovery import ladder
from tests.support.waiting import eventually

CAMERAS = "/api/v1/cameras"


@pytest.fixture
def short_timeouts(monkeypatch):
    """Shorten captures and reboots; the cameras still have time to answer commands and identity checks."""
    for name, seconds in {"ACK_S": 1.0, "STALL_S": 1.0, "LIMIT_S": 6.0}.items():
        monkeypatch.setattr(capture, name, seconds)
    monkeypatch.setattr(captures, "HTTP_S", 1.0)
    monkeypatch.setattr(reboots, "RETURN_TIMEOUT_S", 2.0)
    monkeypatch.setattr(ladder, "ATTEMPT_S", 0.0)
    monkeypatch.setattr(ladder, "FIRST_RETRY_S", 0.1)
    monkeypatch.setattr("pi_orchestrator.features.recovery.worker.TICK_S", 0.05)


def event_states(rig, kind, mac):
    """The `state` of each stored event of this kind for this camera, in order."""
    rows = rig.rows("SELECT payload FROM events WHERE type = ? AND mac = ? ORDER BY id", kind, mac)
    return [json.loads(row[0])["state"] for row in rows]


async def status(running, camera):
    return (await running.camera(camera.mac))["status"]


async def registered(running, fleet):
    """Wait until all cameras of the fleet are registered; return them."""
    await eventually(lambda: all(camera.mac in running.app.cameras.cache for camera in fleet.cameras))
    return fleet.cameras


async def test_reboot_is_sent_once_and_shown_until_finished(rig):
    async with rig.daemon() as running, rig.fleet(1, reboot_s=1.0) as fleet:
        (camera,) = await registered(running, fleet)
        path = f"{CAMERAS}/{camera.mac}/reboot"
        answers = await asyncio.gather(*(running.api.post(path) for _ in range(3)))
        assert {(answer.status, answer.json["message"]) for answer in answers} == {(200, "the camera reboots")}
        assert answers[0].data == {"message": "the camera reboots"}
        assert await status(running, camera) == "rebooting"
        repeat = await running.api.post(path)
        assert (repeat.status, camera.restarts) == (200, 1)
        capture = await running.api.post(f"{CAMERAS}/{camera.mac}/capture")
        assert (capture.status, capture.json["code"]) == (503, "CAMERA_OFFLINE")
        await eventually(lambda: event_states(rig, "camera.reboot", camera.mac) == ["requested", "back"])
        assert await status(running, camera) == "online"
        assert len(running.app.devices.registry.get(camera.mac).interruptions) == 0, (
            "a requested reboot is no interruption"
        )
        actions = rig.rows("SELECT outcome FROM operator_actions WHERE action = 'camera.reboot'")
        assert [row[0] for row in actions] == ["ok", "was so already"]


async def test_reboot_without_mqtt_uses_http(rig):
    async with rig.daemon() as running, rig.fleet(1) as fleet:
        (camera,) = await registered(running, fleet)
        running.app.devices.registry.get(camera.mac).last_status = None
        assert (await running.api.post(f"{CAMERAS}/{camera.mac}/reboot")).status == 200
        assert camera.restarts == 1


async def test_reboot_that_keeps_the_uptime_is_seen(rig, short_timeouts, monkeypatch):
    """The camera leaves without a REBOOTING message; its last will and the new session show the reboot."""
    monkeypatch.setattr(reboots, "RETURN_TIMEOUT_S", 20.0)
    async with rig.daemon() as running, rig.fleet(1, faults=["uptime-kept"], reboot_s=0.5) as fleet:
        (camera,) = await registered(running, fleet)
        assert (await running.api.post(f"{CAMERAS}/{camera.mac}/reboot")).status == 200
        await eventually(lambda: len(event_states(rig, "camera.reboot", camera.mac)) == 2)
        assert event_states(rig, "camera.reboot", camera.mac) == ["requested", "back"]
        device = running.app.devices.registry.get(camera.mac)
        assert device.last_message_at - device.last_status.uptime_s < device.mqtt_session_since - 0.5
        assert await status(running, camera) == "online"


# Name: (states published before the restart, fields of the first status after it).
RETURNS = {
    "announced": (["REBOOTING"], {"uptime_ms": 61_000}),
    "last will": (["OFFLINE"], {"uptime_ms": 61_000}),
    "milliseconds": ([], {"uptime": 4_000}),
    "no uptime": (["OFFLINE"], {}),
}


@pytest.mark.parametrize("name", RETURNS)
async def test_reboot_without_conclusive_uptime_is_seen(rig, short_timeouts, monkeypatch, name):
    """The camera accepts the reboot, and returns with an uptime that does not prove one."""
    monkeypatch.setattr(reboots, "RETURN_TIMEOUT_S", 20.0)
    states, fields = RETURNS[name]
    mac = rig.mac(1)
    before = {"uptime": 60_000} if "uptime" in fields else {"uptime_ms": 60_000} if fields else {"uptime_ms": None}
    async with rig.daemon() as running, rig.broker.client() as client:
        await client.subscribe(f"camera/command/{mac}", qos=1)
        await rig.publish(f"camera/status/{mac}", {"mac": mac} | before, client=client)
        await eventually(lambda: running.app.devices.registry.get(mac))
        task = asyncio.create_task(running.api.post(f"{CAMERAS}/{mac}/reboot"))
        command = json.loads((await anext(aiter(client.messages))).payload)
        accepted = {"request_id": command["request_id"], "success": True, "status": "complete"}
        await rig.publish(f"camera/response/{command['request_id']}", accepted, client=client)
        assert (await task).status == 200
        for state in states:
            await rig.publish(f"camera/status/{mac}", {"mac": mac, "state": state} | before, client=client)
        await rig.publish(f"camera/status/{mac}", {"mac": mac} | fields, client=client)
        await eventually(lambda: len(event_states(rig, "camera.reboot", mac)) == 2)
        assert event_states(rig, "camera.reboot", mac) == ["requested", "back"]


@pytest.mark.parametrize(
    "fault, reason",
    [
        ("reboot-ignored", "the camera accepted the reboot but did not reboot"),
        ("reboot-vanish", "the camera was not online again within 2 s"),
    ],
)
async def test_failed_reboot_is_reported_with_advice(rig, short_timeouts, fault, reason):
    async with rig.daemon() as running, rig.fleet(1, faults=[fault]) as fleet:
        (camera,) = await registered(running, fleet)
        assert (await running.api.post(f"{CAMERAS}/{camera.mac}/reboot")).status == 200
        assert (await running.api.post(f"{CAMERAS}/{camera.mac}/reboot")).status == 200
        assert camera.commands.received_actions == ["restart"], "a repeat sends no second command"
        await eventually(lambda: event_states(rig, "camera.reboot", camera.mac) == ["requested", "failed"])
        shown = await running.camera(camera.mac)
        assert shown["status"] == "error"
        assert shown["health"]["last_error"] == f"REBOOT_FAILED: {reason}"
        (diagnosed,) = (await running.api.get(f"{CAMERAS}/diagnostics")).json
        assert diagnosed["diagnostics"]["remedy"]["state"] == "needs_power_cycle"
        assert "unplug" in diagnosed["diagnostics"]["remedy"]["advice"]
        await camera.power_off()
        camera.fault = None
        camera.power_on()

        async def is_online():
            return await status(running, camera) == "online"

        await eventually(is_online, what="the camera is online after a power cycle")
        await eventually(lambda: event_states(rig, "camera.remedy", camera.mac)[-1] == "ok")


async def test_reboot_of_unreachable_camera_is_refused(rig, short_timeouts):
    async with rig.daemon() as running, rig.fleet(1, faults=["no-http"]) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: running.app.devices.registry.get(camera.mac))
        running.app.devices.registry.get(camera.mac).last_status = None
        answer = await running.api.post(f"{CAMERAS}/{camera.mac}/reboot")
        assert (answer.status, answer.json["code"]) == (502, "REBOOT_FAILED")
        assert "by HTTP: cannot connect" in answer.json["error"]["details"]
        assert await status(running, camera) != "rebooting"
        missing = await running.api.post(f"{CAMERAS}/24:6F:28:99:99:90/reboot")
        assert (missing.status, missing.json["code"]) == (404, "CAMERA_NOT_FOUND")


async def test_hanging_camera_is_rebooted_automatically(rig, short_timeouts):
    async with rig.daemon() as running, rig.fleet(1, faults=["capture-hangs"]) as fleet:
        (camera,) = await registered(running, fleet)
        answer = await running.api.post(f"{CAMERAS}/{camera.mac}/capture")
        assert (answer.status, answer.json["code"]) == (504, "CAPTURE_TIMEOUT")
        await eventually(lambda: event_states(rig, "camera.remedy", camera.mac)[-1:] == ["ok"])
        assert event_states(rig, "camera.remedy", camera.mac) == ["retrying", "rebooting", "retrying", "ok"]
        assert camera.restarts == 1
        actor = rig.rows("SELECT actor, target FROM operator_actions WHERE action = 'camera.reboot'")
        assert actor == [("remedy", camera.mac)]
        assert (await running.api.get(f"{CAMERAS}/{camera.mac}/image")).status == 200, (
            "a picture was taken after the reboot"
        )


async def test_camera_failing_after_reboot_needs_power_cycle(rig, short_timeouts):
    async with rig.daemon() as running, rig.fleet(1, faults=["capture-error"]) as fleet:
        (camera,) = await registered(running, fleet)
        await running.api.post(f"{CAMERAS}/{camera.mac}/capture")
        await eventually(lambda: event_states(rig, "camera.remedy", camera.mac)[-1:] == ["needs_power_cycle"])
        assert event_states(rig, "camera.remedy", camera.mac)[:2] == ["retrying", "rebooting"]
        assert camera.restarts == 1
        shown = await running.camera(camera.mac)
        assert shown["status"] == "error"
        assert shown["health"]["last_error"].startswith("needs power cycle: CAPTURE_FAILED: ")
        paired = (await running.api.get("/api/v1/espcam/paired")).data["cameras"][0]
        assert (paired["status"], paired["error_message"]) == ("error", shown["health"]["last_error"])


async def test_auto_reboot_can_be_disabled(rig, short_timeouts):
    off = {"cameras": {"auto_reboot": False, "reboot_after": 1}}
    async with rig.daemon(**off) as running, rig.fleet(1, faults=["capture-error"]) as fleet:
        (camera,) = await registered(running, fleet)
        await running.api.post(f"{CAMERAS}/{camera.mac}/capture")
        await eventually(lambda: running.app.recovery.tracker.of(camera.mac).failures >= 3)
        assert event_states(rig, "camera.remedy", camera.mac) == ["retrying"]
        assert camera.restarts == 0
        assert await status(running, camera) == "online"


async def test_commands_return_the_answers_of_cameras(rig):
    async with rig.daemon() as running, rig.fleet(2, faults=["no-http"], interval=3600) as fleet:
        camera, unreachable = fleet.cameras
        await eventually(
            lambda: camera.mac in running.app.cameras.cache and running.app.devices.registry.get(unreachable.mac)
        )

        async def send(target=camera, **body):
            return await running.admin.post(f"{CAMERAS}/{target.mac}/commands", json=body)

        pong = (await send(action="ping")).data
        assert (pong["action"], pong["via"], pong["answer"]["success"]) == ("ping", "mqtt", True)
        assert len(pong["request_id"]) == 32
        health = (await send(action="health_check")).data["answer"]["health"]
        assert health["device_id"] == camera.device_id
        assert (await send(action="set_resolution", resolution="SVGA")).data["answer"]["resolution"] == "SVGA"
        assert camera.commands.resolution == "SVGA"
        refused = await send(action="set_resolution", resolution="HUGE")
        assert (refused.status, refused.json["code"]) == (502, "DEVICE_REJECTED")
        assert "resolution must be one of" in refused.json["error"]["message"]
        for invalid in ({"action": "capture"}, {"action": "ping", "resolution": "VGA"}, {"action": "set_resolution"}):
            assert (await send(**invalid)).status == 400
        assert (await running.api.post(f"{CAMERAS}/{camera.mac}/commands", json={"action": "ping"})).status == 401

        for device in (camera, unreachable):
            running.app.devices.registry.get(device.mac).last_status = None
        by_http = (await send(action="ping")).data
        assert (by_http["via"], by_http["answer"]["firmware_version"]) == ("http", "2.4.1")
        failed = await send(unreachable, action="ping")
        assert (failed.status, failed.json["code"]) == (502, "DEVICE_UNREACHABLE")
        only_mqtt = await send(action="reset")
        assert (only_mqtt.status, only_mqtt.json["code"]) == (503, "MQTT_UNAVAILABLE")
        assert running.app.devices.registry.get(camera.mac).restart_expected_until == NEVER


async def test_restart_after_unanswered_reset_is_no_interruption(rig, monkeypatch):
    """Some firmware resets without an answer."""
    monkeypatch.setattr(commands, "ANSWER_S", 0.3)
    async with rig.daemon() as running, rig.camera(1) as camera, rig.broker.client() as client:
        await camera.publish_status(client=client, uptime=1000)
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        reset = await running.admin.post(f"{CAMERAS}/{camera.mac}/commands", json={"action": "reset"})
        assert (reset.status, reset.json["code"]) == (504, "DEVICE_TIMEOUT")
        await camera.publish_status(client=client, uptime=1)
        await running.wait_until_processed(rig)
        assert len(running.app.devices.registry.get(camera.mac).interruptions) == 0


async def test_refused_reset_during_reboot_leaves_it_expected(rig):
    async with rig.daemon() as running, rig.fleet(1, reboot_s=3.0) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        assert (await running.api.post(f"{CAMERAS}/{camera.mac}/reboot")).status == 200
        device = running.app.devices.registry.get(camera.mac)
        await eventually(lambda: device.state != "online")
        reset = await running.admin.post(f"{CAMERAS}/{camera.mac}/commands", json={"action": "reset"})
        assert (reset.status, reset.json["code"]) == (503, "CAMERA_OFFLINE")
        await eventually(lambda: not running.app.commands.reboots.is_rebooting(camera.mac))
        assert (camera.restarts, len(device.interruptions)) == (1, 0)


async def test_answer_of_a_command_is_bounded(rig):
    hostile = {"text": "a\x1b[2J" + "b" * 999, "deep": {"deeper": {"deepest": 1}, "n": 1e400 and 5}, "null": None}
    hostile |= {f"field {number}": number for number in range(100)}
    async with rig.daemon() as running, rig.broker.client() as client:
        mac = rig.mac(1)
        await client.subscribe(f"camera/command/{mac}")
        await rig.announce(1, client=client)
        await eventually(lambda: running.app.devices.registry.get(mac))
        task = asyncio.create_task(running.admin.post(f"{CAMERAS}/{mac}/commands", json={"action": "ping"}))
        command = json.loads((await anext(aiter(client.messages))).payload)
        await rig.publish(f"camera/response/{command['request_id']}", hostile, client=client)
        answer = (await task).data["answer"]
        assert len(answer) <= 32
        assert answer["text"].isprintable()
        assert len(answer["text"]) <= 128
        assert answer["deep"] == {"n": 5}
