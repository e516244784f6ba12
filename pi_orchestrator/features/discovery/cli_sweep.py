"""One sweep of the camera network by a command: progress line, and views of the devices."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.output import StatusLine, wrapped

if TYPE_CHECKING:
    from pi_orchestrator.features.devices.model import Device, Evidence
    from pi_orchestrator.features.discovery.standalone import StandaloneScan

DRAW_S = 0.1
BAR_CHARS = 20
_FLAG_HINTS = {
    "interface": "for this scan: --interface or --subnet",
    "subnet": "for this scan: --allow-large, or a smaller --subnet",
    "engine": "for this scan: --engine auto",
}


async def require_scanner(standalone: StandaloneScan) -> None:
    """Open the scanner; NetworkError or SettingsError with the remedy if it cannot scan."""
    from pi_orchestrator.core.errors import NetworkError, SettingsError
    from pi_orchestrator.features.discovery.cli_checks import find_problem

    await standalone.scanner.refresh_link()
    problem = await find_problem(standalone)
    if problem is None:
        return
    if problem.part == "subnet":
        raise SettingsError([problem.text, problem.remedy, _FLAG_HINTS["subnet"]])
    remedy = f"{wrapped(problem.remedy, indent='  ')}\n{wrapped(_FLAG_HINTS[problem.part], indent='  ')}"
    raise NetworkError(problem.text, details=remedy.strip())


def uses_own_network(args: argparse.Namespace) -> bool:
    """Whether to scan the interface's own network if it is outside ap.subnet: --interface given without --subnet."""
    return bool(args.interface) and args.subnet is None


async def sweep(standalone: StandaloneScan, timeout_s: float | None) -> bool:
    """Scan once and show the progress on a terminal; False if `timeout_s` expired."""
    import asyncio

    share = 0.0

    def progress(done: float) -> None:
        nonlocal share
        share = done

    async def draw() -> None:
        started_at = standalone.clock.monotonic()
        while True:
            elapsed_s = standalone.clock.monotonic() - started_at
            line.show(_progress_line(standalone, share, elapsed_s))
            await asyncio.sleep(DRAW_S)

    line = StatusLine()
    drawing = asyncio.create_task(draw())
    try:
        async with asyncio.timeout(timeout_s):
            await standalone.sweep(progress)
    except TimeoutError:
        return False
    finally:
        drawing.cancel()
        line.clear()
    return True


def views(standalone: StandaloneScan) -> list[dict[str, Any]]:
    """Devices that were seen or have a DHCP lease, sorted by address, in the format of the API."""
    from ipaddress import IPv4Address

    def order(view: dict[str, Any]) -> tuple[bool, int, str]:
        address = view["ip_address"]
        return not address, int(IPv4Address(address)) if address else 0, view["mac_address"]

    return sorted((_view(standalone, device) for device in standalone.registry if device.evidence), key=order)


def _view(standalone: StandaloneScan, device: Device) -> dict[str, Any]:
    from pi_orchestrator.core.mac import is_local

    registry, now = standalone.registry, standalone.clock.monotonic()
    reports = sorted(device.evidence.values(), key=lambda evidence: evidence.last_at, reverse=True)
    claimants = registry.claimants(device.address) if device.address else frozenset()
    reported_ip = next((report.ip for report in reports if report.ip), "")
    return {
        "mac_address": device.mac,
        "ip_address": str(device.address or reported_ip),
        "ip_addresses": [str(address) for address in device.addresses],
        "status": device.shown.value,
        "hostname": next((report.host_name for report in reports if report.host_name), ""),
        "vendor": standalone.vendors.name(device.mac) or "",
        "signal_strength": next((report.rssi_dbm for report in reports if report.rssi_dbm is not None), 0),
        "likely_camera": standalone.looks_like_camera(device),
        "locally_administered": is_local(device.mac),
        "near": list(registry.same_chip_candidates(device.mac)),
        "conflict": sorted(claimants - {device.mac}),
        "id_conflict": [],
        "notes": [],
        "evidence": [_evidence(report, now) for report in reports],
    }


def _evidence(report: Evidence, now: float) -> dict[str, Any]:
    from pi_orchestrator.features.devices.model import NEVER

    proves_life = report.alive_at != NEVER
    return {
        "source": report.source.value,
        "proves_life": proves_life,
        "age_seconds": round(now - (report.alive_at if proves_life else report.last_at), 1),
        "ip_address": str(report.ip) if report.ip else None,
        "host_name": report.host_name,
        "signal_strength": report.rssi_dbm,
        "detail": report.detail or None,
    }


def count_present(standalone: StandaloneScan) -> int:
    """Number of devices that are present."""
    from pi_orchestrator.features.devices.model import PRESENT_STATES

    return sum(device.shown in PRESENT_STATES for device in standalone.registry)


def _progress_line(standalone: StandaloneScan, share: float, elapsed_s: float) -> str:
    done = round(BAR_CHARS * share)
    # The kernel probes whole blocks of addresses, which takes seconds: a moving mark shows that the scan is running.
    rest = [" "] * (BAR_CHARS - done)
    if rest:
        rest[int(elapsed_s / DRAW_S) % len(rest)] = "-"
    bar = "#" * done + "".join(rest)
    target = f"{standalone.scanner.network} on {standalone.settings.ap.interface}"
    return f"{target} [{bar}] {count_present(standalone)} found, {elapsed_s:.1f} s"
