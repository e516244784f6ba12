"""`secrets`: the key under which stored passwords lie."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import print_json, wrapped

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add `secrets` and its verb."""
    parser = subparsers.add_parser("secrets", help="the key that protects stored passwords")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    verb = verbs.add_parser(
        "rotate",
        help="make a new key",
        description="Make a new key, put every stored password under it, and destroy the old one."
        " Needs an admin key; nothing has to be stopped for it.",
    )
    add_client(verb)
    verb.set_defaults(func=rotate)


def rotate(args: argparse.Namespace) -> int:
    """Rotate."""
    from pi_orchestrator.cli.client import connect

    answer = connect(args).post("/api/v1/provisioning/secrets/rotate")
    print_json(answer) if args.json else print(wrapped(answer["message"]))
    return 0
