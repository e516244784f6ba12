"""`check-config` and `show-config` work without a daemon; `config` reads and changes the settings of a running one."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.connection import connect
from pi_orchestrator.cli.options import add_client, add_config, load_settings
from pi_orchestrator.cli.output import print_json, table, wrapped

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers
    from pi_orchestrator.settings import Loaded

BASE = "/api/v1/config"


def add_parser(subparsers: Subparsers) -> None:
    """Add `check-config`, `show-config` and `config`."""
    check = subparsers.add_parser(
        "check-config",
        help="check the configuration",
        description="List all errors of the configuration. Exit code 2 if there are any.",
    )
    add_config(check)
    check.set_defaults(func=check_config)
    show = subparsers.add_parser(
        "show-config",
        help="show the effective configuration",
        description="Show every setting with its value from file, environment, overrides or flags. Secrets are masked.",
    )
    add_config(show)
    show.add_argument("--origin", action="store_true", help="also show the origin of each value")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(func=show_config)
    _add_verbs(subparsers.add_parser("config", help="show and change settings of the running daemon"))


def _add_verbs(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    get_parser = verbs.add_parser(
        "get", help="show values and their origins", description="Show values and their origins. Secrets are masked."
    )
    get_parser.add_argument("key", nargs="?", metavar="KEY", help="a setting (section.name) or a section; default: all")
    get_parser.set_defaults(func=get)
    set_parser = verbs.add_parser(
        "set",
        help="change a setting of the running daemon, kept over restarts",
        description="Change a setting. The value takes effect immediately and is kept over restarts until it is reset. "
        "Requires an admin API key.",
    )
    set_parser.add_argument("key", metavar="KEY", help="section.name, e.g. cameras.idle_after_s")
    set_parser.add_argument("value", metavar="VALUE", help="lists are comma-separated; - reads a secret from stdin")
    set_parser.set_defaults(func=put)
    reset_parser = verbs.add_parser(
        "reset", help="remove the override: the value from file, environment or default applies again"
    )
    reset_parser.add_argument("key", metavar="KEY", help="section.name, e.g. cameras.idle_after_s")
    reset_parser.set_defaults(func=reset)
    for verb in (get_parser, set_parser, reset_parser):
        add_client(verb)


def check_config(args: argparse.Namespace) -> int:
    """Check the configuration; SettingsError with all errors if it is not valid."""
    _warn(load_settings(args))
    print("The configuration is valid.")
    return 0


def show_config(args: argparse.Namespace) -> int:
    """Print all keys, as TOML or JSON."""
    from pi_orchestrator.settings import displayable, known_paths, value_at

    loaded = load_settings(args)
    _warn(loaded)
    values = {path: displayable(value_at(loaded.settings, path)) for path in known_paths()}
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
        # TOML has no null: a setting without a value is shown as a comment.
        line = f"# {key} =" if value is None else f"{key} = {json.dumps(value, ensure_ascii=False)}"
        print(f"{line}  # {origins[path]}" if args.origin else line)
    return 0


def get(args: argparse.Namespace) -> int:
    """Print a table of settings; for a single setting print only its value, so that scripts can read it."""
    sections = connect(args).get(BASE)["sections"]
    items = [item for section in sections for item in section["items"]]
    if args.key is not None:
        matches = [item for item in items if args.key in (item["key"], item["key"].split(".")[0])]
        if not matches:
            raise _unknown(args.key)
        items = matches
    if args.json:
        print_json(items[0] if items[0]["key"] == args.key else items)
    elif items[0]["key"] == args.key:
        print(items[0]["value"])
    else:
        print(table(("KEY", "FROM", "CHANGE WITH", "VALUE"), map(_row, items)))
    return 0


def put(args: argparse.Namespace) -> int:
    """Change a setting."""
    value = sys.stdin.readline().rstrip("\n") if args.value == "-" else args.value
    return _print_result(args, connect(args).put(f"{BASE}/{_quoted(args.key)}", {"value": value}))


def reset(args: argparse.Namespace) -> int:
    """Reset a setting."""
    return _print_result(args, connect(args).post(f"{BASE}/{_quoted(args.key)}/reset"))


def _quoted(key: str) -> str:
    from urllib.parse import quote

    return quote(key, safe="")


def _print_result(args: argparse.Namespace, data: dict[str, Any]) -> int:
    if args.json:
        print_json(data)
        return 0
    item = data["item"]
    print(wrapped(f"{item['key']} = {item['value']} (from: {item['origin']})"))
    if item["restart_needed"]:
        print(wrapped("It takes effect after a restart of the daemon."))
    return 0


def _row(item: dict[str, Any]) -> tuple[str, ...]:
    change_with = "config set" if item["editable"] else "file and restart"
    note = " (after a restart)" if item["restart_needed"] else ""
    return item["key"], item["origin"], change_with, item["value"] + note


def _unknown(key: str) -> Exception:
    from pi_orchestrator.core.errors import NotFoundError
    from pi_orchestrator.settings import RETIRED, closest_key

    if reason := RETIRED.get(key):
        return NotFoundError(f"the setting {key} no longer exists", details=reason)
    suggestion = closest_key(key)
    return NotFoundError(f"unknown setting {key}", details=f"did you mean {suggestion}?" if suggestion else None)


def _warn(loaded: Loaded) -> None:
    """Print the settings without effect: retired settings, and overrides that the daemon ignores at start."""
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    overrides = loaded.overrides
    faults = [f"{overrides.file.name} {overrides.fault}"] if overrides.fault else []
    for reason in (*faults, *loaded.ignored.values()):
        print(f"warning: override not in effect: {reason} ({overrides.file})", file=sys.stderr)
