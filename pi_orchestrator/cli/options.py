"""Options shared by several commands, and the settings loaded with them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from pi_orchestrator.settings import Loaded, Tree

    Subparsers = _SubParsersAction[argparse.ArgumentParser]


CAMERA_ID = "MAC in any format, or device id"
"""Help text of an argument that names a camera."""


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and `--state-dir`."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="configuration file (default: /etc/pi-orchestrator/config.toml)"
    )
    parser.add_argument("--state-dir", metavar="DIR", help="folder for the database, keys and backups")


def add_client(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that calls a running daemon."""
    add_config(parser)
    parser.add_argument("--url", help="URL of the daemon (default: this machine, port as configured)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def seconds_up_to(limit: float) -> Callable[[str], float]:
    """A parser of arguments that are a number of seconds above 0, at most `limit`."""

    def seconds(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value <= limit:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, at most {limit:,.0f}")
        return value

    return seconds


def load_settings(args: argparse.Namespace) -> Loaded:
    """Load the settings from all layers (see `settings.loader`); options in `args` are the highest layer."""
    from pi_orchestrator.settings import load

    flags: Tree = {}
    for path, name in (
        ("storage.state_dir", "state_dir"),
        ("logging.level", "log_level"),
        ("http.listen", "listen"),
        ("ap.interface", "interface"),
        ("ap.subnet", "subnet"),
        ("discovery.engine", "engine"),
        ("discovery.allow_large_subnet", "allow_large"),
    ):
        value = getattr(args, name, None)
        if value:
            section, key = path.split(".")
            flags.setdefault(section, {})[key] = value
    return load(path=args.config, flags=flags)
