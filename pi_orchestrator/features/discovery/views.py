"""Devices as the API returns them."""

from __future__ import annotations

from pi_orchestrator.core.clock import Clock, rfc3339
from pi_orchestrator.core.mac import is_local
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.cameras.error_views import OnboardingFailureView
from pi_orchestrator.features.cameras.model import Camera
from pi_orchestrator.features.cameras.views import CameraViews
from pi_orchestrator.features.devices.model import PRESENT_STATES, Device, Evidence, Presence
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.devices.unreadable import UnreadableMessages
from pi_orchestrator.features.devices.views import (
    ClockReading,
    EvidenceView,
    UnreadableView,
    evidence_view,
    name_notes,
    sorted_evidence,
    unreadable_views,
)
from pi_orchestrator.http.model import ApiModel, Time
from pi_orchestrator.net.oui import VendorLookup


class DeviceView(ApiModel):
    """A device: `status` from all evidence, with the reason `why`.

    `near`: other devices whose MACs are so close that they may be of the same ESP32. `conflict`: other devices that
    claim its address. `onboarding_failure`: why the last attempt to onboard it failed, and when the next one comes.
    `id_conflict`: other devices that use its device id. `notes`: what is wrong with its device id and its topic.
    """

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
    onboarding_failure: OnboardingFailureView | None = None
    id_conflict: list[str]
    notes: list[str]
    evidence: list[EvidenceView]


class DeviceViews:
    """Builds the views of devices."""

    def __init__(
        self,
        *,
        clock: Clock,
        registry: DeviceRegistry,
        unreadable: UnreadableMessages,
        cache: CameraCache,
        vendors: VendorLookup,
        cameras: CameraViews,
    ) -> None:
        self._clock = clock
        self._registry = registry
        self._unreadable = unreadable
        self._cache = cache
        self._vendors = vendors
        self._cameras = cameras

    def listed(self, *, only_present: bool, limit: int) -> tuple[list[DeviceView], int]:
        """At most `limit` devices, cameras first, then by address; and the number without the limit."""
        chosen = [device for device in self._registry if not only_present or device.shown in PRESENT_STATES]

        def order(device: Device) -> tuple[bool, bool, int, str]:
            is_no_camera = not device.is_camera and device.mac not in self._cache
            return is_no_camera, device.address is None, int(device.address or 0), device.mac

        return [self.view(device) for device in sorted(chosen, key=order)[:limit]], len(chosen)

    def unreadable(self) -> list[UnreadableView]:
        """The topics whose last message could not be read."""
        return unreadable_views(ClockReading.by(self._clock), self._unreadable)

    def view(self, device: Device) -> DeviceView:
        """The view of a device."""
        now = ClockReading.by(self._clock)
        registry, camera = self._registry, self._cache.get(device.mac)
        claims = device.claims
        reports = sorted_evidence(device)
        claimants = registry.claimants(device.address) if device.address else frozenset()
        firmware = (claims.firmware_version if claims else None) or (camera.firmware_version if camera else None)
        return DeviceView(
            mac_address=device.mac,
            ip_address=str(device.address or _reported_ip(reports) or ""),
            ip_addresses=[str(address) for address in device.addresses],
            status=device.shown,
            why=self._cameras.reason(now, device),
            hostname=next((report.host_name for report in reports if report.host_name), ""),
            vendor=self._vendors.name(device.mac) or "",
            signal_strength=next((report.rssi_dbm for report in reports if report.rssi_dbm is not None), 0),
            registered=camera is not None,
            is_camera=device.is_camera or camera is not None,
            device_id=camera.device_id if camera else device.device_id,
            firmware_version=firmware,
            first_seen=_first_seen(now, reports, camera),
            last_seen=now.moment(device.alive_at),
            locally_administered=is_local(device.mac),
            near=list(registry.same_chip_candidates(device.mac)),
            conflict=sorted(claimants - {device.mac}),
            onboarding_failure=self._cameras.onboarding_failure(device.mac),
            id_conflict=sorted(
                {mac for found in registry.names.conflicts_of(device.mac) for mac in found.macs} - {device.mac}
            ),
            notes=name_notes(registry, device),
            evidence=[evidence_view(now, report) for report in reports],
        )


def _first_seen(now: ClockReading, reports: list[Evidence], camera: Camera | None) -> str | None:
    """When the device was first seen; for a registered camera, its registration may be earlier than the evidence."""
    first = now.moment(min((report.first_at for report in reports), default=None))
    registered = rfc3339(camera.registered_at) if camera else None
    return min((moment for moment in (first, registered) if moment), default=None)


def _reported_ip(reports: list[Evidence]) -> str:
    return next((str(report.ip) for report in reports if report.ip), "")
