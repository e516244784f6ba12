"""The limiter: burst and rate to the token, in arrival order, across restarts, reboots and jumps of the wall clock."""

import contextlib
import random
from datetime import timedelta

import pytest

from tests.support.clock import FakeClock
from tests.support.waiting import eventually

LIMITED = ("rejected_by_policy", "ONBOARD_RATE_LIMITED")
PAIRED = [("discovered", None), ("verified", None), ("registered", None), ("paired", None)]
TEN_A_MINUTE = {"burst_size": 5, "max_per_minute": 10}
A_TOKEN_S = 6.000_001
"""Seconds between two tokens at ten a minute, and a moment for floating point."""


@contextlib.asynccontextmanager
async def cameras(world, count):
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(world.camera(number)) for number in range(1, count + 1)]


async def say_all(world, cameras):
    async with world.broker.client() as client:
        for camera in cameras:
            await camera.say(client=client)


def onboarded(running):
    return [camera.mac for camera in running.services.roster]


async def has_paired(running, count):
    await eventually(lambda: len(running.services.roster) == count, what=f"{count} cameras are paired")


async def test_burst_then_rate_to_the_token_and_in_arrival_order(world):
    clock = FakeClock()
    async with cameras(world, 20) as arrivals, world.daemon(clock=clock, auto_onboard=TEN_A_MINUTE) as running:
        random.Random(7).shuffle(arrivals)
        await say_all(world, arrivals)
        await has_paired(running, 5)
        await eventually(lambda: running.services.onboarding.waiting == 15)
        await running.considered(world)
        for paired in range(6, 21):
            await clock.advance(A_TOKEN_S - 0.01)
            assert running.services.onboarding.waiting == 21 - paired, "no token before its time"
            await clock.advance(0.01)
            assert running.services.onboarding.waiting == 20 - paired, "and none later"
            await has_paired(running, paired)
        assert onboarded(running) == [camera.mac for camera in arrivals]
        discovered = world.rows("SELECT mac_address FROM onboarding_audit WHERE stage = 'discovered' ORDER BY id")
        assert [mac for (mac,) in discovered] == [camera.mac for camera in arrivals]
        assert all(camera.requests == 1 for camera in arrivals)


async def test_one_over_the_limit_is_audited_once_keeps_its_place_and_needs_no_second_message(world):
    clock = FakeClock()
    limits = {"burst_size": 1, "max_per_minute": 1}
    async with cameras(world, 3) as (first, patient, loud), world.daemon(clock=clock, auto_onboard=limits) as running:
        await say_all(world, [first, patient, loud])
        await has_paired(running, 1)
        for _ in range(10):
            await loud.say()
            await running.considered(world)
            await clock.advance(5)
        assert await running.trail(patient.mac) == await running.trail(loud.mac) == [LIMITED]
        (row,) = await running.audit(mac=patient.mac)
        assert (row["outcome"], row["ip_address"]) == ("failure", patient.address)
        assert (await running.status())["waiting"] == 2
        await clock.advance(11)
        await has_paired(running, 2)
        assert onboarded(running) == [first.mac, patient.mac], "speaking more often is no way to the front"
        await clock.advance(61)
        await has_paired(running, 3)
        assert await running.trail(patient.mac) == await running.trail(loud.mac) == [LIMITED, *PAIRED]


async def test_tokens_come_back_up_to_the_burst_and_no_further(world):
    clock = FakeClock()
    async with cameras(world, 14) as all_of_them, world.daemon(clock=clock, auto_onboard=TEN_A_MINUTE) as running:
        await say_all(world, all_of_them[:5])
        await has_paired(running, 5)
        assert (await running.status())["tokens"] == 0
        await clock.advance(12)
        assert (await running.status())["tokens"] == 2
        await clock.advance(600)
        assert (await running.status())["tokens"] == 5
        await say_all(world, all_of_them[5:])
        await has_paired(running, 10)
        assert (await running.status())["waiting"] == 4


async def test_the_waiting_line_is_bounded_and_those_turned_away_get_in_later(world):
    clock = FakeClock()
    limits = {"burst_size": 1, "max_per_minute": 60, "queue_limit": 3}
    async with cameras(world, 10) as arrivals, world.daemon(clock=clock, auto_onboard=limits) as running:
        await say_all(world, arrivals)
        await running.considered(world)
        await has_paired(running, 1)
        assert running.services.onboarding.waiting == 3
        assert await running.metric("piorch_onboarding_waiting") == 3
        assert await running.metric("piorch_onboarding_line_overflow_total") == 6
        for _ in range(3):
            await clock.advance(1.001)
        await has_paired(running, 4)
        assert onboarded(running) == [camera.mac for camera in arrivals[:4]]
        await clock.advance(60)
        assert len(running.services.roster) == 4, "those turned away are not in the line"
        for turned_away in arrivals[4:]:
            await turned_away.say()
            await clock.advance(1.001)
        await has_paired(running, 10)


async def test_only_so_many_are_verified_at_once_and_the_order_stays(world):
    async with cameras(world, 6) as arrivals, world.daemon(auto_onboard={"concurrency": 2}) as running:
        for camera in arrivals:
            camera.answer_now.clear()
        await say_all(world, arrivals)
        await eventually(lambda: all(camera.requests for camera in arrivals[:2]))
        await running.considered(world)
        assert not any(camera.requests for camera in arrivals[2:])
        assert running.services.onboarding.waiting == 4
        assert await running.trail(arrivals[5].mac) == [], "there are tokens: waiting for a free hand is no refusal"
        for camera in arrivals:
            camera.answer_now.set()
        await has_paired(running, 6)


@pytest.mark.parametrize(
    ("later", "tokens"),
    [
        # The same boot: what has passed is what the monotonic clock says.
        ({"boot_id": "boot-1", "monotonic": 1000.0}, 0),
        ({"boot_id": "boot-1", "monotonic": 1006.0}, 1),
        ({"boot_id": "boot-1", "monotonic": 1015.0}, 2.5),
        ({"boot_id": "boot-1", "monotonic": 5000.0}, 5),
        # Another boot: only the time since then is sure to have passed.
        ({"boot_id": "boot-2", "monotonic": 0.0}, 0),
        ({"boot_id": "boot-2", "monotonic": 9.0}, 1.5),
        ({"boot_id": "boot-2", "monotonic": 600.0}, 5),
        # A monotonic clock behind its own past (a restored image of the machine) gives nothing away.
        ({"boot_id": "boot-1", "monotonic": 3.0}, 0),
    ],
)
@pytest.mark.parametrize("wall_days", [0, 3 * 365, -40])
async def test_what_is_spent_stays_spent_across_a_restart_a_reboot_and_a_jump_of_the_wall(
    world, later, tokens, wall_days
):
    before = FakeClock(boot_id="boot-1", monotonic=1000.0)
    async with cameras(world, 8) as arrivals:
        async with world.daemon(clock=before, auto_onboard=TEN_A_MINUTE) as running:
            await say_all(world, arrivals[:5])
            await has_paired(running, 5)
            assert (await running.status())["tokens"] == 0
        after = FakeClock(wall=before.wall() + timedelta(days=wall_days), **later)
        async with world.daemon(clock=after, auto_onboard=TEN_A_MINUTE) as running:
            assert (await running.status())["tokens"] == pytest.approx(tokens)
            await say_all(world, arrivals[5:])
            await running.considered(world)
            await has_paired(running, 5 + min(3, int(tokens)))
            assert running.services.onboarding.waiting == 3 - min(3, int(tokens))


@pytest.mark.parametrize("jump", [timedelta(days=3 * 365), timedelta(days=-40)])
async def test_a_jump_of_the_wall_clock_makes_no_tokens_and_takes_none(world, jump):
    clock = FakeClock()
    async with cameras(world, 8) as arrivals, world.daemon(clock=clock, auto_onboard=TEN_A_MINUTE) as running:
        await say_all(world, arrivals)
        await has_paired(running, 5)
        await eventually(lambda: running.services.onboarding.waiting == 3)
        await clock.advance(3)
        clock.jump_wall(jump)
        await clock.advance(2.9)
        assert (len(running.services.roster), running.services.onboarding.waiting) == (5, 3)
        await clock.advance(0.101)
        await has_paired(running, 6)
        clock.jump_wall(-jump)
        await clock.advance(A_TOKEN_S)
        await has_paired(running, 7)
        assert running.services.onboarding.waiting == 1


async def test_the_spent_token_is_on_disk_before_the_camera_is_asked(world):
    """Else a daemon that is killed in the middle of each verification would never run out of tokens."""
    async with world.camera(1) as camera, world.daemon(clock=FakeClock(), auto_onboard=TEN_A_MINUTE) as running:
        camera.answer_now.clear()
        await camera.say()
        await eventually(lambda: camera.requests == 1)
        assert world.rows("SELECT tokens, tokens_boot_id FROM onboarding_state") == [(4.0, "boot-1")]
        camera.answer_now.set()
        await has_paired(running, 1)


async def test_a_failed_attempt_costs_its_token_too(world):
    clock = FakeClock()
    async with world.daemon(clock=clock, auto_onboard={"burst_size": 2, "max_per_minute": 1}) as running:
        for number in (1, 2, 3):  # nothing listens there
            await world.announce(number)
        await eventually(lambda: running.services.onboarding.metrics.failed == 2)
        await running.considered(world)
        assert await running.trail(world.mac(3)) == [LIMITED]


async def test_new_limits_count_from_what_is_spent(world):
    """A reload is no way to a fresh burst; a faster rate helps those who wait at once."""
    clock = FakeClock()
    async with cameras(world, 8) as arrivals, world.daemon(clock=clock, auto_onboard=TEN_A_MINUTE) as running:
        await say_all(world, arrivals)
        await has_paired(running, 5)
        await eventually(lambda: running.services.onboarding.waiting == 3)
        running.daemon.apply(world.settings(auto_onboard={"burst_size": 100, "max_per_minute": 60}))
        await running.considered(world)
        assert len(running.services.roster) == 5
        await clock.advance(3.001)
        await has_paired(running, 8)
