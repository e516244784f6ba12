"""Onboarding attempts: repeats, retries after failures, isolated errors, and a quick stop."""

import time
from ipaddress import IPv4Address

import pytest

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.sighting import Sighting, Source
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

PAIRED = ["discovered", "verified", "registered", "paired"]


async def test_return_of_registered_camera_is_counted_once(rig):
    async with rig.camera(1) as camera, rig.daemon() as running:
        await camera.publish_status()
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        rows = {table: rig.rows(f"SELECT * FROM {table}") for table in ("cameras", "assignments", "onboarding_audit")}
        for appearance in (1, 2, 3):
            await camera.publish_status("OFFLINE")
            for _ in range(3):
                await camera.publish_status()
            await running.wait_until_processed(rig)
            assert running.app.onboarding.worker.metrics.already_onboarded == appearance
        await running.wait_until_processed(rig)
        metrics = (await running.status())["metrics"]
        assert (metrics["already_onboarded"], metrics["attempts"], metrics["success"]) == (3, 1, 1)
        assert camera.requests == 1
        for table in ("cameras", "assignments"):
            assert rig.rows(f"SELECT * FROM {table}") == rows[table]
        assert [stage for stage, _ in await running.onboarding_stages(camera.mac)] == PAIRED


async def test_registered_camera_survives_restart(rig):
    async with rig.camera(1) as camera:
        async with rig.daemon() as running:
            await camera.publish_status()
            await eventually(lambda: camera.mac in running.app.cameras.cache)
            await camera.publish_status("OFFLINE")
            await eventually(lambda: running.app.devices.registry.get(camera.mac).state == "offline")
        async with rig.daemon() as running:
            await camera.publish_status()
            await eventually(lambda: running.app.onboarding.worker.metrics.already_onboarded == 1)
            await running.wait_until_processed(rig)
            assert camera.requests == 1
            assert [stage for stage, _ in await running.onboarding_stages(camera.mac)] == PAIRED
            assert rig.rows("SELECT count(*) FROM cameras") == [(1,)]


async def test_repeated_messages_start_one_verification(rig):
    async with rig.camera(1) as camera, rig.daemon() as running:
        camera.answer_now.clear()
        for _ in range(20):
            await camera.publish_status()
        await running.wait_until_processed(rig)
        assert camera.requests == 1
        camera.answer_now.set()
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        await running.wait_until_processed(rig)
        assert camera.requests == 1
        assert [stage for stage, _ in await running.onboarding_stages(camera.mac)] == PAIRED


async def test_camera_status_follows_onboarding(rig):
    async with rig.camera(1) as camera, rig.daemon(auto_onboard={"enabled": False}) as running:
        camera.answer_now.clear()
        await camera.publish_status()
        await running.wait_until_processed(rig)
        assert (await running.camera(camera.mac))["status"] == "discovered"
        await running.api.post("/api/v1/onboarding/auto/enable")
        await eventually(lambda: camera.requests == 1)
        assert (await running.camera(camera.mac))["status"] == "pairing"
        camera.answer_now.set()
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        shown = await running.camera(camera.mac)
        assert (shown["status"], shown["container_id"], shown["position"]) == ("online", "auto-onboard", 1)


async def test_failed_camera_is_retried_later(rig):
    clock = FakeClock()
    async with rig.daemon(clock=clock) as running:
        await rig.announce(1)  # its web server is not up yet
        await eventually(lambda: running.app.onboarding.worker.metrics.failed == 1)
        async with rig.camera(1) as camera:
            await camera.publish_status()
            await running.wait_until_processed(rig)
            assert camera.requests == 0, "not immediately: a failing camera must not use up the tokens of the others"
            await clock.advance(5.1)
            await camera.publish_status()
            await eventually(lambda: camera.mac in running.app.cameras.cache)
            assert await running.onboarding_stages(camera.mac) == [
                ("discovered", None),
                ("failed", "VERIFY_UNREACHABLE"),
                *((stage, None) for stage in PAIRED),
            ]


async def test_failing_camera_is_retried_less_often(rig):
    """A camera reports every 5 s for half an hour and never answers."""
    clock = FakeClock()
    async with rig.daemon(clock=clock) as running:
        worker = running.app.onboarding.worker
        async with rig.broker.client() as client:
            for count in range(1, 361):
                await rig.announce(1, client=client)
                await eventually(lambda count=count: running.app.cameras.presence.messages["live"] == count)
                await eventually(lambda: not worker.is_onboarding(rig.mac(1)))
                await clock.advance(5)
        assert 8 <= worker.metrics.attempts <= 40
        assert worker.metrics.failed == worker.metrics.attempts


async def test_unexpected_error_affects_one_attempt(rig):
    """The database refuses to register one camera; the others are paired and the worker keeps running."""
    clock = FakeClock()
    async with rig.daemon(clock=clock) as running:
        await rig.execute_in_thread(
            f"CREATE TRIGGER refuse BEFORE INSERT ON cameras WHEN NEW.mac = '{rig.mac(3)}'"
            " BEGIN SELECT RAISE(ABORT, 'injected by the test'); END"
        )
        async with rig.camera(1) as one, rig.camera(2) as two, rig.camera(3) as three, rig.camera(4) as four:
            for camera in (one, three, two, three, four):
                await camera.publish_status()
            for camera in (one, two, four):
                await eventually(lambda camera=camera: camera.mac in running.app.cameras.cache)
            await eventually(lambda: three.answered == 1 and not running.app.onboarding.worker.is_onboarding(three.mac))
            await three.publish_status()
            await running.wait_until_processed(rig)
            assert three.mac not in running.app.cameras.cache
            assert three.requests == 1, "it must wait like any failed camera"
            assert await running.metric('piorch_component_restarts_total{component="onboarding"}') == 0
            assert await running.metric('piorch_component_up{component="onboarding"}') == 1
            await rig.execute_in_thread("DROP TRIGGER refuse")
            await clock.advance(60)
            await three.publish_status()
            await eventually(lambda: three.mac in running.app.cameras.cache)


@pytest.mark.parametrize("count", [1, 12])
async def test_stop_during_verification_is_no_outcome(rig, count):
    limits = {"verification_timeout_sec": 60, "concurrency": 64}
    async with rig.fleet(count, faults=[f"silent:{count}"]) as fleet:
        async with rig.daemon(auto_onboard=limits) as running:
            for camera in fleet.cameras:
                await eventually(lambda camera=camera: running.app.onboarding.worker.is_onboarding(camera.mac))
        stages = rig.rows("SELECT DISTINCT stage FROM onboarding_audit")
        assert stages == [("discovered",)], "an interrupted attempt is neither a success nor a failure"
        assert rig.rows("SELECT * FROM cameras") == []


async def test_interrupted_attempt_is_repeated(rig):
    async with rig.camera(1) as camera:
        async with rig.daemon() as running:
            camera.answer_now.clear()
            await camera.publish_status()
            await eventually(lambda: camera.requests == 1)
        camera.answer_now.set()
        async with rig.daemon() as running:
            await camera.publish_status()
            await eventually(lambda: camera.mac in running.app.cameras.cache)
            assert [stage for stage, _ in await running.onboarding_stages(camera.mac)] == ["discovered", *PAIRED]
            assert (await running.status())["metrics"]["attempts"] == 2


async def test_http_answer_cannot_claim_id_of_another_camera(rig):
    async with rig.camera(1) as victim, rig.camera(2) as impostor, rig.daemon() as running:
        await victim.publish_status()
        await eventually(lambda: victim.mac in running.app.cameras.cache)
        impostor.body["device_id"] = victim.mac
        await impostor.publish_status(topic=f"camera/status/{impostor.mac}", device_id=None)
        await eventually(lambda: impostor.mac in running.app.cameras.cache)
        assert running.app.cameras.cache.get(impostor.mac).device_id != victim.mac
        assert (await running.api.get(f"/api/v1/cameras/{victim.mac}")).data["mac_address"] == victim.mac


async def test_contradictory_mac_is_stored_as_failure(rig):
    async with rig.daemon() as running:
        await rig.broker.publish("camera/status/246F28000001", '{"mac": "24:6F:28:00:00:20"}')

        async def stages():
            return await running.onboarding_stages("24:6F:28:00:00:01")

        assert await eventually(stages) == [("failed", "MAC_MISMATCH")]
        assert await running.onboarding_stages("24:6F:28:00:00:20") == []


async def test_reload_that_denies_camera_stops_its_verification(rig):
    async with rig.camera(1) as camera, rig.daemon() as running:
        camera.answer_now.clear()
        await camera.publish_status()
        await eventually(lambda: running.app.onboarding.worker.is_onboarding(camera.mac))
        running.daemon.apply(rig.settings(auto_onboard={"deny": [camera.mac]}))
        await eventually(lambda: not running.app.onboarding.worker.is_onboarding(camera.mac))
        camera.answer_now.set()
        await running.wait_until_processed(rig)
        assert camera.mac not in running.app.cameras.cache


async def test_repeated_failure_is_shown_on_the_camera(rig):
    """VERIFY_TIMEOUT × 9: reason, next attempt and remedy are on the camera, in its evidence and in `explain`."""
    clock = FakeClock()
    settings = {"auto_onboard": {"verification_timeout_sec": 0.1}}
    async with rig.camera(1) as camera, rig.daemon(clock=clock, **settings) as running:
        camera.answer_now.clear()
        worker = running.app.onboarding.worker
        for failed in range(1, 10):
            await camera.publish_status()
            await eventually(lambda failed=failed: worker.metrics.failed == failed, what=f"failure {failed}")
            last = worker.last_failure(Mac(camera.mac))
            if failed < 9:
                await clock.advance(last.next_attempt_at - clock.monotonic() + 0.01)
        text = f"VERIFY_TIMEOUT: {last.message}"

        shown = await running.camera(camera.mac)
        assert (shown["status"], shown["health"]["last_error"]) == ("discovered", f"not onboarded: {text}")
        failure = shown["onboarding_failure"]
        assert (failure["code"], failure["message"], failure["failures"]) == ("VERIFY_TIMEOUT", last.message, 9)
        assert failure["failed_at"] < failure["next_attempt_at"]
        assert "signal" in failure["remedy"]

        (diagnosed,) = (await running.api.get("/api/v1/cameras/diagnostics")).json
        assert (diagnosed["diagnostics"]["error_count"], diagnosed["diagnostics"]["last_error"]) == (
            9,
            f"not onboarded: {text}",
        )
        device = (await running.api.get(f"/api/v1/devices/{camera.mac}")).data
        for evidence in (diagnosed, device):
            assert f"onboarding failed 9 times in a row: {text}; next attempt in " in evidence["why"]
        assert device["onboarding_failure"]["failures"] == 9

        explain = f"/api/v1/onboarding/auto/policy/explain?mac={camera.mac}&ip={camera.address}"
        explained = (await running.api.get(explain)).data
        assert (explained["allowed"], explained["onboarding_failure"]["failures"]) == (False, 9)
        rule = explained["rules"][-1]
        assert (rule["rule"], rule["result"], rule["code"]) == ("retry", "fail", "VERIFY_TIMEOUT")
        assert "signal" in rule["why"]

        await clock.advance(last.next_attempt_at - clock.monotonic() + 0.01)
        explained = (await running.api.get(explain)).data
        assert (explained["allowed"], explained["rules"][-1]["result"]) == (True, "pass")
        camera.answer_now.set()
        await camera.publish_status()
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        shown = await running.camera(camera.mac)
        assert "onboarding_failure" not in shown
        assert "last_error" not in shown["health"]
        assert [rule["rule"] for rule in (await running.api.get(explain)).data["rules"]][-1] == "rate"


async def test_list_shows_a_new_failure(rig):
    """The encoded list is kept until something changes; a failure is such a change."""
    async with rig.daemon() as running:
        await rig.announce(1)  # no server at this address
        await eventually(lambda: running.app.onboarding.worker.metrics.failed == 1)
        (listed,) = (await running.api.get("/api/v1/cameras")).data["cameras"]
        assert listed["onboarding_failure"]["code"] == "VERIFY_UNREACHABLE"


def prove(registry, camera):
    """Add a sighting, as if the camera had answered ARP at its address."""
    now = time.monotonic()
    sighting = Sighting(Mac(camera.mac), Source.ARP, now, IPv4Address(camera.address), binds=True)
    registry.add_sighting(sighting, now)


@pytest.mark.parametrize("is_proven_first", [True, False])
async def test_forged_address_does_not_delay_a_proven_camera(rig, is_proven_first):
    """Messages with the camera's MAC name an address where no device answers; the camera has proved another one."""
    async with rig.daemon() as running, rig.camera(1) as camera:
        registry, worker = running.app.devices.registry, running.app.onboarding.worker
        forged = {"mac": camera.mac, "ip": rig.address(99)}
        if is_proven_first:
            prove(registry, camera)
        else:
            await rig.publish(f"camera/status/{camera.mac}", forged)
            await eventually(lambda: worker.metrics.failed == 1 and not worker.in_flight)
            prove(registry, camera)
        await rig.publish(f"camera/status/{camera.mac}", forged)
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        assert worker.metrics.failed == (0 if is_proven_first else 1)
        assert running.app.cameras.cache.get(camera.mac).ip_address == camera.address
