"""Commands `containers VERB`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.connection import api_path, connect
from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import print_json, print_result, table, wrapped
from pi_orchestrator.core.errors import NotFoundError

if TYPE_CHECKING:
    from pi_orchestrator.cli.client import Client
    from pi_orchestrator.cli.options import Subparsers

BASE = "/api/v1/containers"
ID_HELP = "container id, or its label if unique"


def add_parser(subparsers: Subparsers) -> None:
    """Add `containers` and its verbs."""
    parser = subparsers.add_parser("containers", help="manage containers: places with positions for four cameras")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    verbs.add_parser("list", help="list the containers").set_defaults(func=list_containers)
    detail = verbs.add_parser("show", help="show a container and its cameras")
    new = verbs.add_parser("create", help="create a container")
    new.add_argument("label", nargs="?", metavar="LABEL", help="display name, up to 100 characters")
    new.add_argument("--description", metavar="TEXT", help="a note, up to 500 characters")
    renaming = verbs.add_parser("rename", help="change the label or description of a container")
    deletion = verbs.add_parser("delete", help="delete an empty container")
    assignment = verbs.add_parser("assign", help="assign a camera to a position")
    removal = verbs.add_parser("remove", help="remove a camera from a container; it stays registered")
    for verb in (detail, renaming, deletion, assignment, removal):
        verb.add_argument("container", metavar="CONTAINER", help=ID_HELP)
    renaming.add_argument("label", metavar="LABEL", help="display name; '' deletes it")
    renaming.add_argument("--description", metavar="TEXT", help="a note; '' deletes it")
    for verb in (assignment, removal):
        verb.add_argument("camera", metavar="CAMERA", help="MAC in any format, or device id")
    assignment.add_argument("position", type=int, metavar="POSITION", help="1, 2, 3 or 4")
    for verb, func in (
        (detail, show),
        (new, create),
        (renaming, rename),
        (deletion, delete),
        (assignment, assign),
        (removal, remove),
    ):
        verb.set_defaults(func=func)
    for verb in verbs.choices.values():
        add_client(verb)


def list_containers(args: argparse.Namespace) -> int:
    """Print every container."""
    containers = connect(args).get(BASE)["containers"]
    if args.json:
        print_json(containers)
    elif containers:
        rows = [
            (item["id"], f"{item['camera_count']}/4", item["online_count"], item.get("label")) for item in containers
        ]
        print(table(("ID", "CAMERAS", "ONLINE", "LABEL"), rows))
    else:
        print("No containers yet. To create one: pi-orchestrator containers create LABEL")
    return 0


def show(args: argparse.Namespace) -> int:
    """Print one container."""
    client = connect(args)
    container = client.get(_path(client, args.container))
    if args.json:
        print_json(container)
        return 0
    print(wrapped(container.get("label") or container["id"]))
    if "label" in container:
        print(container["id"])
    if "description" in container:
        print(wrapped(container["description"]))
    by_position = {camera["position"]: camera for camera in container["cameras"]}
    rows = [_position_row(position, by_position.get(position)) for position in (1, 2, 3, 4)]
    print(table(("POS", "MAC", "STATUS", "NAME"), rows))
    return 0


def create(args: argparse.Namespace) -> int:
    """Create a container."""
    fields = {"label": args.label, "description": args.description}
    container = connect(args).post(BASE, {name: value for name, value in fields.items() if value is not None})
    return print_result(args, container, f"Created {container.get('label') or 'a container'}, id {container['id']}.")


def rename(args: argparse.Namespace) -> int:
    """Change the label or description of a container."""
    client = connect(args)
    body = {"label": args.label} | ({} if args.description is None else {"description": args.description})
    container = client.patch(_path(client, args.container), body)
    return print_result(args, container, f"Label of {container['id']}: {container.get('label') or 'none'}.")


def delete(args: argparse.Namespace) -> int:
    """Delete a container."""
    client = connect(args)
    path = _path(client, args.container)
    client.delete(path)
    return print_result(args, {"deleted": path.rpartition("/")[2]}, f"Deleted {args.container}.")


def assign(args: argparse.Namespace) -> int:
    """Assign a camera to a position."""
    client = connect(args)
    body = {"device_id": args.camera, "position": args.position}
    assigned = client.post(f"{_path(client, args.container)}/cameras", body)
    return print_result(args, assigned, f"{assigned['device_id']} is on position {assigned['position']}.")


def remove(args: argparse.Namespace) -> int:
    """Remove a camera from a container."""
    client = connect(args)
    answer = client.delete(api_path("containers", find_id(client, args.container), "cameras", args.camera))
    return print_result(args, answer, f"{answer['message']}.")


def _path(client: Client, name: str) -> str:
    return api_path("containers", find_id(client, name))


def find_id(client: Client, name: str) -> str:
    """The id of the container with this id, else with this label; NotFoundError if none or several match."""
    containers = client.get(BASE)["containers"]
    ids = [container["id"] for container in containers if container["id"] == name]
    ids = ids or [container["id"] for container in containers if container.get("label") == name]
    if len(ids) > 1:
        raise NotFoundError(f"{len(ids)} containers have the label {name!r}", details=f"use an id: {ids[0]}, …")
    if not ids:
        raise NotFoundError(f"container {name!r} does not exist", details="see: pi-orchestrator containers list")
    return str(ids[0])


def _position_row(position: int, camera: dict[str, Any] | None) -> tuple[object, ...]:
    if camera is None:
        return (position, None, "free", None)
    return (position, camera["mac_address"], camera["status"], camera.get("name"))
