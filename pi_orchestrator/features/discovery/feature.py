"""Discovery: scans, passive sources and probes, which fill the device registry."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial

from pi_orchestrator import __version__
from pi_orchestrator.core.health import State
from pi_orchestrator.core.supervisor import Worker
from pi_orchestrator.features.cameras.feature import Cameras
from pi_orchestrator.features.devices.feature import Devices
from pi_orchestrator.features.discovery import routes, store
from pi_orchestrator.features.discovery import scanner as scanner_module
from pi_orchestrator.features.discovery.passive_sources import PassiveSourcesWorker
from pi_orchestrator.features.discovery.probe import ProbeWorker
from pi_orchestrator.features.discovery.scan_service import ScanService
from pi_orchestrator.features.discovery.scanner import Scanner
from pi_orchestrator.features.discovery.standalone import build_scanner
from pi_orchestrator.features.discovery.views import DeviceViews
from pi_orchestrator.features.feature import Feature, Resources, RetentionRule
from pi_orchestrator.net.dhcp.leases import LeaseFiles
from pi_orchestrator.net.mdns.service import Advert, Mdns
from pi_orchestrator.net.wifi.ssid_reader import SsidReader
from pi_orchestrator.net.wifi.stations import Stations
from pi_orchestrator.settings import Settings

ROUTES = routes.ROUTES
TAGS = {"discovery": "Devices on the camera network with their evidence, and scans"}
MAX_SCANS = 2_000


@dataclass(frozen=True, kw_only=True)
class Discovery(Feature):
    """The objects that other features use."""

    scanner: Scanner
    scans: ScanService
    sources: PassiveSourcesWorker
    devices: DeviceViews


def build(res: Resources, *, devices: Devices, cameras: Cameras) -> Discovery:
    """Build the scanner and the sources; connects the device verifier to the scanner."""
    settings = res.settings
    res.health.add(scanner_module.NAME)
    if settings.discovery.engine == "off":
        res.health.set(scanner_module.NAME, State.OFF, "switched off (discovery.engine)")
    scanner = build_scanner(
        settings, clock=res.clock, registry=devices.registry, netlink=res.netlink, health=res.health
    )
    devices.verifier.probe = scanner.probe
    scans = ScanService(
        interval_s=settings.discovery.interval_s,
        scanner=scanner,
        registry=devices.registry,
        clock=res.clock,
        database=res.database,
    )
    sources = _build_sources(res, devices=devices, scanner=scanner)
    probe = ProbeWorker(
        ap_subnet=settings.ap.subnet,
        clock=res.clock,
        bus=res.bus,
        registry=devices.registry,
        cache=cameras.cache,
        neighbours=devices.neighbours,
        camera_http=res.camera_http,
        arp_probe=scanner.probe,
        is_espressif=devices.vendors.is_espressif,
    )
    views = DeviceViews(
        clock=res.clock,
        registry=devices.registry,
        unreadable=devices.unreadable,
        cache=cameras.cache,
        vendors=devices.vendors,
        cameras=cameras.views,
    )

    def reload(settings: Settings) -> None:
        scans.interval_s = settings.discovery.interval_s

    return Discovery(
        scanner=scanner,
        scans=scans,
        sources=sources,
        devices=views,
        provides=(scanner, scans, sources, views),
        workers=(
            Worker(scanner_module.NAME, scanner.run, reports_itself=True),
            Worker("discovery", scans.run),
            Worker("sources", sources.run),
            *((Worker("probe", probe.run),) if settings.discovery.probe else ()),
        ),
        load=scans.load,
        close=scanner.close,
        reload=reload,
        retention=(RetentionRule(partial(store.keep_newest, keep=MAX_SCANS)),),
    )


def _build_sources(res: Resources, *, devices: Devices, scanner: Scanner) -> PassiveSourcesWorker:
    settings = res.settings
    discovery, interface = settings.discovery, settings.ap.interface
    for part in ("leases", "stations", "mdns", "probe"):
        res.health.add(part)
        if not getattr(discovery, part):
            res.health.set(part, State.OFF, f"switched off (discovery.{part})")
    daemon_id = hashlib.sha256(b"daemon id " + res.session_secret).hexdigest()[:8]
    advert = Advert(
        name="Pi Orchestrator",
        host=f"piorch-{daemon_id}",
        port=settings.http.listen[0].port,
        id=daemon_id,
        version=__version__,
        api="v1",
    )
    return PassiveSourcesWorker(
        interface=interface,
        leases=LeaseFiles(interface=interface, configured=discovery.lease_files, clock=res.clock)
        if discovery.leases
        else None,
        stations=Stations(clock=res.clock) if discovery.stations else None,
        mdns=(lambda on_service: Mdns(clock=res.clock, advert=advert, on_service=on_service))
        if discovery.mdns
        else None,
        ssid=SsidReader(interface=interface, configured=settings.ap.ssid),
        vendors=devices.vendors,
        scanner=scanner,
        registry=devices.registry,
        clock=res.clock,
        health=res.health,
        database=res.database,
    )
