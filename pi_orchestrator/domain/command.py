"""Commands to a camera, and where its answers come from: topics and words, and no more than that."""

from __future__ import annotations

import json
import re
from enum import StrEnum

from pi_orchestrator.errors import FieldError

RESPONSE_TOPICS = (
    "camera/response/+",
    "camera/response/+/+",
    "delicasa/+/camera/+/response/+",
    "delicasa/+/camera/+/response/+/+",
)
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


def command_payload(action: Action, request_id: str, **fields: str) -> bytes:
    """A command as it is sent."""
    return json.dumps({"action": action, "request_id": request_id, **fields}, separators=(",", ":")).encode()
