"""Reasons of unreadable status messages: kept per topic, bounded, logged once a minute."""

import pytest
import structlog

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.devices.unreadable import KEPT_S, MAX_TOPICS, WARNING_INTERVAL_S, UnreadableMessages

MAC, OTHER = Mac("24:6F:28:B0:F7:F1"), Mac("24:6F:28:00:00:10")
TOPIC = f"camera/status/{MAC}"
REASON = "not JSON: unescaped quote at byte 31"


@pytest.fixture
def messages():
    return UnreadableMessages(is_known=lambda mac: mac == MAC)


def add(messages, topic=TOPIC, payload=b"{", reason=REASON, *, mac=None, now=0.0, **options):
    messages.add(topic, payload, reason, mac=mac, now=now, **options)


def test_text_names_topic_reason_and_position(messages):
    add(messages, mac=MAC)
    add(messages, mac=MAC, now=5.0)
    (entry,) = messages.listed(5.0)
    assert entry.text == f"publishes on {TOPIC} what is no JSON: unescaped quote at byte 31"
    assert (entry.count, entry.first_at, entry.last_at) == (2, 0.0, 5.0)
    add(messages, "camera/status/x", reason="17000 bytes, over the limit of 16384")
    assert messages.listed(5.0)[1].text.endswith("what cannot be read: 17000 bytes, over the limit of 16384")


def test_reason_is_dropped_after_readable_message_or_time(messages):
    add(messages, mac=MAC)
    assert messages.of(MAC, KEPT_S - 1)
    assert messages.of(MAC, KEPT_S) is None
    assert messages.listed(KEPT_S) == []
    messages.clear("camera/status/other", None)
    assert messages.of(MAC, 1.0)
    messages.clear(TOPIC, MAC)
    assert messages.of(MAC, 1.0) is None
    assert len(messages) == 0


def test_invented_topics_do_not_displace_known_ones(messages):
    add(messages, mac=MAC)
    for number in range(10 * MAX_TOPICS):
        add(messages, f"camera/status/cam-{number}")
        add(messages, f"camera/status/{number}", mac=OTHER)
    assert len(messages) == MAX_TOPICS + 1
    assert messages.listed(0.0)[0].mac == MAC
    assert messages.of(MAC, 0.0)


def test_one_warning_a_minute_for_all_topics(messages):
    with structlog.testing.capture_logs() as logs:
        add(messages, "camera/status/quiet", quiet=True)
        for second in range(int(2 * WARNING_INTERVAL_S)):
            add(messages, f"camera/status/{second}", now=float(second))
    warnings = [line for line in logs if line["log_level"] == "warning"]
    assert [line["event"] for line in warnings] == ["status message cannot be read"] * 2
    assert warnings[0]["reason"] == REASON


def test_topic_and_reason_are_safe_to_show(messages):
    add(messages, "camera/status/\x1b[2J" + "x" * 60_000, reason="bad \x1b[2J" + "y" * 60_000)
    (entry,) = messages.listed(0.0)
    assert entry.topic.isprintable()
    assert entry.text.isprintable()
    assert len(entry.text) < 500


@pytest.mark.parametrize(
    "payload",
    [b'{"mac":"24:6f:28:b0:f7:f1","x":"a "b""}', b'{"x":, "mac_address" : "246F28B0F7F1"', b"{mac: 24-6F-28-B0-F7-F1"],
    ids=repr,
)
def test_mac_in_damaged_message_is_a_hint(messages, payload):
    add(messages, "camera/status/cam", payload)
    assert messages.about(MAC, 0.0) == [messages.listed(0.0)[0].text]
    assert messages.of(MAC, 0.0) is None, "a message may name any MAC"
    assert messages.about(OTHER, 0.0) == []


def test_mac_without_leading_zeros_is_a_hint(messages):
    add(messages, "camera/status/cam", b'{"mac": "24:6F:28:0:0:10", "x": }')
    assert messages.listed(0.0)[0].named == OTHER


def test_about_mac_without_messages_names_unknown_senders(messages):
    for number in range(9):
        add(messages, f"camera/status/cam-{number}", now=float(number))
    about = messages.about(OTHER, 9.0)
    assert len(about) == 3
    assert about[0] == "an unknown device publishes on camera/status/cam-8 what is no JSON: unescaped quote at byte 31"


def test_readable_message_of_other_client_clears_no_reason(messages):
    add(messages, mac=MAC)
    messages.clear(TOPIC, OTHER)
    assert messages.of(MAC, 1.0)
    messages.clear(TOPIC, MAC)
    assert messages.of(MAC, 1.0) is None
