"""`devices`: list the devices on the camera network, or show one with its evidence."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pi_orchestrator.cli.connection import api_path, connect
from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import print_json

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers

MAX_DEVICES = 5000


def add_parser(subparsers: Subparsers) -> None:
    """Add `devices`."""
    parser = subparsers.add_parser(
        "devices",
        help="list devices on the camera network, or show one and which sources saw it",
        description="List the devices on the camera network that the daemon knows from all sources.",
    )
    parser.add_argument(
        "mac",
        nargs="?",
        metavar="MAC",
        help="MAC in any format; show this device and which sources (ARP, MQTT, ...) saw it",
    )
    parser.add_argument("--all", action="store_true", help="include offline devices")
    add_client(parser)
    parser.set_defaults(func=devices)


def devices(args: argparse.Namespace) -> int:
    """List devices, or show one."""
    from pi_orchestrator.features.discovery.cli_text import card, device_table, remarks, unreadable_remarks

    client = connect(args)
    if args.mac:
        device = client.get(api_path("devices", args.mac))
        print_json(device) if args.json else print(card(device))
        return 0
    page = client.get("/api/v1/devices", status="all" if args.all else "here", limit=MAX_DEVICES)
    listed = page["devices"]
    if args.json:
        print_json(listed)
        return 0
    if not listed:
        print("No device is present." if not args.all else "No device has been seen yet.")
    else:
        print(device_table(listed))
    for remark in (*remarks(listed), *unreadable_remarks(page["unreadable"])):
        print(remark)
    if page["total"] > len(listed):
        print(f"… and {page['total'] - len(listed)} more.")
    return 0
