"""`run`: the daemon, or a single scan."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pi_orchestrator.cli.options import add_config, load_settings
from pi_orchestrator.features.discovery.cli_scan import scan

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers

EXIT_GRACE_S = 0.5


def add_parser(subparsers: Subparsers) -> None:
    """Add `run`."""
    parser = subparsers.add_parser(
        "run",
        help="run the daemon (as systemd does)",
        description="Run the daemon until SIGTERM or Ctrl-C. SIGHUP reloads the configuration.",
    )
    add_config(parser)
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), help="lowest level that is logged"
    )
    parser.add_argument("--listen", action="append", metavar="ADDRESS:PORT", help="address of the API; may be repeated")
    parser.add_argument("--once", action="store_true", help="scan once, print the devices found, and exit")
    parser.add_argument("--json", action="store_true", help="with --once: print JSON")
    # `--once` calls `scan`, which reads these arguments.
    parser.set_defaults(func=run, interface=None, subnet=None, timeout=None)


def run(args: argparse.Namespace) -> int:
    """Run the daemon until a signal stops it, or scan once."""
    import asyncio
    import gc
    import os
    import threading

    if args.once:
        return scan(args)
    if args.json:
        from pi_orchestrator.core.errors import ArgumentsError

        raise ArgumentsError(["--json: only valid with --once; for a JSON log set logging.format"])
    gc.disable()  # loaded modules are never freed; `lifecycle` enables the collector when the daemon is ready
    from pi_orchestrator.app import lifecycle

    with asyncio.Runner() as runner:
        code = runner.run(lifecycle.run(lambda: load_settings(args)))
        # Everything is closed, but a thread may still wait for a slow disk; it cannot be cancelled.
        exit_timer = threading.Timer(EXIT_GRACE_S, os._exit, (code,))
        exit_timer.daemon = True
        exit_timer.start()
    return code
