"""The queue of received messages: bounded in messages and bytes; what does not fit is dropped and counted."""

import pytest
from aiomqtt import Will

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.health import Health
from pi_orchestrator.net.mqtt import session
from pi_orchestrator.net.mqtt.link import MqttConnection
from pi_orchestrator.settings.model import MqttSettings
from tests.support.waiting import eventually


@pytest.fixture
async def stalled(broker, monkeypatch):
    """A connection with a queue of five messages or 1,000 bytes, whose client is open, subscribed and never read."""
    monkeypatch.setattr(session, "QUEUE_LIMIT", 5)
    monkeypatch.setattr(session, "QUEUE_LIMIT_BYTES", 1000)
    settings, clock = MqttSettings(host=broker.host, port=broker.port), Clock()
    connection = MqttConnection(settings=settings, port=broker.port, clock=clock, health=Health(clock=clock))
    client = await connection._opener.open("pi-orchestrator", Will("t/will"))
    try:
        await client.subscribe("t")
        yield connection, client
    finally:
        await client.close()


async def publish(broker, *payloads):
    async with broker.client() as client:
        for payload in payloads:
            await client.publish("t", payload, qos=1)


async def test_messages_over_limit_are_dropped_and_counted(stalled, broker):
    connection, client = stalled
    await publish(broker, *(b"%d" % number for number in range(12)))
    await eventually(lambda: connection.discarded == 7)
    assert [message.payload for message in client.queued()] == [b"0", b"1", b"2", b"3", b"4"]


async def test_bytes_over_limit_are_dropped_and_counted(stalled, broker):
    connection, client = stalled
    await publish(broker, b"a" * 600, b"b" * 600, b"c" * 600, b"d")
    await eventually(lambda: connection.discarded == 2)
    assert [message.payload[:1] for message in client.queued()] == [b"a", b"b"]


async def test_emptied_queue_accepts_messages_again(stalled, broker):
    connection, client = stalled
    await publish(broker, b"a" * 1001, b"b")
    await eventually(lambda: connection.discarded == 1)
    client.queued()  # empties the queue: b"b" was in it
    await publish(broker, b"c")
    first = await anext(aiter(client.messages))
    assert (first.payload, connection.discarded) == (b"c", 1)
