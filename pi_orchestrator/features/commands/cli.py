"""Command `cameras reboot`."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.connection import api_path, connect
from pi_orchestrator.cli.options import CAMERA_ID
from pi_orchestrator.cli.output import print_json

if TYPE_CHECKING:
    from pi_orchestrator.cli.client import Client
    from pi_orchestrator.cli.options import Subparsers

POLL_INTERVAL_S = 0.5
RETURN_TIMEOUT_S = 90.0
"""Longer than the timeout of the daemon, 60 s, after which the camera is no longer `rebooting`."""


def add_verbs(verbs: Subparsers) -> None:
    """Add `reboot` to `cameras`."""
    parser = verbs.add_parser("reboot", help="reboot a camera")
    parser.add_argument("id", metavar="CAMERA", help=CAMERA_ID)
    parser.add_argument(
        "--wait", action="store_true", help="wait until the camera is online again; exit code 1 if it does not return"
    )
    parser.set_defaults(func=reboot)


def reboot(args: argparse.Namespace) -> int:
    """Reboot a camera; with `--wait`, wait until it is online again."""
    client = connect(args)
    answer = client.post(api_path("cameras", args.id, "reboot"))
    if not args.wait:
        print_json(answer) if args.json else print(f"{args.id} is rebooting.")
        return 0
    camera = _wait_until_rebooted(client, args.id)
    error = camera["health"].get("last_error", "reboot not finished") if camera["status"] != "online" else ""
    if args.json:
        print_json(camera)
    elif not error:
        print(f"{args.id} is online again.")
    if error:
        print(f"{args.id} is {camera['status']}: {error}", file=sys.stderr)
    return 1 if error else 0


def _wait_until_rebooted(client: Client, name: str) -> dict[str, Any]:
    deadline = time.monotonic() + RETURN_TIMEOUT_S
    while True:
        camera: dict[str, Any] = client.get(api_path("cameras", name))
        if camera["status"] != "rebooting" or time.monotonic() > deadline:
            return camera
        time.sleep(POLL_INTERVAL_S)
