"""Onboarding events and counters: pages, filters, cleanup, reset and restart."""

from datetime import UTC, datetime, timedelta

import pytest

from pi_orchestrator.app.retention import INTERVAL_S, START_DELAY_S
from pi_orchestrator.features.onboarding.rejections import FLOOD_BURST
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

AUTO = "/api/v1/onboarding/auto"
START = datetime(2026, 1, 22, 15, tzinfo=UTC)
OUTSIDE_SUBNET = "203.0.113.5"
"""An address for documentation (RFC 5737): the policy rejects a camera with it as SUBNET_NOT_ALLOWED."""


async def reject_many(rig, running, count, *, first=100):
    async with rig.broker.client() as client:
        for number in range(first, first + count):
            await rig.announce(number, ip=OUTSIDE_SUBNET, client=client)
    last = rig.mac(first + count - 1)

    async def last_stages():
        return await running.onboarding_stages(last)

    await eventually(last_stages, what="the last rejection is stored")


async def page(running, path="events", **query):
    answer = await running.api.get(f"{AUTO}/{path}", params=query)
    assert answer.status == 200
    return answer.data


async def test_event_pages_join_without_gap(rig):
    async with rig.daemon() as running:
        await reject_many(rig, running, 123)
        first = await page(running)
        assert len(first["events"]) == 50
        assert first["pagination"] == {"total": 123, "limit": 50, "offset": 0, "has_more": True}
        pages = [await page(running, limit=40, offset=offset) for offset in (0, 40, 80, 120)]
        assert [len(page_["events"]) for page_ in pages] == [40, 40, 40, 3]
        assert [page_["pagination"]["has_more"] for page_ in pages] == [True, True, True, False]
        ids = [event["id"] for page_ in pages for event in page_["events"]]
        assert ids == sorted(ids, reverse=True)
        assert len(set(ids)) == 123
        last_page = await page(running, limit=23, offset=100)
        assert (len(last_page["events"]), last_page["pagination"]["has_more"]) == (23, False)
        beyond = await page(running, offset=123)
        assert beyond["events"] == []
        assert beyond["pagination"] == {"total": 123, "limit": 50, "offset": 123, "has_more": False}


async def test_events_filtered_by_mac_stage_and_time(rig):
    clock = FakeClock(wall=START)
    async with rig.camera(1) as camera, rig.daemon(clock=clock) as running:
        await reject_many(rig, running, 2)
        await clock.advance(60)
        await camera.publish_status()
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        await clock.advance(60)
        await reject_many(rig, running, 1, first=200)

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
        of_camera = await page(running, f"events/{camera.mac}", limit=3, stage="verified")
        assert of_camera["pagination"] == {"total": 1, "limit": 3, "offset": 0, "has_more": False}


async def test_event_has_documented_fields(rig):
    clock = FakeClock(wall=START)
    async with rig.camera(1) as camera, rig.daemon(clock=clock) as running:
        await camera.publish_status(firmware_version="2.3.0")
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        await rig.announce(2, ip=OUTSIDE_SUBNET)
        await running.wait_until_processed(rig)
        discovered, verified, registered, paired, rejected, _sentinel = await running.onboarding_events()
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
                "mac_address": rig.mac(2),
                "stage": "rejected_by_policy",
                "outcome": "failure",
                "error_code": "SUBNET_NOT_ALLOWED",
                "ip_address": OUTSIDE_SUBNET,
            }.items()
        )
        assert not rejected.keys() & {"container_id", "duration_ms", "device_id", "firmware_version"}


@pytest.mark.parametrize(
    ("query", "fields"),
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
async def test_invalid_filter_error_lists_every_invalid_field(rig, query, fields):
    async with rig.daemon(connected=False) as running:
        answer = await running.api.get(f"{AUTO}/events", params=query)
        assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED")
        assert all(field in answer.json["error"]["details"] for field in fields)


async def test_cleanup_deletes_only_older_events(rig):
    clock = FakeClock(wall=START)
    async with rig.daemon(clock=clock) as running:
        for number, age in enumerate((365, 100, 90, 89, 0)):
            clock.jump_wall(START - timedelta(days=age) - clock.wall())
            await reject_many(rig, running, 1, first=number)
        clock.jump_wall(timedelta(seconds=1))  # the event that was 90 days old is now older than the limit

        async def clean_up(**query):
            return await running.admin.post(f"{AUTO}/events/cleanup", params=query)

        answer = await clean_up()
        assert answer.status == 200
        assert answer.data["deleted_count"] == 3
        assert "3" in answer.data["message"]
        assert [row["mac_address"] for row in await running.onboarding_events()] == [rig.mac(3), rig.mac(4)]
        assert (await clean_up()).data["deleted_count"] == 0
        assert (await clean_up(days=1)).data["deleted_count"] == 1
        assert [row["mac_address"] for row in await running.onboarding_events()] == [rig.mac(4)]
        for days in (0, -1, 366, "all"):
            answer = await clean_up(days=days)
            assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED")
            assert "days" in answer.json["error"]["details"]
        assert len(await running.onboarding_events()) == 1


async def test_cleanup_needs_a_key(rig):
    async with rig.daemon() as running:
        await reject_many(rig, running, 1)
        answer = await running.api.post(f"{AUTO}/events/cleanup", params={"days": 1})
        assert (answer.status, answer.json["code"]) == (401, "UNAUTHORIZED")
        assert len(await running.onboarding_events()) == 1


async def test_retention_needs_a_trusted_clock(rig):
    """A Pi whose clock is wrong after boot must not delete events because of that clock."""
    clock = FakeClock(wall=START)
    async with rig.daemon(clock=clock, storage={"retention_days": 30}) as running:
        await reject_many(rig, running, 1)
        clock.is_trusted = False
        clock.jump_wall(timedelta(days=3 * 365))
        await clock.advance(START_DELAY_S + 1)
        await running.app.resources.database.ping()
        assert len(await running.onboarding_events()) == 1
        clock.is_trusted = True
        await clock.advance(INTERVAL_S + 1)
        await eventually(lambda: not rig.rows("SELECT * FROM onboarding_audit"))


async def test_ids_are_not_reused_after_cleanup(rig):
    clock = FakeClock(wall=START)
    async with rig.daemon(clock=clock) as running:
        await reject_many(rig, running, 3)
        newest = (await running.onboarding_events())[-1]["id"]
        clock.jump_wall(timedelta(days=91))
        assert (await running.admin.post(f"{AUTO}/events/cleanup")).data["deleted_count"] == 3
        await reject_many(rig, running, 1, first=200)
        assert (await running.onboarding_events())[0]["id"] > newest


async def test_counters_follow_outcomes(rig):
    clock = FakeClock(wall=START)
    async with rig.camera(1) as camera, rig.daemon(clock=clock) as running:
        zeros = dict.fromkeys(("attempts", "success", "failed", "rejected_by_policy", "already_onboarded"), 0)
        assert (await running.status())["metrics"] == zeros
        await camera.publish_status()
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        await clock.advance(30)
        await rig.announce(2)  # no server at this address
        await eventually(lambda: running.app.onboarding.worker.metrics.failed == 1)
        await rig.announce(3, ip=OUTSIDE_SUBNET)
        await eventually(lambda: running.app.onboarding.worker.metrics.rejected_by_policy == 1)
        await camera.publish_status("OFFLINE")
        await camera.publish_status()
        await eventually(lambda: running.app.onboarding.worker.metrics.already_onboarded == 1)
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
    async with rig.daemon(clock=FakeClock(wall=START)) as running:
        assert (await running.status())["metrics"] == shown["metrics"]


async def test_reset_clears_counters_and_keeps_events(rig):
    async with rig.camera(1) as camera, rig.daemon() as running:
        await camera.publish_status()
        await reject_many(rig, running, 2)
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        before = await running.onboarding_events()
        answer = await running.api.post(f"{AUTO}/metrics/reset")
        assert answer.status == 200
        assert answer.data["message"]
        zeros = dict.fromkeys(("attempts", "success", "failed", "rejected_by_policy", "already_onboarded"), 0)
        assert (await running.status())["metrics"] == zeros
        assert await running.onboarding_events() == before
    async with rig.daemon(connected=False) as running:
        assert (await running.status())["metrics"] == zeros


async def test_flood_of_rejections_is_counted_and_limited_in_events(rig):
    clock = FakeClock()
    count = FLOOD_BURST + 500
    async with rig.daemon(clock=clock) as running:
        async with rig.broker.client() as client:
            for number in range(count):
                await rig.announce(number, ip=OUTSIDE_SUBNET, client=client)
        await eventually(lambda: running.app.onboarding.worker.metrics.rejected_by_policy == count)
        await clock.advance(61)  # the flood limit refills by one event per second
        await rig.announce(count, ip=OUTSIDE_SUBNET)
        await eventually(lambda: running.app.onboarding.worker.metrics.rejected_by_policy == count + 1)
        await eventually(lambda: rig.rows(f"SELECT 1 FROM onboarding_audit WHERE mac_address = '{rig.mac(count)}'"))
        assert rig.rows("SELECT count(*) FROM onboarding_audit") == [(FLOOD_BURST + 1,)]
