"""Devices on the camera network with the evidence for what is said of them, and the network itself."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from pi_orchestrator.api.evidence import EvidenceView, Now, evidence_view, told_of, why
from pi_orchestrator.api.paging import MacPath
from pi_orchestrator.api.route import Time, Wire
from pi_orchestrator.api.services import Services
from pi_orchestrator.clock import rfc3339
from pi_orchestrator.domain.camera import Camera
from pi_orchestrator.domain.mac import is_local
from pi_orchestrator.domain.presence import HERE, Device, Evidence, Presence
from pi_orchestrator.errors import NotFoundError
from pi_orchestrator.health import State

MAX_DEVICES = 5000
SOURCES = ("scanner", "stations", "leases", "mdns", "probe", "mqtt")


class DeviceView(Wire):
    """A device: `status` by all evidence together and `why` in words; `conflict` names who else has its address."""

    mac_address: str
    ip_address: str
    ip_addresses: list[str]
    status: Presence
    why: str
    hostname: str
    vendor: str
    signal_strength: int
    registered: bool
    is_camera: bool
    device_id: str | None = None
    firmware_version: str | None = None
    first_seen: Time | None = None
    last_seen: Time | None = None
    locally_administered: bool
    near: list[str]
    conflict: list[str]
    evidence: list[EvidenceView]


class SourceView(Wire):
    """How a source of evidence does; `reason` says why it is off or does not work."""

    source: str
    state: State
    reason: str | None = None


class DeviceList(Wire):
    """Devices, cameras first, then by address."""

    devices: list[DeviceView]
    total: int


class Discovered(DeviceList):
    """Devices, and the sources that told of them; `engine` is what scans just now, and why that one."""

    engine: str | None = None
    engine_reason: str
    sources: list[SourceView]


class PlainDevices(Wire):
    """Devices, as old dashboards read them."""

    devices: list[DeviceView]


class Network(Wire):
    """The camera network: `connected` where the interface is up with its address, `is_active` where one can join."""

    interface: str
    ssid: str
    connected: bool
    is_active: bool
    connected_devices: int


class DeviceQuery(BaseModel):
    """Which devices."""

    status: Literal["here", "all"] = Field("all", description="`here` leaves out those that are offline")
    limit: int = Field(1000, ge=1, le=MAX_DEVICES, description="devices at most")


async def discovered(services: Services, query: DeviceQuery) -> Discovered:
    """What discovery found, with the evidence for each device and the state of each source."""
    devices, total = _list(services, query)
    scanner = services.scanner
    return Discovered(
        devices=devices,
        total=total,
        engine=scanner.engine,
        engine_reason=scanner.reason or scanner.choice,
        sources=[
            SourceView(source=name, state=part.state, reason=part.reason or None)
            for name in SOURCES
            for part in (services.health.get(name),)
        ],
    )


async def list_devices(services: Services, query: DeviceQuery) -> DeviceList:
    """Every device that is known, with the evidence."""
    devices, total = _list(services, query)
    return DeviceList(devices=devices, total=total)


async def list_plain(services: Services) -> PlainDevices:
    """Every device that is known, for old dashboards."""
    return PlainDevices(devices=_list(services, DeviceQuery())[0])


async def show(services: Services, path: MacPath) -> DeviceView:
    """One device, and why the daemon believes what it believes of it."""
    device = services.registry.get(path.mac)
    if device is None:
        raise NotFoundError(f"there is no device {path.mac}", code="DEVICE_NOT_FOUND")
    return view(services, device)


async def network(services: Services) -> Network:
    """The camera network as it is now."""
    status = services.sources.network
    return Network(
        interface=status.interface,
        ssid=status.ssid,
        connected=status.connected,
        is_active=status.is_active,
        connected_devices=status.connected_devices,
    )


def view(services: Services, device: Device) -> DeviceView:
    """A device from all that is known of it."""
    now = Now.by(services.clock)
    registry, camera = services.registry, services.roster.get(device.mac)
    claims = device.claims
    told = told_of(device)
    contested = registry.claimants(device.address) if device.address else frozenset()
    firmware = (claims.firmware_version if claims else None) or (camera.firmware_version if camera else None)
    return DeviceView(
        mac_address=device.mac,
        ip_address=str(device.address or _hearsay(told) or ""),
        ip_addresses=[str(address) for address in device.addresses],
        status=device.shown,
        why=why(now, device),
        hostname=next((one.host_name for one in told if one.host_name), ""),
        vendor=services.vendors.name(device.mac) or "",
        signal_strength=next((one.rssi_dbm for one in told if one.rssi_dbm is not None), 0),
        registered=camera is not None,
        is_camera=device.is_camera or camera is not None,
        device_id=camera.device_id if camera else device.device_id,
        firmware_version=firmware,
        first_seen=_first_seen(now, told, camera),
        last_seen=now.moment(device.alive_at),
        locally_administered=is_local(device.mac),
        near=list(registry.near(device.mac)),
        conflict=sorted(contested - {device.mac}),
        evidence=[evidence_view(now, one) for one in told],
    )


def _list(services: Services, query: DeviceQuery) -> tuple[list[DeviceView], int]:
    chosen = [device for device in services.registry if query.status == "all" or device.shown in HERE]

    def order(device: Device) -> tuple[bool, bool, int, str]:
        no_camera = not device.is_camera and device.mac not in services.roster
        return no_camera, device.address is None, int(device.address or 0), device.mac

    return [view(services, device) for device in sorted(chosen, key=order)[: query.limit]], len(chosen)


def _first_seen(now: Now, told: list[Evidence], camera: Camera | None) -> str | None:
    """Since when it is known; of a registered camera the record knows more than the memory."""
    first = now.moment(min((one.first_at for one in told), default=None))
    registered = rfc3339(camera.registered_at) if camera else None
    return min((moment for moment in (first, registered) if moment), default=None)


def _hearsay(told: list[Evidence]) -> str:
    return next((str(one.ip) for one in told if one.ip), "")
