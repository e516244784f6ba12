"""Presence: retained messages of absent cameras (ghosts), last wills, silence, restarts, flapping, cost of writes."""

import contextlib
import json
from datetime import timedelta
from ipaddress import IPv4Address

import aiomqtt
import pytest

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.sighting import Sighting, Source
from pi_orchestrator.features.devices.interruptions import LIMIT
from pi_orchestrator.net.kernel.neighbours import Neighbour, NeighbourTable
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

AUTO = "/api/v1/onboarding/auto"


async def onboarded(running, *cameras):
    """Let the cameras publish, and wait until they are paired."""
    for camera in cameras:
        await camera.publish_status()
        await eventually(lambda camera=camera: camera.mac in running.app.cameras.cache)


async def messages_received(running, count):
    await eventually(lambda: running.app.cameras.presence.messages["live"] == count)


async def advance(clock, running, seconds):
    """Advance the clock, the last two seconds one at a time; wait each time until the database has written."""
    await clock.advance(seconds - 2)
    for _ in range(2):
        await running.app.resources.database.ping()
        await clock.advance(1)
    await running.app.resources.database.ping()


async def status(running, camera):
    return (await running.camera(camera.mac))["status"]


async def wait_for_status(running, camera, expected):
    async def has_status():
        return await status(running, camera) == expected

    await eventually(has_status, what=f"{camera.mac} is {expected}")


def changes(rig, camera):
    """The state changes of a camera in the event log, in order."""
    rows = rig.rows(
        "SELECT payload FROM events WHERE type = 'camera.status_changed' AND mac = ? ORDER BY id", camera.mac
    )
    return [(change["previous"], change["status"]) for change in (json.loads(payload) for (payload,) in rows)]


# Retained messages.


async def test_retained_ghost_is_never_onboarded(rig):
    clock = FakeClock()
    async with rig.camera(1) as ghost, rig.camera(2) as publisher:
        await ghost.publish_status(retain=True)
        async with rig.daemon(clock=clock) as running:
            await eventually(lambda: running.app.devices.registry.get(ghost.mac))
            await publisher.publish_status()
            await eventually(lambda: publisher.mac in running.app.cameras.cache)
            assert await status(running, ghost) == "connecting"
            listed = (await running.api.get("/api/v1/cameras")).data["cameras"]
            assert [camera["mac_address"] for camera in listed] == [publisher.mac]
            await advance(clock, running, 700)
            await running.api.post(f"{AUTO}/disable")
            await running.api.post(f"{AUTO}/enable")
            await running.wait_until_processed(rig)
            assert await status(running, ghost) == "connecting"
            assert (ghost.requests, await running.onboarding_stages(ghost.mac)) == (0, [])
            assert await running.metric('piorch_status_messages_total{kind="retained"}') == 1


async def test_live_message_confirms_retained_claim(rig):
    async with rig.camera(1) as camera:
        await camera.publish_status(retain=True, firmware_version="1.0")
        async with rig.daemon() as running:
            await eventually(lambda: running.app.devices.registry.get(camera.mac))
            assert camera.requests == 0
            await camera.publish_status(
                retain=True, firmware_version="1.1"
            )  # a connected subscriber receives it as live
            await eventually(lambda: camera.mac in running.app.cameras.cache)
            assert await status(running, camera) == "online"


async def test_sandbox_ghosts_are_not_onboarded_after_start(rig):
    async with rig.fleet(6, faults=["ghost:3"]) as fleet:
        await fleet.wait_until_reported()
        async with rig.daemon() as running:
            await eventually(lambda: len(running.app.cameras.cache) == 3)
            await running.wait_until_processed(rig)
            good = {camera.mac for camera in fleet.with_fault(None)}
            assert {camera.mac for camera in running.app.cameras.cache} == good


async def test_old_retained_offline_is_ignored(rig):
    async with rig.camera(1) as camera:
        async with rig.daemon(clock=FakeClock()) as running:
            await onboarded(running, camera)
        await camera.publish_status("OFFLINE", retain=True)
        async with rig.daemon(clock=FakeClock(monotonic=1010.0)) as running:
            await eventually(lambda: running.app.cameras.presence.messages["retained"] == 1)
            assert await status(running, camera) == "online"


async def test_repeated_retained_claims_change_nothing(rig):
    clock = FakeClock()
    async with rig.camera(1) as camera, rig.daemon(clock=clock) as running:
        await onboarded(running, camera)
        await advance(clock, running, 700)
        assert await status(running, camera) == "offline"
        await camera.publish_status(retain=True)
        await wait_for_status(running, camera, "online")
        await advance(clock, running, 700)
        assert await status(running, camera) == "offline"
        # A client with the same id: the broker disconnects the daemon.
        async with rig.broker.client(identifier=running.app.resources.mqtt.client_id):
            await eventually(lambda: not running.app.resources.mqtt.connected)
        await advance(clock, running, 5)
        await eventually(lambda: running.app.cameras.presence.messages["retained"] == 1)
        assert await status(running, camera) == "offline"


async def test_only_fresh_neighbour_entry_confirms_claim(rig, monkeypatch):
    clock, entry = FakeClock(), None

    async def at(self, address):
        return entry

    monkeypatch.setattr(NeighbourTable, "at", at)
    async with rig.camera(1) as camera:
        await camera.publish_status(retain=True)
        async with rig.daemon(clock=clock) as running:
            await eventually(lambda: running.app.devices.registry.get(camera.mac))
            entry = Neighbour(Mac(camera.mac), fresh=False)
            await advance(clock, running, 10)
            assert await status(running, camera) == "connecting"
            entry = Neighbour(Mac(camera.mac), fresh=True)
            await advance(clock, running, 10)
            await wait_for_status(running, camera, "online")


# Last wills.


async def test_camera_without_power_is_offline_until_it_publishes(rig):
    async with rig.fleet(2) as fleet, rig.daemon() as running:
        dead, live = fleet.cameras
        await eventually(lambda: len(running.app.cameras.cache) == 2)
        await dead.power_off()
        await wait_for_status(running, dead, "offline")
        paired = (await running.api.get("/api/v1/espcam/paired")).data
        assert (paired["total"], paired["online"]) == (2, 1)
        assert await status(running, live) == "online"
        dead.power_on()
        await wait_for_status(running, dead, "online")


@contextlib.asynccontextmanager
async def mqtt_session(rig, camera, name):
    """An MQTT session of a camera, with a last will; `drop` ends it like a power cut."""
    will = aiomqtt.Will(f"camera/status/{camera.mac}", json.dumps({"mac": camera.mac, "state": "OFFLINE"}), qos=1)
    client = aiomqtt.Client(rig.broker.host, rig.broker.port, identifier=name, will=will)
    await client.__aenter__()
    try:
        yield client
    finally:
        with contextlib.suppress(aiomqtt.MqttError):
            await client.__aexit__(None, None, None)


def drop(client):
    client._client.socket().shutdown(2)  # noqa: SLF001 - aiomqtt has no public way


async def test_stale_last_will_is_ignored(rig):
    """The camera is back in a new MQTT session before the broker detects that the old one is dead."""
    async with (
        rig.camera(1) as camera,
        rig.daemon() as running,
        mqtt_session(rig, camera, "old") as old,
        mqtt_session(rig, camera, "new") as new,
    ):
        await camera.publish_status(client=old, uptime_ms=3_600_000)
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        await camera.publish_status(client=new, uptime_ms=900)
        await messages_received(running, 2)
        drop(old)
        await messages_received(running, 3)
        assert await status(running, camera) == "online"
        drop(new)
        await wait_for_status(running, camera, "offline")


@pytest.mark.parametrize(
    ("uptimes", "wills_ignored"),
    [
        ([3600], 0),  # one MQTT session, one last will
        ([3600, 3605], 0),  # the next status continues the session
        ([3600, None], 0),  # so does a status without an uptime
        ([3600, 1], 1),
        ([3600, 1, 30], 1),
        ([3600, 1, 60, 2], 1),  # after two reboots, at least one last will is stale
    ],
)
async def test_stale_will_is_ignored_once_per_mqtt_session(rig, uptimes, wills_ignored):
    async with rig.camera(1) as camera, rig.daemon(clock=FakeClock()) as running:
        for uptime in uptimes:
            await camera.publish_status(uptime=uptime)
        for _ in range(wills_ignored):
            await camera.publish_status("OFFLINE")
        await messages_received(running, len(uptimes) + wills_ignored)
        assert running.app.devices.registry.get(camera.mac).state == "online"
        await camera.publish_status("OFFLINE")
        await eventually(lambda: running.app.devices.registry.get(camera.mac).state == "offline")


async def test_late_will_belongs_to_new_mqtt_session(rig):
    clock = FakeClock()
    async with rig.camera(1) as camera, rig.daemon(clock=clock) as running:
        await onboarded(running, camera)
        await camera.publish_status(uptime=3600)
        await camera.publish_status(uptime=1)
        await messages_received(running, 3)
        await advance(clock, running, 91)
        await camera.publish_status("OFFLINE")
        await wait_for_status(running, camera, "offline")


async def test_rebooting_camera_is_not_probed_and_returns(rig):
    clock = FakeClock()
    async with rig.camera(1) as camera, rig.camera(2) as unregistered, rig.daemon(clock=clock) as running:
        await onboarded(running, camera)
        await camera.publish_status("REBOOTING")
        await wait_for_status(running, camera, "rebooting")
        await camera.publish_status()
        await wait_for_status(running, camera, "online")
        await unregistered.publish_status("rebooting")
        await running.wait_until_processed(rig)
        assert (await status(running, unregistered), unregistered.requests) == ("rebooting", 0)
        await unregistered.publish_status()
        await eventually(lambda: unregistered.mac in running.app.cameras.cache)
        await camera.publish_status("REBOOTING")
        await wait_for_status(running, camera, "rebooting")
        await advance(clock, running, 601)
        assert await status(running, camera) == "offline", "the camera did not return"


# Silence.


async def test_silence_uses_monotonic_clock(rig):
    clock = FakeClock()
    async with rig.camera(1) as camera, rig.daemon(clock=clock) as running:
        await onboarded(running, camera)
        since = clock.monotonic()
        for at, expected in {
            59: "online",
            61: "online",
            119: "online",
            121: "idle",
            599: "idle",
            601: "offline",
        }.items():
            await advance(clock, running, since + at - clock.monotonic())
            assert await status(running, camera) == expected, at
            clock.jump_wall(timedelta(days=400 if at % 3 else -300))
            assert await status(running, camera) == expected, "a wall clock jump does not count as silence"
        await camera.publish_status()
        await wait_for_status(running, camera, "online")
        await advance(clock, running, 3)
        await running.app.resources.database.ping()
        steps = [("online", "idle"), ("idle", "offline"), ("offline", "online")]
        assert [change for change in changes(rig, camera) if change[0] != change[1]][-3:] == steps


async def test_silence_windows_are_reloadable(rig):
    clock = FakeClock()
    async with (
        rig.camera(1) as camera,
        rig.daemon(clock=clock, cameras={"idle_after_s": 10, "offline_after_s": 20}) as running,
    ):
        await onboarded(running, camera)
        await advance(clock, running, 11)
        assert await status(running, camera) == "idle"
        await advance(clock, running, 10)
        assert await status(running, camera) == "offline"
        running.daemon.apply(rig.settings(cameras={"idle_after_s": 100, "offline_after_s": 200}))
        await camera.publish_status()
        await wait_for_status(running, camera, "online")
        await advance(clock, running, 99)
        assert await status(running, camera) == "online"


async def test_idle_camera_is_online_on_pairing_page(rig):
    clock = FakeClock()
    async with rig.camera(1) as camera, rig.daemon(clock=clock) as running:
        await onboarded(running, camera)
        await advance(clock, running, 300)
        (paired,) = (await running.api.get("/api/v1/espcam/paired")).data["cameras"]
        assert paired["status"] == "online"
        await advance(clock, running, 301)
        (paired,) = (await running.api.get("/api/v1/espcam/paired")).data["cameras"]
        assert paired["status"] == "offline"


# Restarts.


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        ({"monotonic": 1060.0}, "online"),
        ({"monotonic": 1200.0}, "idle"),
        ({"monotonic": 1700.0}, "offline"),
        ({"monotonic": 60.0, "boot_id": "boot-2"}, "offline"),
        ({"monotonic": 5000.0, "boot_id": "boot-2"}, "offline"),
    ],
)
async def test_restart_restores_presence_within_boot(rig, later, expected):
    before = FakeClock(monotonic=1000.0)
    async with rig.camera(1) as camera:
        async with rig.daemon(clock=before) as running:
            await onboarded(running, camera)
            seen = (await running.camera(camera.mac))["last_seen"]
            assert seen == "2026-01-22T15:00:00.000000Z"
        passed = timedelta(seconds=later["monotonic"] - 1000 if "boot_id" not in later else 90)
        after = FakeClock(wall=before.wall() + passed, **later)
        async with rig.daemon(clock=after, connected=False) as running:
            shown = await running.camera(camera.mac)
            assert (shown["status"], shown["last_seen"], shown["lastSeen"]) == (expected, seen, seen)
            (paired,) = (await running.api.get("/api/v1/espcam/paired")).data["cameras"]
            assert paired["last_seen"] == seen


async def test_silence_during_downtime_is_reported(rig):
    async with rig.camera(1) as camera:
        async with rig.daemon(clock=FakeClock(monotonic=1000.0)) as running:
            await onboarded(running, camera)
        for _ in range(2):  # the second start must not publish the change again
            async with rig.daemon(clock=FakeClock(monotonic=1700.0), connected=False):
                await eventually(lambda: changes(rig, camera)[-1:] == [("online", "offline")])
        assert changes(rig, camera).count(("online", "offline")) == 1
        assert rig.rows("SELECT state FROM presence") == [("offline",)]


async def test_camera_back_after_reboot_is_online(rig):
    async with rig.camera(1) as camera:
        async with rig.daemon(clock=FakeClock()) as running:
            await onboarded(running, camera)
        async with rig.daemon(clock=FakeClock(boot_id="boot-2", monotonic=30.0)) as running:
            await camera.publish_status()
            await wait_for_status(running, camera, "online")
            await eventually(lambda: running.app.onboarding.worker.metrics.already_onboarded == 1)


# Flapping, floods and writes.


async def test_flapping_camera_is_reported_as_error(rig):
    async with rig.daemon() as running, rig.fleet(2, interval=30) as fleet:
        flapping, steady = fleet.cameras
        await eventually(lambda: len(running.app.cameras.cache) == 2)
        device = running.app.devices.registry.get(flapping.mac)
        columns = {"cameras": "mac, device_id, name, ip_address, firmware_version, registered_at"}
        columns |= dict.fromkeys(("assignments", "onboarding_audit"), "*")
        rows = {table: rig.rows(f"SELECT {names} FROM {table}") for table, names in columns.items()}
        for number in range(1, 8):
            await flapping.power_off()
            await eventually(lambda: device.state == "offline")
            await wait_for_status(running, flapping, "offline" if number < LIMIT else "error")
            flapping.power_on()
            await eventually(lambda: device.state == "online")
            await wait_for_status(running, flapping, "online" if number < LIMIT else "error")
        assert "unstable" in (await running.camera(flapping.mac))["health"]["last_error"]
        await eventually(lambda: running.app.onboarding.worker.metrics.already_onboarded == 7)
        assert await status(running, steady) == "online"
        metrics = (await running.status())["metrics"]
        assert (metrics["attempts"], metrics["success"], metrics["rejected_by_policy"]) == (2, 2, 0)
    for table, before in rows.items():
        assert rig.rows(f"SELECT {columns[table]} FROM {table}") == before
    assert changes(rig, steady) == []
    states = [state for _, state in changes(rig, flapping)]
    assert states.count("error") == 1
    assert states[-1] == "error"  # later changes are damped
    assert rig.rows("SELECT count(*) FROM events WHERE type = 'device.flapping'") == [(1,)]


async def test_sandbox_flapping_camera_is_onboarded_once(rig):
    async with rig.fleet(3, faults=["flapping"]) as fleet, rig.daemon() as running:
        await eventually(lambda: len(running.app.cameras.cache) == 3)
        await eventually(lambda: running.app.onboarding.worker.metrics.already_onboarded >= 2)
        (flapping,) = [camera for camera in fleet.cameras if camera.fault]
        stages = [stage for stage, _ in await running.onboarding_stages(flapping.mac)]
        assert stages.count("paired") == 1
        assert rig.rows("SELECT count(*) FROM cameras") == [(3,)]


async def test_state_change_is_stored_within_seconds(rig):
    clock = FakeClock()
    async with rig.camera(1) as camera, rig.daemon(clock=clock) as running:
        await onboarded(running, camera)
        await advance(clock, running, 3)
        await camera.publish_status("OFFLINE")
        await messages_received(running, 2)
        await advance(clock, running, 3)
        await running.app.resources.database.ping()
        assert rig.rows("SELECT state FROM presence") == [("offline",)]
        assert changes(rig, camera)[-1] == ("online", "offline")


async def test_regular_messages_cost_one_small_write(rig):
    clock = FakeClock()
    async with contextlib.AsyncExitStack() as stack:
        cameras = [await stack.enter_async_context(rig.camera(number)) for number in range(1, 21)]
        running = await stack.enter_async_context(rig.daemon(clock=clock))
        client = await stack.enter_async_context(rig.broker.client())
        for camera in cameras:
            await camera.publish_status(client=client)
        await eventually(lambda: len(running.app.cameras.cache) == 20)
        await advance(clock, running, 61)
        wal = rig.state_dir / "orchestrator.db-wal"
        stored, size = rig.rows("SELECT * FROM presence"), wal.stat().st_size

        for second in range(1, 51):
            for camera in cameras:
                fields = {"rssi_dbm": -40 - second, "uptime_ms": second * 1000, "free_heap_bytes": second}
                await camera.publish_status(client=client, **fields)
            await messages_received(running, 20 + 20 * second)
            await clock.advance(1)
            await running.app.resources.database.ping()
        assert rig.rows("SELECT * FROM presence") == stored
        assert wal.stat().st_size == size
        assert (await running.camera(cameras[7].mac))["health"]["wifi_rssi"] == -90, "the newest value is shown"

        await advance(clock, running, 12)
        assert rig.rows("SELECT count(*), min(seen_monotonic) FROM presence") == [(20, clock.monotonic() - 13)]
        assert wal.stat().st_size - size <= 32 * 1024


async def test_flood_of_macs_never_evicts_camera(rig):
    limits = {"cameras": {"max_devices": 64}}
    async with rig.camera(1) as first, rig.camera(2) as second, rig.daemon(**limits) as running:
        await onboarded(running, first, second)
        async with rig.broker.client() as client:
            for number in range(1000, 4000):
                await rig.announce(number, client=client, ip="203.0.113.5", device_id=f"invented-{number}")
        await eventually(lambda: running.app.cameras.presence.messages["live"] == 3002)
        assert len(list(running.app.devices.registry)) == 64
        assert await running.metric('piorch_status_messages_total{kind="evicted"}') == 3002 - 64
        for camera in (first, second):
            assert await status(running, camera) == "online"
        assert await running.camera(rig.mac(3999)) is not None
        assert await running.camera(rig.mac(1000)) is None
        assert await running.camera("invented-1000") is None
        assert (await running.camera("invented-3999"))["mac_address"] == rig.mac(3999)
        listed = (await running.api.get("/api/v1/cameras")).data
        assert listed["count"] == 64


async def test_last_seen_follows_wall_clock(rig):
    """The Pi boots with a wrong date; after NTP has set the clock, ages stay correct."""
    clock = FakeClock()
    async with rig.camera(1) as camera, rig.daemon(clock=clock) as running:
        await onboarded(running, camera)
        clock.jump_wall(timedelta(days=200))
        await advance(clock, running, 60)
        seen = (await running.camera(camera.mac))["last_seen"]
        assert seen == (clock.wall() - timedelta(seconds=60)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def test_camera_proved_before_claim_is_onboarded(rig):
    """Proof and claim arrive in any order: here the proof is first, e.g. an ARP answer before the broker connects."""
    async with rig.camera(1) as camera, rig.daemon() as running:
        now = running.app.resources.clock.monotonic()
        seen = Sighting(camera.mac, Source.PROBE, now, IPv4Address(camera.address), binds=True)
        running.app.devices.registry.add_sighting(seen, now)
        running.app.cameras.presence.on_message(
            f"camera/status/{camera.mac}", json.dumps({"mac": camera.mac, "ip": camera.address}).encode(), True
        )
        await eventually(lambda: camera.mac in running.app.cameras.cache)
