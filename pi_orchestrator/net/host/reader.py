"""Reads CPU, memory, temperature and load of the host from `/proc` and `/sys`, and disk space by statvfs.

CPU usage covers the interval since the last reading. If that is longer than `STALE_S`, it is measured over a new, short
interval, because an average over hours does not describe the current state.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.single_flight import SingleFlight
from pi_orchestrator.net.host.files import read_bounded
from pi_orchestrator.net.host.readings import (
    CpuTimes,
    Host,
    Space,
    parse_cpu,
    parse_load,
    parse_memory,
    temperature,
    usage,
)

FRESH_S = 1.0
STALE_S = 60.0
MEASURE_S = 0.2
MAX_BYTES = 256 * 1024
MAX_SENSORS = 64
_SENSORS = (("class/thermal", "thermal_zone*", "type", "temp"), ("class/hwmon", "hwmon*", "name", "temp*_input"))


class HostReader:
    """Reads the host on request, at most once per `FRESH_S`; `folder` selects the disk."""

    def __init__(self, *, clock: Clock, folder: Path, proc: Path = Path("/proc"), system: Path = Path("/sys")) -> None:
        self.folder = folder
        self._clock = clock
        self._proc = proc
        self._system = system
        # Not cancelled: a thread cannot be cancelled, and two concurrent readings would share `_cpu`.
        self._reading = SingleFlight(self._read_in_thread, keep_s=FRESH_S, clock=clock, cancel_unused=False)
        self._read_at = float("-inf")
        self._cpu: dict[str, CpuTimes] = {}

    async def read(self) -> Host:
        """The current state of the host; concurrent callers share one reading."""
        return await self._reading.get()

    async def _read_in_thread(self) -> Host:
        now = self._clock.monotonic()
        is_recent, self._read_at = now - self._read_at < STALE_S, now
        return await asyncio.to_thread(self._read, is_recent=is_recent)

    def _read(self, *, is_recent: bool) -> Host:
        if not is_recent:
            self._cpu = parse_cpu(_text(self._proc / "stat"))
            time.sleep(MEASURE_S)  # runs in a thread, so the loop is not blocked
        before, self._cpu = self._cpu, parse_cpu(_text(self._proc / "stat"))
        return Host(
            cpu=usage(before, self._cpu),
            memory=parse_memory(_text(self._proc / "meminfo")),
            disk=_disk(self.folder),
            temperature=temperature(self._sensors()),
            load=parse_load(_text(self._proc / "loadavg")),
        )

    def _sensors(self) -> Iterator[tuple[str, str]]:
        """Names and readings: of thermal zones, else of hwmon, which lists the sensors of the zones again."""
        for base, folders, name, readings in _SENSORS:
            sensors = [
                (_text(folder / name).strip(), text)
                for folder in sorted((self._system / base).glob(folders))[:MAX_SENSORS]
                for file in sorted(folder.glob(readings))[:MAX_SENSORS]
                if (text := _text(file))
            ]
            yield from sensors
            if sensors:
                return


def _text(file: Path) -> str:
    """Text of a kernel file; empty if it is missing or its sensor does not answer."""
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
