"""Attempts: the known are not done twice, failures are tried again, one's fault is its own, and the end is quick."""

import time

import pytest

from tests.support.clock import FakeClock
from tests.support.waiting import eventually

PAIRED = ["discovered", "verified", "registered", "paired"]


async def test_a_registered_camera_that_appears_again_is_counted_once_per_appearance_and_not_onboarded_again(world):
    async with world.camera(1) as camera, world.daemon() as running:
        await camera.say()
        await eventually(lambda: camera.mac in running.services.roster)
        rows = {table: world.rows(f"SELECT * FROM {table}") for table in ("cameras", "assignments", "onboarding_audit")}
        for appearance in (1, 2, 3):
            await camera.say("OFFLINE")
            for _ in range(3):
                await camera.say()
            await running.considered(world)
            assert running.services.onboarding.metrics.already_onboarded == appearance
        await running.considered(world)
        metrics = (await running.status())["metrics"]
        assert (metrics["already_onboarded"], metrics["attempts"], metrics["success"]) == (3, 1, 1)
        assert camera.requests == 1
        for table in ("cameras", "assignments"):
            assert world.rows(f"SELECT * FROM {table}") == rows[table]
        assert [stage for stage, _ in await running.trail(camera.mac)] == PAIRED


async def test_a_registered_camera_is_known_after_a_restart(world):
    async with world.camera(1) as camera:
        async with world.daemon() as running:
            await camera.say()
            await eventually(lambda: camera.mac in running.services.roster)
            await camera.say("OFFLINE")
            await eventually(lambda: running.services.registry.get(camera.mac).state == "offline")
        async with world.daemon() as running:
            await camera.say()
            await eventually(lambda: running.services.onboarding.metrics.already_onboarded == 1)
            await running.considered(world)
            assert camera.requests == 1
            assert [stage for stage, _ in await running.trail(camera.mac)] == PAIRED
            assert world.rows("SELECT count(*) FROM cameras") == [(1,)]


async def test_a_camera_that_shouts_while_it_is_verified_is_verified_once(world):
    async with world.camera(1) as camera, world.daemon() as running:
        camera.answer_now.clear()
        for _ in range(20):
            await camera.say()
        await running.considered(world)
        assert camera.requests == 1
        camera.answer_now.set()
        await eventually(lambda: camera.mac in running.services.roster)
        await running.considered(world)
        assert camera.requests == 1
        assert [stage for stage, _ in await running.trail(camera.mac)] == PAIRED


async def test_a_camera_is_shown_as_discovered_then_pairing_then_online(world):
    async with world.camera(1) as camera, world.daemon(auto_onboard={"enabled": False}) as running:
        camera.answer_now.clear()
        await camera.say()
        await running.considered(world)
        assert (await running.camera(camera.mac))["status"] == "discovered"
        await running.api.post("/api/v1/onboarding/auto/enable")
        await eventually(lambda: camera.requests == 1)
        assert (await running.camera(camera.mac))["status"] == "pairing"
        camera.answer_now.set()
        await eventually(lambda: camera.mac in running.services.roster)
        shown = await running.camera(camera.mac)
        assert (shown["status"], shown["container_id"], shown["position"]) == ("online", "auto-onboard", 1)


async def test_a_camera_that_failed_is_tried_again_later_and_then_succeeds(world):
    clock = FakeClock()
    async with world.daemon(clock=clock) as running:
        await world.announce(1)  # its web server is not up yet
        await eventually(lambda: running.services.onboarding.metrics.failed == 1)
        async with world.camera(1) as camera:
            await camera.say()
            await running.considered(world)
            assert camera.requests == 0, "not at once: a camera that fails must not use up everyone's tokens"
            await clock.advance(5.1)
            await camera.say()
            await eventually(lambda: camera.mac in running.services.roster)
            assert await running.trail(camera.mac) == [
                ("discovered", None),
                ("failed", "VERIFY_UNREACHABLE"),
                *((stage, None) for stage in PAIRED),
            ]


async def test_a_camera_that_goes_on_failing_is_tried_ever_more_rarely(world):
    """Half an hour of a camera that says its name every five seconds and never answers."""
    clock = FakeClock()
    async with world.daemon(clock=clock) as running:
        worker = running.services.onboarding
        async with world.broker.client() as client:
            for beat in range(1, 361):
                await world.announce(1, client=client)
                await eventually(lambda beat=beat: running.services.presence.messages["live"] == beat)
                await eventually(lambda: not worker.is_onboarding(world.mac(1)))
                await clock.advance(5)
        assert 8 <= worker.metrics.attempts <= 40
        assert worker.metrics.failed == worker.metrics.attempts


async def test_an_unexpected_fault_in_one_attempt_stays_its_own(world):
    """The database refuses to register one camera: the others are paired, the worker is not restarted."""
    clock = FakeClock()
    async with world.daemon(clock=clock) as running:
        await world.sabotage(
            f"CREATE TRIGGER blow BEFORE INSERT ON cameras WHEN NEW.mac = '{world.mac(3)}'"
            " BEGIN SELECT RAISE(ABORT, 'struck by the test'); END"
        )
        async with world.camera(1) as one, world.camera(2) as two, world.camera(3) as three, world.camera(4) as four:
            for camera in (one, three, two, three, four):
                await camera.say()
            for camera in (one, two, four):
                await eventually(lambda camera=camera: camera.mac in running.services.roster)
            await eventually(lambda: three.answered == 1 and not running.services.onboarding.is_onboarding(three.mac))
            await three.say()
            await running.considered(world)
            assert three.mac not in running.services.roster
            assert three.requests == 1, "it has to wait like any other that failed"
            assert await running.metric('piorch_component_restarts_total{component="onboarding"}') == 0
            assert await running.metric('piorch_component_up{component="onboarding"}') == 1
            await world.sabotage("DROP TRIGGER blow")
            await clock.advance(60)
            await three.say()
            await eventually(lambda: three.mac in running.services.roster)


@pytest.mark.parametrize("count", [1, 12])
async def test_the_daemon_stops_within_a_second_while_cameras_are_verified(world, count):
    limits = {"verification_timeout_sec": 60, "concurrency": 64}
    async with world.fleet(count, faults=[f"silent:{count}"]) as fleet:
        async with world.daemon(auto_onboard=limits) as running:
            for camera in fleet.cameras:
                await eventually(lambda camera=camera: running.services.onboarding.is_onboarding(camera.mac))
            leaving = time.monotonic()
        assert time.monotonic() - leaving < 1
        stages = world.rows("SELECT DISTINCT stage FROM onboarding_audit")
        assert stages == [("discovered",)], "what was cut off is neither a success nor the camera's failure"
        assert world.rows("SELECT * FROM cameras") == []


async def test_a_camera_whose_verification_was_cut_off_by_a_restart_is_onboarded_by_the_next_daemon(world):
    async with world.camera(1) as camera:
        async with world.daemon() as running:
            camera.answer_now.clear()
            await camera.say()
            await eventually(lambda: camera.requests == 1)
        camera.answer_now.set()
        async with world.daemon() as running:
            await camera.say()
            await eventually(lambda: camera.mac in running.services.roster)
            assert [stage for stage, _ in await running.trail(camera.mac)] == ["discovered", *PAIRED]
            assert (await running.status())["metrics"]["attempts"] == 2


async def test_nobody_gets_the_name_of_another_by_what_it_says_over_http(world):
    async with world.camera(1) as victim, world.camera(2) as thief, world.daemon() as running:
        await victim.say()
        await eventually(lambda: victim.mac in running.services.roster)
        thief.body["device_id"] = victim.mac
        await thief.say(topic=f"camera/status/{thief.mac}", device_id=None)
        await eventually(lambda: thief.mac in running.services.roster)
        assert running.services.roster.get(thief.mac).device_id != victim.mac
        assert (await running.api.get(f"/api/v1/cameras/{victim.mac}")).data["mac_address"] == victim.mac


async def test_a_message_that_names_two_cameras_is_audited_for_the_one_in_whose_name_it_speaks(world):
    async with world.daemon() as running:
        await world.broker.publish("camera/status/246F28000001", '{"mac": "24:6F:28:00:00:02"}')

        async def told():
            return await running.trail("24:6F:28:00:00:01")

        assert await eventually(told) == [("failed", "MAC_MISMATCH")]
        assert await running.trail("24:6F:28:00:00:02") == []


async def test_a_reload_that_forbids_a_camera_stops_its_verification(world):
    async with world.camera(1) as camera, world.daemon() as running:
        camera.answer_now.clear()
        await camera.say()
        await eventually(lambda: running.services.onboarding.is_onboarding(camera.mac))
        running.daemon.apply(world.settings(auto_onboard={"deny": [camera.mac]}))
        await eventually(lambda: not running.services.onboarding.is_onboarding(camera.mac))
        camera.answer_now.set()
        await running.considered(world)
        assert camera.mac not in running.services.roster
