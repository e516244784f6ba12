"""What is not done about cameras: an outage is not many broken ones, and reboots never come in crowds."""

import asyncio
import contextlib
import json
import math

import pytest

from pi_orchestrator.domain import capture, remedy
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.presence import Presence
from pi_orchestrator.domain.remedy import Remedy
from pi_orchestrator.sandbox.camera import SimulatedCamera
from pi_orchestrator.workers import captures, commands, reboots
from tests.support.waiting import eventually

CAMERAS = "/api/v1/cameras"


@pytest.fixture
def brisk(monkeypatch):
    """What the ladder waits for, in tenths of a second; cameras have the time to answer that they always have."""
    monkeypatch.setattr(reboots, "BACK_WITHIN_S", 1.0)
    monkeypatch.setattr(remedy, "FIRST_RETRY_S", 0.1)
    monkeypatch.setattr(remedy, "LONGEST_RETRY_S", 0.2)
    monkeypatch.setattr("pi_orchestrator.workers.care.TICK_S", 0.05)


@pytest.fixture
def impatient(brisk, monkeypatch):
    """The same, and little patience with cameras that are silent."""
    for name, seconds in {"ACK_S": 0.2, "STALL_S": 0.2, "LIMIT_S": 3.0}.items():
        monkeypatch.setattr(capture, name, seconds)
    monkeypatch.setattr(captures, "HTTP_S", 0.2)
    monkeypatch.setattr(commands, "ANSWER_S", 0.2)


@contextlib.asynccontextmanager
async def heard(world):
    """Every command that cameras are sent, as (MAC, action)."""
    found = []
    async with world.broker.client() as client:
        await client.subscribe("camera/command/+", qos=1)

        async def listen():
            async for message in client.messages:
                mac, action = message.topic.value.split("/")[-1], json.loads(message.payload)["action"]
                found.append((mac, action))

        listening = asyncio.create_task(listen())
        try:
            yield found
        finally:
            listening.cancel()
            await asyncio.wait([listening])


async def test_cameras_that_are_silent_too_are_away_and_neither_rebooted_nor_blamed(world, impatient):
    """Their network is gone: a command that waits for them at the broker would hit them when they are well again."""
    numbers = range(1, 6)
    async with world.daemon() as running, heard(world) as told:
        async with contextlib.AsyncExitStack() as stack:
            for number in numbers:
                await (await stack.enter_async_context(world.camera(number))).say()
            await eventually(lambda: all(world.mac(number) in running.services.roster for number in numbers))
        await asyncio.gather(*(running.api.post(f"{CAMERAS}/{world.mac(number)}/capture") for number in numbers))
        ladders = [running.services.remedies.of(world.mac(number)) for number in numbers]
        await eventually(lambda: all(ladder.failures >= 5 for ladder in ladders), within=20)
        assert {ladder.state for ladder in ladders} == {Remedy.RETRYING}
        assert "restart" not in {action for _, action in told}
        # The same camera, heard again and failing all the same.
        while running.services.remedies.of(world.mac(1)).state is Remedy.RETRYING:
            await world.announce(1)
            await asyncio.sleep(0.05)
        await eventually(lambda: "restart" in {action for _, action in told})
        assert {mac for mac, action in told if action == "restart"} == {world.mac(1)}


async def test_cameras_that_fail_together_are_rebooted_one_by_one(world, brisk):
    async with world.daemon() as running, world.fleet(5, faults=["capture-error"] * 5, interval=0.2) as fleet:
        await eventually(lambda: all(camera.mac in running.services.roster for camera in fleet.cameras))
        await asyncio.gather(*(running.api.post(f"{CAMERAS}/{camera.mac}/capture") for camera in fleet.cameras))
        ladders = [running.services.remedies.of(camera.mac) for camera in fleet.cameras]
        await eventually(lambda: sum(ladder.failures >= 5 for ladder in ladders) == 4)
        assert sum(camera.restarts for camera in fleet.cameras) == 1


async def test_one_that_is_silent_because_the_broker_went_is_not_blamed(world, brisk):
    async with world.daemon() as running, world.fleet(1, reboot_s=0.3) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: camera.mac in running.services.roster)
        assert (await running.api.post(f"{CAMERAS}/{camera.mac}/reboot")).status == 200
        await world.broker.kill()
        await eventually(lambda: not running.services.reboots.is_rebooting(camera.mac))
        assert running.services.remedies.of(camera.mac).state is Remedy.OK
        await eventually(lambda: failures(world, camera.mac))
        assert "the MQTT broker was away" in failures(world, camera.mac)[0]


def failures(world, mac):
    rows = world.rows("SELECT payload FROM events WHERE type = 'camera.reboot' AND mac = ? ORDER BY id", mac)
    return [said["reason"] for (row,) in rows if (said := json.loads(row))["state"] == "failed"]


async def test_a_camera_that_is_being_provisioned_is_left_alone(world, brisk):
    async with world.daemon() as running, world.fleet(1, faults=["capture-error"], interval=0.2) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: camera.mac in running.services.roster)
        taken = {Mac(camera.mac)}
        running.services.reboots.is_taken = taken.__contains__
        await running.api.post(f"{CAMERAS}/{camera.mac}/capture")
        refused = await running.api.post(f"{CAMERAS}/{camera.mac}/reboot")
        assert (refused.status, refused.json["code"]) == (409, "DEVICE_ALREADY_PROVISIONING")
        path = f"{CAMERAS}/{camera.mac}/commands"
        reset = await running.admin.post(path, json={"action": "reset"})
        assert (reset.status, reset.json["code"]) == (409, "DEVICE_ALREADY_PROVISIONING")
        assert (await running.admin.post(path, json={"action": "ping"})).status == 200
        await asyncio.sleep(0.5)
        assert running.services.remedies.of(camera.mac).failures == 1
        taken.clear()
        await eventually(lambda: camera.restarts == 1)


async def test_one_that_comes_back_is_asked_before_it_is_rebooted(world, brisk, monkeypatch):
    """It was due for that when it lost its network; now it may be well. Its uptime tells of no boot."""
    monkeypatch.setattr(SimulatedCamera, "uptime_s", 9999.0)
    async with world.daemon() as running, world.fleet(1, faults=["capture-error"], interval=0.2) as fleet:
        (camera,) = fleet.cameras
        await eventually(lambda: camera.mac in running.services.roster)
        ladder_of, remedies = running.services.remedies.of, running.services.remedies
        remedies.auto_reboot = False
        await running.api.post(f"{CAMERAS}/{camera.mac}/capture")
        await eventually(lambda: ladder_of(camera.mac).failures >= 2)
        await camera.die()
        await eventually(lambda: running.services.registry.get(camera.mac).state is Presence.OFFLINE)
        remedies.auto_reboot = True
        remedies.failed(Mac(camera.mac), "it hung", heard_at=math.inf)
        assert remedies.to_reboot() == [camera.mac]
        camera.fault = None
        camera.revive()
        await eventually(lambda: ladder_of(camera.mac).state is Remedy.OK)
        assert camera.restarts == 0
