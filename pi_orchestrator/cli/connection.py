"""Connects commands to the daemon; loads the HTTP client at the first connection."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from pi_orchestrator.cli.client import Client


def connect(args: argparse.Namespace) -> Client:
    """See `client.connect`. Imports `client` here, because the HTTP client loads slowly."""
    from pi_orchestrator.cli import client

    return client.connect(args)


def api_path(*names: str) -> str:
    """The path below `/api/v1/` with these names as quoted segments."""
    return "/api/v1/" + "/".join(quote(name, safe="") for name in names)
