"""What `doctor` finds out about the camera network: the interface and the engine as the scanner finds them.

And what leases, the radio and mDNS can add. Asks the kernel and files, and no device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pi_orchestrator.cli.doctor import Finding
from pi_orchestrator.cli.obstacle import find_obstacle, interface_obstacle

if TYPE_CHECKING:
    from pi_orchestrator.net.leases import LeaseFiles
    from pi_orchestrator.net.links import Link
    from pi_orchestrator.net.stations import Air
    from pi_orchestrator.settings import Settings
    from pi_orchestrator.workers.survey import Survey

STATIONS_FEW_TAKE = 8
"""Many a Pi's own radio lets no more in."""
NEARLY = 1


async def examine_network(settings: Settings) -> list[Finding]:
    """Every check of the camera network, each with its remedy where something is wrong."""
    from pi_orchestrator.app.survey import surveying

    async with surveying(settings) as survey:
        await survey.scanner.look()
        link = survey.scanner.link or await survey.netlink.link(settings.ap.interface)
        return [
            *await _scanning(survey, link),
            await _leases(survey.leases),
            await _stations(survey, link),
            _mdns(settings, link),
        ]


async def _scanning(survey: Survey, link: Link | None) -> list[Finding]:
    """The interface, and the engine that would ask there."""
    scanner, name = survey.scanner, survey.settings.ap.interface
    if scanner.off:
        obstacle = await interface_obstacle(survey, link)
        engine = Finding("engine", "ok", "none: switched off (discovery.engine)")
    elif obstacle := await find_obstacle(survey):
        engine = Finding("engine", "warn", "not known before the interface works", "mend the interface first")
    else:
        engine = _engine(survey)
    if obstacle and obstacle.part == "engine":
        interface = Finding("interface", "ok", f"{name} is up")
        engine = Finding("engine", "fail", obstacle.what, obstacle.remedy)
    elif obstacle:
        interface = Finding("interface", "fail", obstacle.what, obstacle.remedy)
    else:
        where = f"; cameras are looked for in {scanner.network}" if scanner.network else ""
        interface = Finding("interface", "ok", f"{name} is up{where}")
    return [interface, engine]


def _engine(survey: Survey) -> Finding:
    engine, choice = survey.scanner.engine, survey.scanner.choice
    if engine == "arp":
        return Finding("engine", "ok", f"{choice}: CAP_NET_RAW is there")
    if survey.settings.discovery.engine == engine:
        return Finding("engine", "ok", f"{choice}: the kernel's neighbour table")
    remedy = "ARP needs CAP_NET_RAW, which the systemd unit grants; by hand: run with sudo"
    return Finding("engine", "warn", choice, remedy)


async def _leases(leases: LeaseFiles | None) -> Finding:
    if leases is None:
        return Finding("leases", "ok", "switched off (discovery.leases)")
    running = await leases.read() or ()
    if leases.reason:
        return Finding(
            "leases", "warn", leases.reason, "if a DHCP server runs here, name its file in discovery.lease_files"
        )
    odd = f"; {leases.skipped} lines were not understood" if leases.skipped else ""
    return Finding("leases", "ok", f"{len(running)} of them run{odd}")


async def _stations(survey: Survey, link: Link | None) -> Finding:
    if survey.stations is None:
        return Finding("stations", "ok", "switched off (discovery.stations)")
    if link is None:
        return Finding("stations", "warn", "there is no interface to ask", "mend the interface first")
    air = await survey.stations.read(link.index)
    return station_finding(air, reason=survey.stations.reason, interface=link.name)


def station_finding(air: Air | None, *, reason: str | None, interface: str) -> Finding:
    """What the radio says of itself and of those on it."""
    if air is None:
        return Finding("stations", "ok", f"none to be read: {reason}")
    if reason:
        return Finding("stations", "warn", reason, f"start the access point on {interface} (hostapd, NetworkManager)")
    count = len(air.stations)
    if count >= STATIONS_FEW_TAKE - NEARLY:
        return Finding(
            "stations",
            "warn",
            f"{count} associated: many radios of a Pi let no more than {STATIONS_FEW_TAKE} in",
            "for more cameras use a USB radio or an access point of its own",
        )
    return Finding("stations", "ok", f"{count} associated")


def _mdns(settings: Settings, link: Link | None) -> Finding:
    if not settings.discovery.mdns:
        return Finding("mdns", "ok", "switched off (discovery.mdns)")
    if link is None or not link.up or not link.addresses:
        return Finding("mdns", "warn", "there is no address to listen on", "mend the interface first")
    if not link.asks:
        return Finding("mdns", "ok", f"not used: {link.name} is no network of cameras")
    from pi_orchestrator.net import mdns

    reason = mdns.obstacle(link.addresses)
    if reason:
        return Finding("mdns", "warn", reason, "nothing depends on it; discovery.mdns = false ends the attempts")
    return Finding("mdns", "ok", f"possible on {', '.join(str(address.ip) for address in link.addresses)}")
