"""`secrets`: the key that encrypts stored passwords."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pi_orchestrator.cli.connection import connect
from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import print_json, wrapped

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add `secrets` and its verb."""
    parser = subparsers.add_parser("secrets", help="manage the key that encrypts stored passwords")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    verb = verbs.add_parser(
        "rotate",
        help="replace the key that encrypts stored passwords",
        description="Create a new key, encrypt every stored password with it, and destroy the old key."
        " Requires an admin API key. The daemon keeps running.",
    )
    add_client(verb)
    verb.set_defaults(func=rotate)


def rotate(args: argparse.Namespace) -> int:
    """Rotate the key."""
    answer = connect(args).post("/api/v1/provisioning/secrets/rotate")
    print_json(answer) if args.json else print(wrapped(answer["message"]))
    return 0
