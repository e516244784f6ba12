"""The resources that a feature receives, and the parts that it returns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.event_bus import EventBus
from pi_orchestrator.core.events import StoredEvent
from pi_orchestrator.core.health import Health
from pi_orchestrator.core.log_buffer import LogBuffer
from pi_orchestrator.core.metrics import Metric
from pi_orchestrator.core.supervisor import Worker
from pi_orchestrator.net.camera_http import CameraHttpClient
from pi_orchestrator.net.kernel.netlink import Netlink
from pi_orchestrator.net.mqtt.link import MqttConnection
from pi_orchestrator.settings import Loaded, Settings
from pi_orchestrator.storage.database import Database, Tx
from pi_orchestrator.storage.state_dir import StateDir
from pi_orchestrator.storage.vault import Vault


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Open resources for `build` of each feature.

    `mqtt_port` is the port of the running broker. `loaded` holds the settings and the origin of each value.
    `session_secret` signs the session cookies of browsers.
    """

    loaded: Loaded
    clock: Clock
    health: Health
    bus: EventBus
    log_buffer: LogBuffer
    state_dir: StateDir
    database: Database
    netlink: Netlink
    camera_http: CameraHttpClient
    mqtt: MqttConnection
    mqtt_port: int
    session_secret: bytes
    vault: Vault

    @property
    def settings(self) -> Settings:
        """The settings that the daemon started with."""
        return self.loaded.settings


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """Limits of a table: `by_number` deletes its oldest rows; `by_age` old rows, only with a trusted clock."""

    by_number: Callable[[Tx], Awaitable[None]]
    by_age: Callable[[Tx], Awaitable[object]] | None = None


@dataclass(frozen=True, kw_only=True)
class Feature:
    """The parts of a feature; each field has an empty default.

    `provides` are objects that handlers request by type. `workers` are started in this order. `load` runs before the
    first worker and listener. `reloadable` are settings keys that change without a restart; `reload` applies them.
    `snapshot` returns the state for a stream that cannot replay, of one session where an id is given. `close` runs
    after the workers have stopped.
    """

    provides: tuple[object, ...] = ()
    workers: tuple[Worker, ...] = ()
    load: Callable[[], Awaitable[None]] | None = None
    close: Callable[[], None] | None = None
    metrics: Callable[[], Iterable[Metric]] | None = None
    reloadable: frozenset[str] = frozenset()
    reload: Callable[[Settings], None] | None = None
    retention: tuple[RetentionRule, ...] = ()
    snapshot: Callable[[str | None], Awaitable[list[StoredEvent]]] | None = None
