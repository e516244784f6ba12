"""At rest: fifty registered cameras that report every 10 s, and nothing else. P9 memory, P11 CPU, P12 card writes."""

import asyncio
import contextlib
import time

from tests.bench.process import child, cpu_s, memory_mib, write_bytes
from tests.bench.report import Row
from tests.bench.stage import CAMERAS, api, connected, daemon, fleet
from tests.support.waiting import eventually

SETTLING_S = 5.0
IDLE_S = 30.0
FLUSHES = 3
LONGEST_WAIT_S = 75.0
DAY_S = 86_400
MESSAGES_A_DAY = CAMERAS * DAY_S / 10
MOONRAKER = "a constant: Moonraker, seen elsewhere (start 0.5 to 0.7 s), not measured in this run"


@contextlib.asynccontextmanager
async def settled(stage):
    """A daemon at rest; it stays so while other things are measured beside it."""
    async with stage.settled_world("rest") as world, daemon(world) as running:
        await connected(running)
        async with fleet(world, CAMERAS, interval=10.0), api(running) as get:

            async def all_have_spoken():
                cameras = (await get("/api/v1/cameras"))["data"]["cameras"]
                return sum(camera["health"]["uptime"] > 0 for camera in cameras) == CAMERAS

            await eventually(all_have_spoken, within=30)
            # Whoever has seen one unknown camera has netlink loaded, so this one has it too.
            await get(f"/api/v1/onboarding/auto/policy/explain?mac={stage.macs[0]}&ip=127.0.0.1")
            await asyncio.sleep(SETTLING_S)
            yield stage, running, world


async def memory(rest):
    """P9: resident memory; PSS counts what is shared with other processes in part only."""
    _, running, world = rest
    rss, pss = memory_mib(running.pid)
    async with child("tests.bench.bare", "stack", world.broker.port) as bare:
        await bare.line()
        await asyncio.sleep(1)
        bare_rss, bare_pss = memory_mib(bare.pid)
    note = "the same libraries, imported and idle (Moonraker: 55 MiB, a constant)"
    return [
        Row("P9", "memory at rest, RSS", "MiB", rss, bare_rss, rss / bare_rss, "≤ 64 MiB", rss <= 64, note),
        Row("P9", "… PSS", "MiB", pss, bare_pss, pss / bare_pss, note=note),
    ]


async def idle_cpu(rest):
    """P11."""
    _, running, _ = rest
    before, began = cpu_s(running.pid), time.monotonic()
    await asyncio.sleep(IDLE_S)
    percent = (cpu_s(running.pid) - before) / (time.monotonic() - began) * 100
    return [Row("P11", "idle CPU over 30 s", "%", percent, 0.25, percent / 0.25, "≤ 0.5 %", percent <= 0.5, MOONRAKER)]


async def card_writes(rest):
    """P12: from right after one presence flush to right after a later one; a day has 1,440 of them."""
    stage, running, _ = rest
    first, began = await _next_flush(running)
    for _ in range(FLUSHES):
        written, now = await _next_flush(running)
    ours = (written - first) / (now - began) * DAY_S / 1e6
    async with child("tests.bench.bare", "naive", stage.path("naive") / "bare.db") as bare:
        naive = float(await bare.line()) * MESSAGES_A_DAY / 1e6
    note = "a commit for each message"
    return [Row("P12", "card writes at rest, a day", "MB", ours, naive, ours / naive, "≤ 50 MB", ours <= 50, note)]


async def _next_flush(running):
    """(bytes written so far, when), once the next flush has come and gone."""
    before = write_bytes(running.pid)
    async with asyncio.timeout(LONGEST_WAIT_S):
        while write_bytes(running.pid) == before:
            await asyncio.sleep(0.25)
    now = time.monotonic()
    await asyncio.sleep(2)
    return write_bytes(running.pid), now
