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
from tests.bench.process import child
from tests.bench.report import Row
from tests.bench.stage import CAMERAS
from tests.bench.streamer import CLIENTS
from tests.support import lan
from tests.support.waiting import eventually

ROUNDS = 3
ROUND_S = 5
SETTLING_S = 1
PICTURES_PER_S = 20
"""Fifty cameras in turn: no camera gets a second request while its last picture is cached."""

SCANS_PER_S = 1
LISTS_PER_S = 50


async def full_load(stage):
    """P5: the list with and without load. P16: the event loop and a bare loop, both under load."""
    quiet, busy, ours, bare = [], [], [], []
    async with _at_work(stage) as (site, running, file):
        everywhere = {"prefix": site.pi.prefix}
        async with (
            child("tests.bench.load", "http", **everywhere) as lists,
            child("tests.bench.lag", "bare") as reference,
        ):
            for _ in range(ROUNDS):
                quiet.append(await _ask(lists, **LIST, rate=LISTS_PER_S, seconds=ROUND_S))
                async with _load(site, running):
                    running.send(signal.SIGUSR1)
                    asking = asyncio.create_task(_ask(lists, **LIST, rate=LISTS_PER_S, seconds=ROUND_S))
                    bare.append(json.loads(await reference.ask(ROUND_S)))
                    busy.append(await asking)
                    running.send(signal.SIGUSR2)
                    await eventually(file.exists)
                    ours.append(json.loads(file.read_text()))
                    file.unlink()
    load = f"{MESSAGES_PER_S} messages, {PICTURES_PER_S} pictures, {SCANS_PER_S} scan a second, {CLIENTS} streams"
    rows = []
    for key, what, limit in (("p50_ms", "p50 under full load", None), ("p99_ms", "p99 under full load", 5)):
        median, other = (statistics.median(one[key] for one in rounds) for rounds in (busy, quiet))
        met = None if limit is None else median <= limit * other
        target = "" if limit is None else f"≤ {limit} ×"
        note = f"its own without the load, {LISTS_PER_S} requests a second; the load: {load}"
        rows.append(Row("P5", f"… {what}", "ms", median, other, median / other, target, met, note))
    lag, other = (statistics.median(one["p99_ms"] for one in rounds) for rounds in (ours, bare))
    longest = max(one["gc_ms"] for one in ours)
    note = f"a bare loop's at the same time; the load as above; the longest pause for garbage was {longest:.0f} ms"
    rows.append(Row("P16", "loop lag p99 under full load", "ms", lag, other, lag / other, "≤ 20 ms", lag <= 20, note))
    return rows


async def _ask(helper, **request):
    return json.loads(await helper.ask(json.dumps({"port": lan.API_PORT} | request)))


@contextlib.asynccontextmanager
async def _at_work(stage):
    """(network, daemon, file of its lag): all cameras are registered."""
    folder = stage.path("full")
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
    everywhere = {"prefix": site.pi.prefix}
    seconds = ROUND_S + SETTLING_S
    async with (
        child("tests.bench.load", "messages", site.broker.port, MESSAGES_PER_S, ",".join(macs), **everywhere),
        child("tests.bench.streamer", "clients", **everywhere) as streams,
        child("tests.bench.load", "http", **everywhere) as pictures,
        child("tests.bench.load", "http", **everywhere) as scans,
    ):
        streams.process.stdin.write(f"{lan.API_PORT} {seconds}\n".encode())
        await streams.line()
        paths = [f"/api/v1/cameras/{mac}/capture" for mac in macs]
        working = [
            asyncio.create_task(_ask(pictures, path=paths, method="POST", rate=PICTURES_PER_S, seconds=seconds)),
            asyncio.create_task(
                _ask(scans, path="/api/v1/espcam/scan", method="POST", status=202, rate=SCANS_PER_S, seconds=seconds)
            ),
        ]
        await asyncio.sleep(SETTLING_S / 2)
        yield
        await asyncio.gather(*working)
        await streams.line()
