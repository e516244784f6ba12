"""Options that several commands share, and the settings that they lead to."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from pi_orchestrator.settings import Loaded, Tree

    Subparsers = _SubParsersAction[argparse.ArgumentParser]


def add_config(parser: argparse.ArgumentParser) -> None:
    """`--config` and the flags that stand above it."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (/etc/pi-orchestrator/config.toml)")
    parser.add_argument("--state-dir", metavar="DIR", help="folder for the database, keys and backups")


def add_client(parser: argparse.ArgumentParser) -> None:
    """What a command needs that talks to a running daemon."""
    add_config(parser)
    parser.add_argument("--url", help="the daemon (default: as configured, on this machine)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def load_settings(args: argparse.Namespace) -> Loaded:
    """Settings from file, environment and these flags."""
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
