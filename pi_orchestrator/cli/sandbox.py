"""`sandbox cameras`: a fleet of simulated ESP-CAMs for development, on the loopback by default."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from pi_orchestrator.sandbox.camera import OnEvent, SimulatedCamera
    from pi_orchestrator.sandbox.fleet import Fleet

# As the enums of sandbox/options.py have them; a test compares. Importing those here would load pydantic.
MAC_STYLES = ("colon", "dash", "bare", "lower", "mixed")
ID_STYLES = ("mac", "device-id")
TOPIC_STYLES = ("camera", "delicasa")
WIDTH = 80


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `sandbox` and what it simulates to the commands."""
    parser = subparsers.add_parser("sandbox", help="simulated cameras for development")
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    cameras = kinds.add_parser(
        "cameras",
        help="run a fleet of simulated ESP-CAMs",
        description="Run simulated ESP-CAMs that speak real MQTT and HTTP, each on its own address.",
    )
    cameras.set_defaults(func=run_cameras)
    add = cameras.add_argument
    add("--count", type=camera_count, default=5, metavar="N", help="how many cameras (%(default)s)")
    add(
        "--broker",
        type=_host_port,
        default=("127.0.0.1", 1883),
        metavar="HOST:PORT",
        help="MQTT broker (127.0.0.1:1883)",
    )
    add("--network", default="127.77.0.0/16", help="where their addresses are counted from (%(default)s)")
    add("--http-port", type=_port, default=8080, metavar="PORT", help="of every camera (%(default)s)")
    add("--interval", type=_seconds, default=10.0, metavar="S", help="between status messages (%(default)s)")
    add("--ssid", default="DeliCasa-AP", metavar="NAME", help="the network that they start on (%(default)s)")
    add("--rejoin", type=_seconds, default=2.0, metavar="S", help="from one network to another (%(default)s)")
    add("--fault", action="append", default=[], metavar="NAME:COUNT", help="may be repeated; see below")
    # The choices are in the help texts: in the usage they would make a line too long.
    add("--mac-style", choices=MAC_STYLES, default="colon", metavar="STYLE", help=f"spelling: {', '.join(MAC_STYLES)}")
    add("--id-style", choices=ID_STYLES, default="mac", metavar="STYLE", help="id in camera/... topics: mac, device-id")
    add("--topic-style", choices=TOPIC_STYLES, default="camera", metavar="STYLE", help="camera, or delicasa (newer)")
    add("--retain", action="store_true", help="retain status and last will, as much real firmware does")
    add("--storm", action="store_true", help="start all at once instead of one after the other")
    add("--seed", type=int, default=1, help="another seed, other MACs (%(default)s)")
    add("--duration", type=_seconds, metavar="S", help="end after so long instead of at Ctrl-C")
    add("--json", action="store_true", help="one JSON object a line")
    cameras.epilog = "An unknown --fault lists the known ones. Exit codes: 0 well, 1 failed, 2 bad arguments."


def run_cameras(args: argparse.Namespace) -> int:
    """Run the fleet until Ctrl-C or the end of `--duration`; 0, or 1 or 2 with a line on stderr."""
    import asyncio

    from pi_orchestrator.errors import FieldError, StartupError

    try:
        return asyncio.run(_run(args))
    except FieldError as exc:
        return _complain(str(exc), code=2)
    except StartupError as exc:
        return _complain(f"{exc.message}\n  remedy: {exc.remedy}", code=1)
    except BrokenPipeError:  # who read the lines has gone: nobody is left to tell
        sys.stdout = None
        return 0
    except KeyboardInterrupt:  # before the loop had its own handler
        return 0


async def _run(args: argparse.Namespace) -> int:
    fleet = _build(args)
    await _check_broker(*args.broker)
    if not args.json:
        host, port = args.broker
        print(f"{args.count} simulated cameras on {args.network}, broker {host}:{port}. Ctrl-C ends.")
    async with fleet:
        await _until_the_end(fleet, args.duration)
    missing = [camera.device_id for camera in fleet.cameras if not camera.reported.is_set()]
    if missing and args.duration is not None:
        text = f"{len(missing)} of {args.count} cameras never reached the broker, {missing[0]} first"
        return _complain(f"{text}\n  remedy: give --duration more time, or look at the broker's log", code=1)
    return 0


def _build(args: argparse.Namespace) -> Fleet:
    from pi_orchestrator.domain.wifi import parse_ssid
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
        on_event=_reporter(as_json=args.json),
    )


async def _check_broker(host: str, port: int) -> None:
    import asyncio

    from pi_orchestrator.errors import StartupError

    try:
        async with asyncio.timeout(5):
            _, writer = await asyncio.open_connection(host, port)
    except OSError as exc:  # TimeoutError is one
        why = "no answer in 5 s" if isinstance(exc, TimeoutError) else os.strerror(exc.errno or 0)
        raise StartupError(
            f"no MQTT broker at {host}:{port}: {why}",
            remedy=f"start one, such as 'mosquitto -p {port}', or name another with --broker",
        ) from exc
    writer.close()
    await writer.wait_closed()


async def _until_the_end(fleet: Fleet, duration: float | None) -> None:
    import asyncio
    import contextlib
    import signal

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    stopping = asyncio.create_task(stop.wait())
    failing = asyncio.create_task(fleet.failed())
    try:
        done, _ = await asyncio.wait((stopping, failing), timeout=duration, return_when="FIRST_COMPLETED")
        if failing in done:
            failing.result()
    finally:
        for task in (stopping, failing):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _reporter(*, as_json: bool) -> OnEvent:
    def as_line(camera: SimulatedCamera, event: str, detail: str) -> None:
        where = f"{camera.address}:{camera.options.http_port}"
        line = f"{camera.device_id} {camera.mac} {where:<21} {event:<11} {camera.fault or ''} {detail}"
        print(line[:WIDTH].rstrip(), flush=True)

    def as_object(camera: SimulatedCamera, event: str, detail: str) -> None:
        fields = {
            "event": event,
            "device_id": camera.device_id,
            "mac": camera.mac,
            "url": camera.url,
            "fault": camera.fault,
            "detail": detail,
        }
        print(json.dumps(fields), flush=True)

    return as_object if as_json else as_line


def _complain(text: str, *, code: int) -> int:
    print(f"sandbox: {text}", file=sys.stderr)
    return code


def _host_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:1883")
    return host.strip("[]"), _port(port)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def camera_count(text: str) -> int:
    """An argument that is a number of cameras."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 5000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of cameras from 1 to 5000")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds
