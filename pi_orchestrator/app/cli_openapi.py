"""`openapi`: the OpenAPI document of the API."""

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
    """Print the document."""
    from pi_orchestrator.app.build import ROUTES, TAGS
    from pi_orchestrator.edge_http.api_document import ApiDocument

    print_json(ApiDocument(ROUTES, TAGS).document())
    return 0
