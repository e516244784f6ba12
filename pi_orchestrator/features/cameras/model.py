"""A registered camera, and its status in the API."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pi_orchestrator.core.mac import Mac, try_mac
from pi_orchestrator.core.validation import parse_text
from pi_orchestrator.features.devices.model import Device, Presence

MAX_NAME_CHARS = 64
RESERVED_IDS = frozenset({"diagnostics", "unassigned"})
"""No camera may have these ids: they are path segments of the API in the place of a camera id."""


class CameraStatus(StrEnum):
    """All states of a camera in the API."""

    ONLINE = "online"
    IDLE = "idle"
    OFFLINE = "offline"
    ERROR = "error"
    REBOOTING = "rebooting"
    DISCOVERED = "discovered"
    PAIRING = "pairing"
    CONNECTING = "connecting"


@dataclass(frozen=True, slots=True)
class Camera:
    """A registered camera as stored; `position` is 1 to 4 within `container_id`, `topic` its established MQTT topic."""

    mac: Mac
    device_id: str
    registered_at: datetime
    name: str | None = None
    ip_address: str | None = None
    firmware_version: str | None = None
    topic: str | None = None
    container_id: str | None = None
    position: int | None = None
    paired_at: datetime | None = None
    last_seen_at: datetime | None = None


def parse_name(value: object) -> str | None:
    """Validate a camera name: up to 64 characters; FieldError for anything else."""
    return parse_text(value, field="a name", max_chars=MAX_NAME_CHARS)


def device_id_for(mac: Mac, claimed: str | None) -> str:
    """The device id of a camera: the claimed one unless reserved, else `espcam-` and the last 6 digits of its MAC.

    A claimed id that is a MAC is returned in canonical form.
    """
    if claimed and claimed not in RESERVED_IDS:
        return try_mac(claimed) or claimed
    return f"espcam-{mac.replace(':', '')[-6:].lower()}"


def camera_status(*, device: Device | None, registered: bool, onboarding: bool) -> CameraStatus:
    """The status of a camera, from its device's state and its onboarding."""
    if device is None:
        return CameraStatus.OFFLINE
    if device.unstable:
        return CameraStatus.ERROR
    if device.state is Presence.OFFLINE:
        return CameraStatus.OFFLINE
    if device.state is Presence.CLAIMED:
        return CameraStatus.CONNECTING
    if device.state is Presence.REBOOTING:
        return CameraStatus.REBOOTING
    if onboarding:
        return CameraStatus.PAIRING
    if not registered:
        return CameraStatus.DISCOVERED
    if device.claims is not None and device.claims.camera_initialized is False:
        return CameraStatus.ERROR
    return CameraStatus.IDLE if device.state is Presence.IDLE else CameraStatus.ONLINE


def connection_quality(rssi_dbm: int | None) -> str:
    """Signal in dBm as a word; an unknown signal (None or 0) is `poor`, as in PiDashboard."""
    if rssi_dbm is None or rssi_dbm == 0:
        return "poor"
    for floor, quality in ((-50, "excellent"), (-60, "good"), (-70, "fair")):
        if rssi_dbm >= floor:
            return quality
    return "poor"


class RecoveryState(StrEnum):
    """The steps of a recovery; OK: no failures."""

    OK = "ok"
    RETRYING = "retrying"
    REBOOTING = "rebooting"
    NEEDS_POWER_CYCLE = "needs_power_cycle"
