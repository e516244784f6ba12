"""The Prometheus page: read from the parts when it is asked for, so that counting costs them nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from pi_orchestrator import __version__
from pi_orchestrator.api.sse import Streams
from pi_orchestrator.domain.camera import camera_status
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.domain.remedy import Remedy
from pi_orchestrator.health import Health, State
from pi_orchestrator.net.mqtt import MqttLink
from pi_orchestrator.storage.cameras import Roster
from pi_orchestrator.storage.database import Database
from pi_orchestrator.workers.captures import Captures
from pi_orchestrator.workers.exchanges import Exchanges
from pi_orchestrator.workers.onboarding import OnboardingWorker
from pi_orchestrator.workers.presence import PresenceWorker
from pi_orchestrator.workers.provisioning import ProvisioningWorker
from pi_orchestrator.workers.remedies import Remedies


class MetricsPage(Collector):
    """Collects on demand; `answered` counts HTTP answers by status."""

    def __init__(
        self,
        *,
        health: Health,
        roster: Roster,
        registry: Registry,
        presence: PresenceWorker,
        onboarding: OnboardingWorker,
        provisioning: ProvisioningWorker,
        mqtt: MqttLink,
        database: Database,
        streams: Streams,
        captures: Captures,
        exchanges: Exchanges,
        remedies: Remedies,
    ) -> None:
        self._health = health
        self._roster = roster
        self._devices = registry
        self._presence = presence
        self._onboarding = onboarding
        self._provisioning = provisioning
        self._mqtt = mqtt
        self._database = database
        self._streams = streams
        self._captures = captures
        self._exchanges = exchanges
        self._remedies = remedies
        self.answered: Counter[int] = Counter()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self._process = CollectorRegistry(auto_describe=False)
        ProcessCollector(namespace="piorch", registry=self._process)

    async def render(self) -> bytes:
        """The whole page."""
        # The process' own figures are read from /proc, and files are not read on the loop.
        process = await asyncio.to_thread(generate_latest, self._process)
        return generate_latest(self._registry) + process

    def collect(self) -> Iterator[Metric]:
        """Every metric family of our own."""
        yield InfoMetricFamily("piorch_build", "The program.", {"version": __version__})
        yield self._cameras()
        yield from self._network()
        yield from self._messages()
        yield from self._onboardings()
        yield from self._batches()
        yield from self._pictures()
        answers = CounterMetricFamily("piorch_http_responses", "HTTP answers by status.", labels=["status"])
        for status, number in sorted(self.answered.items()):
            answers.add_metric([str(status)], number)
        yield answers
        yield from self._open_streams()
        yield CounterMetricFamily(
            "piorch_database_commits", "Commits of the database writer.", value=self._database.commits
        )
        up = GaugeMetricFamily("piorch_component_up", "1 while a part works as it should.", labels=["component"])
        restarts = CounterMetricFamily(
            "piorch_component_restarts", "Restarts of a part after a fault.", labels=["component"]
        )
        for part in self._health.components():
            if part.state is not State.OFF:
                up.add_metric([part.name], float(part.state is State.OK))
                restarts.add_metric([part.name], part.restarts)
        yield up
        yield restarts

    def _cameras(self) -> Metric:
        registered = GaugeMetricFamily("piorch_cameras", "Registered cameras by state.", labels=["status"])
        states = Counter(
            camera_status(device=self._devices.get(camera.mac), registered=True, onboarding=False)
            for camera in self._roster
        )
        for status, number in sorted(states.items()):
            registered.add_metric([status], number)
        return registered

    def _network(self) -> Iterator[Metric]:
        devices = GaugeMetricFamily("piorch_devices", "Devices on the camera network by state.", labels=["status"])
        for status, number in sorted(Counter(device.shown for device in self._devices).items()):
            devices.add_metric([status], number)
        yield devices
        yield GaugeMetricFamily(
            "piorch_address_conflicts", "Addresses that several devices claim.", value=len(self._devices.conflicts())
        )
        changes = CounterMetricFamily("piorch_device_changes", "What happened to devices.", labels=["kind"])
        for kind, number in sorted(self._devices.counts.items()):
            changes.add_metric([kind], number)
        yield changes

    def _messages(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("piorch_mqtt_connected", "1 while the broker is there.", value=self._mqtt.connected)
        yield CounterMetricFamily("piorch_mqtt_connections", "Connections made.", value=self._mqtt.connections)
        kinds = CounterMetricFamily(
            "piorch_status_messages", "Status messages by what became of them.", labels=["kind"]
        )
        elsewhere = {"discarded": self._mqtt.discarded, "evicted": self._devices.evicted}
        for kind, number in sorted({**self._presence.messages, **elsewhere}.items()):
            kinds.add_metric([kind], number)
        yield kinds

    def _onboardings(self) -> Iterator[Metric]:
        metrics = self._onboarding.metrics
        outcomes = CounterMetricFamily("piorch_onboarding", "Onboardings by outcome.", labels=["outcome"])
        for name in ("attempts", "success", "failed", "rejected_by_policy", "already_onboarded"):
            outcomes.add_metric([name], getattr(metrics, name))
        yield outcomes
        yield GaugeMetricFamily(
            "piorch_onboarding_tokens", "Tokens left in the limiter.", value=self._onboarding.tokens
        )
        yield GaugeMetricFamily("piorch_onboarding_waiting", "Cameras in line.", value=self._onboarding.waiting)
        yield CounterMetricFamily(
            "piorch_onboarding_line_overflow",
            "Cameras turned away from a full line.",
            value=self._onboarding.overflowed,
        )

    def _batches(self) -> Iterator[Metric]:
        provisioning = self._provisioning
        outcomes = CounterMetricFamily(
            "piorch_provisioning", "Cameras of provisioning sessions by outcome.", labels=["outcome"]
        )
        for outcome, number in sorted(provisioning.outcomes.items()):
            outcomes.add_metric([outcome], number)
        yield outcomes
        yield GaugeMetricFamily(
            "piorch_provisioning_under_way", "Cameras being provisioned.", value=provisioning.under_way
        )
        yield GaugeMetricFamily(
            "piorch_provisioning_circuit_open",
            "1 while nothing is started because camera after camera has failed.",
            value=provisioning.circuit_open,
        )

    def _pictures(self) -> Iterator[Metric]:
        outcomes = CounterMetricFamily("piorch_captures", "Captures by source or error.", labels=["outcome"])
        for outcome, number in sorted(self._captures.outcomes.items()):
            outcomes.add_metric([outcome.lower()], number)
        yield outcomes
        yield GaugeMetricFamily("piorch_captures_in_assembly", "Pictures being taken.", value=self._captures.assembling)
        yield GaugeMetricFamily(
            "piorch_capture_held_bytes", "Bytes of pictures being put together.", value=self._exchanges.budget.used
        )
        kinds = CounterMetricFamily(
            "piorch_response_messages", "Answers of cameras by what became of them.", labels=["kind"]
        )
        for kind, number in sorted(self._exchanges.messages.items()):
            kinds.add_metric([kind], number)
        yield kinds
        troubled = GaugeMetricFamily("piorch_cameras_in_trouble", "Cameras without pictures.", labels=["remedy"])
        found = Counter(ladder.state for _, ladder in self._remedies.in_trouble())
        for state in Remedy:
            if state is not Remedy.OK:
                troubled.add_metric([state], found[state])
        yield troubled

    def _open_streams(self) -> Iterator[Metric]:
        streams = self._streams
        yield GaugeMetricFamily("piorch_stream_clients", "Open event streams.", value=streams.clients)
        yield CounterMetricFamily("piorch_stream_events", "Events sent, one for each client.", value=streams.sent)
        yield CounterMetricFamily(
            "piorch_stream_dropped", "Clients cut off because they did not keep up.", value=streams.dropped
        )
