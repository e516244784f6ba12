"""`logs`: what the daemon says of itself."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.event_stream import ESTABLISHED, Lost, follow
from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import columns, fit, print_json_line, wrapped

if TYPE_CHECKING:
    from pi_orchestrator.cli.client import Client
    from pi_orchestrator.cli.options import Subparsers

PATH = "/api/v1/system/logs"
SHOWN = 50
MOST = 1000
LINE = "log"
COMPONENT = 20
BELOW, MOST_BELOW = "    ", 4
"""What does not fit stands below its line, in so many lines at most."""


def add_parser(subparsers: Subparsers) -> None:
    """Add `logs`."""
    parser = subparsers.add_parser(
        "logs",
        help="what the daemon says of itself",
        description="The last lines of the daemon's log, oldest first; times are UTC."
        " What a daemon that is not running has said is in the journal: journalctl -u pi-orchestrator",
    )
    add_client(parser)
    parser.add_argument("--follow", "-f", action="store_true", help="go on with those that come, until Ctrl-C")
    parser.add_argument("--level", choices=("debug", "info", "warn", "error"), help="this level and above")
    parser.add_argument("--source", metavar="NAME", help="this component, or those below it: net.mqtt, workers")
    parser.add_argument(
        "--lines", "-n", type=_count, default=SHOWN, metavar="N", help=f"how many of the last lines ({SHOWN})"
    )
    parser.set_defaults(func=logs)


def logs(args: argparse.Namespace) -> int:
    """Print lines as they were, and with --follow as they come."""
    from pi_orchestrator.cli.client import connect

    client = connect(args)
    if args.follow:
        return _follow(client, args)
    lines = []
    if args.lines:
        lines = client.get(PATH, limit=args.lines, level=args.level, source=args.source)["logs"]
    for line in reversed(lines):
        _show(line, as_json=args.json)
    if not lines and not args.json:
        print("No lines.")
    return 0


def lines_of(line: dict[str, Any], *, width: int) -> list[str]:
    """When, how bad, who, what, and what belongs to it: in one line, or below it where that is too long."""
    when = str(line.get("timestamp", ""))[5:19].replace("T", " ")
    level = str(line.get("level", "")).upper()
    head = f"{when}  {level:5}  {line.get('component', ''):<{COMPONENT}}  {line.get('message', '')}"
    about = "  ".join(f"{name}={_short(value)}" for name, value in (line.get("fields") or {}).items())
    if not about or len(head) + 2 + len(about) <= width:
        return [fit(f"{head}  {about}".rstrip(), width)]
    return [fit(head, width), wrapped(fit(about, MOST_BELOW * (width - len(BELOW))), indent=BELOW)]


def _short(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _follow(client: Client, args: argparse.Namespace) -> int:
    was_lost = False
    for item in follow(client, f"{PATH}/stream", tail=args.lines, level=args.level, source=args.source):
        if isinstance(item, Lost):
            was_lost = True
            _note(f"{item.reason}; trying again in {item.retry_in_s:.0f} s")
        elif item.type == ESTABLISHED:
            if was_lost:
                _note("connected again")
            was_lost = False
        elif item.type == LINE:
            _show(item.document, as_json=args.json)
    return 0


def _show(line: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json_line(line)
        return
    # A trace has lines of its own, which say where it happened.
    fields = dict(line.get("fields") or {})
    trace = fields.pop("exception", None)
    print("\n".join(lines_of(line | {"fields": fields}, width=columns())), flush=True)
    for part in str(trace or "").splitlines():
        print(fit(f"    {part}", columns()), flush=True)


def _note(text: str) -> None:
    print(wrapped(text), file=sys.stderr, flush=True)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= MOST):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from 0 to {MOST}")
    return int(text)
