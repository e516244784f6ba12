"""Opens connections to the configured broker, in the same way for the daemon and for `doctor`.

MQTT 5 is tried first, because a client can then limit what the broker sends. If the broker refuses, MQTT 3.1.1 is tried
at once, unless the reason has nothing to do with the version (login, client id, load). If it does not answer, 3.1.1 is
tried at the next attempt. When 3.1.1 has worked, MQTT 5 is not tried for `REMEMBER_S`.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from asyncio import to_thread
from collections.abc import Callable

import aiomqtt

from pi_orchestrator.net.mqtt.client import MAX_PACKET_BYTES, ClosedEarlyError, MqttClient, NoAnswerError, RefusedError
from pi_orchestrator.settings import MqttSettings

STATUS_TOPIC = "piorch/status"
ECHO_TOPIC = "piorch/echo"
QUEUE_LIMIT = 4096
QUEUE_LIMIT_BYTES = 32 * 1024 * 1024
CONNECT_TIMEOUT_S = 3.0
KEEPALIVE_S = 15
"""Keep-alive interval; a broker that hangs is detected within 1.5 intervals."""
REMEMBER_S = 3600.0
_VERSION_CODES = (0x80, 0x81, 0x82, 0x83, 0x84, 0x95)
"""Refusals that may be due to MQTT 5: none names the login, the client id or the load of the broker."""


class SessionOpener:
    """Opens connections to one broker, and remembers whether the broker knows MQTT 5."""

    def __init__(
        self, *, settings: MqttSettings, port: int, monotonic: Callable[[], float], logger: logging.Logger
    ) -> None:
        self._settings = settings
        self._port = port
        self._monotonic = monotonic
        self._logger = logger
        self._mqtt5_again_at = 0.0
        self._was_silent = False

    async def open(
        self, identifier: str, will: aiomqtt.Will, *, max_packet_bytes: int = MAX_PACKET_BYTES
    ) -> MqttClient:
        """Connect under this client id; MqttError or OSError with the reason in words."""
        tls = await to_thread(tls_context, self._settings)

        def client(protocol: aiomqtt.ProtocolVersion) -> MqttClient:
            return self.new_client(identifier, will, protocol, tls, max_packet_bytes=max_packet_bytes)

        if self._settings.embedded or self._monotonic() < self._mqtt5_again_at:
            return await _opened(client(aiomqtt.ProtocolVersion.V311))
        was_silent, self._was_silent = self._was_silent, False
        if not was_silent:
            try:
                return await _opened(client(aiomqtt.ProtocolVersion.V5))
            except NoAnswerError:
                self._was_silent = True
                raise
            except ClosedEarlyError:
                pass
            except RefusedError as error:
                if error.code not in _VERSION_CODES:
                    raise
        opened = await _opened(client(aiomqtt.ProtocolVersion.V311))
        self._mqtt5_again_at = self._monotonic() + REMEMBER_S
        return opened

    def new_client(
        self,
        identifier: str,
        will: aiomqtt.Will,
        protocol: aiomqtt.ProtocolVersion,
        tls: ssl.SSLContext | None,
        *,
        max_packet_bytes: int = MAX_PACKET_BYTES,
    ) -> MqttClient:
        """A client that is not connected yet."""
        settings = self._settings
        return MqttClient(
            hostname=settings.host,
            port=self._port,
            username=settings.username,
            password=settings.password.get_secret_value() if settings.password else None,
            identifier=identifier,
            keepalive=KEEPALIVE_S,
            will=will,
            protocol=protocol,
            timeout=CONNECT_TIMEOUT_S,
            max_queued_incoming_messages=QUEUE_LIMIT,
            max_packet_bytes=max_packet_bytes,
            queue_type=_Queue,
            tls_context=tls,
            logger=self._logger,
        )


def tls_context(settings: MqttSettings) -> ssl.SSLContext | None:
    """The TLS context of the connection, None without TLS; OSError if the CA file cannot be used. Reads files."""
    if not settings.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise OSError(f"mqtt.ca_file {settings.ca_file} cannot be used: {error.strerror or error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


async def _opened(client: MqttClient) -> MqttClient:
    await client.open()
    return client


class _Queue(asyncio.Queue[aiomqtt.Message]):
    """aiomqtt's queue, also bounded in bytes: parts of pictures are large, and any client may publish them."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self._queued_bytes = 0

    def full(self) -> bool:
        """Whether the limit of messages or of bytes is reached."""
        return super().full() or self._queued_bytes > QUEUE_LIMIT_BYTES

    def _put(self, item: aiomqtt.Message) -> None:
        self._queued_bytes += len(item.payload)
        super()._put(item)

    def _get(self) -> aiomqtt.Message:
        item = super()._get()
        self._queued_bytes -= len(item.payload)
        return item
