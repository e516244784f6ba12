"""How the machine does: what the kernel's files say, and from which figures on that is a worry."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

MOST_CORES = 1024
COLDEST, HOTTEST = -40.0, 150.0
"""What lies outside of this is no temperature: a sensor that is not connected reads as -127 or 255 degrees."""
_CPU_LINE = re.compile(r"^cpu(\d*)((?: +\d+){4,})", re.ASCII | re.MULTILINE)
_MEMORY_LINE = re.compile(r"^(\w+): +(\d+) kB", re.ASCII | re.MULTILINE)
_PROCESSOR = re.compile(r"cpu|soc|core|x86_pkg|k10temp|bcm2835", re.IGNORECASE)


class HostStatus(StrEnum):
    """How much of a worry the machine is."""

    HEALTHY = "healthy"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Limits:
    """From which figure on something is a warning, and from which on it is critical."""

    warning: float
    critical: float

    def judge(self, value: float) -> HostStatus:
        """What a figure means."""
        if value >= self.critical:
            return HostStatus.CRITICAL
        return HostStatus.WARNING if value >= self.warning else HostStatus.HEALTHY


CPU_PERCENT = Limits(85, 97)
MEMORY_PERCENT = Limits(80, 93)
DISK_PERCENT = Limits(85, 95)
TEMPERATURE_C = Limits(70, 80)
"""A Raspberry Pi slows itself down at 80 degrees."""


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """What a processor has done since boot, in ticks: of all of them, those in which it worked."""

    busy: int
    total: int


@dataclass(frozen=True, slots=True)
class Cpu:
    """Percent of an interval in which the processors worked: together, and each by itself."""

    percent: float = 0.0
    per_core: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of memory or of a file system; `available` is what can still be had, which is not all that is not used."""

    total: int = 0
    used: int = 0
    available: int = 0

    @property
    def percent(self) -> float:
        """How much of what can be had is used."""
        within = self.used + self.available
        return round(100 * self.used / within, 1) if within > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Host:
    """One look at the machine; what could not be read is 0."""

    cpu: Cpu
    memory: Space
    disk: Space
    temperature: float
    load: tuple[float, float, float]


def parse_cpu(stat: str) -> dict[str, CpuTimes]:
    """`/proc/stat` → ticks by processor: `0`, `1`, … and `` for all of them."""
    found: dict[str, CpuTimes] = {}
    for name, columns in _CPU_LINE.findall(stat):
        # user nice system idle iowait irq softirq steal; guests are in user already.
        ticks = [int(column) for column in columns.split()[:8]]
        idle = ticks[3] + (ticks[4] if len(ticks) > 4 else 0)
        found.setdefault(name, CpuTimes(sum(ticks) - idle, sum(ticks)))
        if len(found) > MOST_CORES:
            break
    return found


def usage(before: dict[str, CpuTimes], after: dict[str, CpuTimes]) -> Cpu:
    """What the processors did between two looks; one that was switched on meanwhile counts from its start."""
    nothing = CpuTimes(0, 0)
    percent = {name: _share(before.get(name, nothing), times) for name, times in after.items()}
    cores = sorted((name for name in percent if name), key=int)
    return Cpu(percent.get("", 0.0), tuple(percent[name] for name in cores))


def _share(before: CpuTimes, after: CpuTimes) -> float:
    total, busy = after.total - before.total, after.busy - before.busy
    # The kernel lets its counters for waiting go backwards now and then.
    return round(min(100.0, max(0.0, 100 * busy / total)), 1) if total > 0 else 0.0


def parse_memory(meminfo: str) -> Space:
    """`/proc/meminfo` → what programs hold, and what they could still have."""
    kib = {name: int(value) for name, value in _MEMORY_LINE.findall(meminfo)}
    total = kib.get("MemTotal", 0)
    spare = kib.get("MemAvailable", kib.get("MemFree", 0) + kib.get("Buffers", 0) + kib.get("Cached", 0))
    spare = min(spare, total)
    return Space(total * 1024, (total - spare) * 1024, spare * 1024)


def parse_load(loadavg: str) -> tuple[float, float, float]:
    """`/proc/loadavg` → averages over 1, 5 and 15 minutes."""
    try:
        one, five, fifteen = (float(column) for column in loadavg.split()[:3])
    except ValueError:
        return 0.0, 0.0, 0.0
    loads = (one, five, fifteen)
    return loads if all(math.isfinite(load) and load >= 0 for load in loads) else (0.0, 0.0, 0.0)


def parse_temperature(text: str) -> float | None:
    """A sensor's thousandths of a degree → degrees; None where that is no temperature."""
    try:
        degrees = int(text.strip()) / 1000
    except (ValueError, OverflowError):
        return None
    return round(degrees, 1) if COLDEST <= degrees <= HOTTEST else None


def temperature(sensors: Iterable[tuple[str, str]]) -> float:
    """The processor's temperature from sensors' names and readings; the hottest where it has several, 0 without one."""
    read = [(name, degrees) for name, text in sensors if (degrees := parse_temperature(text)) is not None]
    chosen = [degrees for name, degrees in read if _PROCESSOR.search(name)] or [degrees for _, degrees in read]
    return max(chosen, default=0.0)


def judge(host: Host) -> tuple[HostStatus, list[str]]:
    """How much of a worry the machine is, and each reason for it in words."""
    figures = (
        ("processor", host.cpu.percent, "%", CPU_PERCENT),
        ("memory", host.memory.percent, "%", MEMORY_PERCENT),
        ("disk", host.disk.percent, "%", DISK_PERCENT),
        ("temperature", host.temperature, "°C", TEMPERATURE_C),
    )
    found: list[tuple[HostStatus, str]] = []
    for name, value, unit, limits in figures:
        if (status := limits.judge(value)) is not HostStatus.HEALTHY:
            limit = limits.critical if status is HostStatus.CRITICAL else limits.warning
            found.append((status, f"{name} at {value:g} {unit} ({status} from {limit:g} {unit} on)"))
    return _worst([status for status, _ in found]), [reason for _, reason in found]


def _worst(statuses: Sequence[HostStatus]) -> HostStatus:
    return max(statuses, key=list(HostStatus).index, default=HostStatus.HEALTHY)
