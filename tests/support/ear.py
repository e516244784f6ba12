"""Listening at a broker: what it says, in order."""

import asyncio
import contextlib
import json
import threading

import aiomqtt
from paho.mqtt import client as paho

from tests.support.waiting import eventually


class Ear:
    """Everything that the broker says, in order; `until` waits for a message that pleases."""

    def __init__(self, client):
        self.client = client

    async def until(self, wanted):
        async with asyncio.timeout(15):
            async for message in self.client.messages:
                body = json.loads(message.payload) if message.payload else None
                if wanted(message, body):
                    return message, body
        raise AssertionError("the broker has gone")


@contextlib.asynccontextmanager
async def listening(broker, *topics):
    """An Ear at a broker of this namespace."""
    async with aiomqtt.Client(broker.host, broker.port) as client:
        await client.subscribe([(topic, 1) for topic in topics or ("#",)])
        yield Ear(client)


def says(state, camera=None):
    """For `Ear.until`: a status message with this state."""

    def wanted(_, body):
        return bool(body) and body.get("state") == state and camera in {None, body["device_id"]}

    return wanted


@contextlib.asynccontextmanager
async def listening_in(namespace, topic="camera/status/+", *, host="127.0.0.1", port=1883):
    """The JSON objects that a broker says in another namespace, as a growing list; `retained` is put into each."""
    heard, subscribed = [], threading.Event()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = lambda _, __, message: heard.append(
        json.loads(message.payload or b"{}") | {"retained": message.retain}
    )
    await namespace.run(client.connect, host, port)  # whoever dials decides where the connection is made
    client.subscribe(topic, qos=1)
    client.loop_start()
    try:
        await eventually(subscribed.is_set)
        yield heard
    finally:
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)
