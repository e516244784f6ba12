"""P9, P11, P12: idle load of fifty registered cameras that report every 10 s, with one scan per minute.

Two daemons, each on its own access point network (see tests/support/lan.py): one scans by ARP, the other is
unprivileged and scans by the kernel's neighbour table.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass

from tests.bench.process import INSTALLED, child, cpu_s, memory_mib, unit_env, write_bytes
from tests.bench.report import Row
from tests.bench.stage import CAMERAS, daemon, fleet
from tests.bench.streamer import CLIENTS
from tests.support import lan
from tests.support.process import DaemonProcess
from tests.support.waiting import eventually

SETTLING_S = 5.0
SCAN_S = 60
IDLE_S = 2.0 * SCAN_S
FLUSHES = 3
LONGEST_WAIT_S = 75.0
DAY_S = 86_400
MESSAGES_A_DAY = CAMERAS * DAY_S / 10
MOONRAKER = "a constant: Moonraker, seen elsewhere (start 0.5 to 0.7 s), not measured in this run"
BARE = "the daemon's libraries but scapy and zeroconf, imported and idle (Moonraker: 55 MiB, a constant)"
ENGINES = ("arp", "neighbour")
CROWD = 1000
CROWD_S = 10.0


@dataclass
class Rest:
    """Idle daemons, by the name of their scan engine."""

    stage: object
    site: lan.Lan
    daemons: dict[str, DaemonProcess]


@contextlib.asynccontextmanager
async def settled(stage):
    """Both daemons, idle; other measurements may run at the same time."""
    async with contextlib.AsyncExitStack() as stack:
        daemons = {}
        for engine in ENGINES:
            site = await stack.enter_async_context(lan.opened(stage.path("rest"), cameras=CAMERAS))
            discovery = {"engine": engine, "interval_s": SCAN_S}
            launch_options = {"command": (INSTALLED, "-m", "pi_orchestrator"), "env": unit_env()}
            running = site.daemon(
                unprivileged=engine == "neighbour", launch_options=launch_options, discovery=discovery
            )
            daemons[engine] = await stack.enter_async_context(running)
            await stack.enter_async_context(site.fleet(interval=10))
        for running in daemons.values():
            await eventually(lambda running=running: _all_are_settled(running), within=60, what="the cameras are known")
        await asyncio.sleep(SETTLING_S)
        yield Rest(stage, site, daemons)


async def _all_are_settled(running):
    """Whether every camera is registered, has published, and was found by a scan."""
    cameras = (await running.api.get("/api/v1/cameras")).data["cameras"]
    spoken = sum(camera["health"]["uptime"] > 0 for camera in cameras)
    devices = (await running.api.get("/api/v1/espcam/discovered")).data["devices"]
    found = sum(any(one["source"] in ENGINES for one in device["evidence"]) for device in devices)
    registered = sum(device["registered"] for device in devices)
    return spoken == found == registered == CAMERAS


async def memory(rest):
    """P9: resident memory; PSS counts shared memory proportionally."""
    (rss, pss), (without, _) = (memory_mib(running.pid) for running in rest.daemons.values())
    where = {"prefix": rest.site.pi.prefix, "python": INSTALLED}
    async with child("tests.bench.bare", "stack", rest.site.broker.port, **where) as bare:
        await bare.line()
        await asyncio.sleep(1)
        bare_rss, bare_pss = memory_mib(bare.pid)
    return [
        Row("P9", "memory at rest, ARP: RSS", "MiB", rss, bare_rss, rss / bare_rss, "≤ 80 MiB", rss <= 80, BARE),
        Row("P9", "… PSS", "MiB", pss, bare_pss, pss / bare_pss, note=BARE),
        Row("P9", "… neighbour: RSS", "MiB", without, bare_rss, without / bare_rss, "≤ 64 MiB", without <= 64, BARE),
    ]


async def crowd(stage):
    """P9 with a thousand cameras on loopback (without scans) and a hundred open streams."""
    async with (
        stage.rig("crowd") as rig,
        daemon(rig, python=INSTALLED, env=unit_env()) as running,
        fleet(rig, CROWD),
        child("tests.bench.streamer", "clients") as streams,
        child("tests.bench.bare", "stack", rig.broker.port, python=INSTALLED) as bare,
    ):

        async def all_registered():
            return running.rows("SELECT count(*) FROM assignments")[0][0] == CROWD

        await eventually(all_registered, within=60)
        streams.process.stdin.write(f"{running.port} {CROWD_S}\n".encode())
        await streams.line()
        await asyncio.sleep(CROWD_S / 2)
        rss, _ = memory_mib(running.pid)
        await bare.line()
        bare_rss, _ = memory_mib(bare.pid)
        await streams.line()
    what = f"… {CROWD:,} cameras, {CLIENTS} streams: RSS"
    return [Row("P9", what, "MiB", rss, bare_rss, rss / bare_rss, "≤ 110 MiB", rss <= 110, BARE)]


async def idle_cpu(rest):
    """P11: CPU during two scan intervals."""
    began, before = time.monotonic(), _cpu(rest)
    await asyncio.sleep(IDLE_S)
    seconds, after = time.monotonic() - began, _cpu(rest)
    rows = []
    for engine, measure in zip(ENGINES, ("idle CPU, ARP scan each 60 s", "… neighbour scan"), strict=True):
        percent = (after[engine] - before[engine]) / seconds * 100
        rows.append(Row("P11", measure, "%", percent, 0.25, percent / 0.25, "≤ 0.5 %", percent <= 0.5, MOONRAKER))
    return rows


def _cpu(rest):
    return {engine: cpu_s(running.pid) for engine, running in rest.daemons.items()}


async def card_writes(rest):
    """P12: from directly after one presence flush to directly after a later one; 1,440 flushes per day."""
    running = rest.daemons["arp"]
    first, began = await _next_flush(running)
    for _ in range(FLUSHES):
        written, now = await _next_flush(running)
    ours = (written - first) / (now - began) * DAY_S / 1e6
    async with child("tests.bench.bare", "naive", rest.stage.path("naive") / "bare.db") as bare:
        naive = float(await bare.line()) * MESSAGES_A_DAY / 1e6
    note = "a commit for each message"
    return [Row("P12", "card writes at rest, a day", "MB", ours, naive, ours / naive, "≤ 50 MB", ours <= 50, note)]


async def _next_flush(running):
    """(bytes written so far, time), after the next flush."""
    before = write_bytes(running.pid)
    async with asyncio.timeout(LONGEST_WAIT_S):
        while write_bytes(running.pid) == before:
            await asyncio.sleep(0.25)
    now = time.monotonic()
    await asyncio.sleep(2)
    return write_bytes(running.pid), now
