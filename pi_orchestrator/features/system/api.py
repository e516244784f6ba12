"""The host: `/api/v1/system/info`."""

from __future__ import annotations

from pi_orchestrator.core.clock import Clock, rfc3339
from pi_orchestrator.http.model import ApiModel, Time
from pi_orchestrator.net.host.reader import HostReader
from pi_orchestrator.net.host.readings import HostStatus, Space, overall_status

_MIB = 1024**2
_GIB = 1024**3


class CpuView(ApiModel):
    """Processor usage since the previous request."""

    usage_percent: float
    core_count: int
    per_core: list[float]


class MemoryView(ApiModel):
    """Memory in MiB; caches count as available."""

    used_mb: float
    total_mb: float
    used_percent: float
    available_mb: float


class DiskView(ApiModel):
    """The file system of the state folder, in GiB."""

    used_gb: float
    total_gb: float
    used_percent: float
    path: str


class LoadView(ApiModel):
    """Load averages over 1, 5 and 15 minutes."""

    load_1: float
    load_5: float
    load_15: float


class SystemInfo(ApiModel):
    """Status of the host; `uptime` in nanoseconds, `reasons` explain a status other than healthy."""

    timestamp: Time
    cpu: CpuView
    memory: MemoryView
    disk: DiskView
    temperature_celsius: float
    uptime: int
    load_average: LoadView
    overall_status: HostStatus
    reasons: list[str]


async def info(clock: Clock, reader: HostReader) -> SystemInfo:
    """Processors, memory, disk, temperature, uptime and load of the host.

    Processor usage is measured since the previous request (at least 1 s ago), or over 0.2 s if there was none within a
    minute. `temperature_celsius` is 0 without a sensor. `uptime` is the uptime of the host in nanoseconds.

    `overall_status` is the worst status of processors, memory, disk and temperature. `reasons` name each that is not
    healthy. Limits for `warning` and `critical`: processors 85 % and 97 %, memory 80 % and 93 %, disk 85 % and 95 %,
    temperature 70 °C and 80 °C.
    """
    host = await reader.read()
    status, reasons = overall_status(host)
    one, five, fifteen = host.load
    return SystemInfo(
        timestamp=rfc3339(clock.wall()),
        cpu=CpuView(
            usage_percent=host.cpu.percent, core_count=len(host.cpu.per_core), per_core=list(host.cpu.per_core)
        ),
        memory=_memory(host.memory),
        disk=DiskView(
            used_gb=round(host.disk.used / _GIB, 2),
            total_gb=round(host.disk.total / _GIB, 2),
            used_percent=host.disk.percent,
            path=str(reader.folder),
        ),
        temperature_celsius=host.temperature,
        uptime=int(clock.monotonic() * 1e9),
        load_average=LoadView(load_1=one, load_5=five, load_15=fifteen),
        overall_status=status,
        reasons=reasons,
    )


def _memory(memory: Space) -> MemoryView:
    return MemoryView(
        used_mb=round(memory.used / _MIB, 1),
        total_mb=round(memory.total / _MIB, 1),
        used_percent=memory.percent,
        available_mb=round(memory.available / _MIB, 1),
    )
