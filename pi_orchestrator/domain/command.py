"""Commands to a camera, and where its answers come from: topics and words, and no more than that."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from pi_orchestrator.domain.strict_json import clean_number, clean_text
from pi_orchestrator.errors import FieldError

RESPONSE_TOPICS = (
    "camera/response/+",
    "camera/response/+/+",
    "delicasa/+/camera/+/response/+",
    "delicasa/+/camera/+/response/+/+",
)
MAX_FIELDS = 32
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)


class Action(StrEnum):
    """What a camera can be told over MQTT."""

    CAPTURE = "capture"
    RESTART = "restart"
    RESET = "reset"
    PING = "ping"
    HEALTH_CHECK = "health_check"
    SET_RESOLUTION = "set_resolution"


class Phase(StrEnum):
    """Which part of an answer a message is, by the end of its topic; ANSWER has no such end."""

    ANSWER = ""
    ACK = "ack"
    INFO = "info"
    CHUNK = "chunk"
    COMPLETE = "complete"
    ERROR = "error"


def command_topic(status_topic: str) -> str:
    """Where a camera listens for commands, by the topic of its own status messages."""
    match status_topic.split("/"):
        case ["camera", "status", name]:
            return f"camera/command/{name}"
        case ["delicasa", container, "camera", name, "status"]:
            return f"delicasa/{container}/camera/{name}/command"
    raise FieldError(f"{status_topic[:80]!r} is no topic of a camera's status")


def parse_response_topic(topic: str) -> tuple[str, Phase, str | None]:
    """The request id, the phase, and whom the topic names as the camera, if anyone; FieldError."""
    parts = topic.split("/")
    name = None
    if parts[0] == "delicasa":
        name, parts = parts[3], parts[3:]
    request_id, *rest = parts[2:]
    try:
        phase = Phase(rest[0]) if rest else Phase.ANSWER
    except ValueError:
        raise FieldError(f"{rest[0][:20]!r} is no phase of an answer") from None
    if not _REQUEST_ID.fullmatch(request_id):
        raise FieldError("the topic holds no request id")
    return request_id, phase, name


def refusal_in(phase: Phase, fields: dict[str, Any]) -> str | None:
    """What an answer says went wrong, in the camera's words and within bounds; None where nothing did."""
    if phase is not Phase.ERROR and fields.get("success") is not False and fields.get("status") != "error":
        return None
    why = clean_text(fields.get("error")) or "no reason given"
    code = clean_text(fields.get("error_code"), max_chars=64)
    return why + (f" ({code})" if code else "")


def names_in(fields: dict[str, Any]) -> tuple[str, ...]:
    """Whom a message says that it is from."""
    return tuple(
        text for name in ("device_id", "mac", "mac_address") if isinstance(text := fields.get(name), str) and text
    )


def clean_answer(fields: dict[str, Any]) -> dict[str, Any]:
    """What a camera answered, fit to be shown: few fields, short texts, finite numbers, two levels."""
    return {
        name: value
        for name, given in _few(fields)
        if name != "request_id" and (value := _shown(given, deep=True)) is not None
    }


def _few(fields: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in list(fields.items())[:MAX_FIELDS]:
        if cleaned := clean_text(name, max_chars=64):
            yield cleaned, value


def _shown(value: object, *, deep: bool) -> Any:
    if isinstance(value, dict) and deep:
        return {name: shown for name, one in _few(value) if (shown := _shown(one, deep=False)) is not None}
    if isinstance(value, bool):
        return value
    return clean_text(value) if isinstance(value, str) else clean_number(value, low=-1e15, high=1e15)


def command_payload(action: Action, request_id: str, **fields: str) -> bytes:
    """A command as it is sent."""
    return json.dumps({"action": action, "request_id": request_id, **fields}, separators=(",", ":")).encode()
