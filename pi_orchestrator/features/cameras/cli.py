"""`cameras`: list, show and rename cameras."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.connection import api_path, connect
from pi_orchestrator.cli.options import CAMERA_ID
from pi_orchestrator.cli.output import print_json, print_result, table
from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.core.errors import OrchestratorError
from pi_orchestrator.features.cameras.cli_text import HEADERS, card, row

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers

BASE = "/api/v1/cameras"
ESPCAM = "/api/v1/espcam"


def add_parser(subparsers: Subparsers) -> Subparsers:
    """Add `cameras` and its own verbs; returns the group, for verbs of other features."""
    parser = subparsers.add_parser("cameras", help="list and manage cameras")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    listing = verbs.add_parser("list", help="list all cameras: registered or present")
    listing.set_defaults(func=list_cameras)
    detail = verbs.add_parser("show", help="show one camera")
    detail.add_argument("id", metavar="CAMERA", help=CAMERA_ID)
    detail.set_defaults(func=show)
    free = verbs.add_parser("unassigned", help="list registered cameras without a container")
    free.set_defaults(func=unassigned)
    naming = verbs.add_parser("rename", help="rename a camera")
    naming.add_argument("id", metavar="CAMERA", help=CAMERA_ID)
    naming.add_argument("name", metavar="NAME", help="up to 64 characters; '' resets it to the device id")
    naming.set_defaults(func=rename)
    return verbs


def list_cameras(args: argparse.Namespace) -> int:
    """Print all cameras: registered or present."""
    client = connect(args)
    cameras = {camera["mac_address"]: camera for camera in client.get(BASE)["cameras"]}
    for path in (f"{ESPCAM}/paired", f"{BASE}/unassigned"):
        for camera in client.get(path)["cameras"]:
            cameras.setdefault(camera["mac_address"], camera)
    return _print(
        args, list(cameras.values()), "No cameras yet. They appear when they publish on MQTT (camera/status/...)."
    )


def show(args: argparse.Namespace) -> int:
    """Print one camera."""
    client = connect(args)
    camera = client.get(api_path("cameras", args.id))
    if args.json:
        print_json(camera)
        return 0
    try:
        why = client.get(api_path("devices", camera["mac_address"]))["why"]
    except OrchestratorError as error:
        if error.code != ErrorCode.DEVICE_NOT_FOUND:
            raise
        why = ""  # not seen since the daemon started
    print(card(camera, why=why))
    return 0


def unassigned(args: argparse.Namespace) -> int:
    """Print registered cameras without a container."""
    return _print(
        args, connect(args).get(f"{BASE}/unassigned")["cameras"], "Every registered camera is in a container."
    )


def rename(args: argparse.Namespace) -> int:
    """Rename a camera."""
    camera = connect(args).patch(api_path("cameras", args.id), {"name": args.name})
    return print_result(args, camera, f"{camera['mac_address']} renamed to {camera['name']}.")


def _print(args: argparse.Namespace, cameras: list[dict[str, Any]], empty_text: str) -> int:
    if args.json:
        print_json(cameras)
    elif cameras:
        print(table(HEADERS, [row(camera) for camera in cameras]))
    else:
        print(empty_text)
    return 0
