"""The broker stops, hangs and returns: the daemon subscribes again, works meanwhile, and leaks nothing.

How soon it reconnects is a matter of its delays: see `test_longest_reconnect_is_five_seconds`.
"""

import asyncio
import contextlib
import itertools
import random
from datetime import datetime

from tests.support.process import PROBES, SHORT_KEEPALIVE, daemon, patched
from tests.support.sampling import repeats
from tests.support.waiting import HANG_S, eventually

GROWTH_KIB = 2048
"""Allowed growth of the resident memory during the second half of the outages."""


@contextlib.asynccontextmanager
async def probed_daemon(rig, folder):
    command = patched(f"{PROBES}\n{SHORT_KEEPALIVE}")
    async with daemon(rig, folder, command=command, logging={"level": "debug"}) as process:
        yield process


async def is_listed(process, mac):
    answer = (await process.api.get("/api/v1/espcam/paired")).data
    return any(camera["mac_address"] == mac for camera in answer["cameras"])


async def assert_works_without_broker(process):
    """Assert that the API reads and writes, and that the daemon is ready and reports the broker."""
    ready = await process.api.get("/readyz")
    assert (ready.status, ready.json["ready"], ready.json["checks"]["mqtt"]) == (200, True, False)
    assert (await process.api.get("/api/v1/cameras")).status == 200
    assert (await process.api.post("/api/v1/onboarding/auto/metrics/reset")).status == 200


async def retained_status(rig):
    """The retained message of `piorch/status`."""
    async with rig.broker.client() as client:
        await client.subscribe("piorch/status")
        async with asyncio.timeout(HANG_S):
            return (await anext(aiter(client.messages))).payload.decode()


async def assert_nothing_leaked(process, descriptors, tasks):
    await eventually(
        lambda: len(process.descriptors()) == len(descriptors),
        what=f"{descriptors} before, {process.descriptors()} now",
    )

    async def same_tasks():
        return await process.tasks() == tasks

    await eventually(same_tasks, what=f"the event loop has the same tasks as before: {tasks}")


async def onboard_new_camera(process, rig, number):
    """Publish a single status message of an unknown camera, and wait until the camera is paired."""
    async with rig.camera(number) as camera:
        await camera.publish_status()
        await eventually(lambda: is_listed(process, camera.mac), what=f"camera {number} is paired")


async def test_broker_restarts_leave_nothing_behind(rig, tmp_path):
    dice = random.Random(5)
    resident = []
    async with probed_daemon(rig, tmp_path) as process, rig.fleet(5) as fleet:
        await eventually(lambda: is_listed(process, fleet.cameras[-1].mac))
        descriptors, tasks = await process.descriptors_at_rest(), await process.tasks()
        outages = repeats(3, slow=10)
        for number in range(outages):
            await rig.broker.stop()
            await process.logged("mqtt not connected", count=len(process.entries("mqtt not connected")) + 1)
            await assert_works_without_broker(process)
            await asyncio.sleep(dice.choice((0, 0.2, 1.0)))
            await rig.broker.start()
            assert await retained_status(rig) == "online"
            await onboard_new_camera(process, rig, 1000 + number)
            resident.append(process.resident_kib())
        live = {camera.mac for camera in fleet.cameras}

        async def all_online():
            cameras = (await process.api.get("/api/v1/espcam/paired")).data["cameras"]
            return live <= {camera["mac_address"] for camera in cameras if camera["status"] == "online"}

        await eventually(all_online)
        await assert_nothing_leaked(process, descriptors, tasks)
        assert resident[-1] - resident[len(resident) // 2] < GROWTH_KIB, resident
        assert len(process.entries("mqtt connected")) == 1 + outages
        # One warning a minute for each reason, whatever the number of attempts and outages.
        lost = [entry for entry in process.entries("mqtt not connected") if entry["level"] == "warning"]
        assert lost
        for entry, later in itertools.combinations(lost, 2):
            elapsed = datetime.fromisoformat(later["timestamp"]) - datetime.fromisoformat(entry["timestamp"])
            assert entry["reason"] != later["reason"] or elapsed.total_seconds() > 59
        assert await process.stop() == 0


async def test_daemon_survives_long_and_short_broker_hangs(rig, tmp_path):
    dice = random.Random(6)
    long = {1, 8}  # the hangs that last until the daemon detects the lost connection
    async with probed_daemon(rig, tmp_path) as process:
        await onboard_new_camera(process, rig, 1)  # from here on nothing is opened for the first time
        descriptors, tasks = await process.descriptors_at_rest(), await process.tasks()
        for number in range(repeats(3, slow=10)):
            rig.broker.freeze()
            if number in long:
                before = len(process.entries("mqtt not connected"))
                await process.logged("mqtt not connected", count=before + 1)
                await assert_works_without_broker(process)
                await asyncio.sleep(dice.uniform(0, 4))
            else:
                assert (await process.api.get("/api/v1/cameras")).status == 200
                await asyncio.sleep(dice.uniform(0.05, 0.5))
            rig.broker.thaw()
            await wait_until_receiving(process, rig, 2000 + number)
            await onboard_new_camera(process, rig, 3000 + number)
            assert await retained_status(rig) == "online"
        await assert_nothing_leaked(process, descriptors, tasks)


async def wait_until_receiving(process, rig, number):
    """Publish the status of a device until the daemon has received one."""
    async with rig.broker.client() as client:
        for _ in itertools.count():
            await rig.announce(number, client=client)
            if (await process.api.get(f"/api/v1/cameras/{rig.mac(number)}")).status == 200:
                return
            await asyncio.sleep(0.05)


async def test_status_after_stop_and_kill_is_offline(rig, tmp_path):
    async with rig.broker.client() as observer:
        await observer.subscribe("piorch/status")
        messages = observer.messages

        async def next_status():
            async with asyncio.timeout(HANG_S):
                return (await anext(messages)).payload.decode()

        for end in ("stop", "kill"):
            async with daemon(rig, tmp_path) as process:
                assert await next_status() == "online"
                await getattr(process, end)()
                assert await next_status() == "offline"
                assert await retained_status(rig) == "offline"
