"""The `pi-orchestrator` command."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from pi_orchestrator import __version__
from pi_orchestrator.cli import (
    allowlist,
    bundle,
    cameras,
    config,
    containers,
    demo,
    devices,
    doctor,
    events,
    keys,
    logs,
    network,
    onboarding,
    openapi,
    run,
    sandbox,
    scan,
    secrets,
    sessions,
)
from pi_orchestrator.cli.output import wrapped
from pi_orchestrator.errors import OrchestratorError, SettingsError

EXIT_CODES = "exit codes: 0 done, 1 failed, 2 wrong configuration or arguments, 3 the daemon cannot be reached"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run one command, and turn its failure into a message and an exit code."""
    try:
        try:
            return _main(argv)
        finally:
            print(end="", flush=True)  # a reader that has gone (head, less) is met here, not at the very end
    except BrokenPipeError:
        # It has seen enough; nothing more may be written, not even at exit.
        _drop_output()
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO):
            raise
        _drop_output()
        print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
        return 1


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _main(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    try:
        return int(args.func(args))
    except SettingsError as error:
        print("The configuration cannot be used:", file=sys.stderr)
        for problem in error.problems:
            _complain(problem, indent="  ")
        return 2
    except OrchestratorError as error:
        _complain(f"error: {error.message}")
        if error.details:
            _complain(error.details, indent="  ")
        return 3 if error.code == "UNREACHABLE" else 1
    except KeyboardInterrupt:
        return 130


def _complain(text: str, *, indent: str = "") -> None:
    """Lines that fit a terminal; elsewhere a line stays one, for whoever searches it."""
    text = wrapped(text, indent=indent, whole_words=True) if sys.stderr.isatty() else f"{indent}{text}"
    print(text, file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in lines that fit; its subcommands are of the same kind."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        _complain(f"{self.prog}: error: {message}")
        sys.exit(2)


def build_parser() -> argparse.ArgumentParser:
    """The whole command tree."""
    parser = _Parser(
        prog="pi-orchestrator", description="Edge daemon for ESP32 cameras behind a Raspberry Pi.", epilog=EXIT_CODES
    )
    parser.add_argument("--version", action="version", version=f"pi-orchestrator {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    groups = (
        (run, demo, scan, config, cameras, containers, devices, network, onboarding),
        (allowlist, sessions, events, logs, keys, secrets, doctor, bundle, openapi, sandbox),
    )
    for module in (module for group in groups for module in group):
        module.add_parser(subparsers)
    return parser
