"""P9, P11, P12: idle load of fifty registered cameras that report every 10 s, with one scan per minute.

Two daemons, each on its own access point network (see tests/support/lan.py): one scans by ARP, the other is
unprivileged and scans by the kernel's neighbour table.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass

from tests.bench.environment import CAMERAS, daemon, fleet
from tests.bench.process import INSTALLED, child, cpu_s, memory_mib, unit_env, write_bytes
from tests.bench.report import Row
from tests.bench.streamer import CLIENTS
from tests.support import lan
from tests.support.process import DaemonProcess
from tests.support.waiting import eventually

SETTLE_S = 5.0
SCAN_S = 60
IDLE_S = 2.0 * SCAN_S
FLUSHES = 3
FLUSH_TIMEOUT_S = 75.0
DAY_S = 86_400
MESSAGES_PER_DAY = CAMERAS * DAY_S / 10
MOONRAKER = "a constant, not measured in this run: Moonraker on another machine (start 0.5 to 0.7 s)"
BARE = "the daemon's libraries without scapy and zeroconf, imported and idle (Moonraker: 55 MiB, a constant)"
ENGINES = ("arp", "neighbour")
MANY_CAMERAS = 1000
MANY_CAMERAS_S = 10.0


@dataclass
class IdleDaemons:
    """Idle daemons by the name of their scan engine; `site` is the network of the last one."""

    env: object
    site: lan.Lan
    daemons: dict[str, DaemonProcess]


@contextlib.asynccontextmanager
async def idle_daemons(env):
    """Both daemons, idle; other measurements may run at the same time."""
    async with contextlib.AsyncExitStack() as stack:
        daemons = {}
        for engine in ENGINES:
            site = await stack.enter_async_context(lan.opened(env.path("idle"), cameras=CAMERAS))
            discovery = {"engine": engine, "interval_s": SCAN_S}
            launch_options = {"command": (INSTALLED, "-m", "pi_orchestrator"), "env": unit_env()}
            running = site.daemon(
                unprivileged=engine == "neighbour", launch_options=launch_options, discovery=discovery
            )
            daemons[engine] = await stack.enter_async_context(running)
            await stack.enter_async_context(site.fleet(interval=10))
        for running in daemons.values():
            await eventually(lambda running=running: _is_settled(running), within=60, what="the cameras are known")
        await asyncio.sleep(SETTLE_S)
        yield IdleDaemons(env, site, daemons)


async def _is_settled(running):
    """Whether every camera is registered, has published, and was found by a scan."""
    cameras = (await running.api.get("/api/v1/cameras")).data["cameras"]
    published = sum(camera["health"]["uptime"] > 0 for camera in cameras)
    devices = (await running.api.get("/api/v1/espcam/discovered")).data["devices"]
    found = sum(any(evidence["source"] in ENGINES for evidence in device["evidence"]) for device in devices)
    registered = sum(device["registered"] for device in devices)
    return published == found == registered == CAMERAS


async def memory(idle):
    """P9: resident memory (RSS); PSS divides shared memory among the processes that share it."""
    (rss, pss), (neighbour, _) = (memory_mib(running.pid) for running in idle.daemons.values())
    options = {"prefix": idle.site.pi.prefix, "python": INSTALLED}
    async with child("tests.bench.bare", "stack", idle.site.broker.port, **options) as bare:
        await bare.next_line()
        await asyncio.sleep(1)
        bare_rss, bare_pss = memory_mib(bare.pid)
    return [
        Row("P9", "idle memory, ARP: RSS", "MiB", rss, bare_rss, rss / bare_rss, "≤ 80 MiB", rss <= 80, BARE),
        Row("P9", "… PSS", "MiB", pss, bare_pss, pss / bare_pss, note=BARE),
        Row(
            "P9",
            "… neighbour: RSS",
            "MiB",
            neighbour,
            bare_rss,
            neighbour / bare_rss,
            "≤ 64 MiB",
            neighbour <= 64,
            BARE,
        ),
    ]


async def many_cameras(env):
    """P9 with a thousand cameras on loopback (without scans) and a hundred open streams."""
    async with (
        env.rig("many-cameras") as rig,
        daemon(rig, python=INSTALLED, env=unit_env()) as running,
        fleet(rig, MANY_CAMERAS),
        child("tests.bench.streamer", "clients") as streams,
        child("tests.bench.bare", "stack", rig.broker.port, python=INSTALLED) as bare,
    ):

        async def all_registered():
            return running.rows("SELECT count(*) FROM assignments")[0][0] == MANY_CAMERAS

        await eventually(all_registered, within=60)
        streams.process.stdin.write(f"{running.port} {MANY_CAMERAS_S}\n".encode())
        await streams.next_line()
        await asyncio.sleep(MANY_CAMERAS_S / 2)
        rss, _ = memory_mib(running.pid)
        await bare.next_line()
        bare_rss, _ = memory_mib(bare.pid)
        await streams.next_line()
    what = f"… {MANY_CAMERAS:,} cameras, {CLIENTS} streams: RSS"
    return [Row("P9", what, "MiB", rss, bare_rss, rss / bare_rss, "≤ 110 MiB", rss <= 110, BARE)]


async def idle_cpu(idle):
    """P11: CPU during two scan intervals."""
    started, before = time.monotonic(), _cpu(idle)
    await asyncio.sleep(IDLE_S)
    seconds, after = time.monotonic() - started, _cpu(idle)
    rows = []
    for engine, measure in zip(ENGINES, ("idle CPU, ARP scan every 60 s", "… neighbour scan"), strict=True):
        percent = (after[engine] - before[engine]) / seconds * 100
        rows.append(Row("P11", measure, "%", percent, 0.25, percent / 0.25, "≤ 0.5 %", percent <= 0.5, MOONRAKER))
    return rows


def _cpu(idle):
    return {engine: cpu_s(running.pid) for engine, running in idle.daemons.items()}


async def card_writes(idle):
    """P12: bytes written from one flush of presence to a later one; there are 1,440 flushes per day."""
    running = idle.daemons["arp"]
    written_before, started = await _next_flush(running)
    for _ in range(FLUSHES):
        written, now = await _next_flush(running)
    ours = (written - written_before) / (now - started) * DAY_S / 1e6
    async with child("tests.bench.bare", "naive", idle.env.path("naive") / "bare.db") as bare:
        naive = float(await bare.next_line()) * MESSAGES_PER_DAY / 1e6
    note = "sqlite3, one commit for each message"
    return [Row("P12", "card writes, idle, per day", "MB", ours, naive, ours / naive, "≤ 50 MB", ours <= 50, note)]


async def _next_flush(running):
    """Wait for the next flush; returns (bytes written so far, monotonic time)."""
    before = write_bytes(running.pid)
    async with asyncio.timeout(FLUSH_TIMEOUT_S):
        while write_bytes(running.pid) == before:
            await asyncio.sleep(0.25)
    now = time.monotonic()
    await asyncio.sleep(2)
    return write_bytes(running.pid), now
