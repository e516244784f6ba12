"""P5 and P16 at full load: a hundred open pages, status messages, scans and captures, all concurrently.

The network is that of an access point (see tests/support/lan.py): fifty cameras, each with its own interface. Pictures
are requested from them in turn over MQTT, and each scan probes every address. Separate processes generate the load.
"""

import asyncio
import contextlib
import json
import signal
import statistics
import sys

from tests.bench.answers import LIST, MESSAGES_PER_S
from tests.bench.environment import CAMERAS
from tests.bench.process import child
from tests.bench.report import Row
from tests.bench.streamer import CLIENTS
from tests.support import lan
from tests.support.waiting import eventually

ROUNDS = 3
ROUND_S = 5
SETTLE_S = 1
PICTURES_PER_S = 20
"""Fifty cameras in turn: the last picture of a camera is no longer cached when its next one is requested."""

SCANS_PER_S = 1
LISTS_PER_S = 50


async def full_load(env):
    """P5: latency of the list with and without load. P16: lag of the event loop and of a bare loop, both under load."""
    unloaded, loaded, ours, bare = [], [], [], []
    async with _registered_cameras(env) as (site, running, file):
        in_namespace = {"prefix": site.pi.prefix}
        async with (
            child("tests.bench.load", "http", **in_namespace) as lists,
            child("tests.bench.lag", "bare") as reference,
        ):
            for _ in range(ROUNDS):
                unloaded.append(await _request(lists, **LIST, rate=LISTS_PER_S, seconds=ROUND_S))
                async with _load(site, running):
                    running.send(signal.SIGUSR1)
                    listing = asyncio.create_task(_request(lists, **LIST, rate=LISTS_PER_S, seconds=ROUND_S))
                    bare.append(json.loads(await reference.request(ROUND_S)))
                    loaded.append(await listing)
                    running.send(signal.SIGUSR2)
                    await eventually(file.exists)
                    ours.append(json.loads(file.read_text()))
                    file.unlink()
    load = f"{MESSAGES_PER_S} messages, {PICTURES_PER_S} pictures, {SCANS_PER_S} scan per second, {CLIENTS} streams"
    rows = []
    for key, measure, limit in (("p50_ms", "p50 under full load", None), ("p99_ms", "p99 under full load", 5)):
        median, reference_median = (
            statistics.median(result[key] for result in rounds) for rounds in (loaded, unloaded)
        )
        met = None if limit is None else median <= limit * reference_median
        target = "" if limit is None else f"≤ {limit} ×"
        note = f"its own latency without the load, at {LISTS_PER_S} requests per second; the load: {load}"
        rows.append(
            Row("P5", f"… {measure}", "ms", median, reference_median, median / reference_median, target, met, note)
        )
    lag, bare_lag = (statistics.median(result["p99_ms"] for result in rounds) for rounds in (ours, bare))
    longest_gc = max(result["gc_ms"] for result in ours)
    note = f"a bare loop at the same time, under the same load; the longest garbage collection took {longest_gc:.0f} ms"
    rows.append(
        Row("P16", "loop lag p99 under full load", "ms", lag, bare_lag, lag / bare_lag, "≤ 20 ms", lag <= 20, note)
    )
    return rows


async def _request(sender, **request):
    return json.loads(await sender.request(json.dumps({"port": lan.API_PORT} | request)))


@contextlib.asynccontextmanager
async def _registered_cameras(env):
    """Yield (network, daemon, file with its lag); all cameras are registered."""
    folder = env.path("full")
    command = (sys.executable, "-m", "tests.bench.lag", "daemon")
    file = folder / "lag"
    async with (
        lan.opened(folder, cameras=CAMERAS) as site,
        site.daemon(launch_options={"command": command, "env": {"LAG_FILE": str(file)}}) as running,
        site.fleet(interval=10),
    ):

        async def all_registered():
            return (await running.api.get("/api/v1/espcam/paired")).data["total"] == CAMERAS

        await eventually(all_registered, within=60)
        yield site, running, file


@contextlib.asynccontextmanager
async def _load(site, running):
    """Apply the full load during the block; an unexpected answer aborts the run."""
    macs = [camera.mac for camera in site.cameras]
    in_namespace = {"prefix": site.pi.prefix}
    seconds = ROUND_S + SETTLE_S
    async with (
        child("tests.bench.load", "messages", site.broker.port, MESSAGES_PER_S, ",".join(macs), **in_namespace),
        child("tests.bench.streamer", "clients", **in_namespace) as streams,
        child("tests.bench.load", "http", **in_namespace) as pictures,
        child("tests.bench.load", "http", **in_namespace) as scans,
    ):
        streams.process.stdin.write(f"{lan.API_PORT} {seconds}\n".encode())
        await streams.next_line()
        paths = [f"/api/v1/cameras/{mac}/capture" for mac in macs]
        requests = [
            asyncio.create_task(_request(pictures, path=paths, method="POST", rate=PICTURES_PER_S, seconds=seconds)),
            asyncio.create_task(
                _request(
                    scans, path="/api/v1/espcam/scan", method="POST", status=202, rate=SCANS_PER_S, seconds=seconds
                )
            ),
        ]
        await asyncio.sleep(SETTLE_S / 2)
        yield
        await asyncio.gather(*requests)
        await streams.next_line()
