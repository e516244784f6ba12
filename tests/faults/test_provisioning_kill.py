"""kill -9 at every step of a batch: after the resume each camera has its credentials once.

The daemon is a process that kills itself at a given place; cameras and broker continue.
"""

import asyncio
import contextlib
import itertools
import signal

import aiohttp
import pytest

from tests.support.process import daemon
from tests.support.provisioning import (
    BASE,
    NO_AUTO_ONBOARDING,
    SELF_KILLING_DAEMON,
    SSID,
    Batch,
    allow,
    assert_provisioned_once,
    assert_secret_absent,
    record_requests,
)
from tests.support.sampling import repeats, sampled
from tests.support.waiting import eventually

COUNT = repeats(10, slow=20)
"""Cameras of a batch: more than are provisioned at the same time, so that some wait in every test."""
# Step of a camera → where the daemon kills itself, for KILL_AT of SELF_KILLING_DAEMON.
STEPS = {
    "queued": "0",
    "identifying": "10",
    "sending": "30",
    "POST": "POST",
    "accepted": "50",
    "returning": "60",
    "reading back": "85",
    "verified": "100",
}
# Before or after the step of the first, a middle or the last camera that reaches it.
KILLS = sampled(itertools.product(STEPS, ("before", "after"), (1, COUNT // 2, COUNT)), 5)


@contextlib.asynccontextmanager
async def batch_of(count, rig, tmp_path):
    """Cameras that outlive every daemon; requests are recorded, and no file holds the password at the end."""
    async with rig.fleet(count, rejoin_s=0.2, interval=0.5) as fleet:
        fleet.requests = record_requests(fleet.cameras)
        yield fleet
    assert_secret_absent(tmp_path)


@contextlib.asynccontextmanager
async def killed_at(rig, tmp_path, fleet, place, *, session_id=""):
    """A daemon that kills itself at `place` (a KILL_AT); the block must make the daemon reach that place."""
    async with daemon(
        rig, tmp_path, command=SELF_KILLING_DAEMON, env={"KILL_AT": place}, **NO_AUTO_ONBOARDING
    ) as process:
        with contextlib.suppress(aiohttp.ClientError):
            yield Batch(rig, process, fleet, session_id)
        assert await process.ended(within=30) == -signal.SIGKILL


@contextlib.asynccontextmanager
async def started(rig, tmp_path, fleet, session_id=""):
    """A daemon that does not kill itself; it is killed at the end of the block."""
    async with daemon(rig, tmp_path, **NO_AUTO_ONBOARDING) as process:
        yield Batch(rig, process, fleet, session_id)


async def begin(batch):
    """Open a session, wait for the cameras, provision them all."""
    await allow(batch.admin, batch.cameras)
    await batch.start()
    await batch.wait_for_cameras(len(batch.cameras))
    await batch.post("provision-all", json={})


async def resume(batch):
    """Find the session and resume it; returns the answer of the resume."""
    found = (await batch.admin.get(f"{BASE}/sessions/recoverable")).data["sessions"]
    assert [(session["id"], session["state"], session["interrupted"]) for session in found] == [
        (batch.id, "paused", True)
    ]
    answer = await batch.admin.post(f"{BASE}/sessions/{batch.id}/resume")
    assert (answer.status, answer.data["session"]["state"]) == (200, "active")
    return answer


async def complete(batch):
    """Repeat provision-all, which changes nothing for devices under way, and wait for the end."""
    answer = await batch.post("provision-all", json={})
    assert (answer.status, answer.data["skipped_count"]) == (202, 0)
    session = await batch.wait_until_done()
    assert (session["verified_count"], session["failed_count"]) == (len(batch.cameras), 0)
    assert_provisioned_once(batch.rig, batch.cameras, batch.fleet.requests)


@pytest.mark.parametrize(("step", "edge", "number"), KILLS)
async def test_batch_after_kill_at_step_is_completed(rig, tmp_path, step, edge, number):
    async with batch_of(COUNT, rig, tmp_path) as fleet:
        async with killed_at(rig, tmp_path, fleet, f"{STEPS[step]} {edge} {number}") as batch:
            await begin(batch)
        async with started(rig, tmp_path, fleet, batch.id) as batch:
            found = await resume(batch)
            states = {device["state"] for device in found.data["devices"]}
            if step == "queued":
                assert states == ({"discovered"} if edge == "before" else {"provisioning"}), (
                    "all devices were queued, or none"
                )
            await complete(batch)


async def test_batch_after_repeated_kills_is_completed(rig, tmp_path):
    """Every start completes a few more steps; two are killed while the session is resumed."""
    places = ("30 after 3", "active before 1", "POST after 2", "active after 1", "60 before 2", "85 after 5")
    places = places[: repeats(3, slow=6)]
    async with batch_of(COUNT, rig, tmp_path) as fleet:
        async with killed_at(rig, tmp_path, fleet, "POST after 2") as batch:
            await begin(batch)
        for place in places:
            async with killed_at(rig, tmp_path, fleet, place, session_id=batch.id) as batch:
                await resume(batch)
        async with started(rig, tmp_path, fleet, batch.id) as batch:
            await resume(batch)
            await complete(batch)


async def test_paused_batch_after_kill_waits_for_resume(rig, tmp_path):
    async with batch_of(COUNT, rig, tmp_path) as fleet:
        async with started(rig, tmp_path, fleet) as batch:
            await begin(batch)
            await eventually(lambda: sum(len(camera.provisioned) for camera in fleet.cameras) >= 3)
            assert (await batch.post("pause")).data["session"]["state"] == "paused"
            # A camera that was being identified stays at 10 until the session is resumed.
            sending = "SELECT count(*) FROM session_devices WHERE progress = 30"
            await eventually(lambda: rig.rows(sending) == [(0,)], what="no request is under way")
        requests = {mac: list(ids) for mac, ids in fleet.requests.items()}
        async with started(rig, tmp_path, fleet, batch.id) as batch:
            before = await batch.devices()
            await eventually(lambda: all(camera.connected.is_set() for camera in fleet.cameras))
            assert (await batch.post("provision-all", json={})).status == 409, "an interrupted session starts nothing"
            again = await batch.post(f"devices/{fleet.cameras[-1].mac}/provision")
            state = before[fleet.cameras[-1].mac]["state"]
            assert (again.status, again.data["state"]) == (202, state), "a repeat is answered with the state"
            assert await batch.devices() == before
            assert fleet.requests == requests
            await resume(batch)
            await complete(batch)


@pytest.mark.parametrize("place", ["closing after 1", "closed before 1", "closed after 1"])
async def test_closing_session_after_kill_is_closed_at_start(rig, tmp_path, place):
    async with batch_of(COUNT, rig, tmp_path) as fleet:
        async with killed_at(rig, tmp_path, fleet, place) as batch:
            await begin(batch)
            await eventually(lambda: any(camera.provisioned for camera in fleet.cameras))
            sealed = rig.rows("SELECT sealed FROM session_secrets")[0][0]
            await batch.post("close")
        async with started(rig, tmp_path, fleet, batch.id) as batch:
            session = await batch.session()
            assert (session["state"], session["ending"]) == ("closed", "closed")
            assert (await batch.admin.get(f"{BASE}/sessions/recoverable")).data["sessions"] == []
            assert rig.rows("SELECT count(*) FROM session_secrets") == [(0,)]
            left = {
                device["mac"]: (device["state"], device.get("error_code"))
                for device in (await batch.devices()).values()
            }
            assert set(left.values()) <= {("verified", None), ("failed", "SESSION_CLOSED")}
            assert {mac for mac, (state, _) in left.items() if state == "verified"} == {
                mac for (mac,) in rig.rows("SELECT mac FROM allowlist WHERE used_at IS NOT NULL")
            }
            answer = await batch.admin.post(f"{BASE}/sessions/{batch.id}/resume")
            assert (answer.status, answer.json["error"]["code"]) == (409, "SESSION_NOT_RECOVERABLE")

            def overwritten():
                return not any(sealed in file.read_bytes() for file in rig.state_dir.glob("orchestrator.db*"))

            await eventually(overwritten, what="the sealed password is in no file of the database")


async def test_discard_after_kill_is_final(rig, tmp_path):
    async with batch_of(COUNT, rig, tmp_path) as fleet:
        async with killed_at(rig, tmp_path, fleet, "POST after 5") as batch:
            await begin(batch)
        async with started(rig, tmp_path, fleet, batch.id) as batch:
            url = f"{BASE}/sessions/{batch.id}"
            assert [(await batch.admin.delete(url)).status for _ in range(2)] == [204, 204]
            session = await batch.session()
            assert (session["state"], session["ending"]) == ("closed", "discarded")
            assert (await batch.admin.post(f"{url}/resume")).json["error"]["code"] == "SESSION_NOT_RECOVERABLE"
            assert (await batch.post("provision-all", json={})).json["error"]["code"] == "SESSION_ALREADY_CLOSED"
            assert rig.rows("SELECT count(*) FROM session_secrets") == [(0,)]
            found = await batch.devices()
            assert all(device["state"] in ("verified", "failed") for device in found.values())
        async with started(rig, tmp_path, fleet, batch.id) as batch:
            assert (await batch.admin.get(f"{BASE}/sessions/recoverable")).data["sessions"] == []
            assert await batch.devices() == found
            # By now the cameras have handled what was under way when the daemon was killed.
            sent = {camera.mac for camera in fleet.cameras if camera.provisioned}
            # The interface is free, and the next session takes the cameras that were not reached.
            batch.id = ""
            await batch.start()
            await batch.wait_for_cameras(COUNT - len(sent))
            await batch.post("provision-all", json={})
            session = await batch.wait_until_done()
            assert session["verified_count"] == COUNT - len(sent)
        assert all(len(camera.provisioned) == 1 for camera in fleet.cameras)


async def test_cameras_that_return_during_downtime_get_no_second_request(rig, tmp_path):
    async with batch_of(COUNT, rig, tmp_path) as fleet:
        async with killed_at(rig, tmp_path, fleet, "POST after 4") as batch:
            await begin(batch)
        sent = [camera for camera in fleet.cameras if camera.provisioned]
        assert len(sent) >= 4
        await eventually(lambda: all(camera.ssid == SSID and camera.connected.is_set() for camera in sent))
        async with started(rig, tmp_path, fleet, batch.id) as batch:
            await resume(batch)
            await complete(batch)
        assert {mac: len(ids) for mac, ids in fleet.requests.items()} == {camera.mac: 1 for camera in fleet.cameras}


async def test_cameras_sent_before_reboot_of_machine_are_verified(rig, tmp_path):
    """Monotonic time begins anew, so stored times mean nothing."""
    async with batch_of(COUNT, rig, tmp_path) as fleet:
        async with killed_at(rig, tmp_path, fleet, "POST after 4") as batch:
            await begin(batch)
        rig.execute("UPDATE session_devices SET sent_boot_id = 'another', sent_monotonic = 1e12 WHERE sent_ip <> ''")
        async with started(rig, tmp_path, fleet, batch.id) as batch:
            await resume(batch)
            await complete(batch)


async def test_batch_after_power_cut_of_daemon_and_cameras_is_completed(rig, tmp_path):
    """The cameras return first, each on the network of its credentials."""
    async with batch_of(COUNT, rig, tmp_path) as fleet:
        async with killed_at(rig, tmp_path, fleet, "POST after 6") as batch:
            await begin(batch)
        await asyncio.gather(*(camera.power_off() for camera in fleet.cameras))
        for camera in fleet.cameras:
            camera.reported.clear()
            camera.power_on()
        await fleet.wait_until_reported()
        async with started(rig, tmp_path, fleet, batch.id) as batch:
            await resume(batch)
            await complete(batch)
