"""`cameras`: who is there."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import print_json, table

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add `cameras`."""
    parser = subparsers.add_parser("cameras", help="list cameras, or show one")
    parser.add_argument("id", nargs="?", help="MAC in any spelling, or device id")
    add_client(parser)
    parser.set_defaults(func=cameras)


def cameras(args: argparse.Namespace) -> int:
    """List registered and live cameras, or show one."""
    from urllib.parse import quote

    from pi_orchestrator.cli.client import connect

    client = connect(args)
    if args.id:
        camera = client.get(f"/api/v1/cameras/{quote(args.id, safe='')}")
        print_json(camera) if args.json else print(_card(camera))
        return 0
    live = {camera["mac_address"]: camera for camera in client.get("/api/v1/cameras")["cameras"]}
    paired = client.get("/api/v1/espcam/paired")["cameras"]
    for camera in paired:
        live.setdefault(camera["mac_address"], camera)
    everyone = list(live.values())
    if args.json:
        print_json(everyone)
    elif everyone:
        print(table(HEADERS, [row(camera) for camera in everyone]))
    else:
        print("No cameras yet. They appear when they publish on MQTT (camera/status/...).")
    return 0


HEADERS = ("MAC", "STATUS", "ADDRESS", "SIGNAL", "POS", "CONTAINER")


def row(camera: dict[str, Any]) -> tuple[object, ...]:
    """A camera as a line of the table."""
    rssi = camera.get("health", {}).get("wifi_rssi") or camera.get("signal_strength")
    return (
        camera["mac_address"],
        camera["status"],
        camera.get("ip_address"),
        f"{rssi} dBm" if rssi else None,
        camera.get("position"),
        camera.get("container_id"),
    )


def _card(camera: dict[str, Any]) -> str:
    flat = {name: value for name, value in camera.items() if not isinstance(value, dict)}
    flat |= {f"health.{name}": value for name, value in camera.get("health", {}).items()}
    return table(("FIELD", "VALUE"), list(flat.items()))
