"""`demo`: the whole thing on this machine alone, with an embedded broker and simulated cameras."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.sandbox import camera_count

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
        help="see it work here: embedded broker, simulated cameras",
        description="Run the daemon with an embedded broker and simulated cameras, and show them being onboarded. "
        "Needs no Pi, no broker and no cloud; listens on this machine only. Ctrl-C ends it.",
    )
    parser.add_argument("--count", type=camera_count, default=12, metavar="N", help="how many cameras (%(default)s)")
    parser.add_argument("--port", type=int, default=8081, help="of the API (%(default)s); 0 chooses a free one")
    parser.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="keep the state here (default: a temporary folder)"
    )
    parser.add_argument("--fault", action="append", default=[], metavar="NAME:COUNT", help="as in: sandbox cameras")
    parser.add_argument("--duration", type=float, metavar="S", help="end after so many seconds")
    parser.set_defaults(func=demo)


def demo(args: argparse.Namespace) -> int:
    """Run the demo until Ctrl-C."""
    import asyncio
    import tempfile

    from pi_orchestrator.errors import FieldError, SettingsError
    from pi_orchestrator.logs import configure

    configure(level="error", style="auto")
    try:
        if args.state_dir:
            return asyncio.run(_demo(args, args.state_dir))
        with tempfile.TemporaryDirectory(prefix="pi-orchestrator-demo-") as folder:
            return asyncio.run(_demo(args, Path(folder)))
    except FieldError as error:
        raise SettingsError([str(error)]) from None


def demo_settings(state_dir: Path, *, port: int, camera_port: int) -> Loaded:
    """Settings for a world that is this machine alone."""
    from pi_orchestrator.settings import given

    tree: dict[str, Any] = {
        "http": {"listen": [f"127.0.0.1:{port}"]},
        "ap": {"interface": "lo", "subnet": NETWORK},
        # Nobody can be asked on loopback.
        "discovery": {"engine": "off", "stations": False, "leases": False, "mdns": False, "probe": False},
        "mqtt": {"embedded": True, "host": "127.0.0.1", "port": 0},
        "cameras": {"http_port": camera_port},
        "auto_onboard": {
            "enabled": True,
            "mode": "dev",
            "subnet_allowlist": [NETWORK],
            "allow_loopback": True,
            # Slow enough to see the limiter at work, fast enough not to be bored.
            "burst_size": 4,
            "max_per_minute": 60,
        },
        "storage": {"state_dir": str(state_dir)},
    }
    return given(tree)


async def _demo(args: argparse.Namespace, state_dir: Path) -> int:
    import asyncio
    import signal

    from pi_orchestrator.app.life import running
    from pi_orchestrator.net.broker import free_port
    from pi_orchestrator.sandbox.fleet import Fleet
    from pi_orchestrator.sandbox.options import CameraOptions

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # A free port, so that one demo does not get into another's way.
    camera_port = await asyncio.to_thread(free_port, "127.77.0.10")
    settings = await asyncio.to_thread(demo_settings, state_dir, port=args.port, camera_port=camera_port)
    async with running(settings) as daemon:
        options = CameraOptions(
            broker_host="127.0.0.1", broker_port=daemon.mqtt_port, http_port=camera_port, interval=5.0
        )
        _introduce(daemon, args.count, state_dir)
        async with Fleet(count=args.count, options=options, network=NETWORK, faults=args.fault) as fleet:
            ends = [asyncio.ensure_future(end) for end in (stop.wait(), fleet.failed(), _show(daemon))]
            done, _ = await asyncio.wait(ends, timeout=args.duration, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            for end in done:
                end.result()  # cameras that cannot go on, or a reader who has gone, are told by their error
        print("\nStopping.")
    return 0


def _introduce(daemon: Daemon, count: int, state_dir: Path) -> None:
    print(f"Pi Orchestrator, with {count} simulated cameras. Ctrl-C ends.\n")
    for what, path in (
        ("page", "/"),
        ("cameras", "/api/v1/cameras"),
        ("registered", "/api/v1/espcam/paired"),
        ("onboarding", "/api/v1/onboarding/auto/status"),
        ("audit trail", "/api/v1/onboarding/auto/events"),
        ("API", "/openapi.json"),
        ("metrics", "/metrics"),
    ):
        print(f"  {what:12} {daemon.url}{path}")
    print(f"  {'state':12} {state_dir}")
    print(f"  {'admin key':12} in admin.key there")
    print(f"\nThe kill switch:\n  curl -X POST {daemon.url}/api/v1/onboarding/auto/disable\n", flush=True)


async def _show(daemon: Daemon) -> None:
    """A table that is drawn anew on a terminal; elsewhere a line for each camera whose state changed."""
    import asyncio

    from pi_orchestrator.cli.camera_text import HEADERS, row
    from pi_orchestrator.cli.output import table

    # One line at a time has no neighbours to line up with: the widest values give the columns.
    wide_headers = [header.ljust(width) for header, width in zip(HEADERS[1:], (17, 10, 15, 3, 0), strict=True)]
    views, onboarding = daemon.services.views, daemon.services.onboarding
    drawn = 0
    seen: dict[str, str] = {}
    while True:
        cameras = [views.camera(mac).model_dump() for mac in views.live()]
        if sys.stdout.isatty():
            registered = sum(camera["container_id"] is not None for camera in cameras)
            text = table(HEADERS, [row(camera) for camera in cameras])
            text += f"\n\n{registered} onboarded, {onboarding.waiting} in line, {onboarding.tokens:.1f} tokens left"
            print(f"\x1b[{drawn}F\x1b[J" if drawn else "", end="")
            print(text, flush=True)
            drawn = text.count("\n") + 1
        else:
            for camera in cameras:
                if seen.get(camera["mac_address"]) != camera["status"]:
                    seen[camera["mac_address"]] = camera["status"]
                    print(table(wide_headers, [row(camera)[1:]]).splitlines()[1], flush=True)
        await asyncio.sleep(REFRESH_S)
