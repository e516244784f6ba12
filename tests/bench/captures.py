"""C1: a picture of a camera through the API, by MQTT and by HTTP, compared with a GET from the camera itself."""

import asyncio
import time

import aiohttp

from pi_orchestrator.sandbox.fleet import Fleet
from pi_orchestrator.sandbox.options import CameraOptions
from tests.bench.environment import daemon, wait_until_connected
from tests.bench.report import Row, medians_and_ratio, quantile
from tests.support.waiting import eventually

SAMPLES = 100
PAUSE_S = 0.1
"""Before each picture: a camera that is still busy with the last one refuses."""
NOTE = "the same picture by GET /capture from the camera, without the daemon"
ONLY_HTTP = "no-content-type"
"""Fault of a camera that refuses pictures by MQTT: each picture costs a refusal by MQTT, then a request by HTTP."""


async def captures(env):
    """Pictures of a camera that sends them by MQTT, and of one that sends them by HTTP only, one after the other."""
    rows = []
    for source, faults in (("mqtt", []), ("http", [ONLY_HTTP])):
        ours, bare = await _captured(env, source, faults)
        median, bare_median, ratio = medians_and_ratio(ours, bare)
        rows.append(Row("C1", f"picture by {source.upper()}, p50", "ms", median, bare_median, ratio, note=NOTE))
        slow, bare_slow = quantile(ours, 0.99), quantile(bare, 0.99)
        rows.append(Row("C1", "… p99", "ms", slow, bare_slow, slow / bare_slow, note=NOTE))
    return rows


async def _captured(env, source, faults):
    """(ours, reference) in milliseconds, in turn, so that the load of the machine affects both."""
    async with env.rig(f"captures-{source}") as rig, daemon(rig, cameras={"capture_cache_s": 0}) as running:
        await wait_until_connected(running)
        options = CameraOptions(broker_host=rig.broker.host, broker_port=rig.broker.port, http_port=rig.camera_port)
        fleet = Fleet(count=1, options=options, network=rig.network, faults=faults)
        async with fleet, aiohttp.ClientSession() as session:
            (camera,) = fleet.cameras
            await eventually(lambda: running.rows("SELECT 1 FROM assignments WHERE mac = ?", camera.mac))
            capture = session.post, f"{running.url}/api/v1/cameras/{camera.mac}/capture"
            await _picture(*capture)
            ours, bare = [], []
            for _ in range(SAMPLES):
                ours.append(await _picture(*capture, source=source))
                bare.append(await _picture(session.get, f"{camera.url}/capture"))
    return ours, bare


async def _picture(send, url, *, source=None):
    """Take a picture; the time in milliseconds."""
    await asyncio.sleep(PAUSE_S)
    started = time.perf_counter()
    async with send(url) as response:
        picture = await response.read()
    took = (time.perf_counter() - started) * 1000
    assert (response.status, picture[:2]) == (200, b"\xff\xd8"), picture[:300]
    assert source in (None, response.headers.get("X-Capture-Source")), response.headers
    return took
