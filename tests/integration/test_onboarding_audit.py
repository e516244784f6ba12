"""The audit trail and the counters: pages, filters, clean-up, reset, and what survives a restart."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.clock import FakeClock
from tests.support.waiting import eventually

AUTO = "/api/v1/onboarding/auto"
START = datetime(2026, 1, 22, 15, tzinfo=UTC)


async def refuse_many(world, running, count, *, first=100):
    async with world.broker.client() as client:
        for number in range(first, first + count):
            await world.announce(number, ip="203.0.113.5", client=client)
    last = world.mac(first + count - 1)

    async def there():
        return await running.trail(last)

    await eventually(there, what="the last refusal is in the audit")


async def page(running, path="events", **query):
    answer = await running.api.get(f"{AUTO}/{path}", params=query)
    assert answer.status == 200
    return answer.data


async def test_pages_are_newest_first_and_fit_together_without_gap_or_overlap(world):
    async with world.daemon() as running:
        await refuse_many(world, running, 123)
        first = await page(running)
        assert len(first["events"]) == 50
        assert first["pagination"] == {"total": 123, "limit": 50, "offset": 0, "has_more": True}
        pages = [await page(running, limit=40, offset=offset) for offset in (0, 40, 80, 120)]
        assert [len(one["events"]) for one in pages] == [40, 40, 40, 3]
        assert [one["pagination"]["has_more"] for one in pages] == [True, True, True, False]
        ids = [event["id"] for one in pages for event in one["events"]]
        assert ids == sorted(ids, reverse=True)
        assert len(set(ids)) == 123
        edge = await page(running, limit=23, offset=100)
        assert (len(edge["events"]), edge["pagination"]["has_more"]) == (23, False)
        beyond = await page(running, offset=123)
        assert beyond["events"] == []
        assert beyond["pagination"] == {"total": 123, "limit": 50, "offset": 123, "has_more": False}


async def test_the_trail_can_be_filtered_by_camera_stage_and_time_and_by_all_at_once(world):
    clock = FakeClock(wall=START)
    async with world.camera(1) as camera, world.daemon(clock=clock) as running:
        await refuse_many(world, running, 2)
        await clock.advance(60)
        await camera.say()
        await eventually(lambda: camera.mac in running.services.roster)
        await clock.advance(60)
        await refuse_many(world, running, 1, first=200)

        assert (await page(running))["pagination"]["total"] == 7
        for spelling in (camera.mac, camera.mac.lower(), camera.mac.replace(":", "-"), camera.mac.replace(":", "")):
            assert (await page(running, mac=spelling))["pagination"]["total"] == 4
            assert (await page(running, f"events/{spelling.replace(':', '%3A')}"))["pagination"]["total"] == 4
        assert (await page(running, mac="02:00:00:00:00:01"))["events"] == []
        for stage, count in {
            **dict.fromkeys(("discovered", "verified", "registered", "paired"), 1),
            "rejected_by_policy": 3,
            "failed": 0,
        }.items():
            found = await page(running, stage=stage)
            assert {event["stage"] for event in found["events"]} <= {stage}
            assert found["pagination"]["total"] == count
        for since, count in {
            "2026-01-22T15:00:00Z": 7,
            "2026-01-22T15:01:00Z": 5,
            "2026-01-22T16:01:00+01:00": 5,
            "2026-01-22T15:01:00.000001Z": 1,
            "2026-01-22T15:02:00Z": 1,
            "2026-01-22T15:02:01Z": 0,
            "2026-01-22": 7,
            "2026-01-23": 0,
        }.items():
            assert (await page(running, since=since))["pagination"]["total"] == count, since
        both = await page(running, mac=camera.mac, stage="paired", since="2026-01-22T15:01:00Z", limit=1)
        assert [event["stage"] for event in both["events"]] == ["paired"]
        assert both["pagination"] == {"total": 1, "limit": 1, "offset": 0, "has_more": False}
        of_one = await page(running, f"events/{camera.mac}", limit=3, stage="verified")
        assert of_one["pagination"] == {"total": 1, "limit": 3, "offset": 0, "has_more": False}


async def test_a_row_holds_what_the_seed_document_names(world):
    clock = FakeClock(wall=START)
    async with world.camera(1) as camera, world.daemon(clock=clock) as running:
        await camera.say(firmware_version="2.3.0")
        await eventually(lambda: camera.mac in running.services.roster)
        await world.announce(2, ip="203.0.113.5")
        await running.considered(world)
        discovered, verified, registered, paired, rejected, _ = await running.audit()
        common = {
            "mac_address": camera.mac,
            "outcome": "success",
            "device_id": camera.device_id,
            "ip_address": camera.address,
            "timestamp": "2026-01-22T15:00:00.000000Z",
        }
        assert discovered == common | {"id": discovered["id"], "stage": "discovered", "firmware_version": "2.3.0"}
        answered = {"firmware_version": "2.4.1", "duration_ms": 0}
        assert verified == common | answered | {"id": verified["id"], "stage": "verified"}
        assert registered == common | answered | {"id": registered["id"], "stage": "registered"}
        assert paired == common | answered | {"id": paired["id"], "stage": "paired", "container_id": "auto-onboard"}
        assert rejected["error_message"]
        assert (
            rejected.items()
            >= {
                "mac_address": world.mac(2),
                "stage": "rejected_by_policy",
                "outcome": "failure",
                "error_code": "SUBNET_NOT_ALLOWED",
                "ip_address": "203.0.113.5",
            }.items()
        )
        assert not rejected.keys() & {"container_id", "duration_ms", "device_id", "firmware_version"}


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"limit": 0}, ["limit"]),
        ({"limit": 101}, ["limit"]),
        ({"limit": "many"}, ["limit"]),
        ({"offset": -1}, ["offset"]),
        ({"mac": "nonsense"}, ["mac"]),
        ({"mac": "FF:FF:FF:FF:FF:FF"}, ["mac"]),
        ({"stage": "lost"}, ["stage"]),
        ({"since": "yesterday"}, ["since"]),
        ({"since": "2026-02-30"}, ["since"]),
        (
            {"limit": 0, "offset": -1, "mac": "x", "stage": "y", "since": "z"},
            ["limit", "offset", "mac", "stage", "since"],
        ),
    ],
)
async def test_a_bad_filter_is_refused_and_every_bad_field_is_named(world, query, named):
    async with world.daemon(connected=False) as running:
        answer = await running.api.get(f"{AUTO}/events", params=query)
        assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED")
        assert all(name in answer.json["error"]["details"] for name in named)


async def test_clean_up_deletes_rows_older_than_so_many_days_and_no_others(world):
    clock = FakeClock(wall=START)
    async with world.daemon(clock=clock) as running:
        for number, age in enumerate((365, 100, 90, 89, 0)):
            clock.jump_wall(START - timedelta(days=age) - clock.wall())
            await refuse_many(world, running, 1, first=number)
        clock.jump_wall(timedelta(seconds=1))

        async def clean(**query):
            return await running.admin.post(f"{AUTO}/events/cleanup", params=query)

        answer = await clean()
        assert answer.status == 200
        assert answer.data["deleted_count"] == 3
        assert "3" in answer.data["message"]
        assert [row["mac_address"] for row in await running.audit()] == [world.mac(3), world.mac(4)]
        assert (await clean()).data["deleted_count"] == 0
        assert (await clean(days=1)).data["deleted_count"] == 1
        assert [row["mac_address"] for row in await running.audit()] == [world.mac(4)]
        for days in (0, -1, 366, "all"):
            answer = await clean(days=days)
            assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED")
            assert "days" in answer.json["error"]["details"]
        assert len(await running.audit()) == 1


async def test_clean_up_destroys_data_and_so_needs_a_key(world):
    async with world.daemon() as running:
        await refuse_many(world, running, 1)
        answer = await running.api.post(f"{AUTO}/events/cleanup", params={"days": 1})
        assert (answer.status, answer.json["code"]) == (401, "UNAUTHORIZED")
        assert len(await running.audit()) == 1


async def test_old_rows_go_by_themselves_but_only_while_the_clock_can_be_trusted(world):
    """A Pi that boots in the past and jumps must not throw its record away on the word of a clock nobody has set."""
    clock = FakeClock(wall=START)
    async with world.daemon(clock=clock, storage={"retention_days": 30}) as running:
        await refuse_many(world, running, 1)
        clock.is_trusted = False
        clock.jump_wall(timedelta(days=3 * 365))
        await clock.advance(61)
        await running.services.database.ping()
        assert len(await running.audit()) == 1
        clock.is_trusted = True
        await clock.advance(3601)
        await eventually(lambda: not world.rows("SELECT * FROM onboarding_audit"))


async def test_an_id_is_never_given_again_after_a_clean_up(world):
    clock = FakeClock(wall=START)
    async with world.daemon(clock=clock) as running:
        await refuse_many(world, running, 3)
        newest = (await running.audit())[-1]["id"]
        clock.jump_wall(timedelta(days=91))
        assert (await running.admin.post(f"{AUTO}/events/cleanup")).data["deleted_count"] == 3
        await refuse_many(world, running, 1, first=200)
        assert (await running.audit())[0]["id"] > newest


async def test_the_counters_tell_what_happened_and_when(world):
    clock = FakeClock(wall=START)
    async with world.camera(1) as camera, world.daemon(clock=clock) as running:
        zeros = dict.fromkeys(("attempts", "success", "failed", "rejected_by_policy", "already_onboarded"), 0)
        assert (await running.status())["metrics"] == zeros
        await camera.say()
        await eventually(lambda: camera.mac in running.services.roster)
        await clock.advance(30)
        await world.announce(2)  # nothing listens there
        await eventually(lambda: running.services.onboarding.metrics.failed == 1)
        await world.announce(3, ip="203.0.113.5")
        await eventually(lambda: running.services.onboarding.metrics.rejected_by_policy == 1)
        await camera.say("OFFLINE")
        await camera.say()
        await eventually(lambda: running.services.onboarding.metrics.already_onboarded == 1)
        assert (await running.status())["metrics"] == {
            "attempts": 2,
            "success": 1,
            "failed": 1,
            "rejected_by_policy": 1,
            "already_onboarded": 1,
            "last_success_at": "2026-01-22T15:00:00.000000Z",
            "last_failure_at": "2026-01-22T15:00:30.000000Z",
        }
        for outcome, number in {"attempts": 2, "success": 1, "failed": 1, "rejected_by_policy": 1}.items():
            assert await running.metric(f'piorch_onboarding_total{{outcome="{outcome}"}}') == number
        shown = await running.status()
    async with world.daemon(clock=FakeClock(wall=START)) as running:
        assert (await running.status())["metrics"] == shown["metrics"]


async def test_reset_sets_every_counter_to_zero_and_leaves_the_trail_alone(world):
    async with world.camera(1) as camera, world.daemon() as running:
        await camera.say()
        await refuse_many(world, running, 2)
        await eventually(lambda: camera.mac in running.services.roster)
        rows = await running.audit()
        answer = await running.api.post(f"{AUTO}/metrics/reset")
        assert answer.status == 200
        assert answer.data["message"]
        zeros = dict.fromkeys(("attempts", "success", "failed", "rejected_by_policy", "already_onboarded"), 0)
        assert (await running.status())["metrics"] == zeros
        assert await running.audit() == rows
    async with world.daemon(connected=False) as running:
        assert (await running.status())["metrics"] == zeros


async def test_a_flood_of_invented_cameras_is_counted_in_full_and_written_within_bounds(world):
    clock = FakeClock()
    count = 1500
    async with world.daemon(clock=clock) as running:
        async with world.broker.client() as client:
            for number in range(count):
                await world.announce(number, ip="203.0.113.5", client=client)
        await eventually(lambda: running.services.onboarding.metrics.rejected_by_policy == count)
        await clock.advance(61)
        await world.announce(count, ip="203.0.113.5")
        await eventually(lambda: running.services.onboarding.metrics.rejected_by_policy == count + 1)
        await eventually(lambda: world.rows(f"SELECT 1 FROM onboarding_audit WHERE mac_address = '{world.mac(count)}'"))
        assert world.rows("SELECT count(*) FROM onboarding_audit") == [(1001,)]
