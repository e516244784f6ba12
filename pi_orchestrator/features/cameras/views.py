"""Cameras as the API returns them."""

from __future__ import annotations

import json
from datetime import timedelta

from pydantic import Field

from pi_orchestrator.core.clock import Clock, rfc3339
from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.core.errors import ConflictError, NotFoundError
from pi_orchestrator.core.events import StoredEvent
from pi_orchestrator.core.mac import Mac, try_mac
from pi_orchestrator.core.stream_events import CAMERA_LIST
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.cameras.error_views import (
    CurrentError,
    Diagnostics,
    OnboardingFailureView,
    RemedyView,
    current_error,
    onboarding_failure_view,
    onboarding_reason,
)
from pi_orchestrator.features.cameras.model import Camera as Registered
from pi_orchestrator.features.cameras.model import (
    CameraStatus,
    RecoveryState,
    camera_status,
    connection_quality,
    device_id_for,
)
from pi_orchestrator.features.cameras.ports import CameraPorts
from pi_orchestrator.features.devices.best_address import best_address
from pi_orchestrator.features.devices.model import PRESENT_STATES, Device
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.devices.unreadable import UnreadableMessages
from pi_orchestrator.features.devices.views import (
    ClockReading,
    EvidenceView,
    evidence_view,
    last_seen,
    name_notes,
    sorted_evidence,
    state_reason,
)
from pi_orchestrator.http.model import ApiModel, RequestModel, Time


class CameraHealth(ApiModel):
    """The latest values that the camera reported; 0 where it reported none."""

    wifi_rssi: int = 0
    free_heap: int = 0
    heap: int = 0
    uptime: int = 0
    uptime_seconds: int = 0
    resolution: str | None = None
    firmware_version: str | None = None
    last_capture: Time | None = None
    last_error: str | None = None


class Camera(ApiModel):
    """A camera; `id` and `device_id` are the same, and so are `lastSeen` and `last_seen`.

    While several cameras use one device id, their `id` is their MAC. `warnings`: what is wrong with its names.
    """

    id: str
    device_id: str
    name: str
    status: CameraStatus
    lastSeen: Time | None = None  # noqa: N815  # the dashboard's spelling
    last_seen: Time | None = None
    ip_address: str
    mac_address: str
    container_id: str | None = None
    position: int | None = None
    firmware_version: str | None = None
    health: CameraHealth
    onboarding_failure: OnboardingFailureView | None = None
    warnings: list[str] | None = None


class DiagnosedCamera(Camera):
    """A camera with diagnostics, and `why` it is in its state, with the evidence."""

    diagnostics: Diagnostics
    why: str
    evidence: list[EvidenceView]


class CameraList(ApiModel):
    """Cameras, and their number."""

    cameras: list[Camera]
    count: int


class PairedCamera(ApiModel):
    """A registered camera in its container; missing texts are empty, and a missing signal is 0."""

    mac_address: str
    container_id: str
    position: int = Field(ge=1, le=4)
    status: str
    firmware_version: str
    signal_strength: int
    last_image: str
    paired_at: str
    last_seen: str
    name: str | None = None
    error_message: str | None = None


class PairedList(ApiModel):
    """Registered cameras in a container, online or not."""

    cameras: list[PairedCamera]
    total: int
    online_count: int
    online: int


class CameraPath(RequestModel):
    """A camera by its MAC in any format, or by its device id."""

    id: str = Field(min_length=1, max_length=64, description="MAC in any format, or device id")


class CameraViews:
    """Cameras as JSON; each is encoded once per change and then reused for lists."""

    def __init__(
        self,
        *,
        cache: CameraCache,
        registry: DeviceRegistry,
        unreadable: UnreadableMessages,
        clock: Clock,
    ) -> None:
        self.ports = CameraPorts()
        self._clock = clock
        self._cache = cache
        self._registry = registry
        self._unreadable = unreadable
        self._encoded: dict[Mac, tuple[object, bytes]] = {}
        self._list: tuple[object, bytes] = (None, b"")

    def live(self) -> list[Mac]:
        """Registered cameras that have been seen, in order of registration, then unregistered ones that are present."""
        registered = [
            camera.mac
            for camera in self._cache
            if (device := self._registry.get(camera.mac)) and device.alive_at is not None
        ]
        unregistered = [
            device.mac
            for device in self._registry
            if device.is_camera and device.shown in PRESENT_STATES and device.mac not in self._cache
        ]
        return registered + sorted(unregistered)

    def mac_of(self, name: str) -> Mac:
        """The MAC of the camera with this id or MAC; NotFoundError if no camera has it, ConflictError if several do."""
        self.check_unambiguous(name)
        mac = self._resolve_id(name)
        if mac is None or (mac not in self._cache and self._registry.get(mac) is None):
            raise NotFoundError(
                f"camera {name!r} not found",
                code=ErrorCode.CAMERA_NOT_FOUND,
                details="see the list of cameras for registered and live ones",
            )
        return mac

    def check_unambiguous(self, name: str) -> None:
        """ConflictError if a device id may refer to several cameras."""
        sharers = self._sharers(name)
        if sharers:
            number = "two" if len(sharers) == 2 else len(sharers)
            raise ConflictError(
                f"{number} cameras share the id {name}: flash different ids",
                details=f"use the MAC: {', '.join(sharers)}",
            )

    def _sharers(self, name: str) -> list[Mac]:
        """The cameras to which a device id may refer, if there are several; empty otherwise.

        Cameras that share only the id, not the topic, are not ambiguous if one has the id in the record: the id then
        refers to this one, and the others are shown with their MAC as id.
        """
        names, recorded = self._registry.names, self._cache.mac_of(name)
        if try_mac(name):
            return []
        if recorded is None:
            return list(names.sharers(name))
        user = names.sole_user(name)
        if user and user != recorded and names.publishes_as(user, name):
            return sorted((recorded, user))
        return list(names.topic_sharers(name))

    def _resolve_id(self, name: str) -> Mac | None:
        if self._sharers(name):
            return None
        return self._cache.mac_of(name) or self._registry.mac_of(name) or try_mac(name)

    def _id(self, mac: Mac, device: Device | None, camera: Registered | None) -> str:
        """The id of a camera; its claimed id only if that resolves to this camera."""
        claimed = camera.device_id if camera else device_id_for(mac, device.device_id if device else None)
        return claimed if self._resolve_id(claimed) == mac else mac

    def encoded_list(self) -> bytes:
        """The live cameras as JSON; encoded again only after a change."""
        version = (self._registry.revision, self._cache.revision, self.ports.revision)
        if self._list[0] != version:
            bodies = [self.encoded(mac) for mac in self.live()]
            self._list = (version, b'{"cameras":[%b],"count":%d}' % (b",".join(bodies), len(bodies)))
        return self._list[1]

    def list_event(self) -> StoredEvent:
        """The live cameras as an event, for a stream that starts with a snapshot."""
        return StoredEvent(CAMERA_LIST, json.loads(self.encoded_list()), at=rfc3339(self._clock.wall()))

    def encoded(self, mac: Mac) -> bytes:
        """A camera as JSON."""
        device, camera = self._registry.get(mac), self._cache.get(mac)
        revision = device.revision if device else -1
        onboarding = self.ports.onboarding.is_onboarding(mac)
        names = self._registry.names.conflicts_of(mac)
        version = (device, revision, camera, self._id(mac, device, camera), names, onboarding, self._port_values(mac))
        cached = self._encoded.get(mac)
        if cached and cached[0] == version:
            return cached[1]
        body = self.camera(mac).model_dump_json(exclude_none=True).encode()
        if len(self._encoded) > 2 * (len(self._registry) + 64):
            self._encoded.clear()  # most entries are of devices no longer in the registry
        self._encoded[mac] = (version, body)
        return body

    def _port_values(self, mac: Mac) -> object:
        """The values of the ports that the encoded camera depends on."""
        recovery, picture = self.ports.recovery.of(mac), self.ports.pictures.peek_last(mac)
        return (
            recovery.state,
            recovery.last_error,
            self.ports.onboarding.last_failure(mac),
            self.ports.reboots.is_rebooting(mac),
            picture.taken_at if picture else None,
        )

    def camera(self, mac: Mac) -> Camera:
        """The view of a camera."""
        device, camera = self._registry.get(mac), self._cache.get(mac)
        claims = device.claims if device else None
        picture = self.ports.pictures.peek_last(mac)
        device_id = self._id(mac, device, camera)
        last_seen_at = self._last_seen(device, camera)
        heap = (claims.free_heap_bytes if claims else None) or 0
        uptime = int((claims.uptime_s if claims else None) or 0)
        firmware = (claims.firmware_version if claims else None) or (camera.firmware_version if camera else None)
        return Camera(
            id=device_id,
            device_id=device_id,
            name=(camera.name if camera else None) or device_id,
            status=self.status(mac),
            lastSeen=last_seen_at,
            last_seen=last_seen_at,
            ip_address=self._address(mac, camera),
            mac_address=mac,
            container_id=camera.container_id if camera else None,
            position=camera.position if camera else None,
            firmware_version=firmware,
            health=CameraHealth(
                wifi_rssi=(claims.rssi_dbm if claims else None) or 0,
                free_heap=heap,
                heap=heap,
                uptime=uptime,
                uptime_seconds=uptime,
                resolution=claims.resolution if claims else None,
                firmware_version=firmware,
                last_capture=rfc3339(picture.taken_at) if picture else None,
                last_error=self.error(mac).text,
            ),
            onboarding_failure=self.onboarding_failure(mac),
            warnings=self._warnings(device),
        )

    def _warnings(self, device: Device | None) -> list[str] | None:
        return (name_notes(self._registry, device) or None) if device else None

    def status(self, mac: Mac) -> CameraStatus:
        """The status of a camera."""
        if self.ports.reboots.is_rebooting(mac):
            return CameraStatus.REBOOTING
        status = camera_status(
            device=self._registry.get(mac),
            registered=mac in self._cache,
            onboarding=self.ports.onboarding.is_onboarding(mac),
        )
        is_stuck = self.ports.recovery.of(mac).state is RecoveryState.NEEDS_POWER_CYCLE
        return CameraStatus.ERROR if is_stuck and status is not CameraStatus.OFFLINE else status

    def diagnosed(self, mac: Mac, now: ClockReading) -> DiagnosedCamera:
        """The view of a camera with diagnostics and evidence."""
        device = self._registry.get(mac)
        rssi = device.claims.rssi_dbm if device and device.claims else None
        error = self.error(mac)
        recovery = self.ports.recovery.of(mac)
        return DiagnosedCamera(
            **dict(self.camera(mac)),
            diagnostics=Diagnostics(
                connection_quality=connection_quality(rssi),
                error_count=error.times,
                last_error=error.text,
                last_error_time=self._to_wall_time(error.at),
                unreadable=self._unreadable.of(mac, now.monotonic),
                avg_capture_time_ms=self.ports.pictures.average_ms(mac),
                remedy=RemedyView(
                    state=recovery.state,
                    since=self._to_wall_time(recovery.since) if recovery.state is not RecoveryState.OK else None,
                    failures=recovery.failures,
                    advice=recovery.advice,
                ),
            ),
            why=self.reason(now, device) if device else "",
            evidence=[evidence_view(now, evidence) for evidence in sorted_evidence(device)] if device else [],
        )

    def paired(self, camera: Registered) -> PairedCamera:
        """The view of a registered camera in its container."""
        view = self.camera(camera.mac)
        return PairedCamera(
            mac_address=camera.mac,
            container_id=camera.container_id or "",
            position=camera.position or 0,
            status=_PAIRED_STATUS.get(view.status, "offline"),
            firmware_version=view.firmware_version or "",
            signal_strength=view.health.wifi_rssi,
            last_image=_image_path(camera.mac, view.health.last_capture),
            paired_at=rfc3339(camera.paired_at) if camera.paired_at else "",
            last_seen=view.last_seen or "",
            name=view.name,
            error_message=view.health.last_error if view.status is CameraStatus.ERROR else None,
        )

    def _address(self, mac: Mac, camera: Registered | None) -> str:
        return best_address(self._registry, mac, recorded=camera.ip_address if camera else None) or ""

    def reason(self, now: ClockReading, device: Device) -> str:
        """The reason for the state of a device, and why it is not onboarded."""
        why = state_reason(now, device, unreadable=self._unreadable)
        failure = self.ports.onboarding.last_failure(device.mac)
        return f"{why}; {onboarding_reason(failure, now)}" if failure else why

    def error(self, mac: Mac) -> CurrentError:
        """The current error of a camera."""
        recovery, failure = self.ports.recovery.of(mac), self.ports.onboarding.last_failure(mac)
        return current_error(self._registry.get(mac), recovery, failure, now=self._clock.monotonic())

    def onboarding_failure(self, mac: Mac) -> OnboardingFailureView | None:
        """Why the last attempt to onboard an unregistered camera failed; None if none has failed."""
        failure = self.ports.onboarding.last_failure(mac)
        return onboarding_failure_view(failure, ClockReading.by(self._clock)) if failure else None

    def _to_wall_time(self, at: float | None) -> str | None:
        return None if at is None else rfc3339(self._clock.wall() - timedelta(seconds=self._clock.monotonic() - at))

    def _last_seen(self, device: Device | None, camera: Registered | None) -> str | None:
        seen = last_seen(device, self._clock) if device else None
        seen = seen or (camera.last_seen_at if camera else None)
        return rfc3339(seen) if seen else None


def _image_path(mac: Mac, taken_at: str | None) -> str:
    """URL path of the last picture; it changes with each picture, so that browsers reload it."""
    return f"/api/v1/cameras/{mac}/image?t={taken_at}" if taken_at else ""


def is_online(status: CameraStatus) -> bool:
    """Whether a camera counts as online; an idle one does."""
    return _PAIRED_STATUS.get(status) == "online"


# The list of paired cameras has four states; an idle camera counts as online.
_PAIRED_STATUS = {
    CameraStatus.ONLINE: "online",
    CameraStatus.IDLE: "online",
    CameraStatus.ERROR: "error",
    CameraStatus.PAIRING: "pairing",
}
