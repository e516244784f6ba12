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
    PASSWORD,
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
async def killed_at(world, tmp_path, fleet, place, *, id="", **settings):
    """A daemon that kills itself at a place; the block does what leads there."""
    how = {"command": KILLED, "env": {"KILL_AT": place}} if place else {}
    async with daemon(world, tmp_path, **how, **(QUIET | settings)) as process:
        with contextlib.suppress(aiohttp.ClientError):
            yield Batch(world, process, fleet, id)
        if place:
            assert await process.ended(within=30) == -signal.SIGKILL


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
        async with daemon(world, tmp_path, **QUIET) as process:
            batch = Batch(world, process, fleet, batch.id)
            found = await resume(batch)
            states = {one["state"] for one in found.data["devices"]}
            if step == "queued":
                assert states == ({"discovered"} if edge == "before" else {"provisioning"}), "all are asked for, or none"
            await complete(batch)
