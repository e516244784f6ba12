"""P15: 20 cameras from `provision-all` until all are verified, 4 at a time; each camera itself needs 2 s."""

import asyncio
import json
import math
import statistics
import time

import aiohttp

from tests.bench.environment import daemon, wait_until_connected
from tests.bench.report import Row
from tests.support.provisioning import HOME, NO_AUTO_ONBOARDING, PASSWORD, SSID, Batch, allow
from tests.support.rig import Api
from tests.support.waiting import eventually

CAMERAS = 20
CONCURRENT = 4
CAMERA_TIME_S = 2.0
REFERENCE_CAMERAS = 2 * CONCURRENT
"""Number of cameras that only the reference provisions."""


async def batch(env):
    """First a bare client (POST, then wait for the first message), then the daemon, with cameras of the same fleet."""
    rejoin_s = CAMERA_TIME_S - await _camera_overhead_s(env, rejoin_s=0.5)
    async with env.rig("provisioning") as rig, daemon(rig, **NO_AUTO_ONBOARDING) as running:
        async with (
            rig.fleet(CAMERAS + REFERENCE_CAMERAS, rejoin_s=rejoin_s, interval=30.0) as fleet,
            aiohttp.ClientSession() as http,
        ):
            await wait_until_connected(running)
            await fleet.wait_until_reported()
            for_reference, for_daemon = fleet.cameras[:REFERENCE_CAMERAS], fleet.cameras[REFERENCE_CAMERAS:]
            bare = [
                took
                for turn in range(0, REFERENCE_CAMERAS, CONCURRENT)
                for took in await _reference_times(rig, http, for_reference[turn:][:CONCURRENT])
            ]
            took = await _daemon_time(rig, running, http, for_daemon)
        await running.stop()
    reference = math.ceil(CAMERAS / CONCURRENT) * statistics.median(bare)
    note = f"5 × the time of one camera from POST to first message, with a bare client: {statistics.median(bare):.2f} s"
    ratio = took / reference
    return [Row("P15", "20 cameras verified, 4 at once", "s", took, reference, ratio, "≤ 1.2 ×", ratio <= 1.2, note)]


async def _camera_overhead_s(env, *, rejoin_s):
    """Seconds that a simulated camera needs to be provisioned, in addition to `rejoin_s`."""
    async with env.rig("camera") as rig, rig.fleet(CONCURRENT, rejoin_s=rejoin_s, interval=30.0) as fleet:
        await fleet.wait_until_reported()
        async with aiohttp.ClientSession() as http:
            return statistics.median(await _reference_times(rig, http, fleet.cameras)) - rejoin_s


async def _reference_times(rig, http, cameras):
    """Seconds from the request to the first message on the target network, per camera, concurrently."""
    async with rig.broker.client() as client:
        await client.subscribe("camera/status/+", qos=1)
        returned = {camera.mac: asyncio.Event() for camera in cameras}

        async def listen():
            async for message in client.messages:
                status = json.loads(message.payload)
                if status.get("ssid") == SSID and status["state"] == "ONLINE" and status["mac"] in returned:
                    returned[status["mac"]].set()

        async def provision(camera):
            began = time.perf_counter()
            mqtt = {"host": rig.broker.host, "port": rig.broker.port}
            body = {"ssid": SSID, "password": PASSWORD, "mqtt": mqtt, "request_id": "bare"}
            async with http.post(f"{camera.url}/provision", json=body) as answer:
                assert answer.status == 202
            await returned[camera.mac].wait()
            return time.perf_counter() - began

        listening = asyncio.create_task(listen())
        try:
            async with asyncio.timeout(60):
                return await asyncio.gather(*(provision(camera) for camera in cameras))
        finally:
            listening.cancel()
            await asyncio.wait([listening])


async def _daemon_time(rig, running, http, cameras):
    """Seconds from the request to the last camera's verification."""
    running.api = running.admin = Api(http, running.url, rig.admin_key())
    session = Batch(rig, running, None)
    await allow(running.admin, cameras)
    await session.start()
    assert {camera.ssid for camera in cameras} == {HOME}

    def count(state):
        return running.rows("SELECT count(*) FROM session_devices WHERE state = ?", state)[0][0]

    await eventually(lambda: count("discovered") >= len(cameras), within=30)
    began = time.perf_counter()
    await session.post("provision-all", json={})
    await eventually(lambda: count("verified") + count("failed") == len(cameras), within=60)
    took = time.perf_counter() - began
    if count("failed"):
        raise RuntimeError(f"cameras failed: {await session.devices(state='failed')}")
    return took
