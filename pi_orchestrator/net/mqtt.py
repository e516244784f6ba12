"""The MQTT connection: one owner that connects, subscribes, dispatches, reconnects and says goodbye.

Handlers are plain functions, called in arrival order from one bounded queue. They must be quick, so that a storm
is absorbed here and not in memory. `piorch/status` says whether the daemon is there: `online` after every
connect, `offline` as last will and at the end, both retained.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from asyncio import to_thread
from collections.abc import Callable

import aiomqtt

from pi_orchestrator.clock import Clock
from pi_orchestrator.errors import MqttUnavailableError
from pi_orchestrator.health import Health, State
from pi_orchestrator.logs import get_logger
from pi_orchestrator.net.mqtt_client import MqttClient
from pi_orchestrator.settings import MqttSettings
from pi_orchestrator.supervisor import Beat, full_jitter

NAME = "mqtt"
STATUS_TOPIC = "piorch/status"
ECHO_TOPIC = "piorch/echo"
QUEUE_LIMIT = 4096
QUEUE_LIMIT_BYTES = 32 * 1024 * 1024
CONNECT_TIMEOUT_S = 3.0
RETRY_CAP_S = 2.0
STABLE_AFTER_S = 5.0
KICKS_TOLD = 5

Handler = Callable[[str, bytes, bool], None]
"""Takes topic, payload, and whether the broker had retained it."""

log = get_logger(__name__)


class MqttLink:
    """The daemon's connection to its broker."""

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
        """Subscribe a handler to a filter at every connect; call before `run`."""
        self._routes.append((topic_filter, topic_filter.split("/"), handler))

    @property
    def connected(self) -> bool:
        """Whether the broker is there just now."""
        return self._client is not None

    @property
    def connected_since(self) -> float | None:
        """When it came, in monotonic seconds; None where it is away."""
        return self._connected_at if self.connected else None

    @property
    def discarded(self) -> int:
        """Messages dropped because the queue was full."""
        return self._discards.count

    async def echo(self, *, within_s: float) -> float | None:
        """Seconds until the broker acknowledges an empty message, `within_s` if it does not; None where it is away."""
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
        """Hand a message to the broker (QoS 1, not retained); MqttUnavailableError unless the broker has it."""
        client = self._client
        if client is None:
            raise MqttUnavailableError("the MQTT broker is away")
        try:
            await client.publish(topic, payload, qos=1, timeout=timeout_s)
        except (aiomqtt.MqttError, ValueError) as error:
            raise MqttUnavailableError(f"the MQTT broker did not take the message: {error}") from None

    async def run(self, beat: Beat) -> None:
        """Keep the connection up until cancelled."""
        attempt = kicks = 0
        told = refused = False
        while True:
            beat()
            before = self.connections
            try:
                await self._session(await to_thread(self._tls_context), quiet=kicks > KICKS_TOLD)
                reason = "the broker closed the connection"
            except (aiomqtt.MqttError, OSError, UnicodeError) as error:
                reason = str(error) or type(error).__name__
            finally:
                self._client = None
            if self.connections > before:
                # Kicked at once, again and again (another daemon of this name?): that must neither storm the
                # broker nor fill the log. A broker that was away in between is just a broker that comes and goes.
                short = self._clock.monotonic() - self._connected_at < STABLE_AFTER_S
                attempt = kicks = kicks + 1 if short and not refused else 0
                told = kicks > KICKS_TOLD
                refused = False
            else:
                attempt, refused = attempt + 1, True
            self._tell_lost(reason, first=not told)  # once for each outage
            told = True
            await self._clock.sleep(full_jitter(attempt, base_s=0.25, cap_s=RETRY_CAP_S))

    async def _session(self, tls: ssl.SSLContext | None, *, quiet: bool) -> None:
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
            # An orderly goodbye: the broker sends a will only for those who vanish.
            await _say_goodbye(client)
            await client.close()

    def _new_client(self, tls: ssl.SSLContext | None) -> MqttClient:
        settings = self._settings
        return MqttClient(
            hostname=settings.host,
            port=self._port,
            username=settings.username,
            password=settings.password.get_secret_value() if settings.password else None,
            identifier=settings.client_id,
            keepalive=settings.keepalive_s,
            will=aiomqtt.Will(STATUS_TOPIC, "offline", qos=1, retain=True),
            timeout=CONNECT_TIMEOUT_S,
            max_queued_incoming_messages=QUEUE_LIMIT,
            queue_type=_Queue,
            tls_context=tls,
            logger=self._discards.logger,
        )

    def _dispatch(self, topic: str, payload: bytes, retained: bool) -> None:
        parts = topic.split("/")
        for _, wanted, handler in self._routes:
            if len(parts) == len(wanted) and all(want in ("+", part) for want, part in zip(wanted, parts, strict=True)):
                handler(topic, payload, retained)
                return

    def _tell_lost(self, reason: str, *, first: bool) -> None:
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
    """The library's queue, bounded in bytes too: pieces of pictures are long, and anyone may publish them."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self._held_bytes = 0

    def full(self) -> bool:
        """Whether it is full by either measure."""
        return super().full() or self._held_bytes > QUEUE_LIMIT_BYTES

    def _put(self, item: aiomqtt.Message) -> None:
        self._held_bytes += len(item.payload)
        super()._put(item)

    def _get(self) -> aiomqtt.Message:
        item = super()._get()
        self._held_bytes -= len(item.payload)
        return item


async def _say_goodbye(client: aiomqtt.Client) -> None:
    try:
        await client.publish(STATUS_TOPIC, "offline", qos=0, retain=True, timeout=0.2)
    except aiomqtt.MqttError:
        log.debug("mqtt goodbye not sent: the connection is gone")


class _DiscardCounter(logging.Handler):
    """Counts what the library drops from a full queue: it tells so only by a log line for each message."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0
        self.logger = logging.getLogger("mqtt-library")
        self.logger.propagate = False
        self.logger.handlers[:] = [self]

    def emit(self, record: logging.LogRecord) -> None:
        if "queue is full" in record.getMessage():
            self.count += 1
