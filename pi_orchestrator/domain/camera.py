"""A registered camera, and the words in which its state is told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pi_orchestrator.domain.mac import Mac, try_mac
from pi_orchestrator.domain.presence import Device, Presence
from pi_orchestrator.domain.strict_json import text_field

MAX_NAME_CHARS = 64
NO_IDS = frozenset({"diagnostics", "unassigned"})
"""What stands where an id would in the paths of the API."""


class CameraStatus(StrEnum):
    """The only states that the API ever shows."""

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
    """A registered camera as stored; `position` is 1 to 4 within `container_id`."""

    mac: Mac
    device_id: str
    registered_at: datetime
    name: str | None = None
    ip_address: str | None = None
    firmware_version: str | None = None
    container_id: str | None = None
    position: int | None = None
    paired_at: datetime | None = None
    last_seen_at: datetime | None = None


def parse_name(value: object) -> str | None:
    """What people call a camera, in up to 64 characters; FieldError for anything else."""
    return text_field(value, what="a name", max_chars=MAX_NAME_CHARS)


def device_id_for(mac: Mac, claimed: str | None) -> str:
    """The id a camera is known by: its own claim, a MAC in canonical spelling, or `espcam-` and its last digits."""
    if claimed and claimed not in NO_IDS:
        return try_mac(claimed) or claimed
    return f"espcam-{mac.replace(':', '')[-6:].lower()}"


def camera_status(*, device: Device | None, registered: bool, onboarding: bool) -> CameraStatus:
    """One word for a camera, from its traffic and from what is being done with it."""
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
    """Signal in dBm as a word; `unknown` signal counts as poor, as the dashboard draws it."""
    if rssi_dbm is None or rssi_dbm == 0:
        return "poor"
    for floor, word in ((-50, "excellent"), (-60, "good"), (-70, "fair")):
        if rssi_dbm >= floor:
            return word
    return "poor"
