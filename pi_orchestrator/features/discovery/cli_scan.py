"""`scan`: scan the camera network from the command line, with or without a running daemon."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.options import add_config, load_settings, seconds_up_to
from pi_orchestrator.cli.output import print_json, wrapped
from pi_orchestrator.features.discovery.cli_sweep import count_present, require_scanner, sweep, uses_own_network, views

if TYPE_CHECKING:
    from ipaddress import IPv4Network

    from pi_orchestrator.cli.options import Subparsers
    from pi_orchestrator.features.discovery.standalone import StandaloneScan
    from pi_orchestrator.settings import Settings

WATCH_S = 5.0
"""Interval of `--watch` without a value."""


def add_parser(subparsers: Subparsers) -> None:
    """Add `scan`."""
    parser = subparsers.add_parser(
        "scan",
        help="scan the camera network for devices",
        description="Probe every address of the camera network and show the devices that answer, with data from "
        "DHCP leases and the access point's list of WiFi clients. Needs no running daemon and does not disturb one. "
        "Sends on one interface only.",
        epilog="exit codes: 0 complete (even if no device was found), 1 failed or incomplete, 2 wrong arguments",
    )
    add_config(parser)
    add_network(parser)
    parser.add_argument(
        "--engine",
        choices=("auto", "arp", "neighbour"),
        help="scan engine (default: discovery.engine, or auto if that is off)",
    )
    parser.add_argument("--allow-large", action="store_true", help="allow a network larger than a /22")
    parser.add_argument(
        "--timeout", type=seconds_up_to(86_400), metavar="S", help="end a scan after S seconds, with exit code 1"
    )
    parser.add_argument(
        "--watch",
        type=seconds_up_to(86_400),
        nargs="?",
        const=WATCH_S,
        metavar="S",
        help="scan again every S seconds (default: 5) and print changes, until Ctrl-C",
    )
    parser.add_argument("--json", action="store_true", help="print JSON; with --watch one object per line")
    parser.set_defaults(func=scan)


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add --interface and --subnet, which override the configured network."""
    parser.add_argument("--interface", metavar="NAME", help="scan on this interface (default: ap.interface)")
    parser.add_argument(
        "--subnet",
        type=_network,
        metavar="NET",
        help="scan these addresses (default: ap.subnet, or the network of --interface)",
    )


def scan(args: argparse.Namespace) -> int:
    """Scan once, or repeatedly with --watch."""
    import asyncio

    from pi_orchestrator.core.logging import configure
    from pi_orchestrator.features.discovery.cli_watch import watch

    configure(level=getattr(args, "log_level", None) or "error", style="auto")
    settings = _settings(args)
    watches = bool(getattr(args, "watch", None))
    return asyncio.run(watch(settings, args) if watches else _scan(settings, args))


async def _scan(settings: Settings, args: argparse.Namespace) -> int:
    import asyncio

    from pi_orchestrator.features.discovery.standalone import open_standalone_scan

    async with open_standalone_scan(settings, own_network=uses_own_network(args)) as standalone:
        await require_scanner(standalone)
        loading = asyncio.create_task(standalone.vendors.load())
        started_at = standalone.clock.monotonic()
        complete = await sweep(standalone, args.timeout)
        duration_s = standalone.clock.monotonic() - started_at
        await loading
        devices = views(standalone)
        if args.json:
            print_json(_document(standalone, devices, duration_s=duration_s, complete=complete))
        else:
            _print(standalone, devices, duration_s=duration_s, complete=complete)
    return 0 if complete else 1


def _document(
    standalone: StandaloneScan, devices: list[dict[str, Any]], *, duration_s: float, complete: bool
) -> dict[str, Any]:
    return {
        "engine": standalone.scanner.engine,
        "engine_reason": standalone.scanner.choice_reason,
        "interface": standalone.settings.ap.interface,
        "subnet": str(standalone.scanner.network),
        "duration_ms": round(duration_s * 1000),
        "complete": complete,
        "found": count_present(standalone),
        "devices": devices,
    }


def _print(standalone: StandaloneScan, devices: list[dict[str, Any]], *, duration_s: float, complete: bool) -> None:
    from pi_orchestrator.features.discovery.cli_text import device_table, remarks

    if devices:
        print(device_table(devices))
    for remark in remarks(devices):
        print(remark)
    present = count_present(standalone)
    silent = len(devices) - present
    parts = [f"{present or 'No devices'} found in {duration_s:.1f} s on {standalone.settings.ap.interface}"]
    if silent:
        parts.append(f"{silent} expected but silent")
    if not complete:
        parts.append("incomplete: timeout")
    print(wrapped(f"{', '.join(parts)}; engine: {standalone.scanner.choice_reason}"))


def _settings(args: argparse.Namespace) -> Settings:
    from pi_orchestrator.core.errors import ArgumentsError, FieldError
    from pi_orchestrator.features.discovery.model import check_size

    settings = load_settings(args).settings
    allow = settings.discovery.allow_large_subnet
    if args.subnet is not None:
        try:
            check_size(str(args.subnet), args.subnet.prefixlen, allow_large=allow)
        except FieldError:
            raise ArgumentsError(
                [f"--subnet: {args.subnet} is larger than a /22; add --allow-large to scan it"]
            ) from None
    if settings.discovery.engine != "off":
        return settings
    # "off" disables the scans of the daemon, not those of this command.
    return settings.model_copy(update={"discovery": settings.discovery.model_copy(update={"engine": "auto"})})


def _network(text: str) -> IPv4Network:
    from ipaddress import IPv4Network

    try:
        network = IPv4Network(text, strict=False)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a network; write it like 192.168.10.0/24") from None
    if network.prefixlen > 30:
        raise argparse.ArgumentTypeError(f"{text!r} is a single address; a network is {network[0]}/24")
    return network
