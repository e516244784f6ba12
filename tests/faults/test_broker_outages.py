"""The broker goes, hangs and comes back, twenty times in all: the daemon is there again within 5 s, and whole."""

import asyncio
import contextlib
import itertools
import random
import time

import pytest

from tests.support.process import PROBED, daemon
from tests.support.waiting import eventually

RETURN_S = 5.0
GROWTH_KIB = 2048


@contextlib.asynccontextmanager
async def probed(world, folder):
    async with daemon(world, folder, command=PROBED, mqtt={"keepalive_s": 5}, logging={"level": "debug"}) as process:
        yield process


async def is_listed(process, mac):
    answer = (await process.api.get("/api/v1/espcam/paired")).data
    return any(camera["mac_address"] == mac for camera in answer["cameras"])


async def works_without_broker(process):
    """The API reads and writes, and says in readiness what is missing; that alone makes it not unready."""
    ready = await process.api.get("/readyz")
    assert (ready.status, ready.json["ready"], ready.json["checks"]["mqtt"]) == (200, True, False)
    assert (await process.api.get("/api/v1/cameras")).status == 200
    assert (await process.api.post("/api/v1/onboarding/auto/metrics/reset")).status == 200


async def retained_birth(world):
    """What a newcomer on the broker reads in `piorch/status`."""
    async with world.broker.client() as client:
        await client.subscribe("piorch/status")
        async with asyncio.timeout(RETURN_S):
            return (await anext(aiter(client.messages))).payload.decode()


async def nothing_leaked(process, descriptors, tasks):
    await eventually(
        lambda: len(process.descriptors()) == len(descriptors),
        what=f"{descriptors} before, {process.descriptors()} now",
    )

    async def same_tasks():
        return await process.tasks() == tasks

    await eventually(same_tasks, what=f"the event loop has the same tasks as before: {tasks}")


async def new_camera_is_onboarded(process, world, number):
    """One single message of a camera that was never seen: it must not be missed."""
    async with world.camera(number) as camera:
        await camera.say()
        await eventually(lambda: is_listed(process, camera.mac), within=RETURN_S, what=f"camera {number} is paired")


@pytest.mark.timeout(90)
async def test_ten_broker_restarts_leave_the_daemon_subscribed_working_and_as_small_as_before(world, tmp_path):
    dice = random.Random(5)
    resident = []
    async with probed(world, tmp_path) as process, world.fleet(5) as fleet:
        await eventually(lambda: is_listed(process, fleet.cameras[-1].mac))
        descriptors, tasks = await process.descriptors_at_rest(), await process.tasks()
        for number in range(10):
            await world.broker.stop()
            await process.logged("mqtt not connected", count=len(process.entries("mqtt not connected")) + 1)
            await works_without_broker(process)
            await asyncio.sleep(dice.choice((0, 0.2, 1.0)))  # how long it is away
            await world.broker.start()
            began = time.monotonic()
            assert await retained_birth(world) == "online"
            assert time.monotonic() - began < RETURN_S
            await new_camera_is_onboarded(process, world, 1000 + number)
            resident.append(process.resident_kib())
        live = {camera.mac for camera in fleet.cameras}

        async def all_online():
            cameras = (await process.api.get("/api/v1/espcam/paired")).data["cameras"]
            return live <= {camera["mac_address"] for camera in cameras if camera["status"] == "online"}

        await eventually(all_online)
        await nothing_leaked(process, descriptors, tasks)
        assert resident[9] - resident[4] < GROWTH_KIB, resident
        assert len(process.entries("mqtt connected")) == 11
        # Told once loudly for each outage, whatever the number of attempts.
        assert len([entry for entry in process.entries("mqtt not connected") if entry["level"] == "warning"]) == 10
        assert await process.stop() == 0


@pytest.mark.timeout(120)
async def test_ten_broker_hangs_long_and_short_leave_the_daemon_subscribed(world, tmp_path):
    dice = random.Random(6)
    long = {3, 8}
    async with probed(world, tmp_path) as process:
        await new_camera_is_onboarded(process, world, 1)  # what is opened at first use is open from here on
        descriptors, tasks = await process.descriptors_at_rest(), await process.tasks()
        for number in range(10):
            world.broker.freeze()
            if number in long:
                told = len(process.entries("mqtt not connected"))
                await process.logged("mqtt not connected", count=told + 1, within=20)
                await works_without_broker(process)
                await asyncio.sleep(dice.uniform(0, 4))
            else:
                assert (await process.api.get("/api/v1/cameras")).status == 200
                await asyncio.sleep(dice.uniform(0.05, 0.5))
            world.broker.thaw()
            began = time.monotonic()
            await heard_again(process, world, 2000 + number)
            assert time.monotonic() - began < RETURN_S
            await new_camera_is_onboarded(process, world, 3000 + number)
            assert await retained_birth(world) == "online"
        await nothing_leaked(process, descriptors, tasks)


async def heard_again(process, world, number):
    """Return once the daemon hears a device that publishes and publishes."""
    async with world.broker.client() as client:
        for _ in itertools.count():
            await world.announce(number, client=client)
            if (await process.api.get(f"/api/v1/cameras/{world.mac(number)}")).status == 200:
                return
            await asyncio.sleep(0.05)


async def test_status_is_offline_after_a_clean_stop_and_by_last_will_after_a_kill(world, tmp_path):
    async with world.broker.client() as observer:
        await observer.subscribe("piorch/status")
        heard = observer.messages

        async def said():
            async with asyncio.timeout(5):
                return (await anext(heard)).payload.decode()

        for end in ("stop", "kill"):
            async with daemon(world, tmp_path) as process:
                assert await said() == "online"
                await getattr(process, end)()
                assert await said() == "offline"
                assert await retained_birth(world) == "offline"
