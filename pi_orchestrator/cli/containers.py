"""`containers`: four places each, and who stands where."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import print_json, table, wrapped
from pi_orchestrator.errors import NotFoundError

if TYPE_CHECKING:
    from pi_orchestrator.cli.client import Client
    from pi_orchestrator.cli.options import Subparsers

BASE = "/api/v1/containers"
ID_HELP = "its id, or its label where no other has the same"


def add_parser(subparsers: Subparsers) -> None:
    """Add `containers` and its verbs."""
    parser = subparsers.add_parser("containers", help="containers of four cameras, and who stands where")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    verbs.add_parser("list", help="every container").set_defaults(func=list_containers)
    one = verbs.add_parser("show", help="one container and who stands in it")
    new = verbs.add_parser("create", help="make a container")
    new.add_argument("label", nargs="?", metavar="LABEL", help="what people call it, in up to 100 characters")
    new.add_argument("--description", metavar="TEXT", help="what it is, in up to 500 characters")
    name = verbs.add_parser("rename", help="write something else on a container")
    gone = verbs.add_parser("delete", help="delete an empty container")
    put = verbs.add_parser("assign", help="put a camera on a position")
    out = verbs.add_parser("remove", help="take a camera out; it stays registered")
    for verb in (one, name, gone, put, out):
        verb.add_argument("container", metavar="CONTAINER", help=ID_HELP)
    name.add_argument("label", metavar="LABEL", help="what people call it; '' is none")
    name.add_argument("--description", metavar="TEXT", help="what it is; '' is nothing")
    for verb in (put, out):
        verb.add_argument("camera", metavar="CAMERA", help="MAC in any spelling, or device id")
    put.add_argument("position", type=int, metavar="POSITION", help="1, 2, 3 or 4")
    for verb, func in ((one, show), (new, create), (name, rename), (gone, delete), (put, assign), (out, remove)):
        verb.set_defaults(func=func)
    for verb in verbs.choices.values():
        add_client(verb)


def list_containers(args: argparse.Namespace) -> int:
    """Print every container."""
    containers = _client(args).get(BASE)["containers"]
    if args.json:
        print_json(containers)
    elif containers:
        rows = [(one["id"], f"{one['camera_count']}/4", one["online_count"], one.get("label")) for one in containers]
        print(table(("ID", "CAMERAS", "ONLINE", "LABEL"), rows))
    else:
        print("No containers yet. To make one: pi-orchestrator containers create LABEL")
    return 0


def show(args: argparse.Namespace) -> int:
    """Print one container."""
    client = _client(args)
    container = client.get(_path(client, args.container))
    if args.json:
        print_json(container)
        return 0
    print(wrapped(container.get("label") or container["id"]))
    if "label" in container:
        print(container["id"])
    if "description" in container:
        print(wrapped(container["description"]))
    standing = {camera["position"]: camera for camera in container["cameras"]}
    rows = [_place(position, standing.get(position)) for position in (1, 2, 3, 4)]
    print(table(("POS", "MAC", "STATUS", "NAME"), rows))
    return 0


def create(args: argparse.Namespace) -> int:
    """Make a container."""
    given = {"label": args.label, "description": args.description}
    container = _client(args).post(BASE, {name: value for name, value in given.items() if value is not None})
    return _done(args, container, f"{container.get('label') or 'A container'} is made; its id is {container['id']}.")


def rename(args: argparse.Namespace) -> int:
    """Write something else on a container."""
    client = _client(args)
    body = {"label": args.label} | ({} if args.description is None else {"description": args.description})
    container = client.patch(_path(client, args.container), body)
    return _done(args, container, f"{container['id']} is called {container.get('label') or 'nothing'} now.")


def delete(args: argparse.Namespace) -> int:
    """Delete a container."""
    client = _client(args)
    path = _path(client, args.container)
    client.delete(path)
    return _done(args, {"deleted": path.rpartition("/")[2]}, f"{args.container} is deleted.")


def assign(args: argparse.Namespace) -> int:
    """Put a camera on a position."""
    client = _client(args)
    body = {"device_id": args.camera, "position": args.position}
    place = client.post(f"{_path(client, args.container)}/cameras", body)
    return _done(args, place, f"{place['device_id']} stands on position {place['position']}.")


def remove(args: argparse.Namespace) -> int:
    """Take a camera out."""
    client = _client(args)
    gone = client.delete(f"{_path(client, args.container)}/cameras/{quote(args.camera, safe='')}")
    return _done(args, gone, f"{gone['message']}.")


def _client(args: argparse.Namespace) -> Client:
    from pi_orchestrator.cli.client import connect

    return connect(args)


def _path(client: Client, word: str) -> str:
    return f"{BASE}/{quote(find(client, word), safe='')}"


def find(client: Client, word: str) -> str:
    """The id of the container that a person means: by its id, else by its label."""
    containers = client.get(BASE)["containers"]
    found = [one["id"] for one in containers if one["id"] == word]
    found = found or [one["id"] for one in containers if one.get("label") == word]
    if len(found) > 1:
        raise NotFoundError(
            f"{len(found)} containers are called {word!r}", details=f"name one by its id: {found[0]}, …"
        )
    if not found:
        raise NotFoundError(f"there is no container {word!r}", details="see: pi-orchestrator containers list")
    return str(found[0])


def _place(position: int, camera: dict[str, Any] | None) -> tuple[object, ...]:
    if camera is None:
        return (position, None, "free", None)
    return (position, camera["mac_address"], camera["status"], camera.get("name"))


def _done(args: argparse.Namespace, answer: dict[str, Any], text: str) -> int:
    print_json(answer) if args.json else print(wrapped(text))
    return 0
