"""Limits of recovery: no reboots during an outage, reboots one by one, none during provisioning."""

import asyncio
import contextlib
import json
import math

import pytest

from pi_orchestrator.core.error_codes import VerificationCode
from pi_orchestrator.core.errors import VerificationError
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.cameras.address_resolver import AddressResolver
from pi_orchestrator.features.cameras.model import RecoveryState
from pi_orchestrator.features.captures import model as capture
from pi_orchestrator.features.captures import service as captures
from pi_orchestrator.features.commands import reboots
from pi_orchestrator.features.commands import service as commands
from pi_orchestrator.features.devices.model import Presence
from pi_orchestrator.features.recovery import ladder as recovery_ladder
from pi_orchestrator.sandbox.camera import SimulatedCamera
from pi_orchestrator.sandbox.commands import PictureError
from tests.support.rig import set_verification_timeout
from tests.support.waiting import eventually

CAMERAS = "/api/v1/cameras"


@pytest.fixture
def short_retries(monkeypatch):
    """Reduce the delays of the ladder to tenths of a second; the timeouts of captures do not change."""
    monkeypatch.setattr(reboots, "RETURN_TIMEOUT_S", 1.0)
    monkeypatch.setattr(recovery_ladder, "ATTEMPT_S", 0.0)
    monkeypatch.setattr(recovery_ladder, "FIRST_RETRY_S", 0.1)
    monkeypatch.setattr(recovery_ladder, "LONGEST_RETRY_S", 0.2)
    monkeypatch.setattr("pi_orchestrator.features.recovery.worker.TICK_S", 0.05)


@pytest.fixture
def short_timeouts(short_retries, monkeypatch):
    """Reduce the timeouts of captures and commands, too."""
    for name, seconds in {"ACK_S": 0.2, "STALL_S": 0.2, "LIMIT_S": 3.0}.items():
        monkeypatch.setattr(capture, name, seconds)
    monkeypatch.setattr(captures, "HTTP_S", 0.2)
    monkeypatch.setattr(commands, "ANSWER_S", 0.2)
    set_verification_timeout(monkeypatch, 0.2)


async def wait_for_several_passes(tracker, patch):
    """Wait until the worker has made several passes, each of which reads the cameras to reboot."""
    passes, to_reboot = [], tracker.to_reboot
    patch.setattr(tracker, "to_reboot", lambda: (passes.append(1), to_reboot())[1])
    await eventually(lambda: len(passes) > 5)


@contextlib.asynccontextmanager
async def recorded_commands(rig):
    """Every command that is sent to a camera, as (MAC, action)."""
    commands = []
    async with rig.broker.client() as client:
        await client.subscribe("camera/command/+", qos=1)

        async def listen():
            async for message in client.messages:
                mac, action = message.topic.value.split("/")[-1], json.loads(message.payload)["action"]
                commands.append((mac, action))

        listening = asyncio.create_task(listen())
        try:
            yield commands
        finally:
            listening.cancel()
            await asyncio.wait([listening])


async def test_unseen_cameras_are_not_rebooted(rig, short_timeouts):
    """Their network is down: a command queued at the broker would reboot them after they have recovered."""
    numbers = range(1, 6)
    async with rig.daemon() as running, recorded_commands(rig) as sent:
        async with contextlib.AsyncExitStack() as stack:
            for number in numbers:
                await (await stack.enter_async_context(rig.camera(number))).publish_status()
            await eventually(lambda: all(rig.mac(number) in running.app.cameras.cache for number in numbers))
        await asyncio.gather(*(running.api.post(f"{CAMERAS}/{rig.mac(number)}/capture") for number in numbers))
        ladders = [running.app.recovery.tracker.of(rig.mac(number)) for number in numbers]
        await eventually(lambda: all(ladder.failures >= 5 for ladder in ladders))
        assert {ladder.state for ladder in ladders} == {RecoveryState.RETRYING}
        assert "restart" not in {action for _, action in sent}
        # A camera that is seen again and still fails is rebooted.
        while running.app.recovery.tracker.of(rig.mac(1)).state is RecoveryState.RETRYING:
            await rig.announce(1)
            await asyncio.sleep(0.05)
        await eventually(lambda: "restart" in {action for _, action in sent})
        assert {mac for mac, action in sent if action == "restart"} == {rig.mac(1)}


async def test_failing_cameras_are_rebooted_one_by_one(rig, short_retries):
    async with rig.daemon() as running, rig.fleet(5, faults=["capture-error"] * 5, interval=0.2) as fleet:
        await eventually(lambda: all(camera.mac in running.app.cameras.cache for camera in fleet.cameras))
        await asyncio.gather(*(running.api.post(f"{CAMERAS}/{camera.mac}/capture") for camera in fleet.cameras))
        ladders = [running.app.recovery.tracker.of(camera.mac) for camera in fleet.cameras]
        await eventually(lambda: sum(ladder.failures >= 5 for ladder in ladders) == 4)
        assert sum(camera.restarts for camera in fleet.cameras) == 1


async def test_repeats_of_failed_request_count_as_one_failure(rig, monkeypatch):
    """A dashboard repeats a failed request three times; together the requests are one failure and one error."""
    monkeypatch.setattr(recovery_ladder, "FIRST_RETRY_S", 3600.0)
    monkeypatch.setattr(recovery_ladder, "LONGEST_RETRY_S", 3600.0)
    async with rig.daemon() as running, rig.fleet(1, faults=["capture-error"], interval=0.2) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        for _ in range(4):
            assert (await running.api.post(f"{CAMERAS}/{camera.mac}/capture")).status == 502
        ladder = running.app.recovery.tracker.of(camera.mac)
        assert (ladder.failures, running.app.recovery.tracker.to_reboot(), camera.restarts) == (1, [], 0)
        (shown,) = (await running.api.get(f"{CAMERAS}/diagnostics")).json
        assert shown["diagnostics"]["error_count"] == shown["diagnostics"]["remedy"]["failures"] == 1
        assert shown["diagnostics"]["last_error"].startswith("CAPTURE_FAILED")


async def test_camera_with_pictures_by_http_is_not_rebooted(rig, short_retries, monkeypatch):
    """Three errors by MQTT may be another client's; a picture by HTTP shows that the camera is healthy."""

    async def fail():
        raise PictureError("forged")

    async with rig.daemon(cameras={"capture_cache_s": 0}) as running, rig.fleet(1, interval=0.2) as fleet:
        (camera,) = fleet.cameras
        monkeypatch.setattr(camera.commands, "_picture", fail)
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        tracker = running.app.recovery.tracker
        answers = [await running.api.post(f"{CAMERAS}/{camera.mac}/capture") for _ in range(tracker.reboot_after)]
        assert {answer.status for answer in answers} == {502}
        await eventually(lambda: running.app.captures.service.outcomes["http"] >= 1)
        assert tracker.of(camera.mac).state is RecoveryState.OK
        assert camera.restarts == 0
        assert "restart" not in camera.commands.received_actions
        following = [await running.api.post(f"{CAMERAS}/{camera.mac}/capture") for _ in range(tracker.reboot_after + 1)]
        assert {answer.status for answer in following} == {200}, "captures do not fail for ever"


async def refused_http(_resolver, _mac, *, at=None):
    raise VerificationError("cannot connect: Connection refused", code=VerificationCode.UNREACHABLE)


async def test_refused_mqtt_is_not_a_camera_failure(rig, short_timeouts, monkeypatch):
    """If another client publishes as the camera, MQTT is not used; a capture that fails for this is not counted."""
    async with rig.daemon(cameras={"capture_cache_s": 0}) as running, rig.fleet(1, interval=0.2) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        monkeypatch.setattr(AddressResolver, "proven", refused_http)
        monkeypatch.setattr(running.app.devices.registry.names, "command_block_reason", lambda mac: "another client")
        for _ in range(running.app.recovery.tracker.reboot_after + 1):
            assert (await running.api.post(f"{CAMERAS}/{camera.mac}/capture")).status == 502
        assert running.app.recovery.tracker.of(camera.mac).state is RecoveryState.OK


async def test_camera_with_refused_mqtt_is_not_rebooted(rig, short_retries, monkeypatch):
    """Its failures were counted before the refusal; it is rebooted when MQTT is allowed again."""
    async with rig.daemon() as running, rig.fleet(1, faults=["capture-error"], interval=0.2) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        tracker, names = running.app.recovery.tracker, running.app.devices.registry.names
        with monkeypatch.context() as patch:
            patch.setattr(names, "command_block_reason", lambda mac: "another client publishes as this camera")
            for _ in range(tracker.reboot_after):
                tracker.capture_failed(Mac(camera.mac), "timeout", seen_at=math.inf)
            assert tracker.to_reboot() == [camera.mac]
            await wait_for_several_passes(tracker, patch)
            assert (camera.restarts, tracker.of(camera.mac).state) == (0, RecoveryState.RETRYING)
        await eventually(lambda: camera.restarts == 1)


async def test_camera_with_refused_mqtt_is_not_tried_at_each_pass(rig, short_timeouts, monkeypatch):
    """Its failures are not counted meanwhile, so only the attempt itself can delay the next one."""
    monkeypatch.setattr(recovery_ladder, "FIRST_RETRY_S", 3600.0)
    monkeypatch.setattr(recovery_ladder, "LONGEST_RETRY_S", 3600.0)
    monkeypatch.setattr(SimulatedCamera, "uptime_s", 9999.0)  # no boot since the failure
    async with rig.daemon() as running, rig.fleet(1, interval=0.2) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        tracker, outcomes = running.app.recovery.tracker, running.app.captures.service.outcomes
        monkeypatch.setattr(AddressResolver, "proven", refused_http)
        monkeypatch.setattr(running.app.devices.registry.names, "command_block_reason", lambda mac: "another client")
        tracker.capture_failed(Mac(camera.mac), "timeout", seen_at=math.inf)
        ladder = tracker.of(camera.mac)
        ladder.since = ladder.failed_at = ladder.failed_at - 3600.0
        await eventually(lambda: sum(outcomes.values()) == 1)
        await wait_for_several_passes(tracker, monkeypatch)
        assert (sum(outcomes.values()), ladder.failures) == (1, 1)


async def test_broker_failure_during_reboot_is_not_a_camera_failure(rig, short_retries):
    async with rig.daemon() as running, rig.fleet(1, reboot_s=0.3) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        assert (await running.api.post(f"{CAMERAS}/{camera.mac}/reboot")).status == 200
        await rig.broker.kill()
        await eventually(lambda: not running.app.commands.reboots.is_rebooting(camera.mac))
        assert running.app.recovery.tracker.of(camera.mac).state is RecoveryState.OK
        await eventually(lambda: reasons_of_failed_reboots(rig, camera.mac))
        assert "MQTT broker was not connected" in reasons_of_failed_reboots(rig, camera.mac)[0]


def reasons_of_failed_reboots(rig, mac):
    rows = rig.rows("SELECT payload FROM events WHERE type = 'camera.reboot' AND mac = ? ORDER BY id", mac)
    events = [json.loads(row) for (row,) in rows]
    return [event["reason"] for event in events if event["state"] == "failed"]


async def test_camera_in_provisioning_is_not_rebooted(rig, short_retries, monkeypatch):
    async with rig.daemon() as running, rig.fleet(1, faults=["capture-error"], interval=0.2) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        provisioning = {Mac(camera.mac)}
        running.app.commands.reboots.is_provisioning = provisioning.__contains__
        await running.api.post(f"{CAMERAS}/{camera.mac}/capture")
        refused = await running.api.post(f"{CAMERAS}/{camera.mac}/reboot")
        assert (refused.status, refused.json["code"]) == (409, "DEVICE_ALREADY_PROVISIONING")
        path = f"{CAMERAS}/{camera.mac}/commands"
        reset = await running.admin.post(path, json={"action": "reset"})
        assert (reset.status, reset.json["code"]) == (409, "DEVICE_ALREADY_PROVISIONING")
        assert (await running.admin.post(path, json={"action": "ping"})).status == 200
        await wait_for_several_passes(running.app.recovery.tracker, monkeypatch)
        assert running.app.recovery.tracker.of(camera.mac).failures == 1
        provisioning.clear()
        await eventually(lambda: camera.restarts == 1)


async def test_reconnected_camera_is_tried_before_a_reboot(rig, short_retries, monkeypatch):
    """A reboot was due when the camera went offline; after its return without a boot, a capture is tried first."""
    monkeypatch.setattr(SimulatedCamera, "uptime_s", 9999.0)
    async with rig.daemon() as running, rig.fleet(1, faults=["capture-error"], interval=0.2) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        tracker = running.app.recovery.tracker
        tracker.auto_reboot = False
        await running.api.post(f"{CAMERAS}/{camera.mac}/capture")
        await eventually(lambda: tracker.of(camera.mac).failures >= 2)
        await camera.power_off()
        await eventually(lambda: running.app.devices.registry.get(camera.mac).state is Presence.OFFLINE)
        tracker.auto_reboot = True
        tracker.capture_failed(Mac(camera.mac), "timeout", seen_at=math.inf)
        assert tracker.to_reboot() == [camera.mac]
        camera.fault = None
        camera.power_on()
        await eventually(lambda: tracker.of(camera.mac).state is RecoveryState.OK)
        assert camera.restarts == 0
