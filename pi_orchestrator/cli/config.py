"""`check-config` and `show-config`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from pi_orchestrator.cli.options import add_config, load_settings
from pi_orchestrator.cli.output import print_json

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add both commands."""
    check = subparsers.add_parser(
        "check-config", help="check the configuration", description="List every mistake; exit code 2 if there is one."
    )
    add_config(check)
    check.set_defaults(func=check_config)
    show = subparsers.add_parser(
        "show-config",
        help="show the configuration as it takes effect",
        description="Every key and its value, after file, environment and flags. Secrets are masked.",
    )
    add_config(show)
    show.add_argument("--origin", action="store_true", help="also say where each value comes from")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(func=show_config)


def check_config(args: argparse.Namespace) -> int:
    """0 when it is valid; the faults are raised as one SettingsError."""
    load_settings(args)
    print("The configuration is valid.")
    return 0


def show_config(args: argparse.Namespace) -> int:
    """Print every key, as TOML or JSON."""
    from pi_orchestrator.settings import known_paths, shown, value_at

    loaded = load_settings(args)
    values = {path: shown(value_at(loaded.settings, path)) for path in known_paths()}
    origins = {path: loaded.origins.get(path, "default") for path in values}
    if args.json:
        print_json({path: {"value": value, "origin": origins[path]} for path, value in values.items()})
        return 0
    section = ""
    for path, value in values.items():
        name, key = path.split(".")
        if name != section:
            print(f"{'' if not section else chr(10)}[{name}]")
            section = name
        # A key without a value has no TOML form: it is shown as the comment that it would be in the file.
        line = f"# {key} =" if value is None else f"{key} = {json.dumps(value, ensure_ascii=False)}"
        print(f"{line}  # {origins[path]}" if args.origin else line)
    return 0
