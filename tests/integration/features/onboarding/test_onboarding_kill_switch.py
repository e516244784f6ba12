"""Kill switch: immediate, durable, and nothing is written after its response."""

import asyncio

import pytest

from tests.support.clock import FakeClock
from tests.support.waiting import HANG_S, eventually

AUTO = "/api/v1/onboarding/auto"


def counters(status):
    return {name: number for name, number in status["metrics"].items() if not name.startswith("last_")}


async def test_disable_stops_all_writes(rig):
    """The camera answers only after onboarding is disabled; all tables are compared before and after."""
    async with rig.camera(1) as camera, rig.daemon(auto_onboard={"verification_timeout_sec": 60}) as running:
        camera.answer_now.clear()
        await camera.publish_status()
        await asyncio.wait_for(camera.request_received.wait(), HANG_S)
        assert running.app.onboarding.worker.is_onboarding(camera.mac)

        async with asyncio.timeout(HANG_S):  # shorter than the camera's timeout of 60 s
            answer = await running.api.post(f"{AUTO}/disable")
        assert answer.status == 200
        assert answer.data == {"enabled": False, "running": False, "message": "Auto-onboarding disabled"}
        at_response = rig.tables()

        camera.answer_now.set()
        await eventually(lambda: camera.answered == 1)
        await eventually(lambda: not running.app.onboarding.worker.is_onboarding(camera.mac))
        await running.app.resources.database.ping()
        assert rig.tables() == at_response
        assert await running.onboarding_stages(camera.mac) == [
            ("discovered", None),
            ("rejected_by_policy", "NOT_ENABLED"),
        ]
        assert (await running.status())["enabled"] is False
        metrics = (await running.status())["metrics"]
        assert (metrics["attempts"], metrics["success"], metrics["rejected_by_policy"]) == (1, 0, 1)
    afterwards = rig.tables()
    for table in ("cameras", "assignments", "containers", "onboarding_audit"):
        assert afterwards[table] == at_response[table]
    # Found devices are published even if nothing is onboarded.
    assert [row for row in afterwards["events"] if row[1] != "device.found"] == at_response["events"]


@pytest.mark.parametrize("after", [0, 1, 5, 11, 23])
async def test_disable_leaves_no_partial_camera(rig, after):
    """Disabled while some cameras are paired, some are verified and some wait: no more are paired, none partially."""
    async with rig.daemon(auto_onboard={"concurrency": 4}) as running, rig.fleet(30) as fleet:
        await eventually(
            lambda: len(running.app.cameras.cache) >= after and running.app.devices.registry.get(fleet.cameras[0].mac)
        )
        assert (await running.api.post(f"{AUTO}/disable")).status == 200
        at_response = rig.tables()
        registered = {camera.mac for camera in running.app.cameras.cache}
        await fleet.wait_until_reported()
        await running.wait_until_processed(rig)
        now = rig.tables()
        for table in ("cameras", "assignments", "containers"):
            assert now[table] == at_response[table]
        assert {camera.mac for camera in running.app.cameras.cache} == registered == {row[0] for row in now["cameras"]}
        for mac, stage in rig.rows("SELECT mac_address, stage FROM onboarding_audit WHERE stage = 'verified'"):
            assert mac in registered, stage
        paired = {row[0] for row in rig.rows("SELECT mac_address FROM onboarding_audit WHERE stage = 'paired'")}
        assert paired == registered == {row[0] for row in now["assignments"]}
        assert running.app.onboarding.worker.waiting == 0
        metrics = (await running.status())["metrics"]
        assert metrics["success"] == len(registered)


async def test_disable_empties_waiting_line(rig):
    clock = FakeClock()
    async with (
        rig.camera(1),
        rig.camera(2) as second,
        rig.daemon(clock=clock, auto_onboard={"burst_size": 1, "max_per_minute": 6}) as running,
    ):
        await rig.announce(1)
        await eventually(lambda: len(running.app.cameras.cache) == 1)
        await second.publish_status()
        await eventually(lambda: running.app.onboarding.worker.waiting == 1)
        await running.api.post(f"{AUTO}/disable")
        assert (await running.status())["waiting"] == 0
        await clock.advance(120)
        await running.wait_until_processed(rig)
        assert (second.requests, len(running.app.cameras.cache)) == (0, 1)


async def test_disable_survives_restart(rig):
    async with rig.daemon() as running:
        assert (await running.status())["enabled"] is True
        await running.api.post(f"{AUTO}/disable")
    async with rig.camera(1) as camera, rig.daemon(auto_onboard={"enabled": True}) as running:
        status = await running.status()
        assert (status["enabled"], status["running"]) == (False, False)
        await camera.publish_status()
        await running.wait_until_processed(rig)
        assert await running.onboarding_stages(camera.mac) == [("rejected_by_policy", "NOT_ENABLED")]
        assert camera.requests == 0


async def test_enable_survives_restart(rig):
    async with rig.daemon(auto_onboard={"enabled": False}) as running:
        assert (await running.status())["enabled"] is False
        answer = await running.api.post(f"{AUTO}/enable")
        assert answer.data == {"enabled": True, "running": True, "message": "Auto-onboarding enabled"}
    async with rig.camera(1) as camera, rig.daemon(auto_onboard={"enabled": False}) as running:
        assert (await running.status())["enabled"] is True
        await camera.publish_status()
        await eventually(lambda: camera.mac in running.app.cameras.cache)


async def test_enable_onboards_present_cameras(rig):
    """The cameras published while onboarding was disabled; their next message may be a minute away."""
    async with (
        rig.daemon(auto_onboard={"enabled": False}) as running,
        rig.camera(1) as one,
        rig.camera(2) as two,
        rig.camera(3) as three,
    ):
        for camera in (one, two, three):
            await camera.publish_status()
        await running.wait_until_processed(rig)
        assert len(running.app.cameras.cache) == 0
        await running.api.post(f"{AUTO}/enable")
        await eventually(lambda: len(running.app.cameras.cache) == 3)
        for camera in (one, two, three):
            stages = [stage for stage, _ in await running.onboarding_stages(camera.mac)]
            assert stages == ["rejected_by_policy", "discovered", "verified", "registered", "paired"]


async def test_enable_ignores_absent_cameras(rig):
    clock = FakeClock()
    async with (
        rig.daemon(clock=clock, auto_onboard={"enabled": False}) as running,
        rig.camera(1) as offline,
        rig.camera(2) as retained,
        rig.camera(3) as present,
    ):
        await offline.publish_status()
        await retained.publish_status(retain=True)
        await eventually(lambda: running.app.devices.registry.get(retained.mac))
        # The daemon was connected when the message was retained, so it received this message as live.
        await clock.advance(700)
        await present.publish_status()
        await running.wait_until_processed(rig)
        await running.api.post(f"{AUTO}/enable")
        await eventually(lambda: present.mac in running.app.cameras.cache)
        await running.wait_until_processed(rig)
        assert (offline.requests, retained.requests, len(running.app.cameras.cache)) == (0, 0, 1)


async def test_enable_with_mode_off_changes_nothing(rig):
    async with rig.daemon(auto_onboard={"mode": "off", "enabled": False}) as running:
        before = rig.tables()
        answer = await running.api.post(f"{AUTO}/enable")
        assert (answer.status, answer.json["code"]) == (400, "ONBOARD_ENABLE_FAILED")
        assert answer.json["error"]["message"] == "auto-onboard mode must be 'dev' to enable"
        assert answer.json["error"]["retryable"] is False
        assert (await running.status())["enabled"] is False
        now = rig.tables()
        for table in before.keys() - {"operator_actions", "sqlite_sequence"}:
            assert now[table] == before[table]
        refused = rig.rows("SELECT action, outcome FROM operator_actions ORDER BY id DESC LIMIT 1")
        assert refused == [("onboarding.enable", "ONBOARD_ENABLE_FAILED")]


async def test_toggle_requests_can_be_repeated(rig):
    """Repeated requests get the same response and leave the same state."""
    async with rig.camera(1) as camera, rig.daemon() as running:
        for _ in range(3):
            assert (await running.api.post(f"{AUTO}/disable")).data["enabled"] is False
        await camera.publish_status()
        await running.wait_until_processed(rig)
        assert camera.requests == 0
        answers = await asyncio.gather(*(running.api.post(f"{AUTO}/enable") for _ in range(5)))
        assert {answer.status for answer in answers} == {200}
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        assert camera.requests == 1
        actions = [row[0] for row in rig.rows("SELECT action FROM operator_actions ORDER BY id")]
        assert actions[-8:] == ["onboarding.disable"] * 3 + ["onboarding.enable"] * 5


async def test_counters_survive_disable_and_restart(rig):
    """Rejections that are not stored yet when onboarding is disabled are counted once."""
    async with rig.daemon(auto_onboard={"deny": [rig.mac(number) for number in range(50)]}) as running:
        async with rig.broker.client() as client:
            for number in range(100):
                await rig.announce(number % 50, client=client)
                await rig.announce(100 + number, ip=None, client=client)
                if number % 25 == 24:
                    await running.api.post(f"{AUTO}/disable")
                    await running.api.post(f"{AUTO}/enable")
        await running.wait_until_processed(rig)
        shown = counters(await running.status())
        assert (shown["failed"], shown["rejected_by_policy"]) != (0, 0)
    async with rig.daemon(connected=False) as running:
        assert counters(await running.status()) == shown


async def test_disable_that_cannot_be_stored_holds_until_restart(rig):
    async with rig.daemon() as running, rig.camera(1) as camera:
        await rig.execute_in_thread(
            "CREATE TRIGGER full BEFORE INSERT ON operator_actions BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
        answer = await running.api.post(f"{AUTO}/disable")
        assert (answer.status, answer.json["code"]) == (500, "DATABASE_ERROR")
        await camera.publish_status()
        await running.wait_until_processed(rig)
        assert (await running.status())["enabled"] is False
        assert (camera.requests, len(running.app.cameras.cache)) == (0, 0)
