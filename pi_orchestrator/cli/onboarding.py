"""`onboarding`: the toggle, the audit trail, and why a camera is or is not let in."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import print_json, table, wrapped

if TYPE_CHECKING:
    from pi_orchestrator.cli.client import Client
    from pi_orchestrator.cli.options import Subparsers

BASE = "/api/v1/onboarding/auto"


def add_parser(subparsers: Subparsers) -> None:
    """Add `onboarding` and its verbs."""
    parser = subparsers.add_parser("onboarding", help="auto-onboarding: toggle, audit, policy")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, help_text, function in (
        ("status", "toggle, limits and counters", status),
        ("enable", "switch it on (needs auto_onboard.mode = 'dev')", enable),
        ("disable", "the kill switch: at once, and it stays thrown", disable),
        ("events", "the audit trail, newest first", events),
        ("explain", "what the policy says of a camera, rule by rule", explain),
    ):
        verb = verbs.add_parser(name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}.")
        add_client(verb)
        verb.set_defaults(func=function)
        if name == "events":
            verb.add_argument("--mac", metavar="MAC", help="only this camera's")
            verb.add_argument(
                "--stage", metavar="STAGE", help="only this stage, e.g. paired, failed, rejected_by_policy"
            )
            verb.add_argument("--since", metavar="TIME", help="only at or after this ISO 8601 time")
            verb.add_argument(
                "--limit", type=int, default=20, metavar="N", help="rows at most: up to 100 (%(default)s)"
            )
        if name == "explain":
            verb.add_argument("mac", metavar="MAC", help="the camera's MAC")
            verb.add_argument("--ip", metavar="IP", help="the address that it announces")


def status(args: argparse.Namespace) -> int:
    """Print the status."""
    data = _client(args).get(f"{BASE}/status")
    if args.json:
        print_json(data)
        return 0
    config, metrics = data["config"], data["metrics"]
    rows = [
        ("enabled", "yes" if data["enabled"] else "no"),
        ("running", "yes" if data["running"] else "no"),
        ("mode", data["mode"]),
        ("container", data["target_container"]),
        ("limit", f"{config['max_per_minute']} a minute, {config['burst_size']} at once"),
        ("tokens left", data["tokens"]),
        ("waiting", data["waiting"]),
        ("networks", ", ".join(config["subnet_allowlist"])),
        *((name.replace("_", " "), value) for name, value in metrics.items()),
    ]
    print(table(("AUTO-ONBOARDING", ""), rows))
    return 0


def enable(args: argparse.Namespace) -> int:
    """Switch on."""
    return _tell(args, _client(args).post(f"{BASE}/enable"))


def disable(args: argparse.Namespace) -> int:
    """Switch off."""
    return _tell(args, _client(args).post(f"{BASE}/disable"))


def events(args: argparse.Namespace) -> int:
    """Print the audit trail."""
    page = _client(args).get(f"{BASE}/events", mac=args.mac, stage=args.stage, since=args.since, limit=args.limit)
    if args.json:
        print_json(page)
        return 0
    rows = [
        (event["timestamp"][:19].replace("T", " "), event["mac_address"], event["stage"]) for event in page["events"]
    ]
    head, *lines = table(("TIME (UTC)", "MAC", "STAGE"), rows).splitlines()
    print(head if rows else "No events.")
    for line, event in zip(lines, page["events"], strict=True):
        print(line)
        if why := " ".join(str(event[name]) for name in ("error_code", "error_message") if name in event):
            print(wrapped(why, indent="    "))
    left = page["pagination"]["total"] - len(rows)
    if left > 0:
        print(f"… and {left} older ones (--limit).")
    return 0


def explain(args: argparse.Namespace) -> int:
    """Print each rule's verdict; exit code 1 when the camera would not be let in."""
    data = _client(args).get(f"{BASE}/policy/explain", mac=args.mac, ip=args.ip)
    if args.json:
        print_json(data)
    else:
        rows = [(rule["rule"], rule["result"], rule["why"]) for rule in data["rules"]]
        print(table(("RULE", "RESULT", "WHY"), rows, flow=True))
    return 0 if data["allowed"] else 1


def _client(args: argparse.Namespace) -> Client:
    from pi_orchestrator.cli.client import connect

    return connect(args)


def _tell(args: argparse.Namespace, data: dict[str, Any]) -> int:
    print_json(data) if args.json else print(data["message"])
    return 0
