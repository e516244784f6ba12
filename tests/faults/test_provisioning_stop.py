"""Stopping in the middle of a batch: at once, with code 0, and the next start goes on where it was."""

import asyncio
import signal
import time

import pytest

from tests.support.process import daemon
from tests.support.provisioning import BASE, QUIET, Batch, allow, assert_done_once, assert_nowhere, write_down
from tests.support.waiting import eventually

STOP_S = 3.0
COUNT = 12


async def begin(batch):
    await allow(batch.admin, batch.cameras)
    await batch.start()
    await batch.joined(len(batch.cameras))
    assert (await batch.post("provision-all", json={})).status == 202


async def complete(world, tmp_path, fleet, session, asked):
    async with daemon(world, tmp_path, **QUIET) as process:
        batch = Batch(world, process, fleet, session)
        found = (await batch.admin.get(f"{BASE}/sessions/recoverable")).data["sessions"]
        assert [one["id"] for one in found] == [session]
        assert (await batch.admin.post(f"{BASE}/sessions/{session}/resume")).status == 200
        assert (await batch.until_done())["verified_count"] == len(fleet.cameras)
    assert_done_once(world, fleet.cameras, asked)
    assert_nowhere(tmp_path)


@pytest.mark.parametrize("moment", ["sending", "awaiting", "first", "many"])
@pytest.mark.parametrize("signals", [1, 2])
async def test_sigterm_in_the_middle_of_a_batch(world, tmp_path, moment, signals):
    async with world.fleet(COUNT, rejoin_s=0.4, interval=0.5) as fleet:
        asked = write_down(fleet.cameras)
        async with daemon(world, tmp_path, **QUIET) as process:
            batch = Batch(world, process, fleet)
            await begin(batch)
            reached = {
                "sending": lambda: any(camera.provision_requests for camera in fleet.cameras),
                "awaiting": lambda: world.rows("SELECT 1 FROM session_devices WHERE progress = 60"),
                "first": lambda: world.rows("SELECT 1 FROM session_devices WHERE state = 'verified'"),
                "many": lambda: sum(len(camera.provisioned) for camera in fleet.cameras) >= 7,
            }
            await eventually(reached[moment])
            began = time.monotonic()
            for _ in range(signals):
                process.send(signal.SIGTERM)
                await asyncio.sleep(0)
            assert await process.ended() == 0
            assert time.monotonic() - began < STOP_S
            assert (world.state_dir / "clean-shutdown").exists()
            assert "Traceback" not in process.text()
        assert {state for (state,) in world.rows("SELECT state FROM session_devices")} <= {
            *("provisioning", "provisioned", "verifying", "verified")
        }, "being stopped is no failure of a camera"
        await complete(world, tmp_path, fleet, batch.id, asked)


async def test_sigterm_while_a_camera_does_not_answer_and_another_is_closed_on(world, tmp_path):
    """A request that hangs, and a client that waits for the end of the session: neither keeps the daemon."""
    async with world.fleet(2, faults=["provision-hang:2"], interval=0.5) as fleet:
        patient = {"provisioning": {"request_timeout_s": 60}}
        async with daemon(world, tmp_path, **(QUIET | patient)) as process:
            batch = Batch(world, process, fleet)
            await begin(batch)
            await eventually(lambda: all(camera.provision_requests for camera in fleet.cameras))
            closing = asyncio.create_task(batch.post("close"))
            await eventually(lambda: world.rows("SELECT state FROM sessions") == [("closing",)])
            began = time.monotonic()
            assert await process.stop() == 0
            assert time.monotonic() - began < STOP_S
            closing.cancel()
            await asyncio.wait([closing])
        async with daemon(world, tmp_path, **QUIET) as process:
            batch.running = process
            assert (await batch.session())["state"] == "closed"
            assert world.rows("SELECT count(*) FROM session_secrets") == [(0,)]
            assert {one["error_code"] for one in (await batch.devices()).values()} == {"SESSION_CLOSED"}
    assert_nowhere(tmp_path)
