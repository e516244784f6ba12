"""`demo`: the daemon with an embedded broker and simulated cameras, on this machine only."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi_orchestrator.sandbox.cli import camera_count

if TYPE_CHECKING:
    from pi_orchestrator.app.daemon import Daemon
    from pi_orchestrator.cli.options import Subparsers
    from pi_orchestrator.settings import Loaded

NETWORK = "127.77.0.0/16"
REFRESH_S = 1.0


def add_parser(subparsers: Subparsers) -> None:
    """Add `demo`."""
    parser = subparsers.add_parser(
        "demo",
        help="run the daemon with an embedded broker and simulated cameras",
        description="Run the daemon with an embedded broker and simulated cameras, and show them being onboarded. "
        "Needs no Pi, no broker and no cloud; listens on this machine only. Stop with Ctrl-C.",
    )
    parser.add_argument("--count", type=camera_count, default=12, metavar="N", help="number of cameras (%(default)s)")
    parser.add_argument("--port", type=int, default=8081, help="port of the API (%(default)s); 0: a free port")
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help="state folder (default: a temporary folder)")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME:COUNT",
        help="give COUNT cameras a fault; see: sandbox cameras --help",
    )
    parser.add_argument("--duration", type=float, metavar="S", help="stop after S seconds")
    parser.set_defaults(func=demo)


def demo(args: argparse.Namespace) -> int:
    """Run the demo until Ctrl-C, or for `--duration` seconds."""
    import asyncio
    import tempfile

    from pi_orchestrator.core.errors import ArgumentsError, FieldError
    from pi_orchestrator.core.logging import configure

    configure(level="error", style="auto")
    try:
        if args.state_dir:
            return asyncio.run(_demo(args, args.state_dir))
        with tempfile.TemporaryDirectory(prefix="pi-orchestrator-demo-") as folder:
            return asyncio.run(_demo(args, Path(folder)))
    except FieldError as error:  # --fault is not valid
        raise ArgumentsError([str(error)]) from None


def demo_settings(state_dir: Path, *, port: int, camera_port: int) -> Loaded:
    """Settings for the demo: everything on loopback."""
    from pi_orchestrator.settings import from_program

    tree: dict[str, Any] = {
        "http": {"listen": [f"127.0.0.1:{port}"]},
        "ap": {"interface": "lo", "subnet": NETWORK},
        # Loopback has no ARP, stations, leases or mDNS.
        "discovery": {"engine": "off", "stations": False, "leases": False, "mdns": False, "probe": False},
        "mqtt": {"embedded": True, "host": "127.0.0.1", "port": 0},
        "cameras": {"http_port": camera_port},
        "auto_onboard": {
            "enabled": True,
            "mode": "dev",
            "subnet_allowlist": [NETWORK],
            "allow_loopback": True,
            # Slow enough to show the rate limit, fast enough to watch.
            "burst_size": 4,
            "max_per_minute": 60,
        },
        "storage": {"state_dir": str(state_dir)},
    }
    return from_program(tree)


async def _demo(args: argparse.Namespace, state_dir: Path) -> int:
    import asyncio
    import signal

    from pi_orchestrator.app.lifecycle import running
    from pi_orchestrator.net.mqtt.broker import free_port
    from pi_orchestrator.sandbox.faults import parse_faults
    from pi_orchestrator.sandbox.fleet import Fleet
    from pi_orchestrator.sandbox.options import CameraOptions

    parse_faults(args.fault, count=args.count)  # raises FieldError before anything is started
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # A free port, so that several demos can run at the same time.
    camera_port = await asyncio.to_thread(free_port, "127.77.0.10")
    loaded = await asyncio.to_thread(demo_settings, state_dir, port=args.port, camera_port=camera_port)
    async with running(loaded, listen_setting="--port") as daemon:
        options = CameraOptions(
            broker_host="127.0.0.1", broker_port=daemon.mqtt_port, http_port=camera_port, interval=5.0
        )
        _print_overview(daemon, args.count, state_dir)
        async with Fleet(count=args.count, options=options, network=NETWORK, faults=args.fault) as fleet:
            tasks = [
                asyncio.ensure_future(awaitable)
                for awaitable in (stop.wait(), fleet.wait_for_failure(), _print_cameras(daemon))
            ]
            done, _ = await asyncio.wait(tasks, timeout=args.duration, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for task in done:
                task.result()  # raises if the cameras failed, or if the output was closed
        print("\nStopping.")
    return 0


def _print_overview(daemon: Daemon, count: int, state_dir: Path) -> None:
    print(f"Pi Orchestrator with {count} simulated cameras. Stop with Ctrl-C.\n")
    for label, path in (
        ("page", "/"),
        ("cameras", "/api/v1/cameras"),
        ("registered", "/api/v1/espcam/paired"),
        ("onboarding", "/api/v1/onboarding/auto/status"),
        ("events", "/api/v1/onboarding/auto/events"),
        ("API", "/openapi.json"),
        ("metrics", "/metrics"),
    ):
        print(f"  {label:12} {daemon.url}{path}")
    print(f"  {'state':12} {state_dir}")
    print(f"  {'admin key':12} {state_dir / 'admin.key'}")
    print(f"\nKill switch of auto-onboarding:\n  curl -X POST {daemon.url}/api/v1/onboarding/auto/disable")
    program = os.path.relpath(sys.argv[0])
    print("\nCommands, in another terminal:")
    print(f"  {program} cameras list --url {daemon.url} \\\n    --state-dir {state_dir}\n", flush=True)


async def _print_cameras(daemon: Daemon) -> None:
    """On a terminal, redraw a table of all cameras; otherwise print a line for each changed state."""
    import asyncio

    from pi_orchestrator.cli.output import table
    from pi_orchestrator.features.cameras.cli_text import HEADERS, row

    # Without a terminal, rows are printed one by one and without names, so the columns have fixed widths.
    wide_headers = [header.ljust(width) for header, width in zip(HEADERS[1:], (17, 10, 15, 3, 0), strict=True)]
    views, onboarding = daemon.app.cameras.views, daemon.app.onboarding.worker
    drawn_lines = 0
    last_status: dict[str, str] = {}
    while True:
        cameras = [views.camera(mac).model_dump() for mac in views.live()]
        if sys.stdout.isatty():
            paired = sum(camera["container_id"] is not None for camera in cameras)
            text = table(HEADERS, [row(camera) for camera in cameras])
            text += f"\n\n{paired} paired, {onboarding.waiting} waiting, {onboarding.tokens:.1f} tokens left"
            print(f"\x1b[{drawn_lines}F\x1b[J" if drawn_lines else "", end="")
            print(text, flush=True)
            drawn_lines = text.count("\n") + 1
        else:
            for camera in cameras:
                if last_status.get(camera["mac_address"]) != camera["status"]:
                    last_status[camera["mac_address"]] = camera["status"]
                    print(table(wide_headers, [row(camera)[1:]]).splitlines()[1], flush=True)
        await asyncio.sleep(REFRESH_S)
