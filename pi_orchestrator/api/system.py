"""The machine: `/api/v1/system/info`."""

from __future__ import annotations

from pi_orchestrator.api.route import Time, Wire
from pi_orchestrator.api.services import Services
from pi_orchestrator.clock import rfc3339
from pi_orchestrator.domain.host import HostStatus, Space, judge

_MIB = 1024**2
_GIB = 1024**3


class CpuView(Wire):
    """The processors, over the time since somebody asked before."""

    usage_percent: float
    core_count: int
    per_core: list[float]


class MemoryView(Wire):
    """Memory in MiB; what caches hold counts as available."""

    used_mb: float
    total_mb: float
    used_percent: float
    available_mb: float


class DiskView(Wire):
    """The file system of the state folder, in GiB."""

    used_gb: float
    total_gb: float
    used_percent: float
    path: str


class LoadView(Wire):
    """How many processes wanted a processor, over 1, 5 and 15 minutes."""

    load_1: float
    load_5: float
    load_15: float


class SystemInfo(Wire):
    """How the machine does; `uptime` is in nanoseconds, `reasons` say what a status other than healthy is for."""

    timestamp: Time
    cpu: CpuView
    memory: MemoryView
    disk: DiskView
    temperature_celsius: float
    uptime: int
    load_average: LoadView
    overall_status: HostStatus
    reasons: list[str]


async def info(services: Services) -> SystemInfo:
    """Processors, memory, disk, temperature, uptime and load of the machine that the daemon runs on.

    The use of the processors is that of the time since somebody asked before (at least 1 s ago), or of 0.2 s where
    nobody did within a minute. `temperature_celsius` is 0 where there is no sensor. `uptime` is the machine's, in
    nanoseconds.

    `overall_status` is the worst of these, and `reasons` name each that is not healthy: processors `warning` from
    85 % and `critical` from 97 % on, memory from 80 % and 93 %, disk from 85 % and 95 %, temperature from 70 °C and
    80 °C.
    """
    host = await services.host.look()
    status, reasons = judge(host)
    one, five, fifteen = host.load
    return SystemInfo(
        timestamp=rfc3339(services.clock.wall()),
        cpu=CpuView(
            usage_percent=host.cpu.percent, core_count=len(host.cpu.per_core), per_core=list(host.cpu.per_core)
        ),
        memory=_memory(host.memory),
        disk=DiskView(
            used_gb=round(host.disk.used / _GIB, 2),
            total_gb=round(host.disk.total / _GIB, 2),
            used_percent=host.disk.percent,
            path=str(services.host.folder),
        ),
        temperature_celsius=host.temperature,
        uptime=int(services.clock.monotonic() * 1e9),
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
