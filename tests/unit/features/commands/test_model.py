"""Topics and payloads of commands."""

import json

import pytest

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.features.commands.model import (
    RESPONSE_TOPICS,
    Action,
    Phase,
    command_payload,
    command_topic,
    parse_response_topic,
)


@pytest.mark.parametrize(
    "status, command",
    [
        ("camera/status/246f28b0f7f1", "camera/command/246f28b0f7f1"),
        ("camera/status/espcam-b0f7f1", "camera/command/espcam-b0f7f1"),
        ("delicasa/box-1/camera/24:6F:28:B0:F7:F1/status", "delicasa/box-1/camera/24:6F:28:B0:F7:F1/command"),
    ],
)
def test_command_topic_follows_status_topic(status, command):
    assert command_topic(status) == command


@pytest.mark.parametrize("status", ["", "camera/status", "camera/status/a/b", "camera/response/x", "delicasa/a/b/c"])
def test_command_topic_of_other_topic_is_refused(status):
    with pytest.raises(FieldError):
        command_topic(status)


@pytest.mark.parametrize(
    "topic, parsed",
    [
        ("camera/response/r1", ("r1", Phase.ANSWER, None)),
        ("camera/response/r1/ack", ("r1", Phase.ACK, None)),
        ("camera/response/r1/chunk", ("r1", Phase.CHUNK, None)),
        ("camera/response/_invalid/error", ("_invalid", Phase.ERROR, None)),
        ("delicasa/box/camera/24-6f-28-b0-f7-f1/response/r1", ("r1", Phase.ANSWER, "24-6f-28-b0-f7-f1")),
        ("delicasa/box/camera/24-6f-28-b0-f7-f1/response/r1/info", ("r1", Phase.INFO, "24-6f-28-b0-f7-f1")),
    ],
)
def test_response_topic_is_parsed(topic, parsed):
    assert parse_response_topic(topic) == parsed


@pytest.mark.parametrize(
    "topic", ["camera/response/", "camera/response/r1/nonsense", "camera/response/r 1/ack",
              "camera/response/" + "r" * 129]
)  # fmt: skip
def test_response_topic_invalid_is_refused(topic):
    with pytest.raises(FieldError):
        parse_response_topic(topic)


def test_response_topics_cover_all_forms():
    assert {"camera/response/+", "camera/response/+/+"} < set(RESPONSE_TOPICS)
    assert len(RESPONSE_TOPICS) == 4


def test_command_payload_is_json():
    payload = json.loads(command_payload(Action.SET_RESOLUTION, "r1", resolution="VGA"))
    assert payload == {"action": "set_resolution", "request_id": "r1", "resolution": "VGA"}
