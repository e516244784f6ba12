"""The base feature: broker connection, host guard, page at `/`, retention of shared tables, process metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from pi_orchestrator import __version__
from pi_orchestrator.console.assets import Assets
from pi_orchestrator.core.health import Health, State
from pi_orchestrator.core.metrics import Metric, counter, counters, gauge, gauges, info
from pi_orchestrator.core.supervisor import Worker
from pi_orchestrator.edge_http import idempotency_store
from pi_orchestrator.features.feature import Feature, Resources, RetentionRule
from pi_orchestrator.http.guard import HostGuard
from pi_orchestrator.net.mqtt import link as mqtt
from pi_orchestrator.settings import Settings
from pi_orchestrator.storage import audit_log, event_store

EVENTS_KEPT = 10_000
ACTIONS_KEPT = 50_000
ANSWERS_KEPT = 10_000
IDEMPOTENCY_HOURS = 24
UNKNOWN_HOST_REMEDY = "use the IP address or NAME.local, or add the name to http.trusted_hosts"


@dataclass(frozen=True, kw_only=True)
class Base(Feature):
    """The parts that the API is built on; `answered`: number of responses by HTTP status, counted by the server."""

    mqtt: mqtt.MqttConnection
    guard: HostGuard
    assets: Assets
    answered: Counter[int]


def build(res: Resources) -> Base:
    """Build the base feature."""
    settings = res.settings
    guard = HostGuard(
        trusted_hosts=settings.http.trusted_hosts,
        ports=[listen.port for listen in settings.http.listen],
        remedy=UNKNOWN_HOST_REMEDY,
    )
    assets = Assets(folder=settings.http.dashboard_dir, clock=res.clock, health=res.health)
    answered: Counter[int] = Counter()

    def reload(settings: Settings) -> None:
        guard.trust(settings.http.trusted_hosts)

    return Base(
        mqtt=res.mqtt,
        guard=guard,
        assets=assets,
        answered=answered,
        provides=(res.clock, res.health, res.database, res.log_buffer),
        # No heartbeat: without messages the worker only waits, and MQTT keep-alive checks the connection.
        workers=(Worker(mqtt.NAME, res.mqtt.run, stale_after_s=None, reports_itself=True),),
        load=assets.check_dashboard,
        metrics=lambda: _metrics(res, answered),
        reloadable=frozenset({"http.trusted_hosts"}),
        reload=reload,
        retention=retention_rules(settings),
    )


def retention_rules(settings: Settings) -> tuple[RetentionRule, ...]:
    """The limits of events, operator actions and stored idempotent responses."""
    days = settings.storage.retention_days
    return (
        RetentionRule(partial(event_store.keep_newest, keep=EVENTS_KEPT)),
        RetentionRule(
            partial(audit_log.keep_newest, keep=ACTIONS_KEPT), partial(audit_log.delete_older_than, days=days)
        ),
        RetentionRule(
            partial(idempotency_store.keep_newest, keep=ANSWERS_KEPT),
            partial(idempotency_store.delete_older_than, hours=IDEMPOTENCY_HOURS),
        ),
    )


def _metrics(res: Resources, answered: Counter[int]) -> Iterator[Metric]:
    yield info("piorch_build", "Version of the program.", {"version": __version__})
    yield gauge("piorch_mqtt_connected", "1 while connected to the broker.", res.mqtt.connected)
    yield counter("piorch_mqtt_connections", "Connections made to the broker.", res.mqtt.connections)
    yield counter("piorch_mqtt_messages_too_large", "Messages dropped for their size.", res.mqtt.too_large)
    statuses = {str(status): number for status, number in sorted(answered.items())}
    yield counters("piorch_http_responses", "HTTP responses by status.", "status", statuses)
    yield counter("piorch_database_commits", "Commits of the database writer.", res.database.commits)
    yield from _health(res.health)


def _health(health: Health) -> Iterator[Metric]:
    components = [component for component in health.components() if component.state is not State.OFF]
    up = {component.name: float(component.state is State.OK) for component in components}
    restarts = {component.name: component.restarts for component in components}
    yield gauges("piorch_component_up", "1 while the component works without a fault.", "component", up)
    yield counters("piorch_component_restarts", "Restarts of the component after a failure.", "component", restarts)
