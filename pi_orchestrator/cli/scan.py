"""`scan`: who is on the camera network, found out here and now, with or without a running daemon."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.options import add_config, load_settings
from pi_orchestrator.cli.output import StatusLine, print_json, wrapped

if TYPE_CHECKING:
    from ipaddress import IPv4Network

    from pi_orchestrator.cli.options import Subparsers
    from pi_orchestrator.domain.presence import Device, Evidence
    from pi_orchestrator.settings import Settings
    from pi_orchestrator.workers.survey import Survey

WATCH_S = 5.0
DRAW_S = 0.1
BAR = 20
_INSTEAD = {
    "interface": "--interface and --subnet name others for this scan",
    "subnet": "for this scan: --allow-large, or a part of it with --subnet",
    "engine": "for this scan: --engine auto",
}


def add_parser(subparsers: Subparsers) -> None:
    """Add `scan`."""
    parser = subparsers.add_parser(
        "scan",
        help="find every device on the camera network, now",
        description="Ask every address of the camera network and show who answers, with what leases and the radio "
        "know of them. Needs no running daemon and does not disturb one. Only that one interface is used.",
        epilog="exit codes: 0 done (also when nobody was found), 1 cannot scan or not to the end, 2 wrong arguments",
    )
    add_config(parser)
    add_network(parser)
    parser.add_argument("--engine", choices=("auto", "arp", "neighbour"), help="how to ask (default: as configured)")
    parser.add_argument("--allow-large", action="store_true", help="scan a network larger than a /22 all the same")
    parser.add_argument("--timeout", type=_seconds, metavar="S", help="end a scan after S seconds, with exit code 1")
    parser.add_argument(
        "--watch",
        type=_seconds,
        nargs="?",
        const=WATCH_S,
        metavar="S",
        help="scan again every S seconds (5) and tell what changes, until Ctrl-C",
    )
    parser.add_argument("--json", action="store_true", help="print JSON; with --watch one object a line")
    parser.set_defaults(func=scan)


def add_network(parser: argparse.ArgumentParser) -> None:
    """The flags that name another network than the configured one."""
    parser.add_argument("--interface", metavar="NAME", help="scan here (default: ap.interface)")
    parser.add_argument(
        "--subnet", type=_network, metavar="NET", help="ask these addresses (default: ap.subnet, or the interface's)"
    )


def scan(args: argparse.Namespace) -> int:
    """Scan once, or again and again."""
    import asyncio

    from pi_orchestrator.cli.watch import watch
    from pi_orchestrator.logs import configure

    configure(level=getattr(args, "log_level", None) or "error", style="auto")
    settings = _settings(args)
    once = not getattr(args, "watch", None)
    return asyncio.run(_scan(settings, args) if once else watch(settings, args))


async def _scan(settings: Settings, args: argparse.Namespace) -> int:
    import asyncio

    from pi_orchestrator.app.survey import surveying

    async with surveying(settings, own_network=means_own_network(args)) as survey:
        await find_footing(survey)
        naming = asyncio.create_task(survey.vendors.load())
        began = survey.clock.monotonic()
        complete = await sweep(survey, args.timeout)
        duration_s = survey.clock.monotonic() - began
        await naming
        devices = views(survey)
        if args.json:
            print_json(_document(survey, devices, duration_s=duration_s, complete=complete))
        else:
            _print(survey, devices, duration_s=duration_s, complete=complete)
    return 0 if complete else 1


async def find_footing(survey: Survey) -> None:
    """Have the scanner look; an error with the remedy where it cannot scan."""
    from pi_orchestrator.cli.obstacle import find_obstacle
    from pi_orchestrator.errors import NetworkError, SettingsError

    await survey.scanner.look()
    obstacle = await find_obstacle(survey)
    if obstacle is None:
        return
    if obstacle.part == "subnet":
        raise SettingsError([obstacle.what, obstacle.remedy, _INSTEAD["subnet"]])
    remedy = f"{wrapped(obstacle.remedy, indent='  ')}\n{wrapped(_INSTEAD[obstacle.part], indent='  ')}"
    raise NetworkError(obstacle.what, details=remedy.strip())


def means_own_network(args: argparse.Namespace) -> bool:
    """Whether an interface was named and no network: then the configured one may be that of another interface."""
    return bool(args.interface) and args.subnet is None


async def sweep(survey: Survey, timeout_s: float | None) -> bool:
    """One scan, its progress shown on a terminal; whether it came to its end."""
    import asyncio

    share = 0.0

    def progress(done: float) -> None:
        nonlocal share
        share = done

    async def draw() -> None:
        began = survey.clock.monotonic()
        while True:
            elapsed_s = survey.clock.monotonic() - began
            line.show(_progress_line(survey, share, elapsed_s))
            await asyncio.sleep(DRAW_S)

    line = StatusLine()
    drawing = asyncio.create_task(draw())
    try:
        async with asyncio.timeout(timeout_s):
            await survey.sweep(progress)
    except TimeoutError:
        return False
    finally:
        drawing.cancel()
        line.clear()
    return True


def views(survey: Survey) -> list[dict[str, Any]]:
    """Everyone who was seen or is expected, by address, as the API would tell them."""
    from ipaddress import IPv4Address

    def place(view: dict[str, Any]) -> tuple[bool, int, str]:
        address = view["ip_address"]
        return not address, int(IPv4Address(address)) if address else 0, view["mac_address"]

    return sorted((_view(survey, device) for device in survey.registry if device.evidence), key=place)


def _view(survey: Survey, device: Device) -> dict[str, Any]:
    from pi_orchestrator.domain.mac import is_local

    registry, now = survey.registry, survey.clock.monotonic()
    told = sorted(device.evidence.values(), key=lambda one: one.last_at, reverse=True)
    contested = registry.claimants(device.address) if device.address else frozenset()
    hearsay = next((one.ip for one in told if one.ip), "")
    return {
        "mac_address": device.mac,
        "ip_address": str(device.address or hearsay),
        "ip_addresses": [str(address) for address in device.addresses],
        "status": device.shown.value,
        "hostname": next((one.host_name for one in told if one.host_name), ""),
        "vendor": survey.vendors.name(device.mac) or "",
        "signal_strength": next((one.rssi_dbm for one in told if one.rssi_dbm is not None), 0),
        "likely_camera": survey.is_likely(device),
        "locally_administered": is_local(device.mac),
        "near": list(registry.near(device.mac)),
        "conflict": sorted(contested - {device.mac}),
        "evidence": [_evidence(one, now) for one in told],
    }


def _evidence(one: Evidence, now: float) -> dict[str, Any]:
    from pi_orchestrator.domain.presence import NEVER

    proves_life = one.alive_at != NEVER
    return {
        "source": one.source.value,
        "proves_life": proves_life,
        "age_seconds": round(now - (one.alive_at if proves_life else one.last_at), 1),
        "ip_address": str(one.ip) if one.ip else None,
        "host_name": one.host_name,
        "signal_strength": one.rssi_dbm,
        "detail": one.detail or None,
    }


def _document(survey: Survey, devices: list[dict[str, Any]], *, duration_s: float, complete: bool) -> dict[str, Any]:
    return {
        "engine": survey.scanner.engine,
        "engine_reason": survey.scanner.choice,
        "interface": survey.settings.ap.interface,
        "subnet": str(survey.scanner.network),
        "duration_ms": round(duration_s * 1000),
        "complete": complete,
        "found": count_here(survey),
        "devices": devices,
    }


def _print(survey: Survey, devices: list[dict[str, Any]], *, duration_s: float, complete: bool) -> None:
    from pi_orchestrator.cli.device_text import device_table, remarks

    if devices:
        print(device_table(devices))
    for remark in remarks(devices):
        print(remark)
    here = count_here(survey)
    silent = len(devices) - here
    parts = [f"{here or 'Nobody'} found in {duration_s:.1f} s on {survey.settings.ap.interface}"]
    if silent:
        parts.append(f"{silent} expected but silent")
    if not complete:
        parts.append("not complete: the time was up")
    print(wrapped(f"{', '.join(parts)}; engine: {survey.scanner.choice}"))


def count_here(survey: Survey) -> int:
    """How many devices are here."""
    from pi_orchestrator.domain.presence import HERE

    return sum(device.shown in HERE for device in survey.registry)


def _progress_line(survey: Survey, share: float, elapsed_s: float) -> str:
    done = round(BAR * share)
    # The kernel takes its seconds for a whole block of addresses: a mark that moves shows that it is under way.
    left = [" "] * (BAR - done)
    if left:
        left[int(elapsed_s / DRAW_S) % len(left)] = "-"
    bar = "#" * done + "".join(left)
    where = f"{survey.scanner.network} on {survey.settings.ap.interface}"
    return f"{where} [{bar}] {count_here(survey)} found, {elapsed_s:.1f} s"


def _settings(args: argparse.Namespace) -> Settings:
    from pi_orchestrator.domain.scan import check_size
    from pi_orchestrator.errors import FieldError, SettingsError

    settings = load_settings(args).settings
    allow = settings.discovery.allow_large_subnet
    if args.subnet is not None:
        try:
            check_size(str(args.subnet), args.subnet.prefixlen, allow_large=allow)
        except FieldError:
            raise SettingsError([f"--subnet: {args.subnet} is larger than a /22; --allow-large scans it"]) from None
    if settings.discovery.engine != "off":
        return settings
    # What is switched off is the daemon's scanning; who gives this command wants a scan.
    return settings.model_copy(update={"discovery": settings.discovery.model_copy(update={"engine": "auto"})})


def _network(text: str) -> IPv4Network:
    from ipaddress import IPv4Network

    try:
        network = IPv4Network(text, strict=False)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write it like 192.168.10.0/24") from None
    if network.prefixlen > 30:
        raise argparse.ArgumentTypeError(f"{text!r} is an address; a network is {network[0]}/24")
    return network


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds
