"""Placement of onboarded cameras: positions in order, overflow, and one transaction."""

import json

import pytest

from tests.support.clock import FakeClock
from tests.support.waiting import eventually

NINE = range(1, 10)


async def onboard(rig, running, numbers):
    """Onboard cameras one after another."""
    for number in numbers:
        async with rig.camera(number) as camera:
            await camera.publish_status()
            await eventually(lambda: camera.mac in running.app.cameras.cache, what=f"camera {number} is paired")


async def read_positions(running):
    cameras = (await running.api.get("/api/v1/espcam/paired")).data["cameras"]
    return {camera["mac_address"]: (camera["container_id"], camera["position"]) for camera in cameras}


async def test_full_target_overflows(rig):
    target = "550e8400-e29b-41d4-a716-446655440000"
    async with rig.daemon(auto_onboard={"target_container": target}) as running:
        await onboard(rig, running, NINE)
        found = await read_positions(running)
        assert [found[rig.mac(number)] for number in NINE] == [
            *((target, position) for position in (1, 2, 3, 4)),
            *((f"{target}-2", position) for position in (1, 2, 3, 4)),
            (f"{target}-3", 1),
        ]
        assert rig.rows("SELECT id, label FROM containers ORDER BY id") == [
            (target, "Auto-onboarded"),
            (f"{target}-2", "Auto-onboarded (2)"),
            (f"{target}-3", "Auto-onboarded (3)"),
        ]
        for number in NINE:
            *_, paired = await running.onboarding_events(mac=rig.mac(number))
            assert (paired["stage"], paired["container_id"]) == ("paired", found[rig.mac(number)][0])


async def test_overflow_container_uses_target_label(rig):
    async with rig.daemon() as running:
        await rig.execute_in_thread("UPDATE containers SET label = 'North hall'")
        await onboard(rig, running, range(1, 6))
        assert ("auto-onboard-2", "North hall (2)") in rig.rows("SELECT id, label FROM containers")


async def test_free_position_is_used_before_overflow(rig):
    async with rig.daemon() as running:
        await onboard(rig, running, range(1, 6))
        await rig.execute_in_thread(f"DELETE FROM assignments WHERE mac = '{rig.mac(2)}'")
        await onboard(rig, running, (6, 7))
        found = {mac: place for mac, *place in rig.rows("SELECT mac, container_id, position FROM assignments")}
        assert found[rig.mac(6)] == ["auto-onboard", 2]
        assert found[rig.mac(7)] == ["auto-onboard-2", 2]


async def test_positions_continue_after_restart(rig):
    async with rig.daemon() as running:
        await onboard(rig, running, (1, 2, 3))
    async with rig.daemon() as running:
        await onboard(rig, running, (4, 5))
        found = await read_positions(running)
        assert [found[rig.mac(number)] for number in range(1, 6)] == [
            *(("auto-onboard", position) for position in (1, 2, 3, 4)),
            ("auto-onboard-2", 1),
        ]


async def test_longest_target_id_can_overflow(rig):
    target = "t" * 64
    async with rig.daemon(auto_onboard={"target_container": target}) as running:
        await onboard(rig, running, range(1, 6))
        assert (await read_positions(running))[rig.mac(5)] == ("t" * 62 + "-2", 1)


async def test_fifth_camera_fails_if_overflow_is_reject(rig):
    clock = FakeClock()
    async with rig.daemon(clock=clock, auto_onboard={"overflow": "reject"}) as running:
        await onboard(rig, running, range(1, 5))
        async with rig.camera(5) as fifth:
            await fifth.publish_status()
            await eventually(lambda: running.app.onboarding.worker.metrics.failed == 1)
            assert await running.onboarding_stages(fifth.mac) == [("discovered", None), ("failed", "CONTAINER_FULL")]
            assert rig.rows("SELECT id FROM containers") == [("auto-onboard",)]
            assert fifth.mac not in {mac for (mac,) in rig.rows("SELECT mac FROM cameras")}

            await rig.execute_in_thread(f"DELETE FROM assignments WHERE mac = '{rig.mac(3)}'")
            await clock.advance(60)
            await fifth.publish_status()
            await eventually(lambda: fifth.mac in running.app.cameras.cache)
            assert (await read_positions(running))[fifth.mac] == ("auto-onboard", 3)


async def test_onboarding_fails_until_deleted_target_is_restored(rig):
    clock = FakeClock()
    async with rig.daemon(clock=clock) as running, rig.camera(1) as camera:
        await rig.execute_in_thread("DELETE FROM containers")
        await camera.publish_status()
        await eventually(lambda: running.app.onboarding.worker.metrics.failed == 1)
        assert await running.onboarding_stages(camera.mac) == [("discovered", None), ("failed", "CONTAINER_UNKNOWN")]
        assert rig.rows("SELECT * FROM containers") == rig.rows("SELECT * FROM cameras") == []

        await rig.execute_in_thread(
            "INSERT INTO containers (id, created_at, updated_at) VALUES ('auto-onboard', '', '')"
        )
        await clock.advance(60)
        await camera.publish_status()
        await eventually(lambda: camera.mac in running.app.cameras.cache)


async def test_deleted_target_is_created_at_start(rig):
    async with rig.daemon() as running:
        await rig.execute_in_thread("DELETE FROM containers")
    async with rig.daemon() as running:
        await onboard(rig, running, (1,))


@pytest.mark.parametrize(
    "write",
    [
        "INSERT ON cameras",
        "INSERT ON assignments",
        "INSERT ON onboarding_audit WHEN NEW.stage = 'verified'",
        "INSERT ON onboarding_audit WHEN NEW.stage = 'registered'",
        "INSERT ON onboarding_audit WHEN NEW.stage = 'paired'",
        "UPDATE ON onboarding_state WHEN NEW.success > OLD.success",
        "INSERT ON events WHEN NEW.type = 'camera.onboarded'",
    ],
)
async def test_registration_is_one_transaction(rig, write):
    """The database refuses one write: the others are rolled back, and the camera is onboarded later."""
    clock = FakeClock()
    async with rig.daemon(clock=clock) as running, rig.camera(1) as camera, rig.camera(2) as other:
        operation, condition = (write.split(" WHEN ") + ["1"])[:2]
        await rig.execute_in_thread(
            f"CREATE TRIGGER fault BEFORE {operation} WHEN {condition} AND (SELECT count(*) FROM onboarding_audit WHERE"
            f" mac_address = '{camera.mac}') > 0 BEGIN SELECT RAISE(ABORT, 'refused by the test'); END"
        )
        await camera.publish_status()
        await eventually(lambda: camera.answered == 1)
        await eventually(lambda: not running.app.onboarding.worker.is_onboarding(camera.mac))

        async def has_failed():
            return [stage for stage, _ in await running.onboarding_stages(camera.mac)] == ["discovered", "failed"]

        await eventually(has_failed)
        for table in ("cameras", "assignments"):
            assert rig.rows(f"SELECT * FROM {table}") == []
        assert rig.rows("SELECT * FROM events WHERE type = 'camera.onboarded'") == []
        assert (await running.status())["metrics"]["success"] == 0
        assert camera.mac not in running.app.cameras.cache

        await rig.execute_in_thread("DROP TRIGGER fault")
        await other.publish_status()
        await eventually(lambda: other.mac in running.app.cameras.cache)
        await clock.advance(60)
        await camera.publish_status()
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        assert (await read_positions(running)) == {other.mac: ("auto-onboard", 1), camera.mac: ("auto-onboard", 2)}
        payloads = [
            json.loads(row[0]) for row in rig.rows("SELECT payload FROM events WHERE type = 'camera.onboarded'")
        ]
        assert [payload["mac"] for payload in payloads] == [other.mac, camera.mac]
