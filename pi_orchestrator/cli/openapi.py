"""`openapi`: the API's description."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pi_orchestrator.cli.output import print_json

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add `openapi`."""
    parser = subparsers.add_parser("openapi", help="print the OpenAPI 3.1 document of the API")
    parser.set_defaults(func=openapi)


def openapi(_args: argparse.Namespace) -> int:
    """Print it."""
    from pi_orchestrator.api.openapi import build
    from pi_orchestrator.api.routes import ROUTES

    print_json(build(ROUTES))
    return 0
