"""Commands `cameras pair`, `unpair`, `replace`, `dismissed` and `lift`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pi_orchestrator.cli.connection import api_path, connect
from pi_orchestrator.cli.options import CAMERA_ID
from pi_orchestrator.cli.output import print_json, print_result, wrapped
from pi_orchestrator.features.containers import cli as containers

if TYPE_CHECKING:
    from pi_orchestrator.cli.client import Client
    from pi_orchestrator.cli.options import Subparsers

ESPCAM = "/api/v1/espcam"


def add_verbs(verbs: Subparsers) -> None:
    """Add the verbs to `cameras`."""
    new = verbs.add_parser("pair", help="register a camera and assign it to a container")
    new.add_argument("mac", metavar="MAC", help="MAC in any format; the camera need not be online")
    new.add_argument("container", metavar="CONTAINER", help=containers.ID_HELP)
    new.add_argument("--position", type=int, metavar="N", help="1 to 4; default: the first free position")
    new.set_defaults(func=pair)
    unpairing = verbs.add_parser(
        "unpair",
        help="unregister a camera",
        description="Unregister a camera and delete its name and position. Auto-onboarding does not register it again.",
    )
    unpairing.add_argument("id", metavar="CAMERA", help=CAMERA_ID)
    unpairing.set_defaults(func=unpair)
    replacement = verbs.add_parser(
        "replace",
        help="replace a camera with new hardware",
        description="Replace a camera with new hardware, which takes over its name, position, registration and"
        " history.",
    )
    replacement.add_argument("old", metavar="OLD", help=f"old camera: {CAMERA_ID}")
    replacement.add_argument("new", metavar="NEW", help=f"new camera: {CAMERA_ID}")
    replacement.set_defaults(func=replace)
    listing = verbs.add_parser(
        "dismissed",
        help="list cameras excluded from auto-onboarding",
        description="List cameras excluded from auto-onboarding, because an operator unpaired or replaced them.",
    )
    listing.set_defaults(func=dismissed)
    lifting = verbs.add_parser(
        "lift",
        help="allow auto-onboarding of an excluded camera again",
        description="Remove the exclusion of a camera, so that auto-onboarding may register it again.",
    )
    lifting.add_argument("mac", metavar="MAC", help="MAC in any format")
    lifting.set_defaults(func=lift)


def pair(args: argparse.Namespace) -> int:
    """Register a camera and assign it to a container."""
    client = connect(args)
    body = {"mac": args.mac, "container_id": containers.find_id(client, args.container), "position": args.position}
    camera = client.post(f"{ESPCAM}/pair", {name: value for name, value in body.items() if value is not None})
    return print_result(
        args, camera, f"{camera['mac_address']} is in {camera['container_id']} on position {camera['position']}."
    )


def unpair(args: argparse.Namespace) -> int:
    """Unregister a camera."""
    client = connect(args)
    camera = client.delete(api_path("espcam", "paired", _mac(client, args.id)))
    return print_result(
        args, camera, f"{camera['mac_address']} is unregistered. Auto-onboarding does not register it again."
    )


def replace(args: argparse.Namespace) -> int:
    """Replace a camera with new hardware."""
    client = connect(args)
    body = {"old_mac": _mac(client, args.old), "new_mac": _mac(client, args.new)}
    camera = client.post(f"{ESPCAM}/replace", body)
    place = f", on position {camera['position']} of {camera['container_id']}" if "position" in camera else ""
    return print_result(args, camera, f"{camera['mac_address']} is {camera['name']} now{place}.")


def dismissed(args: argparse.Namespace) -> int:
    """Print the excluded cameras."""
    cameras = connect(args).get(f"{ESPCAM}/dismissed")["cameras"]
    if args.json:
        print_json(cameras)
    elif cameras:
        for camera in cameras:
            print(f"{camera['mac_address']}  {camera['name']}")
            print(wrapped(camera["why"], indent="  "))
    else:
        print("No camera is excluded.")
    return 0


def lift(args: argparse.Namespace) -> int:
    """Allow auto-onboarding of a camera again."""
    connect(args).delete(api_path("espcam", "dismissed", args.mac))
    return print_result(args, {"mac_address": args.mac}, f"Auto-onboarding may register {args.mac} again.")


def _mac(client: Client, name: str) -> str:
    """The MAC of a device id; a MAC is returned unchanged, because the camera need not be registered."""
    from pi_orchestrator.core.mac import try_mac

    return try_mac(name) or str(client.get(api_path("cameras", name))["mac_address"])
