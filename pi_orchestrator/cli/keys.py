"""`api-key`: who may use the API."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING
from urllib.parse import quote

from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import print_json, table
from pi_orchestrator.errors import NotFoundError

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers

BASE = "/api/v1/keys"


def add_parser(subparsers: Subparsers) -> None:
    """Add `api-key` and its verbs."""
    parser = subparsers.add_parser("api-key", help="create, list and revoke API keys")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    new = verbs.add_parser("create", help="make a key; it is shown once")
    new.add_argument("name", metavar="NAME", help="who will use it")
    new.add_argument(
        "--scope", choices=("read", "operate", "admin"), default="operate", help="what it may do (%(default)s)"
    )
    new.set_defaults(func=create)
    listing = verbs.add_parser("list", help="every key, without the key")
    listing.set_defaults(func=list_keys)
    gone = verbs.add_parser("revoke", help="remove a key; it stops working at once")
    gone.add_argument("name", metavar="NAME", help="the key's name or id")
    gone.set_defaults(func=revoke)
    for verb in (new, listing, gone):
        add_client(verb)


def create(args: argparse.Namespace) -> int:
    """Make a key and print it."""
    from pi_orchestrator.cli.client import connect

    made = connect(args).post(BASE, {"name": args.name, "scope": args.scope})
    if args.json:
        print_json(made)
    else:
        print(made["secret"])
        print("Keep it now: it is not stored and cannot be shown again.")
    return 0


def list_keys(args: argparse.Namespace) -> int:
    """Print every key."""
    from pi_orchestrator.cli.client import connect

    keys = connect(args).get(BASE)["keys"]
    if args.json:
        print_json(keys)
    else:
        rows = [(key["id"], key["name"], key["scope"], key["created_at"][:10]) for key in keys]
        print(table(("ID", "NAME", "SCOPE", "CREATED"), rows) if rows else "No keys.")
    return 0


def revoke(args: argparse.Namespace) -> int:
    """Remove a key; a name that no key has is an error here, where a person may have mistyped it."""
    from pi_orchestrator.cli.client import connect

    client = connect(args)
    if not any(args.name in (key["id"], key["name"]) for key in client.get(BASE)["keys"]):
        raise NotFoundError(f"there is no key {args.name!r}", details="see: pi-orchestrator api-key list")
    client.delete(f"{BASE}/{quote(args.name, safe='')}")
    print_json({"revoked": args.name}) if args.json else print(f"Revoked {args.name}.")
    return 0
