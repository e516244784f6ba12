"""Check that a broker delivers for the filters it has granted: some grant what their ACL forbids, and send nothing.

The test messages are empty, not retained, and on topics of an id that no camera has.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterable, Sequence

from pi_orchestrator.net.mqtt.client import MqttClient, RefusedError

DELIVERY_S = 5.0
"""Time without any received message after which the missing test messages count as not delivered."""
LIMIT_S = 60.0
"""Limit of the wait for test messages while other messages arrive."""


class Arrivals:
    """Test topics with an id that no camera has, and those of them on which a message has arrived."""

    def __init__(self, purpose: str) -> None:
        self._name = f"piorch-{purpose}-{secrets.token_hex(4)}"
        self._expected: set[str] = set()
        self._arrived: set[str] = set()
        self._received = asyncio.Event()

    def topic(self, topic_filter: str, *, suffix: str = "") -> str:
        """The test topic of a filter or topic pattern (`+`, no `#`); messages on it count from now on."""
        topic = topic_filter.replace("+", self._name + suffix)
        self._expected.add(topic)
        return topic

    def take(self, topic: str) -> bool:
        """Record the arrival of a message of any topic; returns whether it is a test message."""
        self._received.set()
        if topic in self._expected:  # any client may publish on other topics with the id
            self._arrived.add(topic)
        return self._name in topic

    async def missing(self, topics: Iterable[str]) -> list[str]:
        """Wait for a message on each topic; returns the topics without one after DELIVERY_S of silence, or LIMIT_S."""
        wanted = list(topics)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LIMIT_S):
                while not self._arrived.issuperset(wanted):
                    self._received.clear()
                    async with asyncio.timeout(DELIVERY_S):
                        await self._received.wait()
        return [topic for topic in wanted if topic not in self._arrived]


async def undelivered(client: MqttClient, arrivals: Arrivals, filters: Sequence[str]) -> list[str]:
    """The filters whose messages do not come back, without those on which the broker does not let us publish.

    MQTT 5 only: with 3.1.1 a broker does not report that it refuses a message. Meanwhile another task must pass the
    received messages to `arrivals`.
    """
    sent: dict[str, str] = {}
    for name in filters:
        topic = arrivals.topic(name)
        with contextlib.suppress(RefusedError):
            await client.publish(topic, b"", qos=1, timeout=LIMIT_S)
            sent[topic] = name
    return [sent[topic] for topic in await arrivals.missing(sent)]
