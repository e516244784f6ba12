"""Which filters are subscribed to after refusals and large messages."""

import pytest

from pi_orchestrator.net.mqtt.client import PacketTooLargeError
from pi_orchestrator.net.mqtt.subscriptions import (
    FORGET_S,
    LEFT_OUT_S,
    MAX_LEFT_OUT_S,
    MAX_TOPIC_CHARS,
    MAX_TOPICS,
    REFUSED_RETRY_S,
    TOLERATED,
    Subscriptions,
    matches,
)

STATUS, RESPONSE = "camera/status/+", "camera/response/+/+"


@pytest.fixture
def subscriptions():
    subject = Subscriptions(username=None)
    subject.add(STATUS)
    subject.add(RESPONSE)
    return subject


def large(topic, *, retained=True):
    return PacketTooLargeError(3 << 20, 2 << 20, topic, retained=retained)


@pytest.mark.parametrize(
    "topic, result",
    [("camera/status/x", True), ("camera/status", False), ("camera/status/x/y", False), ("a/b/c", False)],
)
def test_filter_matches_its_topics(topic, result):
    assert matches(STATUS, topic) is result


def test_filter_with_large_retained_message_is_replaced_by_known_topics(subscriptions):
    for name in ("a", "evil", "b", "x" * MAX_TOPIC_CHARS):
        subscriptions.add_topic(STATUS, f"camera/status/{name}", 0)
    subscriptions.add_too_large(large("camera/status/evil"), 0)
    assert subscriptions.wanted(1) == ["camera/status/a", "camera/status/b", RESPONSE]
    assert "camera/status/evil has a message of 3,145,728 bytes" in subscriptions.problem()
    assert subscriptions.next_due() == LEFT_OUT_S
    assert subscriptions.due(LEFT_OUT_S) == [STATUS]
    assert subscriptions.problem() is None


def test_filter_with_large_message_on_long_topic_is_left_out(subscriptions):
    topic = "camera/status/" + "x" * 60_000
    subscriptions.add_too_large(large(topic), 0)
    assert subscriptions.wanted(0) == [RESPONSE]
    problem = subscriptions.problem()
    assert f"mosquitto_sub -W 60 -t '{STATUS}' --remove-retained" in problem
    assert len(problem) < 500
    assert not subscriptions._filters[STATUS].large_topics


def test_repeated_large_message_doubles_time_left_out_up_to_limit(subscriptions):
    times = []
    for _ in range(20):
        subscriptions.add_too_large(large("camera/status/evil"), 0)
        times.append(subscriptions.next_due())
        subscriptions.due(times[-1])
    assert times[:3] == [LEFT_OUT_S, 2 * LEFT_OUT_S, 4 * LEFT_OUT_S]
    assert max(times) == times[-1] == MAX_LEFT_OUT_S


def test_live_large_messages_are_tolerated_first(subscriptions):
    for _ in range(TOLERATED):
        subscriptions.add_too_large(large("camera/status/evil", retained=False), 0)
        assert subscriptions.wanted(0) == [STATUS, RESPONSE]
    subscriptions.add_too_large(large("camera/status/evil", retained=False), 0)
    assert subscriptions.wanted(0) == [RESPONSE]


@pytest.mark.parametrize("topic", [None, "other/topic"])
def test_large_message_outside_all_filters_changes_nothing(subscriptions, topic):
    subscriptions.add_too_large(large(topic), 0)
    assert subscriptions.wanted(0) == [STATUS, RESPONSE]
    assert subscriptions.problem() is None


def test_remembered_topics_are_limited(subscriptions):
    for number in range(10 * MAX_TOPICS):
        subscriptions.add_topic(STATUS, f"camera/status/{number}", 0)
    subscriptions.add_too_large(large("camera/status/evil"), 0)
    assert len(subscriptions.wanted(0)) == MAX_TOPICS + 1


def test_invented_topics_do_not_replace_known_ones(subscriptions):
    subscriptions.add_topic(STATUS, "camera/status/real", 0)
    for number in range(2 * MAX_TOPICS):
        subscriptions.add_topic(STATUS, f"camera/status/{number}", 1)
    subscriptions.add_too_large(large("camera/status/evil"), 2)
    assert "camera/status/real" in subscriptions.wanted(3)
    subscriptions.add_topic(STATUS, "camera/status/new", FORGET_S + 1)
    assert "camera/status/real" not in subscriptions._filters[STATUS].topics
    assert "camera/status/new" in subscriptions._filters[STATUS].topics


def test_large_messages_are_forgotten(subscriptions):
    subscriptions.add_topic(STATUS, "camera/status/evil", 0)
    for _ in range(5):
        subscriptions.add_too_large(large("camera/status/evil"), 0)
    later = FORGET_S + 1
    subscriptions.due(later)
    subscriptions.add_too_large(large("camera/status/other"), later)
    assert subscriptions.next_due() == later + LEFT_OUT_S
    assert "camera/status/evil" in subscriptions.wanted(later)


def test_refused_filter_is_due_again(subscriptions):
    subscriptions.add_answer([STATUS, RESPONSE], {STATUS: "not authorised"}, 0)
    problem = subscriptions.problem()
    assert "not authorised; set mqtt.username and mqtt.password_file to a user whose ACL has: topic read" in problem
    assert subscriptions.due(REFUSED_RETRY_S - 1) == []
    assert subscriptions.due(REFUSED_RETRY_S) == [STATUS]
    subscriptions.add_answer([STATUS], {}, REFUSED_RETRY_S)
    assert (subscriptions.problem(), subscriptions.next_due()) == (None, float("inf"))
