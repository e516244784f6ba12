"""A scan of the camera network without a daemon: sweeps, DHCP leases and stations of the access point."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.health import Health
from pi_orchestrator.features.devices.model import Device, Windows, is_likely_camera
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.discovery.scanner import Scanner
from pi_orchestrator.net.arp.engine import ArpEngine
from pi_orchestrator.net.dhcp.leases import LeaseFiles
from pi_orchestrator.net.kernel.events import KernelEvents
from pi_orchestrator.net.kernel.neighbours import NeighbourEngine
from pi_orchestrator.net.kernel.netlink import Netlink
from pi_orchestrator.net.oui import VendorLookup
from pi_orchestrator.net.scan_engine import Engine, OnProgress, OnSighting
from pi_orchestrator.net.wifi.stations import Stations
from pi_orchestrator.settings import Settings


class StandaloneScan:
    """`scanner.refresh_link` opens an engine, `sweep` fills `registry`; `leases`, `stations`: None if disabled."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        registry: DeviceRegistry,
        netlink: Netlink,
        scanner: Scanner,
        vendors: VendorLookup,
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
        """Scan once; NetworkError if the network cannot be scanned."""
        await self._read_leases()
        await self._read_stations()
        await self.scanner.sweep(progress)
        self.registry.expire(self.clock.monotonic())

    def looks_like_camera(self, device: Device) -> bool:
        """Whether a device looks like a camera."""
        return is_likely_camera(device, espressif=self.vendors.is_espressif(device.mac))

    async def _read_leases(self) -> None:
        network, now = self.scanner.network, self.clock.monotonic()
        for lease in (await self.leases.read() or ()) if self.leases else ():
            # The DHCP server may serve other networks, too.
            if network is not None and lease.ip in network:
                self.registry.add_sighting(lease.sighting(now), now)

    async def _read_stations(self) -> None:
        link = self.scanner.link
        reading = await self.stations.read(link.index) if self.stations and link else None
        if reading:
            for station in reading.stations:
                self.registry.add_sighting(station.sighting(reading.at), self.clock.monotonic())


def build_scanner(
    settings: Settings, *, clock: Clock, registry: DeviceRegistry, netlink: Netlink, health: Health | None = None
) -> Scanner:
    """A scanner with both engines."""

    def engines(on_sighting: OnSighting) -> dict[str, Engine]:
        return {
            "arp": ArpEngine(clock=clock, on_sighting=on_sighting),
            "neighbour": NeighbourEngine(clock=clock, on_sighting=on_sighting),
        }

    return Scanner(
        settings=settings.discovery,
        ap=settings.ap,
        clock=clock,
        registry=registry,
        netlink=netlink,
        engines=engines,
        kernel_events=lambda on_link: KernelEvents(clock=clock, on_link=on_link),
        health=health,
    )


@asynccontextmanager
async def open_standalone_scan(settings: Settings, *, own_network: bool = False) -> AsyncIterator[StandaloneScan]:
    """Yield a standalone scan, and close it; `own_network`: scan the interface's network if it is outside ap.subnet."""
    clock = Clock()
    await asyncio.to_thread(clock.refresh)
    netlink = Netlink()
    try:
        if own_network:
            settings = await _with_own_network(settings, netlink)
        standalone = _build(settings, clock=clock, netlink=netlink)
        try:
            yield standalone
        finally:
            standalone.scanner.close()
    finally:
        netlink.close()


def _build(settings: Settings, *, clock: Clock, netlink: Netlink) -> StandaloneScan:
    cameras, discovery = settings.cameras, settings.discovery
    registry = DeviceRegistry(
        registered=(),
        max_devices=cameras.max_devices,
        windows=Windows(cameras.idle_after_s, cameras.offline_after_s, discovery.interval_s),
    )
    interface = settings.ap.interface
    return StandaloneScan(
        settings=settings,
        clock=clock,
        registry=registry,
        netlink=netlink,
        scanner=build_scanner(settings, clock=clock, registry=registry, netlink=netlink),
        vendors=VendorLookup(),
        leases=LeaseFiles(interface=interface, configured=discovery.lease_files, clock=clock)
        if discovery.leases
        else None,
        stations=Stations(clock=clock) if discovery.stations else None,
    )


async def _with_own_network(settings: Settings, netlink: Netlink) -> Settings:
    link = await netlink.link(settings.ap.interface)
    addresses = link.addresses if link else ()
    if not addresses or any(address.ip in settings.ap.subnet for address in addresses):
        return settings
    # A single address (e.g. of a tunnel) is not a network with other devices.
    network = next((address.network for address in addresses if address.network.prefixlen <= 30), addresses[0].network)
    return settings.model_copy(update={"ap": settings.ap.model_copy(update={"subnet": network})})
