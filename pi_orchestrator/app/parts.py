"""Every part, built once and handed what it needs by keyword; nothing here acts yet."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import aiohttp

from pi_orchestrator import __version__
from pi_orchestrator.api.assets import Assets
from pi_orchestrator.api.auth import Keyring
from pi_orchestrator.api.cameras import CameraViews
from pi_orchestrator.api.metrics import MetricsPage
from pi_orchestrator.api.services import Services
from pi_orchestrator.api.sse import Streams
from pi_orchestrator.app.pictures import build_pictures
from pi_orchestrator.app.surroundings import build_surroundings
from pi_orchestrator.app.survey import build_scanner
from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.presence import Windows
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.domain.status import STATUS_TOPICS
from pi_orchestrator.events import Hub
from pi_orchestrator.health import Health, State
from pi_orchestrator.log_ring import LogRing
from pi_orchestrator.net.espcam import EspCamClient
from pi_orchestrator.net.host import HostReader
from pi_orchestrator.net.leases import LeaseFiles
from pi_orchestrator.net.mdns import Advert, Mdns
from pi_orchestrator.net.mqtt import MqttLink
from pi_orchestrator.net.neighbours import Neighbours
from pi_orchestrator.net.netlink import Netlink
from pi_orchestrator.net.ssid import SsidReader
from pi_orchestrator.net.stations import Stations
from pi_orchestrator.net.vendors import Vendors
from pi_orchestrator.settings import Settings
from pi_orchestrator.storage.cameras import Roster
from pi_orchestrator.storage.database import Database
from pi_orchestrator.storage.dismissed import Dismissed
from pi_orchestrator.storage.vault import Vault
from pi_orchestrator.workers import scanner as scanner_part
from pi_orchestrator.workers.care import CareWorker
from pi_orchestrator.workers.circuits import Circuits
from pi_orchestrator.workers.configuration import Configuration
from pi_orchestrator.workers.delivery import Delivery
from pi_orchestrator.workers.discovery import DiscoveryWorker
from pi_orchestrator.workers.identity import Verifier
from pi_orchestrator.workers.inventory import Inventory
from pi_orchestrator.workers.joining import Joining
from pi_orchestrator.workers.onboarding import OnboardingWorker
from pi_orchestrator.workers.presence import PresenceWorker
from pi_orchestrator.workers.probe import ProbeWorker
from pi_orchestrator.workers.provisioning import ProvisioningWorker
from pi_orchestrator.workers.registration import Registrar
from pi_orchestrator.workers.scanner import Scanner
from pi_orchestrator.workers.session_record import SessionRecord
from pi_orchestrator.workers.sessions import Sessions
from pi_orchestrator.workers.sources import SourcesWorker


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What is open already when the parts are built."""

    clock: Clock
    health: Health
    hub: Hub
    log_ring: LogRing
    database: Database
    netlink: Netlink
    session: aiohttp.ClientSession
    mqtt_port: int
    session_secret: bytes
    vault: Vault
    configuration: Configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What was built: what answers are made from, and the workers that no answer needs."""

    services: Services
    probe: ProbeWorker
    provisioning: ProvisioningWorker
    care: CareWorker


def assemble(settings: Settings, ground: Ground) -> Parts:
    """Every part."""
    neighbours = Neighbours(clock=ground.clock, netlink=ground.netlink)
    roster, dismissed = Roster(), Dismissed()
    registrar = Registrar(roster=roster, dismissed=dismissed)
    registry = Registry(
        registered=roster,
        max_devices=settings.cameras.max_devices,
        windows=windows_of(settings),
    )
    link = MqttLink(settings=settings.mqtt, port=ground.mqtt_port, clock=ground.clock, health=ground.health)
    presence = PresenceWorker(
        ap_subnet=settings.ap.subnet,
        clock=ground.clock,
        hub=ground.hub,
        database=ground.database,
        roster=roster,
        registry=registry,
        neighbours=neighbours,
    )
    ground.health.add(scanner_part.NAME)
    if settings.discovery.engine == "off":
        ground.health.set(scanner_part.NAME, State.OFF, "switched off (discovery.engine)")
    scanner = build_scanner(
        settings, clock=ground.clock, registry=registry, netlink=ground.netlink, health=ground.health
    )
    discovery = DiscoveryWorker(
        interval_s=settings.discovery.interval_s,
        scanner=scanner,
        registry=registry,
        clock=ground.clock,
        database=ground.database,
    )
    espcam = EspCamClient(session=ground.session, port=settings.cameras.http_port)
    vendors = Vendors()
    sources = _build_sources(
        settings,
        scanner=scanner,
        vendors=vendors,
        registry=registry,
        clock=ground.clock,
        health=ground.health,
        database=ground.database,
        daemon_id=hashlib.sha256(b"daemon id " + ground.session_secret).hexdigest()[:8],
    )
    probe = ProbeWorker(
        ap_subnet=settings.ap.subnet,
        clock=ground.clock,
        hub=ground.hub,
        registry=registry,
        roster=roster,
        neighbours=neighbours,
        espcam=espcam,
        ask=scanner.ask,
        is_espressif=vendors.is_espressif,
    )
    verifier = Verifier(clock=ground.clock, neighbours=neighbours, espcam=espcam, registry=registry, ask=scanner.ask)
    onboarding = OnboardingWorker(
        settings=settings.auto_onboard,
        ap_subnet=settings.ap.subnet,
        clock=ground.clock,
        hub=ground.hub,
        database=ground.database,
        registrar=registrar,
        neighbours=neighbours,
        verifier=verifier,
    )
    record = SessionRecord(clock=ground.clock)
    circuits = Circuits(
        failures=settings.provisioning.breaker_failures,
        reset_s=settings.provisioning.breaker_reset_s,
        clock=ground.clock,
    )
    joining = Joining(
        interface=settings.ap.interface,
        ap_subnet=settings.ap.subnet,
        clock=ground.clock,
        database=ground.database,
        registry=registry,
        record=record,
        is_espressif=vendors.is_espressif,
    )
    provisioning = ProvisioningWorker(
        interface=settings.ap.interface,
        concurrency=settings.provisioning.concurrency,
        clock=ground.clock,
        database=ground.database,
        sessions=Sessions(
            settings=settings.provisioning,
            interface=settings.ap.interface,
            clock=ground.clock,
            database=ground.database,
            vault=ground.vault,
            mqtt=link,
            scanner=scanner,
            circuits=circuits,
            record=record,
        ),
        delivery=Delivery(
            settings=settings,
            mqtt_port=ground.mqtt_port,
            clock=ground.clock,
            database=ground.database,
            vault=ground.vault,
            registry=registry,
            registrar=registrar,
            neighbours=neighbours,
            espcam=espcam,
            verifier=verifier,
            mqtt=link,
            record=record,
            circuits=circuits,
        ),
        joining=joining,
        record=record,
        circuits=circuits,
    )
    keyring = Keyring(
        database=ground.database,
        configured=configured_key(settings),
        session_secret=ground.session_secret,
        clock=ground.clock,
    )
    streams = Streams(
        hub=ground.hub,
        database=ground.database,
        log_ring=ground.log_ring,
        clock=ground.clock,
        unnamed_copy=settings.http.sse_unnamed_copy,
    )
    for topic in STATUS_TOPICS:
        link.route(topic, presence.on_message)
    pictures = build_pictures(
        settings,
        clock=ground.clock,
        hub=ground.hub,
        database=ground.database,
        link=link,
        registry=registry,
        roster=roster,
        neighbours=neighbours,
        verifier=verifier,
        espcam=espcam,
        is_provisioning=provisioning.is_provisioning,
    )
    services = Services(
        clock=ground.clock,
        health=ground.health,
        database=ground.database,
        roster=roster,
        registry=registry,
        presence=presence,
        onboarding=onboarding,
        scanner=scanner,
        discovery=discovery,
        sources=sources,
        vendors=vendors,
        mqtt=link,
        keyring=keyring,
        streams=streams,
        provisioning=provisioning.sessions,
        joining=joining,
        log_ring=ground.log_ring,
        host=HostReader(clock=ground.clock, folder=settings.storage.state_dir),
        surroundings=build_surroundings(
            settings, clock=ground.clock, link=link, mqtt_port=ground.mqtt_port, netlink=ground.netlink
        ),
        views=CameraViews(
            roster=roster,
            registry=registry,
            presence=presence,
            onboarding=onboarding,
            captures=pictures.captures,
            reboots=pictures.reboots,
            remedies=pictures.remedies,
            clock=ground.clock,
        ),
        metrics=MetricsPage(
            health=ground.health,
            roster=roster,
            registry=registry,
            presence=presence,
            onboarding=onboarding,
            provisioning=provisioning,
            mqtt=link,
            database=ground.database,
            streams=streams,
            captures=pictures.captures,
            exchanges=pictures.exchanges,
            remedies=pictures.remedies,
        ),
        assets=Assets(folder=settings.http.dashboard_dir, clock=ground.clock, health=ground.health),
        configuration=ground.configuration,
        captures=pictures.captures,
        commands=pictures.commands,
        reboots=pictures.reboots,
        remedies=pictures.remedies,
        inventory=Inventory(
            database=ground.database,
            registry=registry,
            registrar=registrar,
            target=lambda: onboarding.settings.target_container,
        ),
        dismissed=dismissed,
    )
    return Parts(services=services, probe=probe, provisioning=provisioning, care=pictures.care)


def _build_sources(
    settings: Settings,
    *,
    scanner: Scanner,
    vendors: Vendors,
    registry: Registry,
    clock: Clock,
    health: Health,
    database: Database,
    daemon_id: str,
) -> SourcesWorker:
    discovery, interface = settings.discovery, settings.ap.interface
    for part in ("leases", "stations", "mdns", "probe"):
        health.add(part)
        if not getattr(discovery, part):
            health.set(part, State.OFF, f"switched off (discovery.{part})")
    advert = Advert(
        name="Pi Orchestrator",
        host=f"piorch-{daemon_id}",
        port=settings.http.listen[0].port,
        id=daemon_id,
        version=__version__,
        api="v1",
    )
    return SourcesWorker(
        interface=interface,
        leases=LeaseFiles(interface=interface, configured=discovery.lease_files, clock=clock)
        if discovery.leases
        else None,
        stations=Stations(clock=clock) if discovery.stations else None,
        mdns=(lambda on_service: Mdns(clock=clock, advert=advert, on_service=on_service)) if discovery.mdns else None,
        ssid=SsidReader(interface=interface, configured=settings.ap.ssid),
        vendors=vendors,
        scanner=scanner,
        registry=registry,
        clock=clock,
        health=health,
        database=database,
    )


def windows_of(settings: Settings) -> Windows:
    """How long silence may last, as the settings have it."""
    cameras = settings.cameras
    return Windows(cameras.idle_after_s, cameras.offline_after_s, settings.discovery.interval_s)


def configured_key(settings: Settings) -> str | None:
    """The key of the configuration, if there is one."""
    return settings.auth.api_key.get_secret_value() if settings.auth.api_key else None
