"""Test messages by which the delivery of a broker is checked."""

from pi_orchestrator.net.mqtt.delivery import Arrivals


async def test_message_on_test_topic_has_arrived():
    arrivals = Arrivals("check")
    topics = [arrivals.topic("camera/status/+"), arrivals.topic("camera/command/+", suffix="-any")]
    assert arrivals.take(topics[0])
    assert arrivals.take(topics[1])
    assert await arrivals.missing(topics) == []


def test_message_of_camera_is_no_test_message():
    assert not Arrivals("check").take("camera/status/24:6F:28:00:00:01")


def test_other_topics_with_test_id_are_not_stored():
    """Any client that sees a test message knows the id."""
    arrivals = Arrivals("check")
    topic = arrivals.topic("camera/status/+")
    assert all(arrivals.take(f"{topic}-{number}") for number in range(1000))
    assert arrivals._arrived == set()


def test_each_check_has_another_id():
    assert Arrivals("check").topic("+") != Arrivals("check").topic("+")
