"""`cameras`: who is there, what each is called, and who is on the record."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pi_orchestrator.cli import captures, containers
from pi_orchestrator.cli.camera_text import HEADERS, card, row
from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import print_json, table, wrapped
from pi_orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from pi_orchestrator.cli.client import Client
    from pi_orchestrator.cli.options import Subparsers

BASE = "/api/v1/cameras"
ESPCAM = "/api/v1/espcam"
_ID = "MAC in any spelling, or device id"


def add_parser(subparsers: Subparsers) -> None:
    """Add `cameras` and its verbs."""
    parser = subparsers.add_parser("cameras", help="who is there, and who is on the record")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    listing = verbs.add_parser("list", help="every camera, registered or heard")
    listing.set_defaults(func=list_cameras)
    one = verbs.add_parser("show", help="one camera")
    one.add_argument("id", metavar="ID", help=_ID)
    one.set_defaults(func=show)
    loose = verbs.add_parser("unassigned", help="registered cameras that stand in no container")
    loose.set_defaults(func=unassigned)
    name = verbs.add_parser("rename", help="call a camera something else")
    name.add_argument("id", metavar="ID", help=_ID)
    name.add_argument("name", metavar="NAME", help="up to 64 characters; '' goes back to its device id")
    name.set_defaults(func=rename)
    captures.add_verbs(verbs, id_help=_ID)
    _add_record(verbs)
    for verb in verbs.choices.values():
        add_client(verb)


def _add_record(verbs: Subparsers) -> None:
    new = verbs.add_parser("pair", help="register a camera by hand and put it into a container")
    new.add_argument("mac", metavar="MAC", help="in any spelling; it need not have been heard yet")
    new.add_argument("container", metavar="CONTAINER", help=containers.ID_HELP)
    new.add_argument("--position", type=int, metavar="N", help="1 to 4; default: the first free one")
    new.set_defaults(func=pair)
    gone = verbs.add_parser(
        "unpair",
        help="take a camera off the record",
        description="Take a camera off the record, with its name and place. Auto-onboarding does not bring it back.",
    )
    gone.add_argument("id", metavar="ID", help=_ID)
    gone.set_defaults(func=unpair)
    heir = verbs.add_parser(
        "replace",
        help="let new hardware take over",
        description="Let new hardware take over an old camera's name, place, registration and history.",
    )
    heir.add_argument("old", metavar="OLD", help=f"who leaves: {_ID}")
    heir.add_argument("new", metavar="NEW", help=f"who takes over: {_ID}")
    heir.set_defaults(func=replace)
    out = verbs.add_parser("dismissed", help="who was unpaired or replaced, by whom and why")
    out.set_defaults(func=dismissed)
    back = verbs.add_parser("lift", help="let auto-onboarding take a camera again that was taken out")
    back.add_argument("mac", metavar="MAC", help="in any spelling")
    back.set_defaults(func=lift)


def list_cameras(args: argparse.Namespace) -> int:
    """Print registered and live cameras."""
    client = _client(args)
    everyone = {camera["mac_address"]: camera for camera in client.get(BASE)["cameras"]}
    for path in (f"{ESPCAM}/paired", f"{BASE}/unassigned"):
        for camera in client.get(path)["cameras"]:
            everyone.setdefault(camera["mac_address"], camera)
    return _print(
        args, list(everyone.values()), "No cameras yet. They appear when they publish on MQTT (camera/status/...)."
    )


def show(args: argparse.Namespace) -> int:
    """Print one camera."""
    client = _client(args)
    camera = client.get(_path(args.id))
    if args.json:
        print_json(camera)
        return 0
    try:
        why = client.get(f"/api/v1/devices/{quote(camera['mac_address'], safe='')}")["why"]
    except OrchestratorError as error:
        if error.code != "DEVICE_NOT_FOUND":
            raise
        why = ""  # nothing has been heard of it since the daemon started
    print(card(camera, why=why))
    return 0


def unassigned(args: argparse.Namespace) -> int:
    """Print registered cameras without a place."""
    return _print(args, _client(args).get(f"{BASE}/unassigned")["cameras"], "Every registered camera has its place.")


def rename(args: argparse.Namespace) -> int:
    """Call a camera something else."""
    camera = _client(args).patch(_path(args.id), {"name": args.name})
    return _done(args, camera, f"{camera['mac_address']} is called {camera['name']}.")


def pair(args: argparse.Namespace) -> int:
    """Register a camera by hand."""
    client = _client(args)
    body = {"mac": args.mac, "container_id": containers.find(client, args.container), "position": args.position}
    camera = client.post(f"{ESPCAM}/pair", {name: value for name, value in body.items() if value is not None})
    return _done(
        args, camera, f"{camera['mac_address']} stands in {camera['container_id']} on position {camera['position']}."
    )


def unpair(args: argparse.Namespace) -> int:
    """Take a camera off the record."""
    client = _client(args)
    gone = client.delete(f"{ESPCAM}/paired/{quote(_mac(client, args.id), safe='')}")
    return _done(args, gone, f"{gone['mac_address']} is off the record. Auto-onboarding does not bring it back.")


def replace(args: argparse.Namespace) -> int:
    """Let new hardware take over."""
    client = _client(args)
    body = {"old_mac": _mac(client, args.old), "new_mac": _mac(client, args.new)}
    camera = client.post(f"{ESPCAM}/replace", body)
    place = f", on position {camera['position']} of {camera['container_id']}" if "position" in camera else ""
    return _done(args, camera, f"{camera['mac_address']} is {camera['name']} now{place}.")


def dismissed(args: argparse.Namespace) -> int:
    """Print who was taken out."""
    cameras = _client(args).get(f"{ESPCAM}/dismissed")["cameras"]
    if args.json:
        print_json(cameras)
    elif cameras:
        for camera in cameras:
            print(f"{camera['mac_address']}  {camera['name']}")
            print(wrapped(camera["why"], indent="  "))
    else:
        print("Nobody was taken out.")
    return 0


def lift(args: argparse.Namespace) -> int:
    """Let a camera come back."""
    _client(args).delete(f"{ESPCAM}/dismissed/{quote(args.mac, safe='')}")
    return _done(args, {"mac_address": args.mac}, f"Auto-onboarding may take {args.mac} again.")


def _client(args: argparse.Namespace) -> Client:
    from pi_orchestrator.cli.client import connect

    return connect(args)


def _path(name: str) -> str:
    return f"{BASE}/{quote(name, safe='')}"


def _mac(client: Client, name: str) -> str:
    """The MAC that a device id stands for; a MAC as it is, for the camera need not be known."""
    from pi_orchestrator.domain.mac import try_mac

    return try_mac(name) or str(client.get(_path(name))["mac_address"])


def _print(args: argparse.Namespace, cameras: list[dict[str, Any]], none: str) -> int:
    if args.json:
        print_json(cameras)
    elif cameras:
        print(table(HEADERS, [row(camera) for camera in cameras]))
    else:
        print(none)
    return 0


def _done(args: argparse.Namespace, answer: dict[str, Any], text: str) -> int:
    print_json(answer) if args.json else print(wrapped(text))
    return 0
