"""kill -9 at every step of a batch of twenty: resumed, each camera has its credentials once, and nothing is half done.

The daemon is a process that kills itself at a given place; cameras and broker live on, as they would.
"""

import asyncio
import contextlib
import signal

import aiohttp
import pytest

from tests.support.process import daemon
from tests.support.provisioning import (
    BASE,
    KILLED,
    QUIET,
    SSID,
    Batch,
    allow,
    assert_done_once,
    assert_nowhere,
    write_down,
)
from tests.support.waiting import eventually

COUNT = 20
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
FIRST, MIDDLE, LAST = 1, COUNT // 2, COUNT


@contextlib.asynccontextmanager
async def twenty(world, tmp_path, *faults, **options):
    """Cameras that outlive every daemon; what each is asked is written down, and the password is nowhere at the end."""
    given = {"rejoin_s": 0.2, "interval": 0.5} | options
    async with world.fleet(COUNT, faults=faults, **given) as fleet:
        fleet.asked = write_down(fleet.cameras)
        yield fleet
    assert_nowhere(tmp_path)


@contextlib.asynccontextmanager
async def killed_at(world, tmp_path, fleet, place, *, session=""):
    """A daemon that kills itself at a place; the block does what leads there."""
    async with daemon(world, tmp_path, command=KILLED, env={"KILL_AT": place}, **QUIET) as process:
        with contextlib.suppress(aiohttp.ClientError):
            yield Batch(world, process, fleet, session)
        assert await process.ended(within=30) == -signal.SIGKILL


@contextlib.asynccontextmanager
async def started(world, tmp_path, fleet, session=""):
    """A daemon that does not; the block may kill it."""
    async with daemon(world, tmp_path, **QUIET) as process:
        yield Batch(world, process, fleet, session)


async def begin(batch):
    """Open a session, wait for the cameras, ask for them all."""
    await allow(batch.admin, batch.cameras)
    await batch.start()
    await batch.joined(COUNT)
    await batch.post("provision-all", json={})


async def resume(batch):
    """What a technician does after a restart; the answer of the resumption."""
    found = (await batch.admin.get(f"{BASE}/sessions/recoverable")).data["sessions"]
    assert [(one["id"], one["state"], one["interrupted"]) for one in found] == [(batch.id, "paused", True)]
    answer = await batch.admin.post(f"{BASE}/sessions/{batch.id}/resume")
    assert (answer.status, answer.data["session"]["state"]) == (200, "active")
    return answer


async def complete(batch):
    """Ask for all once more, which changes nothing for those that were asked for, and wait for the end."""
    answer = await batch.post("provision-all", json={})
    assert (answer.status, answer.data["skipped_count"]) == (202, 0)
    session = await batch.until_done()
    assert (session["verified_count"], session["failed_count"]) == (COUNT, 0)
    assert_done_once(batch.world, batch.cameras, batch.fleet.asked)


@pytest.mark.parametrize("number", [FIRST, MIDDLE, LAST])
@pytest.mark.parametrize("edge", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_killed_at_any_step_of_a_batch(world, tmp_path, step, edge, number):
    async with twenty(world, tmp_path) as fleet:
        async with killed_at(world, tmp_path, fleet, f"{STEPS[step]} {edge} {number}") as batch:
            await begin(batch)
        async with started(world, tmp_path, fleet, batch.id) as batch:
            found = await resume(batch)
            states = {one["state"] for one in found.data["devices"]}
            if step == "queued":
                assert states == ({"discovered"} if edge == "before" else {"provisioning"}), (
                    "all are asked for, or none"
                )
            await complete(batch)


async def test_killed_again_and_again(world, tmp_path):
    """Every start comes a few steps further, two die in the middle of the resumption."""
    places = ("30 after 3", "active before 1", "POST after 2", "active after 1", "60 before 2", "85 after 5")
    async with twenty(world, tmp_path) as fleet:
        async with killed_at(world, tmp_path, fleet, "POST after 2") as batch:
            await begin(batch)
        for place in places:
            async with killed_at(world, tmp_path, fleet, place, session=batch.id) as batch:
                await resume(batch)
        async with started(world, tmp_path, fleet, batch.id) as batch:
            await resume(batch)
            await complete(batch)


async def test_killed_while_paused_it_waits_to_be_resumed_and_nothing_moves_before(world, tmp_path):
    async with twenty(world, tmp_path) as fleet:
        async with started(world, tmp_path, fleet) as batch:
            await begin(batch)
            await eventually(lambda: sum(len(camera.provisioned) for camera in fleet.cameras) >= 6)
            assert (await batch.post("pause")).data["session"]["state"] == "paused"
            sending = "SELECT count(*) FROM session_devices WHERE progress IN (10, 30)"
            await eventually(lambda: world.rows(sending) == [(0,)], what="the step in hand is finished")
        asked = {mac: list(ids) for mac, ids in fleet.asked.items()}
        async with started(world, tmp_path, fleet, batch.id) as batch:
            before = await batch.devices()
            await eventually(lambda: all(camera.connected.is_set() for camera in fleet.cameras))
            assert (await batch.post("provision-all", json={})).status == 409, (
                "a session that was cut off starts nothing"
            )
            again = await batch.post(f"devices/{fleet.cameras[19].mac}/provision")
            stands = before[fleet.cameras[19].mac]["state"]
            assert (again.status, again.data["state"]) == (202, stands), "a repeat is told how it stands"
            assert await batch.devices() == before
            assert fleet.asked == asked
            await resume(batch)
            await complete(batch)


@pytest.mark.parametrize("place", ["closing after 1", "closed before 1", "closed after 1"])
async def test_killed_while_it_closes_it_is_closed_at_the_next_start_and_the_password_is_gone(world, tmp_path, place):
    async with twenty(world, tmp_path) as fleet:
        async with killed_at(world, tmp_path, fleet, place) as batch:
            await begin(batch)
            await eventually(lambda: any(camera.provisioned for camera in fleet.cameras))
            sealed = world.rows("SELECT sealed FROM session_secrets")[0][0]
            await batch.post("close")
        async with started(world, tmp_path, fleet, batch.id) as batch:
            session = await batch.session()
            assert (session["state"], session["ending"]) == ("closed", "closed")
            assert (await batch.admin.get(f"{BASE}/sessions/recoverable")).data["sessions"] == []
            assert world.rows("SELECT count(*) FROM session_secrets") == [(0,)]
            left = {one["mac"]: (one["state"], one.get("error_code")) for one in (await batch.devices()).values()}
            assert set(left.values()) <= {("verified", None), ("failed", "SESSION_CLOSED")}
            assert {mac for mac, (state, _) in left.items() if state == "verified"} == {
                mac for (mac,) in world.rows("SELECT mac FROM allowlist WHERE used_at IS NOT NULL")
            }
            answer = await batch.admin.post(f"{BASE}/sessions/{batch.id}/resume")
            assert (answer.status, answer.json["error"]["code"]) == (409, "SESSION_NOT_RECOVERABLE")

            def overwritten():
                return not any(sealed in file.read_bytes() for file in world.state_dir.glob("orchestrator.db*"))

            await eventually(overwritten, what="what was sealed is in no file of the database")


async def test_discarding_after_a_kill_is_final(world, tmp_path):
    async with twenty(world, tmp_path) as fleet:
        async with killed_at(world, tmp_path, fleet, "POST after 5") as batch:
            await begin(batch)
        took = {camera.mac for camera in fleet.cameras if camera.provisioned}
        async with started(world, tmp_path, fleet, batch.id) as batch:
            url = f"{BASE}/sessions/{batch.id}"
            assert [(await batch.admin.delete(url)).status for _ in range(2)] == [204, 204]
            session = await batch.session()
            assert (session["state"], session["ending"]) == ("closed", "discarded")
            assert (await batch.admin.post(f"{url}/resume")).json["error"]["code"] == "SESSION_NOT_RECOVERABLE"
            assert (await batch.post("provision-all", json={})).json["error"]["code"] == "SESSION_ALREADY_CLOSED"
            assert world.rows("SELECT count(*) FROM session_secrets") == [(0,)]
            found = await batch.devices()
            assert all(one["state"] in ("verified", "failed") for one in found.values())
        async with started(world, tmp_path, fleet, batch.id) as batch:
            assert (await batch.admin.get(f"{BASE}/sessions/recoverable")).data["sessions"] == []
            assert await batch.devices() == found
            # Its interface is free, and those that were not reached are taken by the next session.
            batch.id = ""
            await batch.start()
            await batch.joined(COUNT - len(took))
            await batch.post("provision-all", json={})
            session = await batch.until_done()
            assert session["verified_count"] == COUNT - len(took)
        assert all(len(camera.provisioned) == 1 for camera in fleet.cameras)


async def test_cameras_that_come_back_while_the_daemon_is_down_are_found_and_not_sent_to_again(world, tmp_path):
    async with twenty(world, tmp_path) as fleet:
        async with killed_at(world, tmp_path, fleet, "POST after 4") as batch:
            await begin(batch)
        took = [camera for camera in fleet.cameras if camera.provisioned]
        assert len(took) >= 4
        await eventually(lambda: all(camera.ssid == SSID and camera.connected.is_set() for camera in took))
        async with started(world, tmp_path, fleet, batch.id) as batch:
            await resume(batch)
            await complete(batch)
        assert {mac: len(ids) for mac, ids in fleet.asked.items()} == {camera.mac: 1 for camera in fleet.cameras}


async def test_after_a_reboot_of_this_machine_what_was_sent_before_is_looked_for_too(world, tmp_path):
    """Monotonic time begins anew, so what is stored of it says nothing."""
    async with twenty(world, tmp_path) as fleet:
        async with killed_at(world, tmp_path, fleet, "POST after 4") as batch:
            await begin(batch)
        world.execute("UPDATE session_devices SET sent_boot_id = 'another', sent_monotonic = 1e12 WHERE sent_ip <> ''")
        async with started(world, tmp_path, fleet, batch.id) as batch:
            await resume(batch)
            await complete(batch)


async def test_the_power_of_everything_fails_and_the_cameras_return_first(world, tmp_path):
    """Each comes back on the network to which its credentials have brought it."""
    async with twenty(world, tmp_path) as fleet:
        async with killed_at(world, tmp_path, fleet, "POST after 6") as batch:
            await begin(batch)
        await asyncio.gather(*(camera.die() for camera in fleet.cameras))
        for camera in fleet.cameras:
            camera.reported.clear()
            camera.revive()
        await fleet.reported()
        async with started(world, tmp_path, fleet, batch.id) as batch:
            await resume(batch)
            await complete(batch)
