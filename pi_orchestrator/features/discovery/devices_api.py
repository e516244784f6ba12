"""Handlers for devices with their evidence, and for the camera network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.core.errors import NotFoundError
from pi_orchestrator.core.health import Component, Health, State
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.devices.views import UnreadableView
from pi_orchestrator.features.discovery.passive_sources import PassiveSourcesWorker
from pi_orchestrator.features.discovery.scanner import Scanner
from pi_orchestrator.features.discovery.views import DeviceView, DeviceViews
from pi_orchestrator.http.model import ApiModel, RequestModel
from pi_orchestrator.http.paging import MacPath

MAX_DEVICES = 5000
SOURCES = ("scanner", "stations", "leases", "mdns", "probe", "mqtt")


class SourceView(ApiModel):
    """State of a source of evidence; `reason`: why it is off or degraded."""

    source: str
    state: State
    reason: str | None = None


class DeviceList(ApiModel):
    """Devices, cameras first, then by address; `total` also counts those beyond `limit`.

    `unreadable`: MQTT topics whose last status message could not be read; cameras that publish there may be missing.
    """

    devices: list[DeviceView]
    total: int
    unreadable: list[UnreadableView]


class Discovered(DeviceList):
    """Devices, and the sources of evidence.

    `engine`: the open scan engine, if any; `engine_reason`: why this one, or why none.
    """

    engine: str | None = None
    engine_reason: str
    sources: list[SourceView]


class PlainDevices(ApiModel):
    """Devices in the format of old dashboards."""

    devices: list[DeviceView]


class Network(ApiModel):
    """The camera network. `connected`: its interface is up and has an address. `is_active`: cameras can join."""

    interface: str
    ssid: str
    connected: bool
    is_active: bool
    connected_devices: int


class DeviceQuery(RequestModel):
    """Filter and limit of a device list."""

    status: Literal["here", "all"] = Field("all", description="`here`: only present devices; `all`: also offline ones")
    limit: int = Field(1000, ge=1, le=MAX_DEVICES, description="maximum number of devices")


async def discovered(health: Health, scanner: Scanner, views: DeviceViews, query: DeviceQuery) -> Discovered:
    """The same devices as `GET /api/v1/devices`, with the scan engine and the state of each source."""
    devices, total = views.listed(only_present=query.status == "here", limit=query.limit)
    return Discovered(
        devices=devices,
        total=total,
        unreadable=views.unreadable(),
        engine=scanner.engine,
        engine_reason=scanner.unavailable_reason or scanner.choice_reason,
        sources=[_source_view(name, health.get(name)) for name in SOURCES],
    )


def _source_view(name: str, component: Component) -> SourceView:
    return SourceView(source=name, state=component.state, reason=component.reason or None)


async def list_devices(views: DeviceViews, query: DeviceQuery) -> DeviceList:
    """All devices with their evidence."""
    devices, total = views.listed(only_present=query.status == "here", limit=query.limit)
    return DeviceList(devices=devices, total=total, unreadable=views.unreadable())


async def list_plain(views: DeviceViews) -> PlainDevices:
    """All devices, for old dashboards."""
    return PlainDevices(devices=views.listed(only_present=False, limit=DeviceQuery().limit)[0])


async def show(registry: DeviceRegistry, views: DeviceViews, path: MacPath) -> DeviceView:
    """One device with its evidence and the reason for its state."""
    device = registry.get(path.mac)
    if device is None:
        raise NotFoundError(f"device {path.mac} not found", code=ErrorCode.DEVICE_NOT_FOUND)
    return views.view(device)


async def network(sources: PassiveSourcesWorker) -> Network:
    """The current state of the camera network."""
    status = sources.network
    return Network(
        interface=status.interface,
        ssid=status.ssid,
        connected=status.connected,
        is_active=status.is_active,
        connected_devices=status.connected_devices,
    )
