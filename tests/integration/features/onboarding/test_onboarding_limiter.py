"""Limiter: burst, rate and arrival order, across restarts, reboots and wall-clock jumps."""

import contextlib
import random
from datetime import timedelta
from ipaddress import IPv4Address

import pytest

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.sighting import Sighting, Source
from pi_orchestrator.features.onboarding import line
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

LIMITED = ("rejected_by_policy", "ONBOARD_RATE_LIMITED")
PAIRED = [("discovered", None), ("verified", None), ("registered", None), ("paired", None)]
EXPLAIN = "/api/v1/onboarding/auto/policy/explain"
TEN_A_MINUTE = {"burst_size": 5, "max_per_minute": 10}
TOKEN_INTERVAL_S = 6.000_001
"""Seconds between two tokens at 10 per minute, plus a margin for floating point."""


@contextlib.asynccontextmanager
async def cameras(rig, count):
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(rig.camera(number)) for number in range(1, count + 1)]


async def announce_all(rig, cameras):
    async with rig.broker.client() as client:
        for camera in cameras:
            await camera.publish_status(client=client)


def onboarded(running):
    return [camera.mac for camera in running.app.cameras.cache]


async def until_paired(running, count):
    await eventually(lambda: len(running.app.cameras.cache) == count, what=f"{count} cameras are paired")


async def test_cameras_pair_in_arrival_order(rig):
    clock = FakeClock()
    async with cameras(rig, 20) as arrivals, rig.daemon(clock=clock, auto_onboard=TEN_A_MINUTE) as running:
        random.Random(7).shuffle(arrivals)
        await announce_all(rig, arrivals)
        await until_paired(running, 5)
        await eventually(lambda: running.app.onboarding.worker.waiting == 15)
        await running.wait_until_processed(rig)
        for paired in range(6, 21):
            await clock.advance(TOKEN_INTERVAL_S - 0.01)
            assert running.app.onboarding.worker.waiting == 21 - paired, "no token early"
            await clock.advance(0.01)
            await eventually(
                lambda left=20 - paired: running.app.onboarding.worker.waiting == left, what="no token late"
            )
            await until_paired(running, paired)
        assert onboarded(running) == [camera.mac for camera in arrivals]
        discovered = rig.rows("SELECT mac_address FROM onboarding_audit WHERE stage = 'discovered' ORDER BY id")
        assert [mac for (mac,) in discovered] == [camera.mac for camera in arrivals]
        assert all(camera.requests == 1 for camera in arrivals)


async def test_limited_camera_keeps_its_place(rig):
    clock = FakeClock()
    limits = {"burst_size": 1, "max_per_minute": 1}
    async with cameras(rig, 3) as (first, quiet, frequent), rig.daemon(clock=clock, auto_onboard=limits) as running:
        await announce_all(rig, [first, quiet, frequent])
        await until_paired(running, 1)
        for _ in range(10):
            await frequent.publish_status()
            await running.wait_until_processed(rig)
            await clock.advance(5)
        assert await running.onboarding_stages(quiet.mac) == await running.onboarding_stages(frequent.mac) == [LIMITED]
        (row,) = await running.onboarding_events(mac=quiet.mac)
        assert (row["outcome"], row["ip_address"]) == ("failure", quiet.address)
        assert (await running.status())["waiting"] == 2
        await clock.advance(11)
        await until_paired(running, 2)
        assert onboarded(running) == [first.mac, quiet.mac], "more messages do not move a camera forward"
        await clock.advance(61)
        await until_paired(running, 3)
        assert (
            await running.onboarding_stages(quiet.mac)
            == await running.onboarding_stages(frequent.mac)
            == [LIMITED, *PAIRED]
        )


async def test_tokens_refill_up_to_the_burst(rig):
    clock = FakeClock()
    async with cameras(rig, 14) as arrivals, rig.daemon(clock=clock, auto_onboard=TEN_A_MINUTE) as running:
        await announce_all(rig, arrivals[:5])
        await until_paired(running, 5)
        assert (await running.status())["tokens"] == 0
        await clock.advance(12)
        assert (await running.status())["tokens"] == 2
        await clock.advance(600)
        assert (await running.status())["tokens"] == 5
        await announce_all(rig, arrivals[5:])
        await until_paired(running, 10)
        assert (await running.status())["waiting"] == 4


async def test_camera_dropped_from_full_line_can_join_it_later(rig, monkeypatch):
    monkeypatch.setattr(line, "MAX_WAITING", 3)
    clock = FakeClock()
    limits = {"burst_size": 1, "max_per_minute": 60}
    async with cameras(rig, 10) as arrivals, rig.daemon(clock=clock, auto_onboard=limits) as running:
        await announce_all(rig, arrivals)
        await running.wait_until_processed(rig)
        await until_paired(running, 1)
        assert running.app.onboarding.worker.waiting == 3
        assert await running.metric("piorch_onboarding_waiting") == 3
        assert await running.metric("piorch_onboarding_line_overflow_total") == 6
        for _ in range(3):
            await clock.advance(1.001)
        await until_paired(running, 4)
        assert onboarded(running) == [camera.mac for camera in arrivals[:4]]
        await clock.advance(60)
        assert len(running.app.cameras.cache) == 4, "dropped cameras are not in the line"
        for dropped in arrivals[4:]:
            await dropped.publish_status()
            await clock.advance(1.001)
        await until_paired(running, 10)


async def test_invented_macs_do_not_delay_a_proven_camera(rig):
    """1,500 MACs that exist in messages only; the real camera also answered ARP: it gets the next token."""
    clock, invented = FakeClock(), 1500
    limits = {"burst_size": 1, "max_per_minute": 1, "verification_timeout_sec": 1}
    async with rig.camera(4000) as camera, rig.daemon(clock=clock, auto_onboard=limits) as running:
        worker, registry = running.app.onboarding.worker, running.app.devices.registry
        async with rig.broker.client() as client:
            for number in range(1, invented + 1):
                await rig.announce(number, client=client)
        await eventually(lambda: worker.waiting + worker.overflowed == invented - 1, what="one MAC has the only token")
        seen = Sighting(Mac(camera.mac), Source.ARP, clock.monotonic(), IPv4Address(camera.address), binds=True)
        registry.add_sighting(seen, clock.monotonic())
        await camera.publish_status()
        await eventually(lambda: running.app.cameras.presence.messages["live"] == invented + 1)
        await clock.advance(60.001)
        await until_paired(running, 1)
        assert onboarded(running) == [camera.mac]
        assert worker.waiting == worker.unproven == line.MAX_UNPROVEN


async def test_waiting_cameras_are_shown(rig, monkeypatch):
    monkeypatch.setattr(line, "MAX_UNPROVEN", 2)
    clock = FakeClock()
    limits = {"burst_size": 1, "max_per_minute": 1}
    async with cameras(rig, 5) as arrivals, rig.daemon(clock=clock, auto_onboard=limits) as running:
        registry, proven = running.app.devices.registry, arrivals[-1]
        await announce_all(rig, arrivals[:4])
        await until_paired(running, 1)
        registry.add_sighting(Sighting(Mac(proven.mac), Source.STATION, clock.monotonic()), clock.monotonic())
        await proven.publish_status()
        await eventually(lambda: running.app.onboarding.worker.waiting == 3)
        status = await running.status()
        assert (status["waiting"], status["waiting_unproven"], status["dropped"]) == (3, 2, 1)
        assert await running.metric("piorch_onboarding_waiting_unproven") == 2

        async def waiting(camera):
            return (await running.api.get(EXPLAIN, params={"mac": camera.mac})).data.get("waiting")

        assert await waiting(proven) == {"position": 1, "proven": True, "seconds_to_token": 60.0}
        assert await waiting(arrivals[2]) == {"position": 3, "proven": False, "seconds_to_token": 180.0}
        assert await waiting(arrivals[0]) is None


async def test_waiting_camera_is_promoted_when_it_is_proven(rig):
    clock = FakeClock()
    limits = {"burst_size": 1, "max_per_minute": 1}
    async with cameras(rig, 3) as arrivals, rig.daemon(clock=clock, auto_onboard=limits) as running:
        await announce_all(rig, arrivals)
        await until_paired(running, 1)
        await eventually(lambda: running.app.onboarding.worker.waiting == 2)
        last = arrivals[-1]
        running.app.devices.registry.add_sighting(
            Sighting(Mac(last.mac), Source.STATION, clock.monotonic()), clock.monotonic()
        )
        await clock.advance(60.001)
        await until_paired(running, 2)
        assert onboarded(running) == [arrivals[0].mac, last.mac]


async def test_concurrency_is_limited_and_order_kept(rig):
    async with cameras(rig, 6) as arrivals, rig.daemon(auto_onboard={"concurrency": 2}) as running:
        for camera in arrivals:
            camera.answer_now.clear()
        await announce_all(rig, arrivals)
        await eventually(lambda: all(camera.requests for camera in arrivals[:2]))
        await running.wait_until_processed(rig)
        assert not any(camera.requests for camera in arrivals[2:])
        assert running.app.onboarding.worker.waiting == 4
        assert await running.onboarding_stages(arrivals[5].mac) == [], (
            "tokens are left: waiting for concurrency is no rejection"
        )
        for camera in arrivals:
            camera.answer_now.set()
        await until_paired(running, 6)


@pytest.mark.parametrize(
    ("later", "tokens"),
    [
        # Same boot: the monotonic clock gives the elapsed time.
        ({"boot_id": "boot-1", "monotonic": 1000.0}, 0),
        ({"boot_id": "boot-1", "monotonic": 1006.0}, 1),
        ({"boot_id": "boot-1", "monotonic": 1015.0}, 2.5),
        ({"boot_id": "boot-1", "monotonic": 5000.0}, 5),
        # Another boot: only the time since that boot certainly passed.
        ({"boot_id": "boot-2", "monotonic": 0.0}, 0),
        ({"boot_id": "boot-2", "monotonic": 9.0}, 1.5),
        ({"boot_id": "boot-2", "monotonic": 600.0}, 5),
        # A monotonic clock that went back (restored machine image) adds no tokens.
        ({"boot_id": "boot-1", "monotonic": 3.0}, 0),
    ],
)
@pytest.mark.parametrize("wall_days", [0, 3 * 365, -40])
async def test_spent_tokens_survive_restart(rig, later, tokens, wall_days):
    before = FakeClock(boot_id="boot-1", monotonic=1000.0)
    async with cameras(rig, 8) as arrivals:
        async with rig.daemon(clock=before, auto_onboard=TEN_A_MINUTE) as running:
            await announce_all(rig, arrivals[:5])
            await until_paired(running, 5)
            assert (await running.status())["tokens"] == 0
        after = FakeClock(wall=before.wall() + timedelta(days=wall_days), **later)
        async with rig.daemon(clock=after, auto_onboard=TEN_A_MINUTE) as running:
            assert (await running.status())["tokens"] == pytest.approx(tokens)
            await announce_all(rig, arrivals[5:])
            await running.wait_until_processed(rig)
            await until_paired(running, 5 + min(3, int(tokens)))
            assert running.app.onboarding.worker.waiting == 3 - min(3, int(tokens))


@pytest.mark.parametrize("jump", [timedelta(days=3 * 365), timedelta(days=-40)])
async def test_wall_clock_jump_changes_no_tokens(rig, jump):
    clock = FakeClock()
    async with cameras(rig, 8) as arrivals, rig.daemon(clock=clock, auto_onboard=TEN_A_MINUTE) as running:
        await announce_all(rig, arrivals)
        await until_paired(running, 5)
        await eventually(lambda: running.app.onboarding.worker.waiting == 3)
        await clock.advance(3)
        clock.jump_wall(jump)
        await clock.advance(2.9)
        assert (len(running.app.cameras.cache), running.app.onboarding.worker.waiting) == (5, 3)
        await clock.advance(0.101)
        await until_paired(running, 6)
        clock.jump_wall(-jump)
        await clock.advance(TOKEN_INTERVAL_S)
        await until_paired(running, 7)
        assert running.app.onboarding.worker.waiting == 1


async def test_spent_token_is_stored_before_request(rig):
    """Else a daemon that is killed during each verification would never run out of tokens."""
    async with rig.camera(1) as camera, rig.daemon(clock=FakeClock(), auto_onboard=TEN_A_MINUTE) as running:
        camera.answer_now.clear()
        await camera.publish_status()
        await eventually(lambda: camera.requests == 1)
        assert rig.rows("SELECT tokens, tokens_boot_id FROM onboarding_state") == [(4.0, "boot-1")]
        camera.answer_now.set()
        await until_paired(running, 1)


async def test_failed_attempt_spends_a_token(rig):
    clock = FakeClock()
    async with rig.daemon(clock=clock, auto_onboard={"burst_size": 2, "max_per_minute": 1}) as running:
        for number in (1, 2, 3):  # no server at this address
            await rig.announce(number)
        await eventually(lambda: running.app.onboarding.worker.metrics.failed == 2)
        await running.wait_until_processed(rig)
        assert await running.onboarding_stages(rig.mac(3)) == [LIMITED]


async def test_new_limits_keep_spent_tokens(rig):
    """A reload does not refill the burst; a faster rate applies immediately to waiting cameras."""
    clock = FakeClock()
    async with cameras(rig, 8) as arrivals, rig.daemon(clock=clock, auto_onboard=TEN_A_MINUTE) as running:
        await announce_all(rig, arrivals)
        await until_paired(running, 5)
        await eventually(lambda: running.app.onboarding.worker.waiting == 3)
        running.daemon.apply(rig.settings(auto_onboard={"burst_size": 100, "max_per_minute": 60}))
        await running.wait_until_processed(rig)
        assert len(running.app.cameras.cache) == 5
        await clock.advance(3.001)
        await until_paired(running, 8)
