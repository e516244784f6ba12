"""Parser of a camera's status message: topic and payload in, typed claims out.

All values are claims of the camera. Field aliases are those of the firmwares in use. A field of the wrong type or
outside its physical range is left out, an unknown one is ignored. Only a message without usable meaning raises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.identifiers import parse_device_id
from pi_orchestrator.core.mac import Mac, mac_difference, try_mac
from pi_orchestrator.core.validation import clean_number, clean_text, parse_camera_object, plain_word

MAX_STATUS_BYTES = 16 * 1024
STATUS_TOPICS = ("camera/status/+", "delicasa/+/camera/+/status")

_WILL_WORDS, _BIRTH_WORDS = frozenset({"offline", "0"}), frozenset({"online", "1"})
_ID = re.compile(r"[A-Za-z0-9:_-]{1,64}", re.ASCII)


class MacContradictionError(FieldError):
    """A message names two MACs; `topic_mac` is the one in its topic, None if the topic has none."""

    def __init__(self, macs: list[Mac], *, topic_mac: Mac | None) -> None:
        super().__init__(f"names two MAC addresses, {' and '.join(macs)}")
        self.topic_mac = topic_mac


class Announced(StrEnum):
    """The state that a camera announces."""

    ONLINE = "online"
    OFFLINE = "offline"
    REBOOTING = "rebooting"


@dataclass(frozen=True, slots=True)
class Status:
    """One status message. `mac` is None if the message contains only a device id; `ip` is a claim, not validated.

    `has_mac`: the message has a field with the MAC; the device id is then only a name, even if it spells another MAC.
    Without that field, `mac` is the MAC that the topic or the device id spells.

    `topic`: where the message was published; the camera's command topic is derived from it. `topic_id`: the MAC or
    device id in the topic, as written there.
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
    has_mac: bool = False


# Fields that stay valid when a later message of the session leaves them out.
_LASTING = ("ip", "rssi_dbm", "free_heap_bytes", "firmware_version", "camera_initialized", "ssid", "resolution")


def with_lasting_fields(status: Status, before: Status | None) -> Status:
    """The status, with missing fields taken from an earlier one of the same session."""
    if before is None:
        return status
    filled = {
        name: value
        for name in _LASTING
        if getattr(status, name) is None and (value := getattr(before, name)) is not None
    }
    return replace(status, **filled) if filled else status


def topic_id(topic: str) -> str:
    """The `{id}` or `{mac}` of a status topic; FieldError outside `[A-Za-z0-9:_-]{1,64}`."""
    match topic.split("/"):
        case ["delicasa", container, "camera", found, "status"] if _ID.fullmatch(container) and _ID.fullmatch(found):
            return found
        case ["camera", "status", found] if _ID.fullmatch(found):
            return found
    raise FieldError("the topic holds no camera id of [A-Za-z0-9:_-]{1,64}")


def parse_status(topic: str, payload: bytes) -> Status:
    """Topic + JSON payload → Status; FieldError names the limit or the contradiction."""
    name = topic_id(topic)
    fields = parse_camera_object(payload, max_bytes=MAX_STATUS_BYTES)
    device_id = _first(fields, "device_id", "id")
    claimed = try_mac(_first(fields, "mac", "mac_address"))
    return Status(
        topic_id=name,
        mac=_stated_mac(name, claimed) if claimed else _mac_in_ids(name, device_id),
        has_mac=claimed is not None,
        device_id=parse_device_id(device_id, None),
        state=_state(_first(fields, "state", "status")),
        ip=_text(fields, 45, "ip", "ip_address"),
        timestamp=clean_text(fields.get("timestamp"), max_chars=40),
        rssi_dbm=_integer(fields, -127, 0, "rssi_dbm", "wifi_rssi", "rssi"),
        free_heap_bytes=_integer(fields, 0, 2**32, "free_heap_bytes", "free_heap", "heap"),
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


def plain_will(topic: str, payload: bytes) -> Status | None:
    """Payload `offline` or `0` → Status of a last will; None for any other payload, or a topic without an id."""
    if plain_word(payload) not in _WILL_WORDS:
        return None
    try:
        name = topic_id(topic)
    except FieldError:
        return None
    return Status(topic_id=name, mac=try_mac(name), device_id=None, state=Announced.OFFLINE, topic=topic)


def is_plain_birth(payload: bytes) -> bool:
    """Whether a payload is the plain text `online` or `1`: a birth message without data, which a status follows."""
    return plain_word(payload) in _BIRTH_WORDS


def _stated_mac(name: str, mac: Mac) -> Mac:
    """The MAC of the `mac` field; MacContradictionError if the topic names another one.

    Some firmware puts another MAC of the same ESP32 in its topic, or its own with the bytes reversed.
    """
    topic_mac = try_mac(name)
    if topic_mac not in (None, mac) and not mac_difference(name, mac):
        raise MacContradictionError(sorted({topic_mac, mac}), topic_mac=topic_mac)
    return mac


def _mac_in_ids(name: str, device_id: object) -> Mac | None:
    """The MAC that topic and device id spell; MacContradictionError if they spell two."""
    found = {mac for mac in (try_mac(name), try_mac(device_id)) if mac}
    if len(found) > 1:
        raise MacContradictionError(sorted(found), topic_mac=try_mac(name))
    return found.pop() if found else None


def _state(value: object) -> Announced:
    # A status without a state, or with an unknown one, still proves that the camera is alive.
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


def _integer(fields: dict[str, Any], low: int, high: int, *names: str) -> int | None:
    """The first of these fields that holds a number within the range; an invalid field does not hide its alias."""
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
