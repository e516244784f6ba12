"""The topics and words of commands."""

import json

import pytest

from pi_orchestrator.domain.command import (
    RESPONSE_TOPICS,
    Action,
    Phase,
    command_payload,
    command_topic,
    parse_response_topic,
)
from pi_orchestrator.errors import FieldError


@pytest.mark.parametrize(
    "status, command",
    [
        ("camera/status/246f28b0f7f1", "camera/command/246f28b0f7f1"),
        ("camera/status/espcam-b0f7f1", "camera/command/espcam-b0f7f1"),
        ("delicasa/box-1/camera/24:6F:28:B0:F7:F1/status", "delicasa/box-1/camera/24:6F:28:B0:F7:F1/command"),
    ],
)
def test_a_camera_listens_beside_its_own_status(status, command):
    assert command_topic(status) == command


@pytest.mark.parametrize("status", ["", "camera/status", "camera/status/a/b", "camera/response/x", "delicasa/a/b/c"])
def test_no_status_topic_no_command_topic(status):
    with pytest.raises(FieldError):
        command_topic(status)


@pytest.mark.parametrize(
    "topic, found",
    [
        ("camera/response/r1", ("r1", Phase.ANSWER, None)),
        ("camera/response/r1/ack", ("r1", Phase.ACK, None)),
        ("camera/response/r1/chunk", ("r1", Phase.CHUNK, None)),
        ("camera/response/_invalid/error", ("_invalid", Phase.ERROR, None)),
        ("delicasa/box/camera/24-6f-28-b0-f7-f1/response/r1", ("r1", Phase.ANSWER, "24-6f-28-b0-f7-f1")),
        ("delicasa/box/camera/24-6f-28-b0-f7-f1/response/r1/info", ("r1", Phase.INFO, "24-6f-28-b0-f7-f1")),
    ],
)
def test_an_answer_s_topic_says_to_what_and_which_part(topic, found):
    assert parse_response_topic(topic) == found


@pytest.mark.parametrize(
    "topic", ["camera/response/", "camera/response/r1/nonsense", "camera/response/r 1/ack",
              "camera/response/" + "r" * 129]
)  # fmt: skip
def test_other_topics_that_the_filters_let_through_are_refused(topic):
    with pytest.raises(FieldError):
        parse_response_topic(topic)


def test_every_form_is_subscribed_to():
    assert {"camera/response/+", "camera/response/+/+"} < set(RESPONSE_TOPICS)
    assert len(RESPONSE_TOPICS) == 4


def test_a_command_is_json_with_action_and_request_id():
    payload = json.loads(command_payload(Action.SET_RESOLUTION, "r1", resolution="VGA"))
    assert payload == {"action": "set_resolution", "request_id": "r1", "resolution": "VGA"}
