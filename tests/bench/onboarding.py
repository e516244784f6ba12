"""P2: one camera, from its first status message to `paired`. P3: 250 cameras concurrently."""

import asyncio
import contextlib
import statistics
import time

import aiomqtt

from pi_orchestrator.sandbox.fleet import Fleet
from pi_orchestrator.sandbox.options import CameraOptions
from tests.bench.environment import api, daemon, fleet, wait_until_connected
from tests.bench.process import child
from tests.bench.report import Row, quantile
from tests.support.waiting import eventually

SAMPLES = 100
STORM = 250
STORM_TIMEOUT_S = 60
LIMITER = {"burst_size": 5, "max_per_minute": 10}
LIMITED_S = 21.0


async def one_camera(env):
    """P2: daemon and reference onboard one camera each in turn, so that disk and machine load affect both."""
    async with (
        env.rig("one-camera") as rig,
        daemon(rig) as running,
        api(running) as get,
        child("tests.bench.bare", "onboard", rig.state_dir.parent / "bare.db") as bare,
    ):
        await wait_until_connected(running)
        await bare.next_line()
        ours, reference = [], []
        for number in range(SAMPLES):
            took, bare_took = await _onboard_one(rig, running, get, bare, seed=1000 + number)
            ours.append(took)
            reference.append(bare_took)
    median, bare_median = statistics.median(ours), statistics.median(reference)
    worst, bare_worst = quantile(ours, 0.99), quantile(reference, 0.99)
    ratio = median / bare_median
    head = "P2", "first status → paired, p50", "ms"
    return [
        Row(*head, median, bare_median, ratio, "≤ 1.5 ×", ratio <= 1.5, note="one HTTP GET and four commits"),
        Row("P2", "first status → paired, p99", "ms", worst, bare_worst, worst / bare_worst, "≤ 50 ms", worst <= 50),
    ]


async def _onboard_one(rig, running, get, bare, *, seed):
    """(ours, reference) in milliseconds, for one new camera."""
    options = CameraOptions(broker_host=rig.broker.host, broker_port=rig.broker.port, http_port=rig.camera_port)
    fleet_of_one = Fleet(count=1, options=options, network=rig.network, seed=seed)
    camera = fleet_of_one.cameras[0]
    original_status, published_at = camera.status, []

    def timed_status(*state):
        published_at.append(time.perf_counter())
        return original_status(*state)

    camera.status = timed_status
    async with fleet_of_one:
        await camera.reported.wait()
        # Polling the database does not load the daemon; afterwards the API must show the camera too.
        while not running.rows("SELECT 1 FROM assignments WHERE mac = ?", camera.mac):
            await asyncio.sleep(0.0005)
        while "container_id" not in (await get(f"/api/v1/cameras/{camera.mac}"))["data"]:
            pass
        took = (time.perf_counter() - published_at[0]) * 1000
        return took, float(await bare.request(f"{camera.url}/status"))


async def storm(env):
    """P3 without a rate limit: all paired, none lost, none twice."""
    async with env.rig("storm") as rig, daemon(rig) as running, _arrivals(rig) as arrivals:
        await wait_until_connected(running)
        async with fleet(rig, STORM, interval=30.0):
            await eventually(lambda: _paired_count(running) >= STORM, within=STORM_TIMEOUT_S, what="250 cameras paired")
            took = time.perf_counter() - arrivals.first_at
            async with api(running) as get:
                listed = (await get("/api/v1/espcam/paired"))["data"]["total"]
        stages = dict(running.rows("SELECT stage, count(*) FROM onboarding_audit GROUP BY stage"))
    exact = dict.fromkeys(("discovered", "verified", "registered", "paired"), STORM)
    met = took <= 5.0 and listed == STORM and stages == exact
    return [
        Row("P3", "250 cameras at once: all paired", "s", took, target="≤ 5 s", met=met),
        Row("P3", "… registered once", "", listed, STORM, listed / STORM, "= 250", stages == exact),
    ]


async def limited_storm(env):
    """P3 with the default rate limit: exactly as many as it permits, in arrival order."""
    async with (
        env.rig("limited-storm") as rig,
        daemon(rig, auto_onboard=LIMITER) as running,
        _arrivals(rig) as arrivals,
    ):
        await wait_until_connected(running)
        async with fleet(rig, STORM, interval=30.0):
            await eventually(lambda: arrivals.macs, within=20)
            await asyncio.sleep(arrivals.first_at + LIMITED_S - time.perf_counter())
            discovered = [mac for (mac,) in running.rows(_DISCOVERED)]
    expected = LIMITER["burst_size"] + int(LIMITED_S * LIMITER["max_per_minute"] / 60)
    in_order = discovered == arrivals.macs[: len(discovered)]
    count = len(discovered)
    met = count == expected and in_order
    return [Row("P3", "default rate limit, 21 s, in order", "", count, expected, count / expected, "= 1 ×", met)]


_DISCOVERED = "SELECT mac_address FROM onboarding_audit WHERE stage = 'discovered' ORDER BY id"


class _ArrivalOrder:
    """Cameras in the order of their first messages; the broker sends messages to all subscribers in the same order."""

    def __init__(self):
        self.macs = []
        self.first_at = 0.0

    async def record(self, client):
        async for message in client.messages:
            mac = message.topic.value.rpartition("/")[2]
            if not self.macs:
                self.first_at = time.perf_counter()
            if mac not in self.macs:
                self.macs.append(mac)


@contextlib.asynccontextmanager
async def _arrivals(rig):
    arrivals = _ArrivalOrder()
    async with aiomqtt.Client(rig.broker.host, rig.broker.port) as client:
        await client.subscribe("camera/status/+", qos=1)
        recording = asyncio.create_task(arrivals.record(client))
        try:
            yield arrivals
        finally:
            recording.cancel()
            await asyncio.wait([recording])


def _paired_count(running):
    return running.rows("SELECT count(*) FROM assignments")[0][0]
