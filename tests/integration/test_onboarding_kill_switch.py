"""The kill switch: at once, for good, and nothing of what was under way is written after its answer."""

import asyncio
import time

import pytest

from tests.support.clock import FakeClock
from tests.support.waiting import eventually

AUTO = "/api/v1/onboarding/auto"


def counters(status):
    return {name: number for name, number in status["metrics"].items() if not name.startswith("last_")}


async def test_disable_in_the_middle_of_a_verification_answers_quickly_and_nothing_is_written_after_it(world):
    """The camera holds its answer back until the switch is thrown; every table is compared, before and after."""
    async with world.camera(1) as camera, world.daemon(auto_onboard={"verification_timeout_sec": 30}) as running:
        camera.answer_now.clear()
        await camera.say()
        await asyncio.wait_for(camera.asked.wait(), 5)
        assert running.services.onboarding.is_onboarding(camera.mac)

        began = time.monotonic()
        answer = await running.api.post(f"{AUTO}/disable")
        assert time.monotonic() - began < 1
        assert answer.status == 200
        assert answer.data == {"enabled": False, "running": False, "message": "Auto-onboarding disabled"}
        at_the_answer = world.tables()

        camera.answer_now.set()
        await eventually(lambda: camera.answered == 1)
        await eventually(lambda: not running.services.onboarding.is_onboarding(camera.mac))
        await running.services.database.ping()
        assert world.tables() == at_the_answer
        assert await running.trail(camera.mac) == [("discovered", None), ("rejected_by_policy", "NOT_ENABLED")]
        assert (await running.status())["enabled"] is False
        metrics = (await running.status())["metrics"]
        assert (metrics["attempts"], metrics["success"], metrics["rejected_by_policy"]) == (1, 0, 1)
    afterwards = world.tables()
    for table in ("cameras", "assignments", "containers", "onboarding_audit"):
        assert afterwards[table] == at_the_answer[table]
    # That a stranger was found is told whether anyone is onboarded or not.
    assert [row for row in afterwards["events"] if row[1] != "device.found"] == at_the_answer["events"]


@pytest.mark.parametrize("after", [0, 1, 5, 11, 23])
async def test_disable_in_a_storm_leaves_every_camera_wholly_in_or_wholly_out(world, after):
    """Thrown when some are paired, some are asked and some wait: none follows, and none is half there."""
    async with world.daemon(auto_onboard={"concurrency": 4}) as running, world.fleet(30) as fleet:
        await eventually(
            lambda: len(running.services.roster) >= after and running.services.registry.get(fleet.cameras[0].mac)
        )
        assert (await running.api.post(f"{AUTO}/disable")).status == 200
        at_the_answer = world.tables()
        known = {camera.mac for camera in running.services.roster}
        await fleet.reported()
        await running.considered(world)
        now = world.tables()
        for table in ("cameras", "assignments", "containers"):
            assert now[table] == at_the_answer[table]
        assert {camera.mac for camera in running.services.roster} == known == {row[0] for row in now["cameras"]}
        for mac, stage in world.rows("SELECT mac_address, stage FROM onboarding_audit WHERE stage = 'verified'"):
            assert mac in known, stage
        paired = {row[0] for row in world.rows("SELECT mac_address FROM onboarding_audit WHERE stage = 'paired'")}
        assert paired == known == {row[0] for row in now["assignments"]}
        assert running.services.onboarding.waiting == 0
        metrics = (await running.status())["metrics"]
        assert metrics["success"] == len(known)


async def test_a_thrown_switch_empties_the_waiting_line(world):
    clock = FakeClock()
    async with (
        world.camera(1),
        world.camera(2) as second,
        world.daemon(clock=clock, auto_onboard={"burst_size": 1, "max_per_minute": 6}) as running,
    ):
        await world.announce(1)
        await eventually(lambda: len(running.services.roster) == 1)
        await second.say()
        await eventually(lambda: running.services.onboarding.waiting == 1)
        await running.api.post(f"{AUTO}/disable")
        assert (await running.status())["waiting"] == 0
        await clock.advance(120)
        await running.considered(world)
        assert (second.requests, len(running.services.roster)) == (0, 1)


async def test_a_thrown_switch_stays_thrown_after_a_restart_whatever_the_configuration_says(world):
    async with world.daemon() as running:
        assert (await running.status())["enabled"] is True
        await running.api.post(f"{AUTO}/disable")
    async with world.camera(1) as camera, world.daemon(auto_onboard={"enabled": True}) as running:
        status = await running.status()
        assert (status["enabled"], status["running"]) == (False, False)
        await camera.say()
        await running.considered(world)
        assert await running.trail(camera.mac) == [("rejected_by_policy", "NOT_ENABLED")]
        assert camera.requests == 0


async def test_a_switch_that_was_turned_on_stays_on_after_a_restart_too(world):
    async with world.daemon(auto_onboard={"enabled": False}) as running:
        assert (await running.status())["enabled"] is False
        answer = await running.api.post(f"{AUTO}/enable")
        assert answer.data == {"enabled": True, "running": True, "message": "Auto-onboarding enabled"}
    async with world.camera(1) as camera, world.daemon(auto_onboard={"enabled": False}) as running:
        assert (await running.status())["enabled"] is True
        await camera.say()
        await eventually(lambda: camera.mac in running.services.roster)


async def test_enable_onboards_the_cameras_that_are_here_without_another_message(world):
    """They spoke while it was off, the last of them a moment ago; their next message may be a minute away."""
    async with (
        world.daemon(auto_onboard={"enabled": False}) as running,
        world.camera(1) as one,
        world.camera(2) as two,
        world.camera(3) as three,
    ):
        for camera in (one, two, three):
            await camera.say()
        await running.considered(world)
        assert len(running.services.roster) == 0
        await running.api.post(f"{AUTO}/enable")
        await eventually(lambda: len(running.services.roster) == 3)
        for camera in (one, two, three):
            trail = [stage for stage, _ in await running.trail(camera.mac)]
            assert trail == ["rejected_by_policy", "discovered", "verified", "registered", "paired"]


async def test_enable_does_not_call_cameras_that_have_gone_or_were_never_here(world):
    clock = FakeClock()
    async with (
        world.daemon(clock=clock, auto_onboard={"enabled": False}) as running,
        world.camera(1) as gone,
        world.camera(2) as ghost,
        world.camera(3) as here,
    ):
        await gone.say()
        await ghost.say(retain=True)
        await eventually(lambda: running.services.registry.get(ghost.mac))
        # The daemon was connected when the ghost spoke, so to it that message was a live one.
        await clock.advance(700)
        await here.say()
        await running.considered(world)
        await running.api.post(f"{AUTO}/enable")
        await eventually(lambda: here.mac in running.services.roster)
        await running.considered(world)
        assert (gone.requests, ghost.requests, len(running.services.roster)) == (0, 0, 1)


async def test_enable_with_mode_off_fails_and_changes_nothing(world):
    async with world.daemon(auto_onboard={"mode": "off", "enabled": False}) as running:
        before = world.tables()
        answer = await running.api.post(f"{AUTO}/enable")
        assert (answer.status, answer.json["code"]) == (400, "ONBOARD_ENABLE_FAILED")
        assert answer.json["error"]["message"] == "auto-onboard mode must be 'dev' to enable"
        assert answer.json["error"]["retryable"] is False
        assert (await running.status())["enabled"] is False
        now = world.tables()
        for table in before.keys() - {"operator_actions", "sqlite_sequence"}:
            assert now[table] == before[table]
        refused = world.rows("SELECT action, outcome FROM operator_actions ORDER BY id DESC LIMIT 1")
        assert refused == [("onboarding.enable", "ONBOARD_ENABLE_FAILED")]


async def test_the_switch_can_be_thrown_again_and_again(world):
    """A dashboard repeats its requests: each answer is the same, and so is the state."""
    async with world.camera(1) as camera, world.daemon() as running:
        for _ in range(3):
            assert (await running.api.post(f"{AUTO}/disable")).data["enabled"] is False
        await camera.say()
        await running.considered(world)
        assert camera.requests == 0
        answers = await asyncio.gather(*(running.api.post(f"{AUTO}/enable") for _ in range(5)))
        assert {answer.status for answer in answers} == {200}
        await eventually(lambda: camera.mac in running.services.roster)
        assert camera.requests == 1
        actions = [row[0] for row in world.rows("SELECT action FROM operator_actions ORDER BY id")]
        assert actions[-8:] == ["onboarding.disable"] * 3 + ["onboarding.enable"] * 5


async def test_the_counters_on_disk_and_in_memory_agree_when_the_switch_is_thrown_among_refusals(world):
    """Refusals that wait to be written when the switch is thrown are counted once, and as what they are."""
    async with world.daemon(auto_onboard={"deny": [world.mac(number) for number in range(50)]}) as running:
        async with world.broker.client() as client:
            for number in range(100):
                await world.announce(number % 50, client=client)
                await world.announce(100 + number, ip=None, client=client)
                if number % 25 == 24:
                    await running.api.post(f"{AUTO}/disable")
                    await running.api.post(f"{AUTO}/enable")
        await running.considered(world)
        shown = counters(await running.status())
        assert (shown["failed"], shown["rejected_by_policy"]) != (0, 0)
    async with world.daemon(connected=False) as running:
        assert counters(await running.status()) == shown
