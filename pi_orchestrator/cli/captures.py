"""`cameras capture` and `cameras reboot`: what a camera is told to do."""

from __future__ import annotations

import argparse
import base64
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pi_orchestrator.cli.output import print_json, wrapped
from pi_orchestrator.errors import OrchestratorError, SettingsError

if TYPE_CHECKING:
    from pi_orchestrator.cli.client import Client
    from pi_orchestrator.cli.options import Subparsers

LOOK_S = 0.5
BACK_WITHIN_S = 90.0
"""A little more than the daemon itself waits."""


def add_verbs(verbs: Subparsers, *, id_help: str) -> None:
    """Add both to `cameras`."""
    picture = verbs.add_parser(
        "capture",
        help="take a picture",
        description="Take a picture and write the JPEG to a file. Exit codes: 0 taken, 1 not.",
    )
    picture.add_argument("id", metavar="ID", help=id_help)
    picture.add_argument("-o", "--output", metavar="FILE", required=True, help="where to; - is stdout")
    picture.set_defaults(func=capture)
    again = verbs.add_parser("reboot", help="reboot a camera")
    again.add_argument("id", metavar="ID", help=id_help)
    again.add_argument("--wait", action="store_true", help="until it is back; exit code 1 if it does not come back")
    again.set_defaults(func=reboot)


def capture(args: argparse.Namespace) -> int:
    """Take a picture and write it."""
    to_stdout = args.output == "-"
    if to_stdout and sys.stdout.isatty():
        raise SettingsError(["--output: a picture is no text for a terminal; name a file, or pipe it on"])
    taken = _client(args).post(f"{_path(args.id)}/capture")
    jpeg = base64.b64decode(taken.pop("image"))
    if to_stdout:
        sys.stdout.buffer.write(jpeg)
        return 0
    try:
        Path(args.output).write_bytes(jpeg)
    except OSError as error:
        raise OrchestratorError(f"{args.output} cannot be written: {error.strerror}") from None
    if args.json:
        print_json(taken | {"file": args.output})
    else:
        at = taken["timestamp"][:19].replace("T", " ")
        about = f"{len(jpeg)} bytes, taken by {taken['camera_id']} on {at} UTC"
        print(wrapped(f"{args.output}: {about}", whole_words=True))
    return 0


def reboot(args: argparse.Namespace) -> int:
    """Reboot a camera, and wait for it where that is wanted."""
    client = _client(args)
    answer = client.post(f"{_path(args.id)}/reboot")
    if not args.wait:
        print_json(answer) if args.json else print(f"{args.id} reboots.")
        return 0
    camera = _when_back(client, args.id)
    trouble = camera["health"].get("last_error", "it is not back yet") if camera["status"] != "online" else ""
    if args.json:
        print_json(camera)
    elif not trouble:
        print(f"{args.id} is back.")
    if trouble:
        print(f"{args.id} is {camera['status']}: {trouble}", file=sys.stderr)
    return 1 if trouble else 0


def _when_back(client: Client, name: str) -> dict[str, Any]:
    deadline = time.monotonic() + BACK_WITHIN_S
    while True:
        camera: dict[str, Any] = client.get(_path(name))
        if camera["status"] != "rebooting" or time.monotonic() > deadline:
            return camera
        time.sleep(LOOK_S)


def _path(name: str) -> str:
    return f"/api/v1/cameras/{quote(name, safe='')}"


def _client(args: argparse.Namespace) -> Client:
    from pi_orchestrator.cli.client import connect

    return connect(args)
