"""`api-key`: manage API keys."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pi_orchestrator.cli.connection import api_path, connect
from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import print_json, table
from pi_orchestrator.core.errors import NotFoundError

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers

BASE = "/api/v1/keys"


def add_parser(subparsers: Subparsers) -> None:
    """Add `api-key` and its verbs."""
    parser = subparsers.add_parser("api-key", help="create, list and revoke API keys")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    creation = verbs.add_parser("create", help="create a key; it is shown once")
    creation.add_argument("name", metavar="NAME", help="name of the program or person that will use the key")
    creation.add_argument(
        "--scope",
        choices=("read", "operate", "admin"),
        default="operate",
        help="what the key permits (default: %(default)s)",
    )
    creation.set_defaults(func=create)
    listing = verbs.add_parser("list", help="list keys, without their secrets")
    listing.set_defaults(func=list_keys)
    revocation = verbs.add_parser("revoke", help="revoke a key with immediate effect")
    revocation.add_argument("name", metavar="NAME", help="the key's name or id")
    revocation.set_defaults(func=revoke)
    for verb in (creation, listing, revocation):
        add_client(verb)


def create(args: argparse.Namespace) -> int:
    """Create a key and print it."""
    created = connect(args).post(BASE, {"name": args.name, "scope": args.scope})
    if args.json:
        print_json(created)
    else:
        print(created["secret"])
        print("Save it now: it cannot be shown again.")
    return 0


def list_keys(args: argparse.Namespace) -> int:
    """Print all keys."""
    keys = connect(args).get(BASE)["keys"]
    if args.json:
        print_json(keys)
    else:
        rows = [(key["id"], key["name"], key["scope"], key["created_at"][:10]) for key in keys]
        print(table(("ID", "NAME", "SCOPE", "CREATED"), rows) if rows else "No keys.")
    return 0


def revoke(args: argparse.Namespace) -> int:
    """Revoke a key; NotFoundError for an unknown name, which is probably a typing error."""
    client = connect(args)
    if not any(args.name in (key["id"], key["name"]) for key in client.get(BASE)["keys"]):
        raise NotFoundError(f"API key {args.name!r} not found", details="list the keys: pi-orchestrator api-key list")
    client.delete(api_path("keys", args.name))
    print_json({"revoked": args.name}) if args.json else print(f"Revoked {args.name}.")
    return 0
