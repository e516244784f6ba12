"""What the client relies on in private parts of paho: the size of a packet is known before its body is read."""

import asyncio
import socket

import aiomqtt
import pytest
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from pi_orchestrator.net.mqtt.client import MqttClient
from pi_orchestrator.net.mqtt.packets import UNSPECIFIED_ERROR, with_known_codes, without_properties
from tests.support.mqtt_peer import CONNACK, PUBACK, PUBLISH, length_field, packet, text

LIMIT = 1000


@pytest.fixture
async def connected():
    """(client, socket of the peer) as after a successful connect."""
    client = MqttClient("127.0.0.1", max_packet_bytes=LIMIT)
    client._limit._skip_bytes = LIMIT
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    client._client._sock = ours
    theirs.send(packet(CONNACK, b"\0\0"))
    client._client.loop_read()
    assert client._connected.done()
    yield client, theirs
    client._client._sock_close()
    theirs.close()


def read(client):
    code = MQTTErrorCode.MQTT_ERR_SUCCESS
    while client._client.socket() is not None and code is MQTTErrorCode.MQTT_ERR_SUCCESS:
        before = client._limit.received
        code = client._client.loop_read()
        if client._limit.received == before:
            break
    return code


def header(topic, size, *, retained=False):
    head = text(topic)
    return bytes([PUBLISH << 4 | int(retained)]) + length_field(len(head) + size) + head


async def test_packet_at_limit_is_received(connected):
    client, peer = connected
    peer.send(header("t", LIMIT - 3) + bytes(LIMIT - 3))
    read(client)
    (message,) = client.queued()
    assert len(message.payload) == LIMIT - 3


@pytest.mark.parametrize("retained", [True, False])
async def test_packet_over_limit_is_refused_and_its_topic_reported(connected, retained):
    client, peer = connected
    peer.send(header("camera/status/x", LIMIT, retained=retained) + bytes(LIMIT))
    assert read(client) is MQTTErrorCode.MQTT_ERR_CONN_LOST
    error = client._lost()
    assert (error.topic, error.retained, error.size) == ("camera/status/x", retained, LIMIT + 17)
    assert client._limit.received == 4 + 3 + 17, "CONNACK, fixed header and topic"
    assert client._client.socket() is None


@pytest.mark.parametrize("piece", [7, 1000, 1 << 20])
async def test_skipped_message_is_acknowledged_and_not_kept(connected, piece):
    client, peer = connected
    client._limit._skip_bytes = 100 * LIMIT
    skipped = []
    client.on_skipped = skipped.append
    body = b"\x12\x34" + bytes(50 * LIMIT)
    head = header("camera/status/x", len(body))
    data = bytes([head[0] | 2]) + head[1:] + body + header("t", 4) + b"next"
    for start in range(0, len(data), piece):
        peer.send(data[start : start + piece])
        read(client)
        assert len(client._client._in_packet["packet"]) <= 65_536 + 100
    (message,) = client.queued()
    assert (message.topic.value, message.payload) == ("t", b"next")
    assert [(error.topic, error.size) for error in skipped] == [("camera/status/x", len(body) + 17)]
    assert await asyncio.get_running_loop().sock_recv(peer, 100) == packet(PUBACK, b"\x12\x34")


@pytest.mark.parametrize("topic", ["camera/status/x", "camera/status/" + "x" * 600, "x" * 65_535])
async def test_topic_received_in_pieces_is_found(connected, topic):
    client, peer = connected
    data = header(topic, 250 << 20)
    for start in range(0, len(data), 1 + len(data) // 100):
        peer.send(data[start : start + 1 + len(data) // 100])
        read(client)
    assert client._lost().topic == topic
    assert len(str(client._lost())) < 300


@pytest.mark.parametrize(
    "start",
    [
        bytes([9 << 4]) + length_field(250 << 20),
        bytes([PUBLISH << 4]) + length_field(LIMIT + 1) + LIMIT.to_bytes(2, "big"),
    ],
    ids=["no message", "topic longer than the packet"],
)
async def test_large_packet_without_topic_is_refused(connected, start):
    client, peer = connected
    peer.send(start)
    read(client)
    assert (client._lost().topic, client._client.socket()) == (None, None)


async def test_closed_connection_is_not_watched(connected, caplog):
    """Data is to be sent, and the connection is closed before the event loop gets to it."""
    client, _ = connected
    client._client._call_socket_register_write()
    client._client._sock_close()
    await asyncio.sleep(0)
    assert caplog.records == []


async def test_mqtt5_announces_limit_to_broker():
    client = MqttClient("127.0.0.1", protocol=aiomqtt.ProtocolVersion.V5, max_packet_bytes=LIMIT)
    assert (client._properties.MaximumPacketSize, client._properties.ReceiveMaximum) == (LIMIT, 64)


async def test_open_fails_if_connection_is_closed_before_answer():
    async def close(reader, writer):
        await reader.read(10)
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0)
    async with server:
        client = MqttClient("127.0.0.1", server.sockets[0].getsockname()[1], timeout=60)
        with pytest.raises(aiomqtt.MqttError, match="without an answer to CONNECT"):
            await client.open()


@pytest.mark.parametrize("qos", [0, 1])
async def test_removing_properties_keeps_payload(qos):
    message_id = b"\x12\x34" if qos else b""
    for size in (0, 1, 127, 128, 20_000):
        body = text("t") + message_id + length_field(size) + b"\x26" * size + b"payload"
        assert without_properties(qos << 1, bytearray(body)) == text("t") + message_id + b"\0payload"


@pytest.mark.parametrize("rest", [b"", b"\x05abcd", b"\xff\xff\xff\xff\x01", b"\x80"])
async def test_malformed_properties_are_left_to_the_library(rest):
    assert without_properties(0, bytearray(text("t") + rest)) == text("t") + rest


@pytest.mark.parametrize("is_mqtt5", [True, False])
async def test_codes_known_to_the_library_are_kept(is_mqtt5):
    properties = b"\x03\x1f\0\0" if is_mqtt5 else b""
    codes = with_known_codes(bytearray(b"\x12\x34" + properties + bytes(range(256))), is_mqtt5=is_mqtt5)[-256:]
    for code, result in enumerate(codes):
        try:
            ReasonCode(PacketTypes.SUBACK, identifier=code)
        except (KeyError, ValueError):
            assert result == UNSPECIFIED_ERROR
        else:
            assert result == code
