"""Provisioning: many cameras given WiFi credentials in one session, resumable after a crash."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from pi_orchestrator.core.metrics import Metric, counters, gauge
from pi_orchestrator.core.supervisor import Worker
from pi_orchestrator.features.cameras.feature import Cameras
from pi_orchestrator.features.devices import fingerprint_store
from pi_orchestrator.features.devices.feature import Devices
from pi_orchestrator.features.discovery.feature import Discovery
from pi_orchestrator.features.feature import Feature, Resources, RetentionRule
from pi_orchestrator.features.provisioning import routes, store
from pi_orchestrator.features.provisioning.circuits import Circuits
from pi_orchestrator.features.provisioning.credentials import CameraBroker, SessionPasswords
from pi_orchestrator.features.provisioning.delivery import CredentialDelivery
from pi_orchestrator.features.provisioning.intake import DeviceIntake
from pi_orchestrator.features.provisioning.provisioner import DeviceProvisioner
from pi_orchestrator.features.provisioning.recorder import SessionRecorder
from pi_orchestrator.features.provisioning.return_watch import ReturnWatch
from pi_orchestrator.features.provisioning.secret_exposure import SecretExposure
from pi_orchestrator.features.provisioning.service import SessionService
from pi_orchestrator.features.provisioning.steps import DeviceSteps
from pi_orchestrator.features.provisioning.worker import ProvisioningWorker

ROUTES = routes.ROUTES
TAGS = {"provisioning": "Give many cameras their WiFi credentials in one session"}
MAX_SESSIONS = 500


@dataclass(frozen=True, kw_only=True)
class Provisioning(Feature):
    """The parts that other features use."""

    service: SessionService
    intake: DeviceIntake
    worker: ProvisioningWorker


def build_exposure(res: Resources) -> SecretExposure:
    """Build the set of cameras that may hold a password; the cameras feature needs it."""
    return SecretExposure(bus=res.bus, database=res.database, clock=res.clock)


def build(
    res: Resources, *, exposure: SecretExposure, devices: Devices, cameras: Cameras, discovery: Discovery
) -> Provisioning:
    """Build the worker and the service."""
    settings = res.settings
    interface = settings.ap.interface
    recorder = SessionRecorder(clock=res.clock)
    circuits = Circuits(clock=res.clock)
    passwords = SessionPasswords(database=res.database, vault=res.vault)
    intake = DeviceIntake(
        interface=interface,
        ap_subnet=settings.ap.subnet,
        clock=res.clock,
        database=res.database,
        registry=devices.registry,
        recorder=recorder,
        is_espressif=devices.vendors.is_espressif,
    )
    service = SessionService(
        settings=settings.provisioning,
        interface=interface,
        clock=res.clock,
        database=res.database,
        passwords=passwords,
        mqtt=res.mqtt,
        scanner=discovery.scanner,
        circuits=circuits,
        recorder=recorder,
    )
    worker = ProvisioningWorker(
        interface=interface,
        concurrency=settings.provisioning.concurrency,
        clock=res.clock,
        database=res.database,
        service=service,
        provisioner=_provisioner(res, devices, cameras, passwords=passwords, recorder=recorder, circuits=circuits),
        intake=intake,
        recorder=recorder,
        circuits=circuits,
        exposure=exposure,
    )
    return Provisioning(
        service=service,
        intake=intake,
        worker=worker,
        provides=(service, intake),
        workers=(Worker("provisioning", worker.run),),
        load=worker.load,
        metrics=lambda: _metrics(worker),
        retention=(
            RetentionRule(partial(store.keep_newest, keep=MAX_SESSIONS)),
            RetentionRule(fingerprint_store.forget_unused),
        ),
        snapshot=service.snapshot,
    )


def _provisioner(
    res: Resources,
    devices: Devices,
    cameras: Cameras,
    *,
    passwords: SessionPasswords,
    recorder: SessionRecorder,
    circuits: Circuits,
) -> DeviceProvisioner:
    settings = res.settings
    steps = DeviceSteps(database=res.database, recorder=recorder)
    watch = ReturnWatch(registry=devices.registry, boot_id=res.clock.boot_id)
    delivery = CredentialDelivery(
        settings=settings,
        clock=res.clock,
        database=res.database,
        steps=steps,
        watch=watch,
        passwords=passwords,
        broker=CameraBroker(
            settings=settings.provisioning,
            host=settings.mqtt.host,
            port=res.mqtt_port,
            ap_subnet=settings.ap.subnet,
            neighbours=devices.neighbours,
        ),
        registry=devices.registry,
        neighbours=devices.neighbours,
        verifier=devices.verifier,
        circuits=circuits,
    )
    return DeviceProvisioner(
        settings=settings,
        clock=res.clock,
        steps=steps,
        delivery=delivery,
        watch=watch,
        registry=devices.registry,
        registrar=cameras.registrar,
        neighbours=devices.neighbours,
        verifier=devices.verifier,
        mqtt=res.mqtt,
        circuits=circuits,
    )


def _metrics(worker: ProvisioningWorker) -> Iterator[Metric]:
    outcomes = dict(sorted(worker.outcomes.items()))
    yield counters("piorch_provisioning", "Cameras of provisioning sessions by outcome.", "outcome", outcomes)
    yield gauge("piorch_provisioning_under_way", "Cameras being provisioned.", worker.under_way)
    yield gauge(
        "piorch_provisioning_circuit_open",
        "1 while provisioning is suspended because several cameras failed in a row.",
        worker.circuit_open,
    )
