"""MQTT subscribers for tests."""

import asyncio
import contextlib
import json
import threading

import aiomqtt
from paho.mqtt import client as paho

from tests.support.waiting import HANG_S, eventually


class MqttListener:
    """A subscriber that receives messages in order."""

    def __init__(self, client):
        self.client = client

    async def until(self, matches):
        """The next message for which `matches(message, body)` is true: (message, decoded body or None).

        Other messages are skipped.
        """
        async with asyncio.timeout(HANG_S):
            async for message in self.client.messages:
                body = json.loads(message.payload) if message.payload else None
                if matches(message, body):
                    return message, body
        raise AssertionError("the broker disconnected")


@contextlib.asynccontextmanager
async def listening(broker, *topics):
    """Subscribe to topics (default: all) of a broker in this namespace; yields an MqttListener."""
    async with aiomqtt.Client(broker.host, broker.port) as client:
        await client.subscribe([(topic, 1) for topic in topics or ("#",)])
        yield MqttListener(client)


def has_state(state):
    """A predicate for `MqttListener.until`: a status message with this state."""

    def matches(_, body):
        return bool(body) and body.get("state") == state

    return matches


@contextlib.asynccontextmanager
async def listening_in(namespace, topic="camera/status/+", *, host="127.0.0.1", port=1883):
    """Subscribe in another namespace; yields a growing list of the JSON messages, each with `retained` added."""
    messages, subscribed = [], threading.Event()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = lambda _, __, message: messages.append(
        json.loads(message.payload or b"{}") | {"retained": message.retain}
    )
    await namespace.run(client.connect, host, port)  # the namespace of the calling thread is used
    client.subscribe(topic, qos=1)
    client.loop_start()
    try:
        await eventually(subscribed.is_set)
        yield messages
    finally:
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)
