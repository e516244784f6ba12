"""The machine itself, from `/proc` and `/sys`: processors, memory, disk, temperature, load.

Whoever asks gets the figures of the interval since somebody asked before. Where that was long ago the interval is a
short one that begins now, because an average over a night says nothing about this minute.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.host import (
    CpuTimes,
    Host,
    Space,
    parse_cpu,
    parse_load,
    parse_memory,
    temperature,
    usage,
)
from pi_orchestrator.net.files import read_bounded

FRESH_S = 1.0
STALE_S = 60.0
SHORTEST_S = 0.2
MAX_BYTES = 256 * 1024
MAX_SENSORS = 64
_SENSORS = (("class/thermal", "thermal_zone*", "type", "temp"), ("class/hwmon", "hwmon*", "name", "temp*_input"))


class HostReader:
    """Looks at the machine when it is asked, at most once in `FRESH_S`; `folder` is on the disk that matters."""

    def __init__(self, *, clock: Clock, folder: Path, proc: Path = Path("/proc"), system: Path = Path("/sys")) -> None:
        self.folder = folder
        self._clock = clock
        self._proc = proc
        self._system = system
        self._looking: asyncio.Future[Host] | None = None
        self._looked_at: float | None = None
        self._cpu: dict[str, CpuTimes] = {}

    async def look(self) -> Host:
        """How the machine does; those who ask meanwhile share one look."""
        now = self._clock.monotonic()
        looking = self._looking
        if looking is None or (looking.done() and not self._is_younger(FRESH_S, now)):
            recent = self._is_younger(STALE_S, now)
            self._looked_at = now
            looking = self._looking = asyncio.ensure_future(asyncio.to_thread(self._read, recent=recent))
        return await asyncio.shield(looking)

    def _is_younger(self, seconds: float, now: float) -> bool:
        return self._looked_at is not None and 0 <= now - self._looked_at < seconds

    def _read(self, *, recent: bool) -> Host:
        if not recent:
            self._cpu = parse_cpu(_text(self._proc / "stat"))
            time.sleep(SHORTEST_S)  # in a thread, where it holds up nobody else
        before, self._cpu = self._cpu, parse_cpu(_text(self._proc / "stat"))
        return Host(
            cpu=usage(before, self._cpu),
            memory=parse_memory(_text(self._proc / "meminfo")),
            disk=_disk(self.folder),
            temperature=temperature(self._sensors()),
            load=parse_load(_text(self._proc / "loadavg")),
        )

    def _sensors(self) -> Iterator[tuple[str, str]]:
        """Names and readings; the zones alone where they read something, because their sensors come once more."""
        for place, folders, name, readings in _SENSORS:
            found = [
                (_text(folder / name).strip(), text)
                for folder in sorted((self._system / place).glob(folders))[:MAX_SENSORS]
                for file in sorted(folder.glob(readings))[:MAX_SENSORS]
                if (text := _text(file))
            ]
            yield from found
            if found:
                return


def _text(file: Path) -> str:
    """A file of the kernel's; empty where there is none, or its sensor does not answer."""
    try:
        return read_bounded(file, max_bytes=MAX_BYTES)[0].decode("ascii", errors="replace")
    except OSError:
        return ""


def _disk(folder: Path) -> Space:
    try:
        status = os.statvfs(folder)
    except OSError:
        return Space()
    block = status.f_frsize
    used = (status.f_blocks - status.f_bfree) * block
    return Space(status.f_blocks * block, used, status.f_bavail * block)
