"""`logs`: show the log of the daemon."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.connection import connect
from pi_orchestrator.cli.event_stream import follow_with_notes
from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import columns, fit, print_json_line, print_note, wrapped

if TYPE_CHECKING:
    from pi_orchestrator.cli.client import Client
    from pi_orchestrator.cli.options import Subparsers

PATH = "/api/v1/system/logs"
DEFAULT_COUNT = 50
MAX_COUNT = 1000
API_LEVELS = {"warning": "warn"}
"""Level name that `logs --level` takes because `run --log-level` does → the API's name of the level."""
LOG_EVENT = "log"
COMPONENT_WIDTH = 20
INDENT, MAX_LINES_BELOW = "    ", 4
"""Fields that do not fit are printed below their line, in at most this many lines."""


def add_parser(subparsers: Subparsers) -> None:
    """Add `logs`."""
    parser = subparsers.add_parser(
        "logs",
        help="show the log of the daemon",
        description="Show the last lines of the daemon's log, oldest first; times are UTC."
        " The log of a stopped daemon is in the journal: journalctl -u pi-orchestrator",
    )
    add_client(parser)
    parser.add_argument("--follow", "-f", action="store_true", help="continue with new lines until Ctrl-C")
    parser.add_argument(
        "--level",
        choices=("debug", "info", "warn", "warning", "error"),
        help="only lines of this level and above; 'warning' is an alias of 'warn'",
    )
    parser.add_argument(
        "--source", metavar="NAME", help="only lines of this component and its subcomponents, e.g. net.mqtt"
    )
    parser.add_argument(
        "--lines",
        "-n",
        type=_count,
        default=DEFAULT_COUNT,
        metavar="N",
        help=f"number of last lines (default: {DEFAULT_COUNT})",
    )
    parser.set_defaults(func=logs)


def logs(args: argparse.Namespace) -> int:
    """Print the last lines, and with --follow new ones."""
    client = connect(args)
    level = API_LEVELS.get(args.level, args.level)
    if args.follow:
        return _follow(client, args, level)
    records = []
    if args.lines:
        records = client.get(PATH, limit=args.lines, level=level, source=args.source)["logs"]
    for record in reversed(records):
        _show(record, as_json=args.json)
    if not records and not args.json:
        print("No lines.")
    return 0


def format_record(record: dict[str, Any], *, width: int) -> list[str]:
    """The lines of a log record: time, level, component, message, fields; fields that do not fit are put below."""
    when = str(record.get("timestamp", ""))[5:19].replace("T", " ")
    level = str(record.get("level", "")).upper()
    head = f"{when}  {level:5}  {record.get('component', ''):<{COMPONENT_WIDTH}}  {record.get('message', '')}"
    fields = "  ".join(f"{name}={_short(value)}" for name, value in (record.get("fields") or {}).items())
    if not fields or len(head) + 2 + len(fields) <= width:
        return [fit(f"{head}  {fields}".rstrip(), width)]
    return [fit(head, width), wrapped(fit(fields, MAX_LINES_BELOW * (width - len(INDENT))), indent=INDENT)]


def _short(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _follow(client: Client, args: argparse.Namespace, level: str | None) -> int:
    events = follow_with_notes(
        client, f"{PATH}/stream", note=print_note, tail=args.lines, level=level, source=args.source
    )
    for event in events:
        if event.type == LOG_EVENT:
            _show(event.document, as_json=args.json)
    return 0


def _show(record: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json_line(record)
        return
    # A traceback is printed in full, one line each; as an ordinary field it would be joined and cut.
    fields = dict(record.get("fields") or {})
    traceback = fields.pop("exception", None)
    print("\n".join(format_record(record | {"fields": fields}, width=columns())), flush=True)
    for part in str(traceback or "").splitlines():
        print(fit(f"    {part}", columns()), flush=True)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= MAX_COUNT):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from 0 to {MAX_COUNT}")
    return int(text)
