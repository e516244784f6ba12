"""SIGTERM during a batch: exit code 0, and the next start continues it. scripts/bench measures the duration."""

import asyncio
import itertools
import signal

import pytest

from tests.support.process import daemon
from tests.support.provisioning import (
    BASE,
    NO_AUTO_ONBOARDING,
    Batch,
    allow,
    assert_provisioned_once,
    assert_secret_absent,
    record_requests,
)
from tests.support.sampling import sampled
from tests.support.waiting import eventually

COUNT = 12
# When SIGTERM is sent (see `reached` below), and how many times.
MOMENTS = sampled(itertools.product(("sending", "awaiting", "first", "many"), (1, 2)), 3)


async def begin(batch):
    await allow(batch.admin, batch.cameras)
    await batch.start()
    await batch.wait_for_cameras(len(batch.cameras))
    assert (await batch.post("provision-all", json={})).status == 202


async def complete(rig, tmp_path, fleet, session_id, requests):
    async with daemon(rig, tmp_path, **NO_AUTO_ONBOARDING) as process:
        batch = Batch(rig, process, fleet, session_id)
        found = (await batch.admin.get(f"{BASE}/sessions/recoverable")).data["sessions"]
        assert [session["id"] for session in found] == [session_id]
        assert (await batch.admin.post(f"{BASE}/sessions/{session_id}/resume")).status == 200
        assert (await batch.wait_until_done())["verified_count"] == len(fleet.cameras)
    assert_provisioned_once(rig, fleet.cameras, requests)
    assert_secret_absent(tmp_path)


@pytest.mark.parametrize(("moment", "signals"), MOMENTS)
async def test_batch_after_sigterm_is_completed(rig, tmp_path, moment, signals):
    async with rig.fleet(COUNT, rejoin_s=0.4, interval=0.5) as fleet:
        requests = record_requests(fleet.cameras)
        async with daemon(rig, tmp_path, **NO_AUTO_ONBOARDING) as process:
            batch = Batch(rig, process, fleet)
            await begin(batch)
            reached = {
                "sending": lambda: any(camera.provision_requests for camera in fleet.cameras),
                "awaiting": lambda: rig.rows("SELECT 1 FROM session_devices WHERE progress = 60"),
                "first": lambda: rig.rows("SELECT 1 FROM session_devices WHERE state = 'verified'"),
                "many": lambda: sum(len(camera.provisioned) for camera in fleet.cameras) >= 7,
            }
            await eventually(reached[moment])
            # Two different signals at once: the kernel merges equal ones, and after a pause the daemon may have ended.
            for number in (signal.SIGTERM, signal.SIGINT)[:signals]:
                process.send(number)
            assert await process.ended() == 0
            assert (rig.state_dir / "clean-shutdown").exists()
            assert "Traceback" not in process.text()
        assert {state for (state,) in rig.rows("SELECT state FROM session_devices")} <= {
            *("provisioning", "provisioned", "verifying", "verified")
        }, "a stop is not a failure of a camera"
        await complete(rig, tmp_path, fleet, batch.id, requests)


async def test_daemon_with_hanging_camera_stops_at_sigterm(rig, tmp_path):
    """Neither a request that hangs nor a client that waits for the end of the session delays the stop."""
    async with rig.fleet(2, faults=["provision-hang:2"], interval=0.5) as fleet:
        long_timeout = {"provisioning": {"request_timeout_s": 60}}
        async with daemon(rig, tmp_path, **(NO_AUTO_ONBOARDING | long_timeout)) as process:
            batch = Batch(rig, process, fleet)
            await begin(batch)
            await eventually(lambda: all(camera.provision_requests for camera in fleet.cameras))
            closing = asyncio.create_task(batch.post("close"))
            await eventually(lambda: rig.rows("SELECT state FROM sessions") == [("closing",)])
            assert await process.stop() == 0
            closing.cancel()
            await asyncio.wait([closing])
        async with daemon(rig, tmp_path, **NO_AUTO_ONBOARDING) as process:
            batch.running = process
            assert (await batch.session())["state"] == "closed"
            assert rig.rows("SELECT count(*) FROM session_secrets") == [(0,)]
            assert {device["error_code"] for device in (await batch.devices()).values()} == {"SESSION_CLOSED"}
    assert_secret_absent(tmp_path)
