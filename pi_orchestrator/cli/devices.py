"""`devices`: who is on the camera network by all that the daemon knows, and why it believes so."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import print_json

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers

MOST = 5000


def add_parser(subparsers: Subparsers) -> None:
    """Add `devices`."""
    parser = subparsers.add_parser(
        "devices",
        help="list devices on the camera network, or show one with the evidence",
        description="What the daemon knows of every device on the camera network, by whichever source.",
    )
    parser.add_argument("mac", nargs="?", metavar="MAC", help="show one, with the evidence and why")
    parser.add_argument("--all", action="store_true", help="also those that are offline")
    add_client(parser)
    parser.set_defaults(func=devices)


def devices(args: argparse.Namespace) -> int:
    """List devices, or show one."""
    from urllib.parse import quote

    from pi_orchestrator.cli.client import connect
    from pi_orchestrator.cli.device_text import card, device_table, remarks

    client = connect(args)
    if args.mac:
        device = client.get(f"/api/v1/devices/{quote(args.mac, safe='')}")
        print_json(device) if args.json else print(card(device))
        return 0
    page = client.get("/api/v1/devices", status="all" if args.all else "here", limit=MOST)
    found = page["devices"]
    if args.json:
        print_json(found)
        return 0
    if not found:
        print("Nobody is here." if not args.all else "No device has been seen yet.")
        return 0
    print(device_table(found))
    for remark in remarks(found):
        print(remark)
    if page["total"] > len(found):
        print(f"… and {page['total'] - len(found)} more.")
    return 0
