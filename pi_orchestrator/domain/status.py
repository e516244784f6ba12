"""A camera's status message, parsed once: topic and payload in, typed claims out.

Everything here is what a camera *says*. Field aliases are those of the firmwares in the field; a field of the
wrong type or out of its physical range is left out, unknown ones are ignored, and only what makes the whole
message meaningless raises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from pi_orchestrator.domain.mac import Mac, try_mac
from pi_orchestrator.domain.strict_json import clean_number, clean_text, parse_object
from pi_orchestrator.errors import FieldError

MAX_STATUS_BYTES = 16 * 1024
STATUS_TOPICS = ("camera/status/+", "delicasa/+/camera/+/status")

_ID = re.compile(r"[A-Za-z0-9:_-]{1,64}", re.ASCII)


class MacContradictionError(FieldError):
    """A message that names two MACs; `spoken_for` is the one in its topic, if there is one."""

    def __init__(self, macs: list[Mac], *, spoken_for: Mac | None) -> None:
        super().__init__(f"names two MAC addresses, {' and '.join(macs)}")
        self.spoken_for = spoken_for


class Announced(StrEnum):
    """The state that a camera announces for itself."""

    ONLINE = "online"
    OFFLINE = "offline"
    REBOOTING = "rebooting"


@dataclass(frozen=True, slots=True)
class Status:
    """One status message. `mac` is None where only a device id was given; `ip` is a claim, not an address yet.

    `topic` is the one that it came by: the camera listens for commands beside it.
    """

    topic_id: str
    mac: Mac | None
    device_id: str | None
    state: Announced
    ip: str | None = None
    timestamp: str | None = None
    rssi_dbm: int | None = None
    free_heap_bytes: int | None = None
    uptime_s: float | None = None
    firmware_version: str | None = None
    camera_initialized: bool | None = None
    container_id: str | None = None
    ssid: str | None = None
    resolution: str | None = None
    last_error: str | None = None
    reason: str | None = None
    topic: str = ""


# What a camera that leaves a field out has not taken back.
_LASTING = ("ip", "rssi_dbm", "free_heap_bytes", "firmware_version", "camera_initialized", "ssid", "resolution")


def with_what_lasts(status: Status, before: Status | None) -> Status:
    """The status, filled up with what an earlier one of the same session said."""
    if before is None:
        return status
    kept = {
        name: value
        for name in _LASTING
        if getattr(status, name) is None and (value := getattr(before, name)) is not None
    }
    return replace(status, **kept) if kept else status


def topic_id(topic: str) -> str:
    """The `{id}` or `{mac}` of a status topic; FieldError outside `[A-Za-z0-9:_-]{1,64}`."""
    match topic.split("/"):
        case ["delicasa", container, "camera", found, "status"] if _ID.fullmatch(container) and _ID.fullmatch(found):
            return found
        case ["camera", "status", found] if _ID.fullmatch(found):
            return found
    raise FieldError("the topic holds no camera id of [A-Za-z0-9:_-]{1,64}")


def parse_device_id(value: object, mac: Mac | None) -> str | None:
    """A device id as firmwares form it; None for anything else, and for the MAC of another camera than `mac`."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        return None
    spelt = try_mac(value) if mac else None
    return value if spelt in (None, mac) else None


def parse_status(topic: str, payload: bytes) -> Status:
    """Topic + JSON payload → Status; FieldError names the limit or the contradiction."""
    name = topic_id(topic)
    fields = parse_object(payload, max_bytes=MAX_STATUS_BYTES)
    device_id = _first(fields, "device_id", "id")
    return Status(
        topic_id=name,
        mac=_one_mac(name, _first(fields, "mac", "mac_address"), device_id),
        device_id=parse_device_id(device_id, None),
        state=_state(_first(fields, "state", "status")),
        ip=_text(fields, 45, "ip", "ip_address"),
        timestamp=clean_text(fields.get("timestamp"), max_chars=40),
        rssi_dbm=_whole(fields, -127, 0, "rssi_dbm", "wifi_rssi", "rssi"),
        free_heap_bytes=_whole(fields, 0, 2**32, "free_heap_bytes", "free_heap", "heap"),
        uptime_s=_uptime(fields),
        firmware_version=_text(fields, 64, "firmware_version", "firmware", "version"),
        camera_initialized=_flag(fields.get("camera_initialized")),
        container_id=clean_text(fields.get("container_id"), max_chars=64),
        ssid=clean_text(fields.get("ssid"), max_chars=32),
        resolution=clean_text(fields.get("resolution"), max_chars=32),
        last_error=clean_text(fields.get("last_error")),
        reason=clean_text(fields.get("reason"), max_chars=64),
        topic=topic,
    )


def _one_mac(name: str, claimed: object, device_id: object) -> Mac | None:
    """The MAC that topic, `mac` field and device id agree on; FieldError where they contradict each other."""
    found = {mac for mac in (try_mac(name), try_mac(claimed), try_mac(device_id)) if mac}
    if len(found) > 1:
        raise MacContradictionError(sorted(found), spoken_for=try_mac(name))
    return found.pop() if found else None


def _state(value: object) -> Announced:
    # A status with no state, or one we do not know, is still proof of a speaking camera.
    try:
        return Announced(value.strip().lower()) if isinstance(value, str) else Announced.ONLINE
    except ValueError:
        return Announced.ONLINE


def _uptime(fields: dict[str, Any]) -> float | None:
    milliseconds = clean_number(fields.get("uptime_ms"), low=0, high=1e14)
    if milliseconds is not None:
        return milliseconds / 1000
    seconds = clean_number(fields.get("uptime"), low=0, high=1e11)
    return seconds if seconds is not None else clean_number(fields.get("uptime_seconds"), low=0, high=1e11)


def _first(fields: dict[str, Any], *names: str) -> Any:
    for name in names:
        if (value := fields.get(name)) is not None:
            return value
    return None


def _whole(fields: dict[str, Any], low: int, high: int, *names: str) -> int | None:
    """The first of these fields that holds a number within its range: a bad one does not hide its alias."""
    for name in names:
        if name in fields and (number := clean_number(fields[name], low=low, high=high)) is not None:
            return int(number)
    return None


def _text(fields: dict[str, Any], max_chars: int, *names: str) -> str | None:
    for name in names:
        if name in fields and (text := clean_text(fields[name], max_chars=max_chars)) is not None:
            return text
    return None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None
