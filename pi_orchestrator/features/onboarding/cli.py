"""`onboarding`: the switch, the onboarding events, and why a camera is onboarded or rejected."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.connection import connect
from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import print_json, table, wrapped

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers

BASE = "/api/v1/onboarding/auto"


def add_parser(subparsers: Subparsers) -> None:
    """Add `onboarding` and its verbs."""
    parser = subparsers.add_parser("onboarding", help="enable, disable and inspect auto-onboarding")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, help_text, function in (
        ("status", "show state, limits and counters", status),
        ("enable", "enable auto-onboarding (needs auto_onboard.mode = 'dev')", enable),
        ("disable", "disable auto-onboarding immediately; it stays disabled after a restart (kill switch)", disable),
        ("events", "list onboarding events, newest first", events),
        ("explain", "show the policy's result for a camera, rule by rule", explain),
    ):
        verb = verbs.add_parser(name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}.")
        add_client(verb)
        verb.set_defaults(func=function)
        if name == "events":
            verb.add_argument("--mac", metavar="MAC", help="MAC in any format; only events of this camera")
            verb.add_argument(
                "--stage", metavar="STAGE", help="only events of this stage, e.g. paired, failed, rejected_by_policy"
            )
            verb.add_argument("--since", metavar="TIME", help="only events at or after this ISO 8601 time")
            verb.add_argument(
                "--limit", type=int, default=20, metavar="N", help="maximum number of events, up to 100 (%(default)s)"
            )
        if name == "explain":
            verb.add_argument("mac", metavar="MAC", help="MAC in any format")
            verb.add_argument("--ip", metavar="IP", help="address that the camera reports")


def status(args: argparse.Namespace) -> int:
    """Print the status."""
    data = connect(args).get(f"{BASE}/status")
    if args.json:
        print_json(data)
        return 0
    config, metrics = data["config"], data["metrics"]
    rows = [
        ("enabled", "yes" if data["enabled"] else "no"),
        ("running", "yes" if data["running"] else "no"),
        ("mode", data["mode"]),
        ("container", data["target_container"]),
        ("limit", f"{config['max_per_minute']} per minute, burst of {config['burst_size']}"),
        ("tokens left", data["tokens"]),
        ("waiting", _waiting_text(data)),
        ("networks", ", ".join(config["subnet_allowlist"])),
        *((name.replace("_", " "), value) for name, value in metrics.items()),
    ]
    print(table(("AUTO-ONBOARDING", ""), rows))
    return 0


def enable(args: argparse.Namespace) -> int:
    """Enable auto-onboarding and print the result."""
    return _print_message(args, connect(args).post(f"{BASE}/enable"))


def disable(args: argparse.Namespace) -> int:
    """Disable auto-onboarding and print the result."""
    return _print_message(args, connect(args).post(f"{BASE}/disable"))


def events(args: argparse.Namespace) -> int:
    """Print the onboarding events."""
    page = connect(args).get(f"{BASE}/events", mac=args.mac, stage=args.stage, since=args.since, limit=args.limit)
    if args.json:
        print_json(page)
        return 0
    rows = [
        (event["timestamp"][:19].replace("T", " "), event["mac_address"], event["stage"]) for event in page["events"]
    ]
    header, *lines = table(("TIME (UTC)", "MAC", "STAGE"), rows).splitlines()
    print(header if rows else "No events.")
    for line, event in zip(lines, page["events"], strict=True):
        print(line)
        if reason := " ".join(str(event[name]) for name in ("error_code", "error_message") if name in event):
            print(wrapped(reason, indent="    "))
    hidden = page["pagination"]["total"] - len(rows)
    if hidden > 0:
        print(f"… and {hidden} older events; use --limit to show more.")
    return 0


def explain(args: argparse.Namespace) -> int:
    """Print each rule's result; exit code 1 when the camera would be rejected."""
    data = connect(args).get(f"{BASE}/policy/explain", mac=args.mac, ip=args.ip)
    if args.json:
        print_json(data)
    else:
        rows = [(rule["rule"], rule["result"], rule["why"]) for rule in data["rules"]]
        print(table(("RULE", "RESULT", "WHY"), rows, flow=True))
        if waiting := data.get("waiting"):
            kind = "proven" if waiting["proven"] else "known from messages alone, behind those that are proven"
            seconds = waiting["seconds_to_token"]
            place = f"It is number {waiting['position']} in the waiting line ({kind})"
            print(wrapped(f"{place}; its attempt starts in about {seconds:.0f} s."))
        for text in data["unreadable"]:
            print(wrapped(f"Status messages cannot be read: {text}."))
        for note in data["notes"]:
            print(wrapped(f"Note: {note}."))
    return 0 if data["allowed"] else 1


def _waiting_text(data: dict[str, Any]) -> str:
    text = str(data["waiting"])
    if data["waiting_unproven"]:
        text += f", {data['waiting_unproven']} of them known from messages alone"
    return f"{text}; {data['dropped']} dropped because the line was full" if data["dropped"] else text


def _print_message(args: argparse.Namespace, data: dict[str, Any]) -> int:
    print_json(data) if args.json else print(data["message"])
    return 0
