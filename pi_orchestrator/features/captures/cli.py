"""Command `cameras capture`."""

from __future__ import annotations

import argparse
import base64
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pi_orchestrator.cli.connection import api_path, connect
from pi_orchestrator.cli.options import CAMERA_ID
from pi_orchestrator.cli.output import print_json, wrapped
from pi_orchestrator.core.errors import ArgumentsError, OrchestratorError

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers


def add_verbs(verbs: Subparsers) -> None:
    """Add `capture` to `cameras`."""
    picture = verbs.add_parser(
        "capture",
        help="take a picture",
        description="Take a picture and write the JPEG to a file. Exit code 1 if the capture failed.",
    )
    picture.add_argument("id", metavar="CAMERA", help=CAMERA_ID)
    picture.add_argument("-o", "--output", metavar="FILE", required=True, help="target file, or - for stdout")
    picture.set_defaults(func=capture)


def capture(args: argparse.Namespace) -> int:
    """Take a picture and write it to a file or stdout."""
    to_stdout = args.output == "-"
    if to_stdout and sys.stdout.isatty():
        raise ArgumentsError(["--output: cannot write a JPEG to a terminal; give a file name, or pipe stdout"])
    picture = connect(args).post(api_path("cameras", args.id, "capture"))
    jpeg = base64.b64decode(picture.pop("image"))
    if to_stdout:
        sys.stdout.buffer.write(jpeg)
        return 0
    try:
        Path(args.output).write_bytes(jpeg)
    except OSError as error:
        raise OrchestratorError(f"cannot write {args.output}: {error.strerror}") from None
    if args.json:
        print_json(picture | {"file": args.output})
    else:
        time = picture["timestamp"][:19].replace("T", " ")
        summary = f"{len(jpeg)} bytes, taken by {picture['camera_id']} on {time} UTC"
        print(wrapped(f"{args.output}: {summary}", whole_words=True))
    return 0
