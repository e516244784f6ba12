"""Devices: the registry of all devices on the camera network, and proof of which one answers at an address."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.metrics import Metric, counter, counters, gauge, gauges
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.features.devices.model import Windows
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.devices.unreadable import UnreadableMessages
from pi_orchestrator.features.devices.verifier import DeviceVerifier
from pi_orchestrator.features.feature import Feature, Resources
from pi_orchestrator.net.kernel.neighbours import NeighbourTable
from pi_orchestrator.net.oui import VendorLookup
from pi_orchestrator.settings import Settings

ROUTES: tuple[Route, ...] = ()
TAGS: dict[str, str] = {}


@dataclass(frozen=True, kw_only=True)
class Devices(Feature):
    """The objects that other features use."""

    registry: DeviceRegistry
    unreadable: UnreadableMessages
    neighbours: NeighbourTable
    vendors: VendorLookup
    verifier: DeviceVerifier


def build(res: Resources, *, registered: Container[Mac]) -> Devices:
    """Build the registry; `registered` are the MACs of registered cameras, which it never evicts."""
    settings = res.settings
    registry = DeviceRegistry(
        registered=registered, max_devices=settings.cameras.max_devices, windows=windows_of(settings)
    )
    unreadable = UnreadableMessages(is_known=lambda mac: mac in registered or registry.get(mac) is not None)
    neighbours = NeighbourTable(clock=res.clock, netlink=res.netlink)
    vendors = VendorLookup()

    def reload(settings: Settings) -> None:
        registry.windows = windows_of(settings)
        registry.max_devices = settings.cameras.max_devices

    return Devices(
        registry=registry,
        unreadable=unreadable,
        neighbours=neighbours,
        vendors=vendors,
        verifier=DeviceVerifier(clock=res.clock, neighbours=neighbours, camera_http=res.camera_http, registry=registry),
        provides=(registry, unreadable, vendors),
        metrics=lambda: _metrics(registry),
        reloadable=frozenset(
            {"cameras.idle_after_s", "cameras.offline_after_s", "cameras.max_devices", "discovery.interval_s"}
        ),
        reload=reload,
    )


def windows_of(settings: Settings) -> Windows:
    """The silence windows from the settings."""
    cameras = settings.cameras
    return Windows(cameras.idle_after_s, cameras.offline_after_s, settings.discovery.interval_s)


def _metrics(registry: DeviceRegistry) -> Iterator[Metric]:
    states = Counter(device.shown for device in registry)
    yield gauges("piorch_devices", "Devices on the camera network by state.", "status", dict(sorted(states.items())))
    yield counter("piorch_device_restarts", "Restarts of cameras, by MQTT sessions and uptime.", registry.restarts)
    yield gauge("piorch_address_conflicts", "Addresses that several devices claim.", len(registry.conflicts()))
    yield gauge(
        "piorch_id_conflicts", "Device ids or topics that several clients use.", len(registry.names.conflicts())
    )
    yield counters(
        "piorch_device_changes", "Changes of devices by kind.", "kind", dict(sorted(registry.counts.items()))
    )
