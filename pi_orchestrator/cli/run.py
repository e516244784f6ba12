"""`run`: the daemon, or one scan of it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pi_orchestrator.cli.options import add_config, load_settings
from pi_orchestrator.cli.scan import scan

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers

LEAVE_S = 0.5


def add_parser(subparsers: Subparsers) -> None:
    """Add `run`."""
    parser = subparsers.add_parser(
        "run",
        help="run the daemon (as systemd does)",
        description="Run the daemon until SIGTERM or Ctrl-C. SIGHUP reads the configuration again.",
    )
    add_config(parser)
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="the least that is written")
    parser.add_argument(
        "--listen", action="append", metavar="ADDRESS:PORT", help="where to serve the API; may be repeated"
    )
    parser.add_argument("--once", action="store_true", help="scan once, print who was found, and exit; no daemon")
    parser.add_argument("--json", action="store_true", help="with --once: print JSON")
    # What `scan` can be told besides, as it is when it is not told.
    parser.set_defaults(func=run, interface=None, subnet=None, timeout=None)


def run(args: argparse.Namespace) -> int:
    """Run until told to stop."""
    import asyncio
    import os
    import threading

    if args.once:
        return scan(args)
    if args.json:
        from pi_orchestrator.errors import SettingsError

        raise SettingsError(["--json: what the daemon writes is its log; this is for --once"])
    from pi_orchestrator.app import life

    with asyncio.Runner() as runner:
        code = runner.run(life.run(lambda: load_settings(args)))
        # All is closed by now but threads that hang on a slow disk: they can be neither cancelled nor waited for.
        leave = threading.Timer(LEAVE_S, os._exit, (code,))
        leave.daemon = True
        leave.start()
    return code
