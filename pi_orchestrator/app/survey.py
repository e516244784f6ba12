"""What scans without a daemon: the scanner that the daemon uses too, and the sources that cost nothing to ask.

Imports little, because commands must start fast: neither the API nor MQTT nor the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.presence import Windows
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.health import Health
from pi_orchestrator.net.arp import ArpEngine
from pi_orchestrator.net.engine import Engine, OnSighting
from pi_orchestrator.net.kernel_events import KernelEvents
from pi_orchestrator.net.leases import LeaseFiles
from pi_orchestrator.net.neighbours import NeighbourEngine
from pi_orchestrator.net.netlink import Netlink
from pi_orchestrator.net.stations import Stations
from pi_orchestrator.net.vendors import Vendors
from pi_orchestrator.settings import Settings
from pi_orchestrator.workers.scanner import Scanner
from pi_orchestrator.workers.survey import Survey


def build_scanner(
    settings: Settings, *, clock: Clock, registry: Registry, netlink: Netlink, health: Health | None = None
) -> Scanner:
    """A scanner with both engines."""

    def engines(on_sighting: OnSighting) -> dict[str, Engine]:
        return {
            "arp": ArpEngine(clock=clock, on_sighting=on_sighting, rounds=settings.discovery.rounds),
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
async def surveying(settings: Settings, *, own_network: bool = False) -> AsyncIterator[Survey]:
    """A survey for the length of the block; `own_network`: of an interface that is outside ap.subnet, its own."""
    clock = Clock()
    await asyncio.to_thread(clock.look)
    netlink = Netlink()
    try:
        if own_network:
            settings = await _at_home(settings, netlink)
        survey = _build(settings, clock=clock, netlink=netlink)
        try:
            yield survey
        finally:
            survey.scanner.close()
    finally:
        netlink.close()


def _build(settings: Settings, *, clock: Clock, netlink: Netlink) -> Survey:
    cameras, discovery = settings.cameras, settings.discovery
    registry = Registry(
        registered=(),
        max_devices=cameras.max_devices,
        windows=Windows(cameras.idle_after_s, cameras.offline_after_s, discovery.interval_s),
    )
    interface = settings.ap.interface
    return Survey(
        settings=settings,
        clock=clock,
        registry=registry,
        netlink=netlink,
        scanner=build_scanner(settings, clock=clock, registry=registry, netlink=netlink),
        vendors=Vendors(),
        leases=LeaseFiles(interface=interface, configured=discovery.lease_files, clock=clock)
        if discovery.leases
        else None,
        stations=Stations(clock=clock) if discovery.stations else None,
    )


async def _at_home(settings: Settings, netlink: Netlink) -> Settings:
    link = await netlink.link(settings.ap.interface)
    addresses = link.addresses if link else ()
    if not addresses or any(address.ip in settings.ap.subnet for address in addresses):
        return settings
    # An address alone (of a tunnel, say) is no network in which somebody could be found.
    network = next((one.network for one in addresses if one.network.prefixlen <= 30), addresses[0].network)
    return settings.model_copy(update={"ap": settings.ap.model_copy(update={"subnet": network})})
