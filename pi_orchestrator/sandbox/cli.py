"""`sandbox cameras`: a fleet of simulated ESP32 cameras for development, on loopback by default."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from pi_orchestrator.cli.options import seconds_up_to

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from pi_orchestrator.sandbox.camera import OnEvent, SimulatedCamera
    from pi_orchestrator.sandbox.fleet import Fleet

# Copies of the enums in sandbox/options.py, compared by a test. Importing the enums would load pydantic.
MAC_STYLES = ("colon", "dash", "bare", "lower", "mixed")
ID_STYLES = ("mac", "device-id")
TOPIC_STYLES = ("camera", "delicasa")
WIDTH = 80


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `sandbox` with its subcommands."""
    parser = subparsers.add_parser("sandbox", help="run simulated cameras without a daemon; needs a running broker")
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    cameras = kinds.add_parser(
        "cameras",
        help="run a fleet of simulated ESP32 cameras",
        description="Run simulated ESP32 cameras with real MQTT and HTTP, each on its own address.",
    )
    cameras.set_defaults(func=run_cameras)
    add = cameras.add_argument
    add("--count", type=camera_count, default=5, metavar="N", help="number of cameras (%(default)s)")
    add(
        "--broker",
        type=_host_port,
        default=("127.0.0.1", 1883),
        metavar="HOST:PORT",
        help="MQTT broker (127.0.0.1:1883)",
    )
    add("--network", default="127.77.0.0/16", metavar="NET", help="network of the cameras' addresses (%(default)s)")
    add("--http-port", type=_port, default=8080, metavar="PORT", help="HTTP port of every camera (%(default)s)")
    add(
        "--interval",
        type=seconds_up_to(1e9),
        default=10.0,
        metavar="S",
        help="seconds between status messages (%(default)s)",
    )
    add("--ssid", default="DeliCasa-AP", metavar="NAME", help="WiFi network of the cameras at the start (%(default)s)")
    add(
        "--rejoin",
        type=seconds_up_to(1e9),
        default=2.0,
        metavar="S",
        help="seconds offline between two networks (%(default)s)",
    )
    add(
        "--fault",
        action="append",
        default=[],
        metavar="NAME:COUNT",
        help="give COUNT cameras (default 1) a fault; repeatable",
    )
    # The help texts list the choices, because they would make the usage line too long.
    add(
        "--mac-style",
        choices=MAC_STYLES,
        default="colon",
        metavar="STYLE",
        help=f"MAC format: {', '.join(MAC_STYLES)}",
    )
    add("--id-style", choices=ID_STYLES, default="mac", metavar="STYLE", help="id in camera/... topics: mac, device-id")
    add(
        "--topic-style",
        choices=TOPIC_STYLES,
        default="camera",
        metavar="STYLE",
        help="topics: camera, or delicasa (newer)",
    )
    add("--retain", action="store_true", help="retain status and last will, like most firmware")
    add("--storm", action="store_true", help="start all cameras at once")
    add("--seed", type=int, default=1, metavar="N", help="seed of the cameras' MACs (%(default)s)")
    add("--duration", type=seconds_up_to(1e9), metavar="S", help="stop after S seconds instead of at Ctrl-C")
    add("--json", action="store_true", help="print one JSON object per line")
    cameras.epilog = "An unknown fault name lists all faults. Exit codes: 0 success, 1 failure, 2 bad arguments."


def run_cameras(args: argparse.Namespace) -> int:
    """Run the fleet until Ctrl-C or the end of `--duration`; exit code 0, or 1 or 2 with an error on stderr."""
    import asyncio

    from pi_orchestrator.core.errors import FieldError, StartupError

    try:
        return asyncio.run(_run(args))
    except FieldError as exc:
        return _print_error(str(exc), code=2)
    except StartupError as exc:
        return _print_error(f"{exc.message}\n  remedy: {exc.remedy}", code=1)
    except BrokenPipeError:  # the reader of stdout has closed it
        sys.stdout = None
        return 0
    except KeyboardInterrupt:  # before the signal handlers are installed
        return 0


async def _run(args: argparse.Namespace) -> int:
    fleet = _build(args)
    await _check_broker(*args.broker)
    if not args.json:
        host, port = args.broker
        print(f"{args.count} simulated cameras on {args.network}, broker {host}:{port}. Press Ctrl-C to stop.")
    async with fleet:
        await _wait_for_end(fleet, args.duration)
    missing = [camera.device_id for camera in fleet.cameras if not camera.reported.is_set()]
    if missing and args.duration is not None:
        text = f"{len(missing)} of {args.count} cameras did not connect to the broker, for example {missing[0]}"
        return _print_error(f"{text}\n  remedy: increase --duration, or check the broker's log", code=1)
    return 0


def _build(args: argparse.Namespace) -> Fleet:
    from pi_orchestrator.core.wifi import parse_ssid
    from pi_orchestrator.sandbox.fleet import Fleet
    from pi_orchestrator.sandbox.options import CameraOptions, IdStyle, MacStyle, TopicStyle

    host, port = args.broker
    options = CameraOptions(
        broker_host=host,
        broker_port=port,
        http_port=args.http_port,
        interval=args.interval,
        mac_style=MacStyle(args.mac_style),
        id_style=IdStyle(args.id_style),
        topic_style=TopicStyle(args.topic_style),
        ssid=parse_ssid(args.ssid),
        rejoin_s=args.rejoin,
        retain=args.retain,
    )
    return Fleet(
        count=args.count,
        options=options,
        network=args.network,
        faults=args.fault,
        seed=args.seed,
        storm=args.storm,
        on_event=_event_printer(as_json=args.json),
    )


async def _check_broker(host: str, port: int) -> None:
    import asyncio

    from pi_orchestrator.core.errors import StartupError

    try:
        async with asyncio.timeout(5):
            _, writer = await asyncio.open_connection(host, port)
    except OSError as exc:  # TimeoutError is an OSError
        reason = "no answer in 5 s" if isinstance(exc, TimeoutError) else os.strerror(exc.errno or 0)
        raise StartupError(
            f"no MQTT broker at {host}:{port}: {reason}",
            remedy=f"start a broker, for example 'mosquitto -p {port}', or give another address with --broker",
        ) from exc
    writer.close()
    await writer.wait_closed()


async def _wait_for_end(fleet: Fleet, duration: float | None) -> None:
    import asyncio
    import contextlib
    import signal

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    stopping = asyncio.create_task(stop.wait())
    failing = asyncio.create_task(fleet.wait_for_failure())
    try:
        done, _ = await asyncio.wait((stopping, failing), timeout=duration, return_when="FIRST_COMPLETED")
        if failing in done:
            failing.result()
    finally:
        for task in (stopping, failing):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _event_printer(*, as_json: bool) -> OnEvent:
    def print_line(camera: SimulatedCamera, event: str, detail: str) -> None:
        address = f"{camera.address}:{camera.options.http_port}"
        line = f"{camera.device_id} {camera.mac} {address:<21} {event:<11} {camera.fault or ''} {detail}"
        print(line[:WIDTH].rstrip(), flush=True)

    def print_json(camera: SimulatedCamera, event: str, detail: str) -> None:
        fields = {
            "event": event,
            "device_id": camera.device_id,
            "mac": camera.mac,
            "url": camera.url,
            "fault": camera.fault,
            "detail": detail,
        }
        print(json.dumps(fields), flush=True)

    return print_json if as_json else print_line


def _print_error(text: str, *, code: int) -> int:
    print(f"sandbox: {text}", file=sys.stderr)
    return code


def _host_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT, for example 127.0.0.1:1883")
    return host.strip("[]"), _port(port)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def camera_count(text: str) -> int:
    """Parse a number of cameras from an argument; ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 5000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of cameras from 1 to 5000")
    return int(text)
