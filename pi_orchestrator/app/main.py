"""The `pi-orchestrator` command."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, cast

from pi_orchestrator import __version__
from pi_orchestrator.app import cli_demo as demo
from pi_orchestrator.app import cli_openapi as openapi
from pi_orchestrator.app import cli_run as run
from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import wrapped
from pi_orchestrator.core.error_codes import LocalCode
from pi_orchestrator.core.errors import OrchestratorError, SettingsError
from pi_orchestrator.features.allowlist import cli as allowlist
from pi_orchestrator.features.api_keys import cli as keys
from pi_orchestrator.features.cameras import cli as cameras
from pi_orchestrator.features.captures import cli as captures
from pi_orchestrator.features.commands import cli as commands
from pi_orchestrator.features.configuration import cli as config
from pi_orchestrator.features.containers import cli as containers
from pi_orchestrator.features.containers import cli_pairing as pairing
from pi_orchestrator.features.discovery import cli as devices
from pi_orchestrator.features.discovery import cli_scan as scan
from pi_orchestrator.features.events import cli as events
from pi_orchestrator.features.network import cli as network
from pi_orchestrator.features.onboarding import cli as onboarding
from pi_orchestrator.features.provisioning import cli as sessions
from pi_orchestrator.features.provisioning import cli_secrets as secrets
from pi_orchestrator.features.system import cli_bundle as bundle
from pi_orchestrator.features.system import cli_doctor as doctor
from pi_orchestrator.features.system import cli_logs as logs
from pi_orchestrator.sandbox import cli as sandbox

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers

EXIT_CODES = "exit codes: 0 success, 1 failure, 2 invalid configuration or arguments, 3 daemon unreachable"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, run the command, print its failure; returns the exit code."""
    try:
        try:
            return _main(argv)
        finally:
            print(end="", flush=True)  # detect a closed pipe (head, less) here, not at exit
    except BrokenPipeError:
        # Python flushes stdout at exit, which would fail again.
        _drop_output()
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO):
            raise
        _drop_output()
        print(f"error: cannot write the output: {error.strerror}", file=sys.stderr)
        return 1


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _main(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    try:
        return int(args.func(args))
    except SettingsError as error:
        print(f"{error.summary.capitalize()}:", file=sys.stderr)
        for problem in error.problems:
            _print_error(problem, indent="  ")
        return 2
    except OrchestratorError as error:
        _print_error(f"error: {error.message}")
        if error.details:
            _print_error(error.details, indent="  ")
        return 3 if error.code == LocalCode.UNREACHABLE else 1
    except KeyboardInterrupt:
        return 130


def _print_error(text: str, *, indent: str = "") -> None:
    """Print to stderr: wrapped on a terminal, otherwise on one line, so that it can be searched."""
    text = wrapped(text, indent=indent, whole_words=True) if sys.stderr.isatty() else f"{indent}{text}"
    print(text, file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """Wraps error messages to the width of the terminal; subcommands use the same class."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        _print_error(f"{self.prog}: error: {message}")
        sys.exit(2)


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands."""
    parser = _Parser(
        prog="pi-orchestrator", description="Edge daemon for ESP32 cameras behind a Raspberry Pi.", epilog=EXIT_CODES
    )
    parser.add_argument("--version", action="version", version=f"pi-orchestrator {__version__}")
    added = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    subparsers = cast("Subparsers", added)  # the commands are typed with the base class of _Parser
    for module in (run, demo, scan, config):
        module.add_parser(subparsers)
    verbs = cameras.add_parser(subparsers)
    for module in (captures, commands, pairing):
        module.add_verbs(verbs)
    for verb in verbs.choices.values():
        add_client(verb)
    for module in (containers, devices, network, onboarding, allowlist, sessions, events, logs, keys, secrets):
        module.add_parser(subparsers)
    for module in (doctor, bundle, openapi, sandbox):
        module.add_parser(subparsers)
    return parser
