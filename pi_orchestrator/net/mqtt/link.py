"""The daemon's MQTT connection: connects, subscribes, dispatches messages, reconnects, disconnects.

Handlers are plain functions, called in arrival order from one bounded queue. They must be quick: when the queue is
full, messages are dropped. `piorch/status` holds the state of the daemon: `online` after every connect, `offline` as
last will and at shutdown, both retained.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from asyncio import to_thread
from collections.abc import Callable

import aiomqtt

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import MqttUnavailableError
from pi_orchestrator.core.health import Health, State
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.supervisor import Beat, full_jitter
from pi_orchestrator.net.mqtt.client import MqttClient
from pi_orchestrator.settings import MqttSettings

NAME = "mqtt"
STATUS_TOPIC = "piorch/status"
ECHO_TOPIC = "piorch/echo"
QUEUE_LIMIT = 4096
QUEUE_LIMIT_BYTES = 32 * 1024 * 1024
CONNECT_TIMEOUT_S = 3.0
KEEPALIVE_S = 15
"""Keep-alive interval; a broker that hangs is detected within 1.5 intervals."""
MAX_RETRY_DELAY_S = 2.0
MIN_STABLE_S = 5.0
MAX_LOGGED_EARLY_DISCONNECTS = 5

Handler = Callable[[str, bytes, bool], None]
"""Called with topic, payload, and whether the message was retained."""

log = get_logger(__name__)


class MqttConnection:
    """The daemon's connection to its broker; calls `on_lost` whenever an established connection ends."""

    def __init__(self, *, settings: MqttSettings, port: int, clock: Clock, health: Health) -> None:
        self._settings = settings
        self._port = port
        self._clock = clock
        self._health = health
        self._routes: list[tuple[str, list[str], Handler]] = []
        self._client: MqttClient | None = None
        self._discards = _DiscardCounter()
        self.on_lost: Callable[[], None] | None = None
        self._connected_at = 0.0
        self.received = 0
        self.connections = 0

    def route(self, topic_filter: str, handler: Handler) -> None:
        """Subscribe a handler to a filter (`+`, no `#`) at every connect; call before `run`. The first match counts."""
        self._routes.append((topic_filter, topic_filter.split("/"), handler))

    @property
    def connected(self) -> bool:
        """Whether the broker is connected."""
        return self._client is not None

    @property
    def connected_since(self) -> float | None:
        """Time of the last connect, in monotonic seconds; None while disconnected."""
        return self._connected_at if self.connected else None

    @property
    def discarded(self) -> int:
        """Messages dropped because the queue was full."""
        return self._discards.count

    async def echo(self, *, within_s: float) -> float | None:
        """Seconds until the broker acknowledges an empty message, at most `within_s`; None while disconnected."""
        client = self._client
        if client is None:
            return None
        sent_at = self._clock.monotonic()
        try:
            await client.publish(ECHO_TOPIC, b"", qos=1, timeout=within_s)
        except aiomqtt.MqttError:
            return within_s if self.connected else None
        return self._clock.monotonic() - sent_at

    async def publish(self, topic: str, payload: bytes, *, timeout_s: float) -> None:
        """Publish a message (QoS 1, not retained); MqttUnavailableError unless the broker acknowledges it."""
        client = self._client
        if client is None:
            raise MqttUnavailableError("MQTT broker not connected")
        try:
            await client.publish(topic, payload, qos=1, timeout=timeout_s)
        except (aiomqtt.MqttError, ValueError) as error:
            raise MqttUnavailableError(f"the MQTT broker did not accept the message: {error}") from None

    async def run(self, beat: Beat) -> None:
        """Keep the connection up until cancelled."""
        attempt = early_disconnects = 0
        is_reported = is_unreachable = False
        while True:
            beat()
            connections_before = self.connections
            try:
                await self._run_connection(
                    await to_thread(self._tls_context), quiet=early_disconnects > MAX_LOGGED_EARLY_DISCONNECTS
                )
                reason = "the broker closed the connection"
            except (aiomqtt.MqttError, OSError, UnicodeError) as error:
                reason = str(error) or type(error).__name__
            finally:
                self._client = None
            if self.connections > connections_before:
                # Repeatedly disconnected right after connecting (another daemon with this client id?): back off,
                # and log less. If the broker was unreachable in between, this is an ordinary outage.
                is_short = self._clock.monotonic() - self._connected_at < MIN_STABLE_S
                early_disconnects = early_disconnects + 1 if is_short and not is_unreachable else 0
                attempt = early_disconnects
                is_reported = early_disconnects > MAX_LOGGED_EARLY_DISCONNECTS
                is_unreachable = False
            else:
                attempt, is_unreachable = attempt + 1, True
            self._report_lost(reason, first=not is_reported)  # one warning per outage
            is_reported = True
            await self._clock.sleep(full_jitter(attempt, base_s=0.25, cap_s=MAX_RETRY_DELAY_S))

    async def _run_connection(self, tls: ssl.SSLContext | None, *, quiet: bool) -> None:
        client = self._new_client(tls)
        await client.open()
        try:
            await client.subscribe([(topic_filter, 1) for topic_filter, _, _ in self._routes])
            await client.publish(STATUS_TOPIC, "online", qos=1, retain=True)
            self._client = client
            self.connections += 1
            self._connected_at = self._clock.monotonic()
            self._health.set(NAME, State.OK, f"{self._settings.host}:{self._port}")
            (log.debug if quiet else log.info)("mqtt connected", host=self._settings.host, port=self._port)
            async for first in client.messages:
                for message in (first, *client.queued()):
                    self.received += 1
                    self._dispatch(message.topic.value, message.payload, message.retain)
        finally:
            if self._client is not None and self.on_lost:
                self.on_lost()
            self._client = None
            # Publish `offline` here: after a DISCONNECT the broker does not send the last will.
            await _publish_offline(client)
            await client.close()

    def _new_client(self, tls: ssl.SSLContext | None) -> MqttClient:
        settings = self._settings
        return MqttClient(
            hostname=settings.host,
            port=self._port,
            username=settings.username,
            password=settings.password.get_secret_value() if settings.password else None,
            identifier=settings.client_id,
            keepalive=KEEPALIVE_S,
            will=aiomqtt.Will(STATUS_TOPIC, "offline", qos=1, retain=True),
            timeout=CONNECT_TIMEOUT_S,
            max_queued_incoming_messages=QUEUE_LIMIT,
            queue_type=_Queue,
            tls_context=tls,
            logger=self._discards.logger,
        )

    def _dispatch(self, topic: str, payload: bytes, retained: bool) -> None:
        parts = topic.split("/")
        for _, patterns, handler in self._routes:
            if len(parts) == len(patterns) and all(
                pattern in ("+", part) for pattern, part in zip(patterns, parts, strict=True)
            ):
                handler(topic, payload, retained)
                return

    def _report_lost(self, reason: str, *, first: bool) -> None:
        self._health.set(NAME, State.DEGRADED, reason)
        (log.warning if first else log.debug)("mqtt not connected", reason=reason, host=self._settings.host)

    def _tls_context(self) -> ssl.SSLContext | None:
        if not self._settings.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self._settings.ca_file)
        except OSError as error:
            raise OSError(f"mqtt.ca_file {self._settings.ca_file} cannot be used: {error.strerror or error}") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


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


async def _publish_offline(client: aiomqtt.Client) -> None:
    try:
        await client.publish(STATUS_TOPIC, "offline", qos=0, retain=True, timeout=0.2)
    except aiomqtt.MqttError:
        log.debug("mqtt offline status not sent")


class _DiscardCounter(logging.Handler):
    """Counts messages that aiomqtt drops because its queue is full; aiomqtt reports them only in its log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0
        self.logger = logging.getLogger("mqtt-library")
        self.logger.propagate = False
        self.logger.handlers[:] = [self]

    def emit(self, record: logging.LogRecord) -> None:
        if "queue is full" in record.getMessage():
            self.count += 1
