"""Host metrics: parsers for the kernel's files, and warning limits."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

MAX_CORES = 1024
MIN_CELSIUS, MAX_CELSIUS = -40.0, 150.0
"""Valid temperatures in °C: a disconnected sensor reads -127 or 255."""
_CPU_LINE = re.compile(r"^cpu(\d*)((?: +\d+){4,})", re.ASCII | re.MULTILINE)
_MEMORY_LINE = re.compile(r"^(\w+): +(\d+) kB", re.ASCII | re.MULTILINE)
_CPU_SENSOR = re.compile(r"cpu|soc|core|x86_pkg|k10temp|bcm2835", re.IGNORECASE)


class HostStatus(StrEnum):
    """Overall condition of the host, best first."""

    HEALTHY = "healthy"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Limits:
    """Values from which on a metric is a warning or critical."""

    warning: float
    critical: float

    def status_of(self, value: float) -> HostStatus:
        """The status for a value."""
        if value >= self.critical:
            return HostStatus.CRITICAL
        return HostStatus.WARNING if value >= self.warning else HostStatus.HEALTHY


CPU_PERCENT = Limits(85, 97)
MEMORY_PERCENT = Limits(80, 93)
DISK_PERCENT = Limits(85, 95)
TEMPERATURE_C = Limits(70, 80)
"""A Raspberry Pi throttles its CPU at 80 °C."""


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Busy and total time of a CPU since boot, in ticks."""

    busy: int
    total: int


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU usage over an interval in percent: all cores together, and per core."""

    percent: float = 0.0
    per_core: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of memory or of a file system; `available` can be less than `total - used`."""

    total: int = 0
    used: int = 0
    available: int = 0

    @property
    def percent(self) -> float:
        """Used share of the usable space, in percent."""
        usable = self.used + self.available
        return round(100 * self.used / usable, 1) if usable > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Host:
    """One reading of the host; values that could not be read are 0."""

    cpu: Cpu
    memory: Space
    disk: Space
    temperature: float
    load: tuple[float, float, float]


def parse_cpu(stat: str) -> dict[str, CpuTimes]:
    """`/proc/stat` → ticks by CPU: `"0"`, `"1"`, …, and `""` for all CPUs together."""
    times: dict[str, CpuTimes] = {}
    for name, columns in _CPU_LINE.findall(stat):
        # user nice system idle iowait irq softirq steal; user already includes guest.
        ticks = [int(column) for column in columns.split()[:8]]
        idle = ticks[3] + (ticks[4] if len(ticks) > 4 else 0)
        times.setdefault(name, CpuTimes(sum(ticks) - idle, sum(ticks)))
        if len(times) > MAX_CORES:
            break
    return times


def usage(before: dict[str, CpuTimes], after: dict[str, CpuTimes]) -> Cpu:
    """CPU usage between two readings; a CPU that is missing in `before` counts from boot."""
    zero = CpuTimes(0, 0)
    percent = {name: _share(before.get(name, zero), times) for name, times in after.items()}
    cores = sorted((name for name in percent if name), key=int)
    return Cpu(percent.get("", 0.0), tuple(percent[name] for name in cores))


def _share(before: CpuTimes, after: CpuTimes) -> float:
    total, busy = after.total - before.total, after.busy - before.busy
    # The kernel's iowait counter can decrease.
    return round(min(100.0, max(0.0, 100 * busy / total)), 1) if total > 0 else 0.0


def parse_memory(meminfo: str) -> Space:
    """`/proc/meminfo` → memory in bytes."""
    kib = {name: int(value) for name, value in _MEMORY_LINE.findall(meminfo)}
    total = kib.get("MemTotal", 0)
    available = kib.get("MemAvailable", kib.get("MemFree", 0) + kib.get("Buffers", 0) + kib.get("Cached", 0))
    available = min(available, total)
    return Space(total * 1024, (total - available) * 1024, available * 1024)


def parse_load(loadavg: str) -> tuple[float, float, float]:
    """`/proc/loadavg` → averages over 1, 5 and 15 minutes."""
    try:
        one, five, fifteen = (float(column) for column in loadavg.split()[:3])
    except ValueError:
        return 0.0, 0.0, 0.0
    loads = (one, five, fifteen)
    return loads if all(math.isfinite(load) and load >= 0 for load in loads) else (0.0, 0.0, 0.0)


def parse_temperature(text: str) -> float | None:
    """Sensor text in m°C → °C; None if it is not a valid temperature."""
    try:
        degrees = int(text.strip()) / 1000
    except (ValueError, OverflowError):
        return None
    return round(degrees, 1) if MIN_CELSIUS <= degrees <= MAX_CELSIUS else None


def temperature(sensors: Iterable[tuple[str, str]]) -> float:
    """CPU temperature in °C from (name, text) of the sensors: the highest CPU sensor, else the highest; 0 if none."""
    readings = [(name, degrees) for name, text in sensors if (degrees := parse_temperature(text)) is not None]
    chosen = [degrees for name, degrees in readings if _CPU_SENSOR.search(name)] or [degrees for _, degrees in readings]
    return max(chosen, default=0.0)


def overall_status(host: Host) -> tuple[HostStatus, list[str]]:
    """The worst status of all metrics, and a text for each metric that is not healthy."""
    metrics = (
        ("processor", host.cpu.percent, "%", CPU_PERCENT),
        ("memory", host.memory.percent, "%", MEMORY_PERCENT),
        ("disk", host.disk.percent, "%", DISK_PERCENT),
        ("temperature", host.temperature, "°C", TEMPERATURE_C),
    )
    problems: list[tuple[HostStatus, str]] = []
    for name, value, unit, limits in metrics:
        if (status := limits.status_of(value)) is not HostStatus.HEALTHY:
            limit = limits.critical if status is HostStatus.CRITICAL else limits.warning
            problems.append((status, f"{name} at {value:g} {unit} ({status} from {limit:g} {unit} on)"))
    return _worst([status for status, _ in problems]), [text for _, text in problems]


def _worst(statuses: Sequence[HostStatus]) -> HostStatus:
    return max(statuses, key=list(HostStatus).index, default=HostStatus.HEALTHY)
