"""Messages with properties that paho cannot decode and mosquitto forwards do not end the daemon's connection."""

import pytest

from pi_orchestrator.core.health import State
from tests.integration.net.mqtt.test_subscribe import running
from tests.support.mqtt_peer import publish_with_properties, text
from tests.support.waiting import eventually

PROPERTIES = {
    "user property": b"\x26" + text("a") + text("\ufeff"),
    "content type": b"\x03" + text("\ufeff"),
    "response topic": b"\x08" + text("\ufeff"),
    "payload format": b"\x01\x02",
    "many user properties": (b"\x26" + text("a") + text("b" * 100)) * 100,
}


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("name", PROPERTIES)
async def test_undecodable_properties_do_not_end_connection(broker, name, qos):
    """One message is retained before the daemon connects, one arrives while it is connected."""
    await publish_with_properties(broker, "camera/status/evil", b"{}", PROPERTIES[name], retain=True, qos=qos)
    async with running(broker) as subject:
        await eventually(lambda: subject.connection.connected)
        await publish_with_properties(broker, "camera/response/evil", b"{}", PROPERTIES[name], qos=qos)
        for _ in range(100):  # more than the broker sends without acknowledgement
            await broker.publish("camera/status/good", b"{}", qos=qos)
        await eventually(lambda: subject.topics.count("camera/status/good") == 100)
        assert subject.topics[:2] == ["camera/status/evil", "camera/response/evil"]
        assert (subject.connection.connections, subject.state) == (1, State.OK)
