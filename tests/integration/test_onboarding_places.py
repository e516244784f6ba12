"""Where a camera is put: positions in order, what happens when they run out, and all of it in one transaction."""

import json

import pytest

from tests.support.clock import FakeClock
from tests.support.waiting import eventually

NINE = range(1, 10)


async def onboard(world, running, numbers):
    """One after another, so that each finds what the one before has left."""
    for number in numbers:
        async with world.camera(number) as camera:
            await camera.say()
            await eventually(lambda: camera.mac in running.services.roster, what=f"camera {number} is paired")


async def places(running):
    cameras = (await running.api.get("/api/v1/espcam/paired")).data["cameras"]
    return {camera["mac_address"]: (camera["container_id"], camera["position"]) for camera in cameras}


async def test_positions_are_given_in_order_and_further_containers_are_made_for_a_full_target(world):
    target = "550e8400-e29b-41d4-a716-446655440000"
    async with world.daemon(auto_onboard={"target_container": target}) as running:
        await onboard(world, running, NINE)
        found = await places(running)
        assert [found[world.mac(number)] for number in NINE] == [
            *((target, position) for position in (1, 2, 3, 4)),
            *((f"{target}-2", position) for position in (1, 2, 3, 4)),
            (f"{target}-3", 1),
        ]
        assert world.rows("SELECT id, label FROM containers ORDER BY id") == [
            (target, "Auto-onboarded"),
            (f"{target}-2", "Auto-onboarded (2)"),
            (f"{target}-3", "Auto-onboarded (3)"),
        ]
        for number in NINE:
            *_, paired = await running.audit(mac=world.mac(number))
            assert (paired["stage"], paired["container_id"]) == ("paired", found[world.mac(number)][0])


async def test_a_further_container_is_named_after_what_the_target_is_called(world):
    async with world.daemon() as running:
        await world.sabotage("UPDATE containers SET label = 'North hall'")
        await onboard(world, running, range(1, 6))
        assert ("auto-onboard-2", "North hall (2)") in world.rows("SELECT id, label FROM containers")


async def test_a_position_that_became_free_is_given_again_before_a_further_container(world):
    async with world.daemon() as running:
        await onboard(world, running, range(1, 6))
        await world.sabotage(f"DELETE FROM assignments WHERE mac = '{world.mac(2)}'")
        await onboard(world, running, (6, 7))
        found = {mac: place for mac, *place in world.rows("SELECT mac, container_id, position FROM assignments")}
        assert found[world.mac(6)] == ["auto-onboard", 2]
        assert found[world.mac(7)] == ["auto-onboard-2", 2]


async def test_places_go_on_where_they_were_after_a_restart(world):
    async with world.daemon() as running:
        await onboard(world, running, (1, 2, 3))
    async with world.daemon() as running:
        await onboard(world, running, (4, 5))
        found = await places(running)
        assert [found[world.mac(number)] for number in range(1, 6)] == [
            *(("auto-onboard", position) for position in (1, 2, 3, 4)),
            ("auto-onboard-2", 1),
        ]


async def test_a_longest_possible_target_id_still_has_room_for_further_ones(world):
    target = "t" * 64
    async with world.daemon(auto_onboard={"target_container": target}) as running:
        await onboard(world, running, range(1, 6))
        assert (await places(running))[world.mac(5)] == ("t" * 62 + "-2", 1)


async def test_with_overflow_reject_the_fifth_camera_fails_with_container_full(world):
    clock = FakeClock()
    async with world.daemon(clock=clock, auto_onboard={"overflow": "reject"}) as running:
        await onboard(world, running, range(1, 5))
        async with world.camera(5) as fifth:
            await fifth.say()
            await eventually(lambda: running.services.onboarding.metrics.failed == 1)
            assert await running.trail(fifth.mac) == [("discovered", None), ("failed", "CONTAINER_FULL")]
            assert world.rows("SELECT id FROM containers") == [("auto-onboard",)]
            assert fifth.mac not in {mac for (mac,) in world.rows("SELECT mac FROM cameras")}

            await world.sabotage(f"DELETE FROM assignments WHERE mac = '{world.mac(3)}'")
            await clock.advance(60)
            await fifth.say()
            await eventually(lambda: fifth.mac in running.services.roster)
            assert (await places(running))[fifth.mac] == ("auto-onboard", 3)


async def test_a_target_that_was_deleted_is_container_unknown_until_it_is_back(world):
    clock = FakeClock()
    async with world.daemon(clock=clock) as running, world.camera(1) as camera:
        await world.sabotage("DELETE FROM containers")
        await camera.say()
        await eventually(lambda: running.services.onboarding.metrics.failed == 1)
        assert await running.trail(camera.mac) == [("discovered", None), ("failed", "CONTAINER_UNKNOWN")]
        assert world.rows("SELECT * FROM containers") == world.rows("SELECT * FROM cameras") == []

        await world.sabotage("INSERT INTO containers (id, created_at, updated_at) VALUES ('auto-onboard', '', '')")
        await clock.advance(60)
        await camera.say()
        await eventually(lambda: camera.mac in running.services.roster)


async def test_a_target_that_was_deleted_is_made_again_at_the_next_start(world):
    async with world.daemon() as running:
        await world.sabotage("DELETE FROM containers")
    async with world.daemon() as running:
        await onboard(world, running, (1,))


@pytest.mark.parametrize(
    "blow",
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
async def test_registering_pairing_and_their_rows_are_one_transaction(world, blow):
    """The database refuses one write in the middle: none of the others stands, and the camera gets its next chance."""
    clock = FakeClock()
    async with world.daemon(clock=clock) as running, world.camera(1) as camera, world.camera(2) as other:
        condition, when = (blow.split(" WHEN ") + ["1"])[:2]
        await world.sabotage(
            f"CREATE TRIGGER blow BEFORE {condition} WHEN {when} AND (SELECT count(*) FROM onboarding_audit WHERE"
            f" mac_address = '{camera.mac}') > 0 BEGIN SELECT RAISE(ABORT, 'struck by the test'); END"
        )
        await camera.say()
        await eventually(lambda: camera.answered == 1)
        await eventually(lambda: not running.services.onboarding.is_onboarding(camera.mac))

        async def told():
            return [stage for stage, _ in await running.trail(camera.mac)] == ["discovered", "failed"]

        await eventually(told)
        for table in ("cameras", "assignments"):
            assert world.rows(f"SELECT * FROM {table}") == []
        assert world.rows("SELECT * FROM events WHERE type = 'camera.onboarded'") == []
        assert (await running.status())["metrics"]["success"] == 0
        assert camera.mac not in running.services.roster

        await world.sabotage("DROP TRIGGER blow")
        await other.say()
        await eventually(lambda: other.mac in running.services.roster)
        await clock.advance(60)
        await camera.say()
        await eventually(lambda: camera.mac in running.services.roster)
        assert (await places(running)) == {other.mac: ("auto-onboard", 1), camera.mac: ("auto-onboard", 2)}
        payloads = [
            json.loads(row[0]) for row in world.rows("SELECT payload FROM events WHERE type = 'camera.onboarded'")
        ]
        assert [payload["mac"] for payload in payloads] == [other.mac, camera.mac]
