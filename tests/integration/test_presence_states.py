"""Presence is truthful: ghosts, last wills, silence, restarts, flapping; and it costs the card next to nothing."""

import contextlib
import json
from datetime import timedelta
from ipaddress import IPv4Address

import aiomqtt
import pytest

from pi_orchestrator.domain.presence import FLAPS
from pi_orchestrator.domain.sighting import Sighting, Source
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

AUTO = "/api/v1/onboarding/auto"
MINUTE = 60


async def onboarded(running, *cameras):
    """They speak, and are paired."""
    for camera in cameras:
        await camera.say()
        await eventually(lambda camera=camera: camera.mac in running.services.roster)


async def heard(running, count):
    await eventually(lambda: running.services.presence.messages["live"] == count)


async def passes(clock, running, seconds):
    """Let time pass; the daemon's writes are real, so its last ticks are waited for one by one."""
    await clock.advance(seconds - 2)
    for _ in range(2):
        await running.services.database.ping()
        await clock.advance(1)
    await running.services.database.ping()


async def status(running, camera):
    return (await running.camera(camera.mac))["status"]


async def is_status(running, camera, word):
    async def holds():
        return await status(running, camera) == word

    await eventually(holds, what=f"{camera.mac} is {word}")


def changes(world, camera):
    """What the event log says of a camera's state, in order."""
    rows = world.rows(
        "SELECT payload FROM events WHERE type = 'camera.status_changed' AND mac = ? ORDER BY id", camera.mac
    )
    return [(change["previous"], change["status"]) for change in (json.loads(payload) for (payload,) in rows)]


# A retained message is a claim.


async def test_a_retained_ghost_is_neither_online_nor_onboarded_however_long_one_waits(world):
    clock = FakeClock()
    async with world.camera(1) as ghost, world.camera(2) as living:
        await ghost.say(retain=True)
        async with world.daemon(clock=clock) as running:
            await eventually(lambda: running.services.registry.get(ghost.mac))
            await living.say()
            await eventually(lambda: living.mac in running.services.roster)
            assert await status(running, ghost) == "connecting"
            live = (await running.api.get("/api/v1/cameras")).data["cameras"]
            assert [camera["mac_address"] for camera in live] == [living.mac]
            await passes(clock, running, 700)
            await running.api.post(f"{AUTO}/disable")
            await running.api.post(f"{AUTO}/enable")
            await running.considered(world)
            assert await status(running, ghost) == "connecting"
            assert (ghost.requests, await running.trail(ghost.mac)) == (0, [])
            assert await running.metric('piorch_status_messages_total{kind="retained"}') == 1


async def test_a_retained_claim_comes_true_with_the_first_live_message(world):
    async with world.camera(1) as camera:
        await camera.say(retain=True, firmware_version="1.0")
        async with world.daemon() as running:
            await eventually(lambda: running.services.registry.get(camera.mac))
            assert camera.requests == 0
            await camera.say(retain=True, firmware_version="1.1")  # to a subscriber who is there it comes live
            await eventually(lambda: camera.mac in running.services.roster)
            assert await status(running, camera) == "online"


async def test_the_sandboxes_ghosts_are_none_to_a_daemon_that_starts_after_them(world):
    async with world.fleet(6, faults=["ghost:3"]) as fleet:
        await fleet.reported()
        async with world.daemon() as running:
            await eventually(lambda: len(running.services.roster) == 3)
            await running.considered(world)
            good = {camera.mac for camera in fleet.with_fault(None)}
            assert {camera.mac for camera in running.services.roster} == good


async def test_a_retained_offline_of_long_ago_does_not_put_a_living_camera_offline(world):
    async with world.camera(1) as camera:
        async with world.daemon(clock=FakeClock()) as running:
            await onboarded(running, camera)
        await camera.say("OFFLINE", retain=True)
        async with world.daemon(clock=FakeClock(monotonic=1010.0)) as running:
            await eventually(lambda: running.services.presence.messages["retained"] == 1)
            assert await status(running, camera) == "online"


async def test_retained_claims_that_come_again_with_every_reconnect_change_nothing(world):
    clock = FakeClock()
    async with world.camera(1) as camera, world.daemon(clock=clock) as running:
        await onboarded(running, camera)
        await passes(clock, running, 700)
        assert await status(running, camera) == "offline"
        await camera.say(retain=True)
        await is_status(running, camera, "online")
        await passes(clock, running, 700)
        assert await status(running, camera) == "offline"
        running.services.mqtt._client._client.socket().shutdown(2)
        await eventually(lambda: not running.services.mqtt.connected)
        await passes(clock, running, 5)
        await eventually(lambda: running.services.presence.messages["retained"] == 1)
        assert await status(running, camera) == "offline"


# Last wills.


async def test_a_camera_that_loses_power_is_offline_by_its_last_will_and_online_by_its_birth(world):
    async with world.fleet(2) as fleet, world.daemon() as running:
        gone, stays = fleet.cameras
        await eventually(lambda: len(running.services.roster) == 2)
        await gone.die()
        await is_status(running, gone, "offline")
        paired = (await running.api.get("/api/v1/espcam/paired")).data
        assert (paired["total"], paired["online"]) == (2, 1)
        assert await status(running, stays) == "online"
        gone.revive()
        await is_status(running, gone, "online")


@contextlib.asynccontextmanager
async def session(world, camera, name):
    """An MQTT session of a camera, with a last will; `drop` cuts it off as a power cut does."""
    will = aiomqtt.Will(f"camera/status/{camera.mac}", json.dumps({"mac": camera.mac, "state": "OFFLINE"}), qos=1)
    client = aiomqtt.Client(world.broker.host, world.broker.port, identifier=name, will=will)
    await client.__aenter__()
    try:
        yield client
    finally:
        with contextlib.suppress(aiomqtt.MqttError):
            await client.__aexit__(None, None, None)


def drop(client):
    client._client.socket().shutdown(2)


async def test_the_last_will_of_an_old_session_after_a_new_birth_is_ignored(world):
    """The camera rebooted and came back under another session before the broker noticed that the old one was dead."""
    async with (
        world.camera(1) as camera,
        world.daemon() as running,
        session(world, camera, "old") as old,
        session(world, camera, "new") as new,
    ):
        await camera.say(client=old, uptime_ms=3_600_000)
        await eventually(lambda: camera.mac in running.services.roster)
        await camera.say(client=new, uptime_ms=900)
        await heard(running, 2)
        drop(old)
        await heard(running, 3)
        assert await status(running, camera) == "online"
        drop(new)
        await is_status(running, camera, "offline")


@pytest.mark.parametrize(
    ("births", "wills_ignored"),
    [
        ([3600], 0),  # one session, one will
        ([3600, 3605], 0),  # its next status is no new birth
        ([3600, None], 0),  # nor is one that does not say
        ([3600, 1], 1),
        ([3600, 1, 30], 1),
        ([3600, 1, 60, 2], 1),  # rebooted twice: one will at least is still a stale one
    ],
)
async def test_as_many_wills_are_ignored_as_sessions_were_replaced_and_no_more(world, births, wills_ignored):
    async with world.camera(1) as camera, world.daemon(clock=FakeClock()) as running:
        for uptime in births:
            await camera.say(uptime=uptime)
        for _ in range(wills_ignored):
            await camera.say("OFFLINE")
        await heard(running, len(births) + wills_ignored)
        assert running.services.registry.get(camera.mac).state == "online"
        await camera.say("OFFLINE")
        await eventually(lambda: running.services.registry.get(camera.mac).state == "offline")


async def test_a_will_that_comes_long_after_a_new_birth_is_the_new_sessions_own(world):
    clock = FakeClock()
    async with world.camera(1) as camera, world.daemon(clock=clock) as running:
        await onboarded(running, camera)
        await camera.say(uptime=3600)
        await camera.say(uptime=1)
        await heard(running, 3)
        await passes(clock, running, 91)
        await camera.say("OFFLINE")
        await is_status(running, camera, "offline")


async def test_a_rebooting_camera_is_rebooting_then_back_and_not_asked_while_it_is_away(world):
    clock = FakeClock()
    async with world.camera(1) as camera, world.camera(2) as stranger, world.daemon(clock=clock) as running:
        await onboarded(running, camera)
        await camera.say("REBOOTING")
        await is_status(running, camera, "rebooting")
        await camera.say()
        await is_status(running, camera, "online")
        await stranger.say("rebooting")
        await running.considered(world)
        assert (await status(running, stranger), stranger.requests) == ("rebooting", 0)
        await stranger.say()
        await eventually(lambda: stranger.mac in running.services.roster)
        await camera.say("REBOOTING")
        await is_status(running, camera, "rebooting")
        await passes(clock, running, 601)
        assert await status(running, camera) == "offline", "it never came back"


# Silence.


async def test_silence_makes_idle_then_offline_by_the_monotonic_clock_and_never_by_one_missed_message(world):
    clock = FakeClock()
    async with world.camera(1) as camera, world.daemon(clock=clock) as running:
        await onboarded(running, camera)
        since = clock.monotonic()
        for at, word in {59: "online", 61: "online", 119: "online", 121: "idle", 599: "idle", 601: "offline"}.items():
            await passes(clock, running, since + at - clock.monotonic())
            assert await status(running, camera) == word, at
            clock.jump_wall(timedelta(days=400 if at % 3 else -300))
            assert await status(running, camera) == word, "a jump of the wall clock is no silence"
        await camera.say()
        await is_status(running, camera, "online")
        await passes(clock, running, 3)
        await running.services.database.ping()
        steps = [("online", "idle"), ("idle", "offline"), ("offline", "online")]
        assert [change for change in changes(world, camera) if change[0] != change[1]][-3:] == steps


async def test_the_windows_of_silence_are_the_configured_ones_also_after_a_reload(world):
    clock = FakeClock()
    async with (
        world.camera(1) as camera,
        world.daemon(clock=clock, cameras={"idle_after_s": 10, "offline_after_s": 20}) as running,
    ):
        await onboarded(running, camera)
        await passes(clock, running, 11)
        assert await status(running, camera) == "idle"
        await passes(clock, running, 10)
        assert await status(running, camera) == "offline"
        running.daemon.apply(world.settings(cameras={"idle_after_s": 100, "offline_after_s": 200}))
        await camera.say()
        await is_status(running, camera, "online")
        await passes(clock, running, 99)
        assert await status(running, camera) == "online"


async def test_an_idle_camera_counts_as_here_for_the_pairing_page_until_it_is_offline(world):
    clock = FakeClock()
    async with world.camera(1) as camera, world.daemon(clock=clock) as running:
        await onboarded(running, camera)
        await passes(clock, running, 300)
        (paired,) = (await running.api.get("/api/v1/espcam/paired")).data["cameras"]
        assert paired["status"] == "online"
        await passes(clock, running, 301)
        (paired,) = (await running.api.get("/api/v1/espcam/paired")).data["cameras"]
        assert paired["status"] == "offline"


# Restarts.


@pytest.mark.parametrize(
    ("later", "word"),
    [
        ({"monotonic": 1060.0}, "online"),
        ({"monotonic": 1200.0}, "idle"),
        ({"monotonic": 1700.0}, "offline"),
        ({"monotonic": 60.0, "boot_id": "boot-2"}, "offline"),
        ({"monotonic": 5000.0, "boot_id": "boot-2"}, "offline"),
    ],
)
async def test_a_restart_keeps_presence_within_a_boot_and_last_seen_for_ever(world, later, word):
    before = FakeClock(monotonic=1000.0)
    async with world.camera(1) as camera:
        async with world.daemon(clock=before) as running:
            await onboarded(running, camera)
            seen = (await running.camera(camera.mac))["last_seen"]
            assert seen == "2026-01-22T15:00:00.000000Z"
        passed = timedelta(seconds=later["monotonic"] - 1000 if "boot_id" not in later else 90)
        after = FakeClock(wall=before.wall() + passed, **later)
        async with world.daemon(clock=after, connected=False) as running:
            shown = await running.camera(camera.mac)
            assert (shown["status"], shown["last_seen"], shown["lastSeen"]) == (word, seen, seen)
            (paired,) = (await running.api.get("/api/v1/espcam/paired")).data["cameras"]
            assert paired["last_seen"] == seen


async def test_a_silence_that_passed_while_the_daemon_was_down_is_told_when_it_is_back(world):
    async with world.camera(1) as camera:
        async with world.daemon(clock=FakeClock(monotonic=1000.0)) as running:
            await onboarded(running, camera)
        for _ in range(2):  # and told once
            async with world.daemon(clock=FakeClock(monotonic=1700.0), connected=False):
                await eventually(lambda: changes(world, camera)[-1:] == [("online", "offline")])
        assert changes(world, camera).count(("online", "offline")) == 1
        assert world.rows("SELECT state FROM presence") == [("offline",)]


async def test_a_camera_that_comes_back_after_a_reboot_is_online_and_counted_as_known(world):
    async with world.camera(1) as camera:
        async with world.daemon(clock=FakeClock()) as running:
            await onboarded(running, camera)
        async with world.daemon(clock=FakeClock(boot_id="boot-2", monotonic=30.0)) as running:
            await camera.say()
            await is_status(running, camera, "online")
            await eventually(lambda: running.services.onboarding.metrics.already_onboarded == 1)


# Flapping, floods, and what it costs.


async def test_a_camera_that_comes_and_goes_is_told_as_just_that_and_nothing_else_happens(world):
    async with world.daemon() as running, world.fleet(2, interval=30) as fleet:
        flapping, steady = fleet.cameras
        await eventually(lambda: len(running.services.roster) == 2)
        device = running.services.registry.get(flapping.mac)
        rows = {table: world.rows(f"SELECT * FROM {table}") for table in ("cameras", "assignments", "onboarding_audit")}
        for number in range(1, 8):
            await flapping.die()
            await eventually(lambda: device.state == "offline")
            await is_status(running, flapping, "offline" if number < FLAPS else "error")
            flapping.revive()
            await eventually(lambda: device.state == "online")
            await is_status(running, flapping, "online" if number < FLAPS else "error")
        assert "unstable" in (await running.camera(flapping.mac))["health"]["last_error"]
        await eventually(lambda: running.services.onboarding.metrics.already_onboarded == 7)
        assert await status(running, steady) == "online"
        metrics = (await running.status())["metrics"]
        assert (metrics["attempts"], metrics["success"], metrics["rejected_by_policy"]) == (2, 2, 0)
    for table, before in rows.items():
        assert world.rows(f"SELECT * FROM {table}") == before
    assert changes(world, steady) == []
    words = [word for _, word in changes(world, flapping)]
    assert words.count("error") == 1
    assert words[-1] == "error"  # what came after was damped
    assert world.rows("SELECT count(*) FROM events WHERE type = 'device.flapping'") == [(1,)]


async def test_the_sandboxes_flapping_camera_is_onboarded_once(world):
    async with world.fleet(3, faults=["flapping"]) as fleet, world.daemon() as running:
        await eventually(lambda: len(running.services.roster) == 3)
        await eventually(lambda: running.services.onboarding.metrics.already_onboarded >= 2, within=20)
        (flapping,) = [camera for camera in fleet.cameras if camera.fault]
        stages = [stage for stage, _ in await running.trail(flapping.mac)]
        assert stages.count("paired") == 1
        assert world.rows("SELECT count(*) FROM cameras") == [(3,)]


async def test_a_change_of_state_is_on_disk_within_a_second_or_two(world):
    clock = FakeClock()
    async with world.camera(1) as camera, world.daemon(clock=clock) as running:
        await onboarded(running, camera)
        await passes(clock, running, 3)
        await camera.say("OFFLINE")
        await heard(running, 2)
        await passes(clock, running, 3)
        await running.services.database.ping()
        assert world.rows("SELECT state FROM presence") == [("offline",)]
        assert changes(world, camera)[-1] == ("online", "offline")


async def test_a_minute_of_a_thousand_status_messages_costs_the_card_one_small_write(world):
    clock = FakeClock()
    async with contextlib.AsyncExitStack() as stack:
        cameras = [await stack.enter_async_context(world.camera(number)) for number in range(1, 21)]
        running = await stack.enter_async_context(world.daemon(clock=clock))
        client = await stack.enter_async_context(world.broker.client())
        for camera in cameras:
            await camera.say(client=client)
        await eventually(lambda: len(running.services.roster) == 20)
        await passes(clock, running, 61)
        wal = world.state_dir / "orchestrator.db-wal"
        stored, size = world.rows("SELECT * FROM presence"), wal.stat().st_size

        for turn in range(1, 51):
            for camera in cameras:
                await camera.say(client=client, rssi_dbm=-40 - turn, uptime_ms=turn * 1000, free_heap_bytes=turn)
            await heard(running, 20 + 20 * turn)
            await clock.advance(1)
            await running.services.database.ping()
        assert world.rows("SELECT * FROM presence") == stored
        assert wal.stat().st_size == size
        assert (await running.camera(cameras[7].mac))["health"]["wifi_rssi"] == -90, "and yet the newest is shown"

        await passes(clock, running, 12)
        assert world.rows("SELECT count(*), min(seen_monotonic) FROM presence") == [(20, clock.monotonic() - 13)]
        assert wal.stat().st_size - size <= 32 * 1024


async def test_invented_macs_push_out_each_other_and_never_a_registered_camera(world):
    limits = {"cameras": {"max_devices": 64}}
    async with world.camera(1) as one, world.camera(2) as two, world.daemon(**limits) as running:
        await onboarded(running, one, two)
        async with world.broker.client() as client:
            for number in range(1000, 4000):
                await world.announce(number, client=client, ip="203.0.113.5", device_id=f"invented-{number}")
        await eventually(lambda: running.services.presence.messages["live"] == 3002)
        assert len(list(running.services.registry)) == 64
        assert await running.metric('piorch_status_messages_total{kind="evicted"}') == 3002 - 64
        for camera in (one, two):
            assert await status(running, camera) == "online"
        assert await running.camera(world.mac(3999)) is not None
        assert await running.camera(world.mac(1000)) is None
        assert await running.camera("invented-1000") is None
        assert (await running.camera("invented-3999"))["mac_address"] == world.mac(3999)
        live = (await running.api.get("/api/v1/cameras")).data
        assert live["count"] == 64


async def test_last_seen_is_told_by_todays_wall_clock_also_after_it_was_set(world):
    """The Pi boots in the past; once NTP has set the clock, what was heard a minute ago was heard a minute ago."""
    clock = FakeClock()
    async with world.camera(1) as camera, world.daemon(clock=clock) as running:
        await onboarded(running, camera)
        clock.jump_wall(timedelta(days=200))
        await passes(clock, running, 60)
        seen = (await running.camera(camera.mac))["last_seen"]
        assert seen == (clock.wall() - timedelta(seconds=60)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def test_a_camera_that_was_proved_to_be_here_before_its_retained_message_came_is_onboarded_too(world):
    """Which of the two comes first is chance: here the proof, as by an ARP answer before the broker was there."""
    async with world.camera(1) as camera, world.daemon() as running:
        now = running.services.clock.monotonic()
        seen = Sighting(camera.mac, Source.PROBE, now, IPv4Address(camera.address), binds=True)
        running.services.registry.sight(seen, now)
        running.services.presence.on_message(
            f"camera/status/{camera.mac}", json.dumps({"mac": camera.mac, "ip": camera.address}).encode(), True
        )
        await eventually(lambda: camera.mac in running.services.roster)
