"""`check-config` and `show-config` without a daemon; `config`: what a running one has, and can be told to change."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.options import add_client, add_config, load_settings
from pi_orchestrator.cli.output import print_json, table, wrapped

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers
    from pi_orchestrator.settings import Loaded

BASE = "/api/v1/config"


def add_parser(subparsers: Subparsers) -> None:
    """Add the three commands."""
    check = subparsers.add_parser(
        "check-config", help="check the configuration", description="List every mistake; exit code 2 if there is one."
    )
    add_config(check)
    check.set_defaults(func=check_config)
    show = subparsers.add_parser(
        "show-config",
        help="show the configuration as it takes effect",
        description="Every key and its value, after file, environment, overrides and flags. Secrets are masked.",
    )
    add_config(show)
    show.add_argument("--origin", action="store_true", help="also say where each value comes from")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(func=show_config)
    _add_verbs(subparsers.add_parser("config", help="what the running daemon has, and what it can be told to change"))


def _add_verbs(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    one = verbs.add_parser(
        "get", help="keys with their values, and where those come from", description="Secrets are masked."
    )
    one.add_argument("key", nargs="?", metavar="KEY", help="a key or a section; default: all")
    one.set_defaults(func=get)
    new = verbs.add_parser(
        "set",
        help="set a key while the daemon runs",
        description="Set a key: it takes effect at once, and stays so after a restart until it is reset. "
        "Needs an admin key.",
    )
    new.add_argument("key", metavar="KEY", help="section.key, e.g. cameras.idle_after_s")
    new.add_argument("value", metavar="VALUE", help="a list is separated by commas; - reads a secret from stdin")
    new.set_defaults(func=put)
    back = verbs.add_parser("reset", help="go back to what file, environment and default say of a key")
    back.add_argument("key", metavar="KEY", help="section.key")
    back.set_defaults(func=reset)
    for verb in (one, new, back):
        add_client(verb)


def check_config(args: argparse.Namespace) -> int:
    """0 when it is valid; the faults are raised as one SettingsError."""
    _warn(load_settings(args))
    print("The configuration is valid.")
    return 0


def show_config(args: argparse.Namespace) -> int:
    """Print every key, as TOML or JSON."""
    from pi_orchestrator.settings import known_paths, shown, value_at

    loaded = load_settings(args)
    _warn(loaded)
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


def get(args: argparse.Namespace) -> int:
    """Print keys; one alone is its value, for scripts."""
    from pi_orchestrator.cli.client import connect

    sections = connect(args).get(BASE)["sections"]
    items = [item for section in sections for item in section["items"]]
    if args.key is not None:
        named = [item for item in items if args.key in (item["key"], item["key"].split(".")[0])]
        if not named:
            raise _unknown(args.key)
        items = named
    if args.json:
        print_json(items[0] if items[0]["key"] == args.key else items)
    elif items[0]["key"] == args.key:
        print(items[0]["value"])
    else:
        print(table(("KEY", "FROM", "SET BY", "VALUE"), map(_row, items)))
    return 0


def put(args: argparse.Namespace) -> int:
    """Set a key."""
    from pi_orchestrator.cli.client import connect

    value = sys.stdin.readline().rstrip("\n") if args.value == "-" else args.value
    return _tell(args, connect(args).put(f"{BASE}/{_named(args.key)}", {"value": value}))


def reset(args: argparse.Namespace) -> int:
    """Reset a key."""
    from pi_orchestrator.cli.client import connect

    return _tell(args, connect(args).post(f"{BASE}/{_named(args.key)}/reset"))


def _named(key: str) -> str:
    from urllib.parse import quote

    return quote(key, safe="")


def _tell(args: argparse.Namespace, data: dict[str, Any]) -> int:
    if args.json:
        print_json(data)
        return 0
    item = data["item"]
    print(wrapped(f"{item['key']} = {item['value']} (from: {item['origin']})"))
    if item["restart_needed"]:
        print(wrapped("It takes effect when the daemon is restarted."))
    return 0


def _row(item: dict[str, Any]) -> tuple[str, ...]:
    how = "config set" if item["editable"] else "file, restart"
    waits = " (after a restart)" if item["restart_needed"] else ""
    return item["key"], item["origin"], how, item["value"] + waits


def _unknown(key: str) -> Exception:
    from pi_orchestrator.errors import NotFoundError
    from pi_orchestrator.settings import closest

    close = closest(key)
    return NotFoundError(f"there is no setting {key}", details=f"did you mean {close}?" if close else None)


def _warn(loaded: Loaded) -> None:
    """Say which overrides are not in force: the daemon would start without them."""
    found = loaded.overrides
    for why in (*([f"{found.file.name} {found.fault}"] if found.fault else []), *loaded.ignored.values()):
        print(f"warning: an override is not in force: {why} ({found.file})", file=sys.stderr)
