"""The checks of `doctor` for the camera network.

Interface and engine are checked as the scanner checks them; then leases, stations and mDNS. No device is probed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pi_orchestrator.features.discovery.cli_checks import find_problem, interface_problem
from pi_orchestrator.features.system.cli_finding import Finding
from pi_orchestrator.settings import Settings

if TYPE_CHECKING:
    from pi_orchestrator.features.discovery.standalone import StandaloneScan
    from pi_orchestrator.net.dhcp.leases import LeaseFiles
    from pi_orchestrator.net.kernel.links import Link
    from pi_orchestrator.net.wifi.stations import StationReading

COMMON_STATION_LIMIT = 8
"""Built-in radios of many Raspberry Pis accept no more stations."""
WARNING_MARGIN = 1


async def examine_network(settings: Settings) -> list[Finding]:
    """Run all checks of the camera network."""
    from pi_orchestrator.features.discovery.standalone import open_standalone_scan

    async with open_standalone_scan(settings) as scan:
        await scan.scanner.refresh_link()
        link = scan.scanner.link or await scan.netlink.link(settings.ap.interface)
        return [
            *await _check_scanner(scan, link),
            await _check_leases(scan.leases),
            await _check_stations(scan, link),
            _check_mdns(settings, link),
        ]


async def _check_scanner(scan: StandaloneScan, link: Link | None) -> list[Finding]:
    """Check the interface, and the engine that would scan there."""
    scanner, name = scan.scanner, scan.settings.ap.interface
    if scanner.off:
        problem = await interface_problem(scan, link)
        engine = Finding("engine", "ok", "none: switched off (discovery.engine)")
    elif problem := await find_problem(scan):
        engine = Finding("engine", "warn", "unknown until the interface works", "fix the interface first")
    else:
        engine = _check_engine(scan)
    if problem and problem.part == "engine":
        interface = Finding("interface", "ok", f"{name} is up")
        engine = Finding("engine", "fail", problem.text, problem.remedy)
    elif problem:
        interface = Finding("interface", "fail", problem.text, problem.remedy)
    else:
        network = f"; cameras are looked for in {scanner.network}" if scanner.network else ""
        interface = Finding("interface", "ok", f"{name} is up{network}")
    return [interface, engine]


def _check_engine(scan: StandaloneScan) -> Finding:
    engine, choice_reason = scan.scanner.engine, scan.scanner.choice_reason
    if engine == "arp":
        return Finding("engine", "ok", f"{choice_reason}: CAP_NET_RAW is available")
    if scan.settings.discovery.engine == engine:
        return Finding("engine", "ok", f"{choice_reason}: the kernel's neighbour table")
    remedy = "ARP needs CAP_NET_RAW: the systemd unit grants it; when started manually, use sudo"
    return Finding("engine", "warn", choice_reason, remedy)


async def _check_leases(leases: LeaseFiles | None) -> Finding:
    if leases is None:
        return Finding("leases", "ok", "switched off (discovery.leases)")
    active = await leases.read() or ()
    if leases.reason:
        return Finding(
            "leases", "warn", leases.reason, "if a DHCP server runs here, name its file in discovery.lease_files"
        )
    skipped = f"; {leases.skipped} lines could not be parsed" if leases.skipped else ""
    return Finding("leases", "ok", f"{len(active)} active{skipped}")


async def _check_stations(scan: StandaloneScan, link: Link | None) -> Finding:
    if scan.stations is None:
        return Finding("stations", "ok", "switched off (discovery.stations)")
    if link is None:
        return Finding("stations", "warn", "no interface", "fix the interface first")
    reading = await scan.stations.read(link.index)
    return station_finding(reading, reason=scan.stations.reason, interface=link.name)


def station_finding(reading: StationReading | None, *, reason: str | None, interface: str) -> Finding:
    """The finding for the stations of an access point; `reading` is None if they cannot be read."""
    if reading is None:
        return Finding("stations", "ok", f"cannot be read: {reason}")
    if reason:
        return Finding("stations", "warn", reason, f"start the access point on {interface} (hostapd, NetworkManager)")
    count = len(reading.stations)
    if count >= COMMON_STATION_LIMIT - WARNING_MARGIN:
        return Finding(
            "stations",
            "warn",
            f"{count} associated: many built-in radios accept no more than {COMMON_STATION_LIMIT}",
            "for more cameras, use a USB radio or a separate access point",
        )
    return Finding("stations", "ok", f"{count} associated")


def _check_mdns(settings: Settings, link: Link | None) -> Finding:
    if not settings.discovery.mdns:
        return Finding("mdns", "ok", "switched off (discovery.mdns)")
    if link is None or not link.up or not link.addresses:
        return Finding("mdns", "warn", "no address to listen on", "fix the interface first")
    if not link.supports_arp:
        return Finding("mdns", "ok", f"not used: {link.name} is not a camera network")
    from pi_orchestrator.net.mdns import service as mdns

    reason = mdns.precondition_error(link.addresses)
    if reason:
        return Finding("mdns", "warn", reason, "mDNS is optional; discovery.mdns = false switches it off")
    return Finding("mdns", "ok", f"possible on {', '.join(str(address.ip) for address in link.addresses)}")
