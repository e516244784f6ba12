"""aiomqtt's client, safe to cancel, without socket leaks, with bounded reading and with the broker's reasons.

Works around problems of aiomqtt and of paho below it. aiomqtt connects in a thread that cannot be cancelled, so an
aborted connect leaves a socket open (and, if the broker answers later, an MQTT session under this client id). Its
`asyncio.wait_for` loses a cancellation that arrives together with a result (before Python 3.12). Its disconnect waits
for a broker that hangs. It ignores the reason with which a broker refuses a message, and watches a descriptor that may
have been closed meanwhile. paho reads a packet of any announced size into memory. It ends the connection for properties
of a message that it cannot decode, although a broker forwards them (U+FEFF in a text).

All use of private attributes of both libraries is in this file; tests/unit/net/mqtt/test_client.py checks it with the
installed versions.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, Final, TypeVar

import aiomqtt
from paho.mqtt import client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from pi_orchestrator.net.mqtt.packets import with_known_codes, without_properties

T = TypeVar("T")

DISCONNECT_TIMEOUT_S = 0.5
BATCH_SIZE = 32
"""Limit of messages returned by one `queued`, so that other tasks can run in a flood."""
MAX_PACKET_BYTES: Final = 12 * 1024 * 1024
"""Limit of one received packet: the largest picture in a single chunk, in base64."""
MAX_SKIPPED_BYTES: Final = 32 * 1024 * 1024
"""With MQTT 3.1.1, a message over the limit is read and dropped up to this size; a larger one ends the connection."""
SKIP_BLOCK_BYTES = 65_536
MAX_UNACKNOWLEDGED = 64
"""With MQTT 5, the broker sends at most this number of messages before they are acknowledged."""
SHOWN_TOPIC_CHARS = 200
"""Limit of a topic in the text of an error."""
FILTERS_PER_PACKET = 64
_ERRNO = re.compile(r"\[Errno -?\d+\] ")
_PROTOCOL_ERROR = 0x82
_KEEPALIVE_TIMEOUT = 0x8D

_REASONS = {
    0x80: "refused without a reason",
    0x82: "protocol error",
    0x84: "unsupported protocol version",
    0x85: "client identifier rejected",
    0x86: "bad user name or password",
    0x87: "not authorised",
    0x88: "server unavailable",
    0x89: "server busy",
    0x8A: "banned",
    0x8B: "the broker is shutting down",
    0x8D: "keep-alive timeout",
    0x8E: "another client has connected with this client id",
    0x8F: "topic filter invalid",
    0x90: "topic name invalid",
    0x95: "packet too large",
    0x97: "quota exceeded",
    0x98: "closed by an administrator",
    0x9A: "retained messages not supported",
    0x9B: "QoS not supported",
    0x9F: "connection rate exceeded",
}


class RefusedError(aiomqtt.MqttError):
    """The broker refused a connection or a message; `code` is its reason code of MQTT 5."""

    def __init__(self, what: str, reason: ReasonCode) -> None:
        super().__init__(f"{what}: {reason_text(reason)}")
        self.code: int = reason.value


class ClosedEarlyError(aiomqtt.MqttError):
    """The broker closed the connection instead of an answer to CONNECT, or its answer was no MQTT packet."""


class NoAnswerError(aiomqtt.MqttError):
    """The broker did not answer in time."""

    def __init__(self) -> None:
        super().__init__("no answer from the broker")


class PacketTooLargeError(aiomqtt.MqttError):
    """A packet over the limit was announced: `size` in bytes; `topic` (None: unknown) and `retained` of a message."""

    def __init__(self, size: int, limit: int, topic: str | None, *, retained: bool) -> None:
        where = f" on {topic[:SHOWN_TOPIC_CHARS]}" if topic else ""
        super().__init__(f"a message of {size:,} bytes{where} is over the limit of {limit:,}")
        self.size = size
        self.topic = topic
        self.retained = retained


class MqttClient(aiomqtt.Client):
    """One connection: `open`, then `close` (with DISCONNECT) or `drop` (without)."""

    def __init__(self, *args: Any, max_packet_bytes: int = MAX_PACKET_BYTES, **options: Any) -> None:
        super().__init__(*args, **options)
        self.is_mqtt5: Final = options.get("protocol") is aiomqtt.ProtocolVersion.V5
        # A broker of MQTT 5 knows the limit; if it exceeds it, nothing that it sends can be relied on.
        skip_limit = max_packet_bytes if self.is_mqtt5 else MAX_SKIPPED_BYTES
        self._limit = _PacketLimit(self._client, max_packet_bytes, skip_limit=skip_limit)
        self._refused: dict[int, ReasonCode] = {}
        self.on_skipped: Callable[[PacketTooLargeError], None] | None = None
        """Called for each message that was dropped because of its size."""
        self.broker_limit: int | None = None
        """The largest packet that the broker accepts, if it announced one."""
        if self.is_mqtt5:
            self._properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            self._properties.MaximumPacketSize = max_packet_bytes
            self._properties.ReceiveMaximum = MAX_UNACKNOWLEDGED
        _tolerate(self._client, is_mqtt5=self.is_mqtt5)

    async def open(self) -> None:
        """Connect; MqttError if the broker is unreachable, does not answer or refuses (RefusedError)."""
        opening = asyncio.ensure_future(self.__aenter__())
        try:
            await asyncio.shield(opening)
        except BaseException as error:
            # End the wait for the broker's answer, then wait for the connecting thread.
            if not self._connected.done():
                self._connected.set_exception(aiomqtt.MqttError("connect aborted"))
                self._connected.exception()
            await asyncio.wait([opening])
            if not opening.cancelled():
                opening.exception()  # retrieved, so that asyncio does not log it
            await self.drop()
            if isinstance(error, aiomqtt.exceptions.MqttConnectError) and isinstance(error.rc, ReasonCode):
                raise RefusedError("the broker refused the connection", error.rc) from None
            if type(error) is aiomqtt.MqttError:
                raise aiomqtt.MqttError(_ERRNO.sub("", str(error))) from None
            raise

    async def receive(self) -> list[aiomqtt.Message]:
        """Wait for messages and take the next ones, in order; MqttError with the reason once disconnected."""
        try:
            first = await anext(self.messages)
        except aiomqtt.MqttError:
            raise self._lost() from None
        return [first, *self.queued()]

    def queued(self) -> list[aiomqtt.Message]:
        """Take the next received messages, in order; aiomqtt's iterator would create a task per message."""
        return [self._queue.get_nowait() for _ in range(min(self._queue.qsize(), BATCH_SIZE))]

    async def subscribe_filters(self, filters: Sequence[str], *, silence_s: float, limit_s: float) -> dict[str, str]:
        """Subscribe with QoS 1; returns the refused filters, each with the reason.

        MqttError if the broker sends nothing for `silence_s`, or has not answered after `limit_s`. Retained messages
        may arrive before the answer, so another task must call `receive` meanwhile.
        """
        refused: dict[str, str] = {}
        for start in range(0, len(filters), FILTERS_PER_PACKET):
            part = filters[start : start + FILTERS_PER_PACKET]
            answer = self.subscribe([(topic_filter, 1) for topic_filter in part], timeout=limit_s)
            codes = await self.while_receiving(answer, silence_s=silence_s)
            for topic_filter, code in zip_longest(part, codes[: len(part)]):
                if code is None:
                    refused[topic_filter] = "no answer in SUBACK"
                elif isinstance(code, ReasonCode) and code.is_failure:
                    refused[topic_filter] = reason_text(code)
        return refused

    async def while_receiving(self, call: Awaitable[T], *, silence_s: float) -> T:
        """Await a call to the broker; MqttError if nothing is received for `silence_s`, or on disconnection."""
        waiting = asyncio.ensure_future(call)
        try:
            while True:
                before = self._limit.received
                await asyncio.wait(
                    (waiting, self._disconnected), timeout=silence_s, return_when=asyncio.FIRST_COMPLETED
                )
                if self._disconnected.done():
                    raise self._lost()
                if waiting.done():
                    return waiting.result()
                if self._limit.received == before:
                    raise NoAnswerError
        finally:
            waiting.cancel()
            await asyncio.wait([waiting])
            if not waiting.cancelled():
                waiting.exception()  # retrieved, so that asyncio does not log it

    async def close(self) -> None:
        """Send DISCONNECT, so that the broker discards the last will; waits at most `DISCONNECT_TIMEOUT_S`."""
        with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
            async with asyncio.timeout(DISCONNECT_TIMEOUT_S):
                await self.__aexit__(None, None, None)
        await self.drop()

    async def drop(self) -> None:
        """Close the connection without DISCONNECT, so that the broker sends the last will."""
        sock = self._client.socket()
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        if self._misc_task is not None:  # ends after the client has closed the socket
            await asyncio.wait([self._misc_task], timeout=2)
        if self._disconnected.done() and not self._disconnected.cancelled():
            self._disconnected.exception()  # retrieved, so that asyncio does not log it

    def _lost(self) -> aiomqtt.MqttError:
        """The error that says why the connection ended."""
        error = None if self._disconnected.cancelled() else self._disconnected.exception()
        if isinstance(error, aiomqtt.MqttCodeError):
            code = error.rc.value if isinstance(error.rc, ReasonCode) else None
            if code == _KEEPALIVE_TIMEOUT:
                return NoAnswerError()
            if code == _PROTOCOL_ERROR:
                return aiomqtt.MqttError("the broker sent a packet that cannot be read")
        elif isinstance(error, aiomqtt.MqttError):
            return error
        return aiomqtt.MqttError("the broker closed the connection")

    async def _wait_for(self, fut: Awaitable[T], timeout: float | None) -> T:  # noqa: ASYNC109  # aiomqtt's signature
        try:
            async with asyncio.timeout(self.timeout if timeout is None else timeout):
                return await fut
        except TimeoutError:
            raise NoAnswerError from None

    @contextlib.contextmanager
    def _pending_call(self, mid: int, value: T, pending_dict: dict[int, T]) -> Iterator[None]:
        try:
            with super()._pending_call(mid, value, pending_dict):
                yield
            if reason := self._refused.get(mid):
                raise RefusedError("the broker refused the message", reason)
        finally:
            self._refused.pop(mid, None)

    def _on_publish(
        self, client: paho.Client, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        if reason_code.is_failure and mid in self._pending_publishes:
            self._refused[mid] = reason_code
        super()._on_publish(client, userdata, mid, reason_code, properties)

    def _on_socket_register_write(self, client: paho.Client, _userdata: Any, sock: Any) -> None:
        def write() -> None:
            try:
                client.loop_write()
            except Exception as error:  # noqa: BLE001  # as in aiomqtt: the connection is broken
                if not self._disconnected.done():
                    self._disconnected.set_exception(error)

        def add_writer() -> None:
            # The connection may have been closed meanwhile; its descriptor may belong to another socket by now.
            if sock.fileno() >= 0:
                self._loop.add_writer(sock.fileno(), write)

        self._loop.call_soon_threadsafe(add_writer)

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        skipped, self._limit.skipped = self._limit.skipped, None
        if skipped is None:
            super()._on_message(client, userdata, message)
        elif self.on_skipped:
            self.on_skipped(skipped)

    def _on_connect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        self.broker_limit = getattr(properties, "MaximumPacketSize", None)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        error = self._limit.exceeded or (
            RefusedError("the broker closed the connection", reason_code)
            if flags.is_disconnect_packet_from_server and reason_code.is_failure
            else None
        )
        if not self._connected.done():
            # Without this, aiomqtt would wait until its time limit.
            self._connected.set_exception(
                error or ClosedEarlyError("the broker closed the connection without an answer to CONNECT")
            )
            self._connected.exception()  # retrieved, so that asyncio does not log it where nothing waits
        elif error and not self._connected.exception() and not self._disconnected.done():
            self._disconnected.set_exception(error)
        else:
            super()._on_disconnect(client, userdata, flags, reason_code, properties)


def _tolerate(client: paho.Client, *, is_mqtt5: bool) -> None:
    """Keep paho from decoding properties of messages, which any client chooses, and unknown codes of a SUBACK."""
    handle_publish, handle_suback = client._handle_publish, client._handle_suback  # noqa: SLF001

    def publish() -> MQTTErrorCode:
        packet = client._in_packet  # noqa: SLF001
        if is_mqtt5:
            packet["packet"] = without_properties(packet["command"], packet["packet"])
        return handle_publish()

    def suback() -> None:
        packet = client._in_packet  # noqa: SLF001
        packet["packet"] = with_known_codes(packet["packet"], is_mqtt5=is_mqtt5)
        handle_suback()

    client._handle_publish = publish  # type: ignore[method-assign]  # noqa: SLF001
    client._handle_suback = suback  # type: ignore[method-assign]  # noqa: SLF001


class _PacketLimit:
    """Bounds what paho keeps of a packet over the limit: a message is skipped up to a size, else the connection ends.

    It replaces `_sock_recv`, which paho calls for every read. An OSError there makes paho close the connection.
    """

    def __init__(self, client: paho.Client, limit: int, *, skip_limit: int) -> None:
        self._client = client
        self._read = client._sock_recv  # noqa: SLF001
        self._bytes = limit
        self._skip_bytes = skip_limit
        self.received = 0
        """Bytes received so far."""
        self.exceeded: PacketTooLargeError | None = None
        """The packet that ended the connection."""
        self.skipped: PacketTooLargeError | None = None
        """The message that is being skipped; paho then delivers only its end."""
        client._sock_recv = self._recv  # type: ignore[method-assign]  # noqa: SLF001

    def _recv(self, bufsize: int) -> bytes:
        packet = self._client._in_packet  # noqa: SLF001
        if packet["have_remaining"] and packet["remaining_length"] > self._bytes:
            bufsize = self._bounded(bufsize, packet["command"], packet["packet"], packet["remaining_length"])
        data = self._read(bufsize)
        self.received += len(data)
        return data

    def _bounded(self, bufsize: int, command: int, body: bytearray, size: int) -> int:
        """Number of bytes to read next of a packet over the limit; OSError to end the connection."""
        if command & 0xF0 != paho.PUBLISH:
            raise self._end(size, None, retained=False)
        retained = bool(command & 1)
        if len(body) < 2:
            return 2 - len(body)
        end = 2 + int.from_bytes(body[:2], "big")
        if end + 2 > size:
            raise self._end(size, None, retained=retained)
        if len(body) < end:
            return end - len(body)
        topic = body[2:end].decode(errors="replace")
        if size > self._skip_bytes:
            raise self._end(size, topic, retained=retained)
        self.skipped = PacketTooLargeError(size, self._bytes, topic, retained=retained)
        head = end + (2 if command & 0x06 else 0)  # the topic and the message id, which is acknowledged
        if len(body) < head:
            return head - len(body)
        del body[head:]
        return min(bufsize, SKIP_BLOCK_BYTES)

    def _end(self, size: int, topic: str | None, *, retained: bool) -> OSError:
        self.exceeded = PacketTooLargeError(size, self._bytes, topic, retained=retained)
        return OSError(str(self.exceeded))


def reason_text(reason: ReasonCode) -> str:
    """A broker's reason in words."""
    return _REASONS.get(reason.value) or str(reason).lower()
