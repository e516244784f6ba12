"""One command's look at the camera network, without a daemon: sweeps, and what leases and the radio know already."""

from __future__ import annotations

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.presence import Device, is_likely_camera
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.net.engine import OnProgress
from pi_orchestrator.net.leases import LeaseFiles
from pi_orchestrator.net.netlink import Netlink
from pi_orchestrator.net.stations import Stations
from pi_orchestrator.net.vendors import Vendors
from pi_orchestrator.settings import Settings
from pi_orchestrator.workers.scanner import Scanner


class Survey:
    """`scanner.look` finds the interface, each `sweep` fills `registry`; leases and radio are None where not wanted."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        registry: Registry,
        netlink: Netlink,
        scanner: Scanner,
        vendors: Vendors,
        leases: LeaseFiles | None,
        stations: Stations | None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.registry = registry
        self.netlink = netlink
        self.scanner = scanner
        self.vendors = vendors
        self.leases = leases
        self.stations = stations

    async def sweep(self, progress: OnProgress) -> None:
        """Ask every address; NetworkError when nobody can be asked."""
        await self._read_leases()
        await self._read_stations()
        await self.scanner.sweep(progress)
        self.registry.settle(self.clock.monotonic())

    def is_likely(self, device: Device) -> bool:
        """Whether a device looks like a camera."""
        return is_likely_camera(device, espressif=self.vendors.is_espressif(device.mac))

    async def _read_leases(self) -> None:
        network, now = self.scanner.network, self.clock.monotonic()
        for lease in (await self.leases.read() or ()) if self.leases else ():
            # One server may serve other networks too.
            if network is not None and lease.ip in network:
                self.registry.sight(lease.sighting(now), now)

    async def _read_stations(self) -> None:
        link = self.scanner.link
        air = await self.stations.read(link.index) if self.stations and link else None
        for station in air.stations if air else ():
            self.registry.sight(station.sighting(air.at if air else 0.0), self.clock.monotonic())
