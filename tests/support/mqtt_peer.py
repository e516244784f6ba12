"""A peer that speaks MQTT as a broker on a raw socket, and misbehaves as a test wants it."""

import asyncio
import contextlib
from dataclasses import dataclass, field

from pi_orchestrator.net.mqtt.subscriptions import matches
from tests.support.broker import free_port

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 1, 2, 3, 4, 5, 6, 7
SUBSCRIBE, SUBACK, PINGREQ, DISCONNECT = 8, 9, 12, 14
BLOCK = bytes(1 << 20)


def length_field(size):
    """The remaining length of a fixed header."""
    out = bytearray()
    while True:
        size, digit = divmod(size, 128)
        out.append(digit | (0x80 if size else 0))
        if not size:
            return bytes(out)


def packet(kind, body=b"", flags=0):
    return bytes([kind << 4 | flags]) + length_field(len(body)) + body


def text(value):
    raw = value.encode()
    return len(raw).to_bytes(2, "big") + raw


async def publish_large(broker, topic, size):
    """Publish a retained message of zero bytes, without a copy of it in memory; returns when the broker has it."""
    reader, writer = await asyncio.open_connection(broker.host, broker.port)
    writer.write(packet(CONNECT, text("MQTT") + b"\x04\x02\x00\x3c" + text("")))
    await reader.readexactly(4)
    head = text(topic) + b"\0\1"
    writer.write(bytes([PUBLISH << 4 | 3]) + length_field(len(head) + size) + head)
    for _ in range(size // len(BLOCK)):
        writer.write(BLOCK)
        await writer.drain()
    assert (await reader.readexactly(4))[0] >> 4 == PUBACK
    writer.close()


async def publish_with_properties(broker, topic, payload, properties, *, retain=False, qos=1):
    """Publish by MQTT 5 with raw properties, which no library would send; returns when the broker has the message."""
    reader, writer = await asyncio.open_connection(broker.host, broker.port)
    writer.write(packet(CONNECT, text("MQTT") + b"\x05\x02\x00\x3c" + b"\0" + text("")))
    assert (await reader.read(100))[0] >> 4 == CONNACK
    body = text(topic) + b"\0\1" + length_field(len(properties)) + properties + payload
    writer.write(packet(PUBLISH, body, flags=qos << 1 | int(retain)))
    assert (await reader.read(100))[0] >> 4 in (PUBACK, PUBREC)
    if qos == 2:
        writer.write(packet(PUBREL, b"\0\1", flags=2))
        assert (await reader.read(100))[0] >> 4 == PUBCOMP
    writer.close()


@dataclass
class MqttPeer:
    """An MQTT broker on a raw socket that misbehaves as its fields say.

    `large`: (topic, bytes, retained) of a message sent after each subscribe to `large_filter`.
    """

    knows_mqtt5: bool = True
    refusal: str = "code"
    """How MQTT 5 is refused: `code` (CONNACK of MQTT 3.1.1), `close`, `silence`, or a reason code of MQTT 5 in hex."""
    grants: dict = field(default_factory=dict)
    """Topic filter → code in SUBACK; 1 for all other filters."""
    answered: int | None = None
    """Number of codes in SUBACK; None: one for each filter."""
    unreadable: bool = False
    """Whether a packet of an unknown kind follows SUBACK."""
    max_connections: int | None = None
    """Later CONNECT packets are refused (quota exceeded)."""
    max_answered_bytes: int | None = None
    """Larger messages are read and not acknowledged."""
    delivers: bool = True
    """Whether a client receives its own messages (small ones) on topics to which it is subscribed."""
    forbidden: str | None = None
    """The connection is closed at a message on a topic that begins with this."""
    large: tuple | None = None
    large_filter: str = ""
    port: int = field(default_factory=free_port)
    host: str = "127.0.0.1"

    def __post_init__(self):
        self.versions = []
        self.subscribed = []
        """Lists of filters, one for each SUBSCRIBE."""
        self.large_bytes_sent = 0
        self.writers = []

    @contextlib.asynccontextmanager
    async def running(self):
        server = await asyncio.start_server(self._serve, self.host, self.port)
        try:
            yield self
        finally:
            server.close()
            for writer in self.writers:
                writer.transport.abort()

    async def _serve(self, reader, writer):
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                kind = (await reader.readexactly(1))[0] >> 4
                size = shift = 0
                while True:
                    digit = (await reader.readexactly(1))[0]
                    size |= (digit & 127) << shift
                    shift += 7
                    if not digit & 128:
                        break
                if not await self._answer(writer, kind, await reader.readexactly(size)):
                    break
        writer.close()

    async def _answer(self, writer, kind, body):
        is_mqtt5 = bool(self.versions) and self.versions[-1] == 5
        properties = b"\0" if is_mqtt5 else b""
        if kind == CONNECT:
            self.versions.append(body[6])
            if self.max_connections is not None and len(self.versions) > self.max_connections:
                writer.write(packet(CONNACK, bytes((0, 0x97, 0))))
                return False
            if body[6] == 5 and not self.knows_mqtt5:
                if self.refusal == "code":
                    writer.write(packet(CONNACK, b"\0\1"))
                elif self.refusal.startswith("0x"):
                    writer.write(packet(CONNACK, bytes((0, int(self.refusal, 16), 0))))
                return self.refusal == "silence"
            writer.write(packet(CONNACK, b"\0\0" + (b"\0" if body[6] == 5 else b"")))
        elif kind == SUBSCRIBE:
            filters = self._filters(body[3 if is_mqtt5 else 2 :])
            self.subscribed.append(filters)
            codes = bytes(self.grants.get(name, 1) for name in filters)[: self.answered]
            writer.write(packet(SUBACK, body[:2] + properties + codes))
            if self.unreadable:
                writer.write(packet(0))
            if self.large and self.large_filter in filters:
                await self._send_large(writer, properties)
        elif kind == PUBLISH and self.forbidden and self._topic(body).startswith(self.forbidden):
            return False
        elif kind == PUBLISH and len(body) <= (self.max_answered_bytes or len(body)):
            writer.write(packet(PUBACK, self._message_id(body)))
            if self.delivers and len(body) < 1000 and self._is_subscribed(self._topic(body)):
                end = 2 + int.from_bytes(body[:2], "big")
                writer.write(packet(PUBLISH, body[:end] + body[end + 2 :]))
        elif kind == PINGREQ:
            writer.write(packet(13))
        return kind != DISCONNECT

    def _filters(self, body):
        found = []
        while body:
            end = 2 + int.from_bytes(body[:2], "big")
            found.append(body[2:end].decode())
            body = body[end + 1 :]
        return found

    def _topic(self, body):
        return body[2 : 2 + int.from_bytes(body[:2], "big")].decode()

    def _is_subscribed(self, topic):
        granted = {name for names in self.subscribed for name in names if self.grants.get(name, 1) < 0x80}
        return any(matches(name, topic) for name in granted)

    def _message_id(self, body):
        end = 2 + int.from_bytes(body[:2], "big")
        return body[end : end + 2]

    async def _send_large(self, writer, properties):
        topic, size, retained = self.large
        head = text(topic) + properties
        writer.write(bytes([PUBLISH << 4 | int(retained)]) + length_field(len(head) + size) + head)
        while size > 0:
            block = BLOCK[: min(size, len(BLOCK))]
            writer.write(block)
            await writer.drain()
            self.large_bytes_sent += len(block)
            size -= len(block)
