"""`sessions start`: open a session; the password is read from a file, stdin or the terminal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.connection import connect
from pi_orchestrator.cli.output import print_json, wrapped
from pi_orchestrator.core.errors import ArgumentsError, OrchestratorError
from pi_orchestrator.features.provisioning.cli_session import BATCH

if TYPE_CHECKING:
    Json = dict[str, Any]

MAX_PASSWORD_BYTES = 1024
STEPS = ("discovery", "provisioning", "verification")
"""Steps with a configurable timeout."""


def start_session(args: argparse.Namespace) -> int:
    """Open a session."""
    body: Json = {}
    if args.ssid is not None:
        body["target_ssid"] = args.ssid
    if args.interface is not None:
        body["network_interface"] = args.interface
    config = {f"{step}_timeout_seconds": getattr(args, f"{step}_timeout") for step in STEPS}
    if timeouts := {name: value for name, value in config.items() if value is not None}:
        body["config"] = timeouts
    client = connect(args)
    password = _password(args)
    if password is not None:
        body["target_password"] = password
    answer = client.post(BATCH, body)
    session = answer["session"]
    if args.json:
        print_json(session)
        return 0
    target = session["target_ssid"]
    print(f"Session {session['id']} on {session['network_interface']}")
    print(wrapped(answer["message"]))
    if target:
        print(wrapped(f"To move cameras to {target!r}: pi-orchestrator sessions provision-all"))
    else:
        print(
            wrapped("It cannot provision cameras without a target network. Set provisioning.target_ssid or use --ssid.")
        )
    return 0


def _password(args: argparse.Namespace) -> str | None:
    """The target network's password from the source in the options; None for the configured one."""
    if args.open + args.password_stdin + (args.password_file is not None) > 1:
        raise ArgumentsError(["--password-file, --password-stdin, --open: use only one of them"])
    if args.open:
        return ""
    try:
        if args.password_file is not None:
            with Path(args.password_file).open("rb") as file:
                return _first_line(file.read(MAX_PASSWORD_BYTES + 1), args.password_file)
        if args.password_stdin:
            return _first_line(sys.stdin.buffer.readline(MAX_PASSWORD_BYTES + 1), "stdin")
    except OSError as error:
        raise OrchestratorError(
            f"{args.password_file or 'stdin'} cannot be read: {error.strerror}",
            details="give a file with the password in its first line, or pipe it to --password-stdin",
        ) from error
    if args.ssid is None:
        return None
    if not sys.stdin.isatty():
        raise ArgumentsError(["--ssid: password missing; use --password-file, --password-stdin or --open"])
    from getpass import getpass

    try:
        return _not_empty(getpass(f"Password of {args.ssid!r}: "), "the password that was typed")
    except EOFError:
        raise KeyboardInterrupt from None


def _first_line(raw: bytes, origin: str) -> str:
    line = raw.split(b"\n", 1)[0].removesuffix(b"\r")
    if len(line) > MAX_PASSWORD_BYTES:
        raise OrchestratorError(f"no password in {origin}: the first line is longer than {MAX_PASSWORD_BYTES} bytes")
    try:
        return _not_empty(line.decode("utf-8"), origin)
    except UnicodeDecodeError:
        raise OrchestratorError(f"no password in {origin}: the first line is not UTF-8") from None


def _not_empty(password: str, origin: str) -> str:
    if not password:
        raise OrchestratorError(f"{origin} is empty", details="for a network without a password use --open")
    return password
