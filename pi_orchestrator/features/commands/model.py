"""Topics and payloads of commands and answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.validation import clean_number, clean_text
from pi_orchestrator.net.jpeg import MAX_IMAGE_BYTES

RESPONSE_TOPICS = (
    "camera/response/+",
    "camera/response/+/+",
    "delicasa/+/camera/+/response/+",
    "delicasa/+/camera/+/response/+/+",
)
COMMAND_TOPIC = "camera/command/+"
MAX_FIELDS = 32
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)


class Action(StrEnum):
    """Commands to a camera by MQTT."""

    CAPTURE = "capture"
    RESTART = "restart"
    RESET = "reset"
    PING = "ping"
    HEALTH_CHECK = "health_check"
    SET_RESOLUTION = "set_resolution"


class Phase(StrEnum):
    """The part of an answer, from the last level of the topic; ANSWER has no such level."""

    ANSWER = ""
    ACK = "ack"
    INFO = "info"
    CHUNK = "chunk"
    COMPLETE = "complete"
    ERROR = "error"


def command_topic(status_topic: str) -> str:
    """The command topic of a camera, from the topic of its status messages; FieldError if that is no status topic."""
    match status_topic.split("/"):
        case ["camera", "status", name]:
            return COMMAND_TOPIC.replace("+", name)
        case ["delicasa", container, "camera", name, "status"]:
            return f"delicasa/{container}/camera/{name}/command"
    raise FieldError(f"{status_topic[:80]!r} is not a status topic of a camera")


def parse_response_topic(topic: str) -> tuple[str, Phase, str | None]:
    """(request id, phase, camera name or None) of a topic that matches RESPONSE_TOPICS; FieldError if invalid."""
    parts = topic.split("/")
    name = None
    if parts[0] == "delicasa":
        name, parts = parts[3], parts[3:]
    request_id, *rest = parts[2:]
    try:
        phase = Phase(rest[0]) if rest else Phase.ANSWER
    except ValueError:
        raise FieldError(f"{rest[0][:20]!r} is not a phase of an answer") from None
    if not _REQUEST_ID.fullmatch(request_id):
        raise FieldError("the topic has no valid request id")
    return request_id, phase, name


def refusal_reason(phase: Phase, fields: dict[str, Any]) -> str | None:
    """The error that an answer reports, cleaned and shortened, or None if it reports none."""
    if phase is not Phase.ERROR and fields.get("success") is not False and fields.get("status") != "error":
        return None
    reason = clean_text(fields.get("error")) or "no reason given"
    code = clean_text(fields.get("error_code"), max_chars=64)
    return reason + (f" ({code})" if code else "")


def sender_names(fields: dict[str, Any]) -> tuple[str, ...]:
    """The MACs and device ids by which a message names its sender."""
    return tuple(
        text for name in ("device_id", "mac", "mac_address") if isinstance(text := fields.get(name), str) and text
    )


def clean_answer(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of an answer, safe to show: at most 32, with short texts and finite numbers, nested once at most."""
    return {
        name: value
        for name, raw in _first_fields(fields)
        if name != "request_id" and (value := _clean_value(raw, deep=True)) is not None
    }


def _first_fields(fields: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in list(fields.items())[:MAX_FIELDS]:
        if cleaned := clean_text(name, max_chars=64):
            yield cleaned, value


def _clean_value(value: object, *, deep: bool) -> Any:
    if isinstance(value, dict) and deep:
        return {
            name: cleaned
            for name, raw in _first_fields(value)
            if (cleaned := _clean_value(raw, deep=False)) is not None
        }
    if isinstance(value, bool):
        return value
    return clean_text(value) if isinstance(value, str) else clean_number(value, low=-1e15, high=1e15)


def command_payload(action: Action, request_id: str, **fields: str) -> bytes:
    """The payload of a command, as JSON."""
    return json.dumps({"action": action, "request_id": request_id, **fields}, separators=(",", ":")).encode()


BUDGET_RETRY_S = 30.0
"""Wait before a repeat of a capture that was refused for lack of memory: the longest duration of a capture."""
BUDGET_BYTES = 64 * 1024 * 1024
"""Memory for unread messages and incomplete pictures: sixteen pictures of ordinary size, or eight of the largest."""

MAX_CHUNK_MESSAGE_BYTES = MAX_IMAGE_BYTES * 4 // 3 + 4096
"""A whole picture in base64, and the other fields of the message."""

MAX_MESSAGE_BYTES = 16 * 1024
"""For every phase except CHUNK."""
