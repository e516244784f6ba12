"""Commands `allowlist VERB`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.connection import connect
from pi_orchestrator.cli.options import add_client
from pi_orchestrator.cli.output import print_json, table, wrapped
from pi_orchestrator.core.errors import OrchestratorError

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers

BASE = "/api/v1/provisioning/allowlist"
MAX_FILE_BYTES = 1024 * 1024
"""The daemon's limit of a request body."""


def add_parser(subparsers: Subparsers) -> None:
    """Add `allowlist` and its verbs."""
    parser = subparsers.add_parser(
        "allowlist",
        help="manage the cameras that may be provisioned",
        description="Manage the cameras that may be provisioned, by MAC. A MAC is public and can be copied: while a"
        " camera is off, a device with its MAC is sent the password in its place. See provisioning.confirm_changed.",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    listing = verbs.add_parser("list", help="list the entries")
    listing.add_argument("--available", action="store_true", help="only entries that no camera has used yet")
    listing.set_defaults(func=list_entries)
    new = verbs.add_parser("add", help="add a camera, or change its entry")
    new.add_argument("mac", metavar="MAC", help="MAC in any format")
    new.add_argument("--description", metavar="TEXT", help="a note, up to 200 characters")
    new.add_argument("--container", metavar="ID", help="the intended container; need not exist yet")
    new.set_defaults(func=add)
    removal = verbs.add_parser("remove", help="remove cameras from the list")
    removal.add_argument("macs", nargs="+", metavar="MAC", help="MAC in any format")
    removal.set_defaults(func=remove)
    load = verbs.add_parser(
        "import",
        help="add the cameras of a CSV file",
        description="Add the cameras of a CSV file. Its first line names the columns: mac, and optionally description"
        " and container_id. Valid rows are added, invalid rows are reported. Exit code 1 if any row is invalid.",
    )
    load.add_argument("file", metavar="FILE.csv", help="CSV file, or - for stdin")
    load.add_argument("--dry-run", action="store_true", help="change nothing, print what each row would change")
    load.set_defaults(func=import_file)
    save = verbs.add_parser(
        "export",
        help="write the list to a CSV file",
        description="Write the list as CSV that import can read (with --json: as JSON).",
    )
    save.add_argument("file", nargs="?", default="-", metavar="FILE", help="target file; default or -: stdout")
    save.set_defaults(func=export)
    for verb in (listing, new, removal, load, save):
        add_client(verb)


def list_entries(args: argparse.Namespace) -> int:
    """Print the entries."""
    entries = connect(args).get(BASE, available="true" if args.available else None)["entries"]
    if args.json:
        print_json(entries)
    elif entries:
        print(table(("MAC", "ADDED", "USED", "CONTAINER", "DESCRIPTION"), map(_row, entries), shrink=(3, 4)))
    elif args.available:
        print("No unused entries.")
    else:
        print("The allowlist is empty: no camera may be provisioned.")
        print("To add one: pi-orchestrator allowlist add MAC")
    return 0


def add(args: argparse.Namespace) -> int:
    """Add a camera, or change its entry."""
    fields = {"mac": args.mac, "description": args.description, "container_id": args.container}
    body = {name: value for name, value in fields.items() if value is not None}
    entry = connect(args).post(BASE, body)["entry"]
    print_json(entry) if args.json else print(f"{entry['mac']} is on the allowlist.")
    return 0


def remove(args: argparse.Namespace) -> int:
    """Remove cameras; exit code 1 if one was not listed, because the operator may have mistyped it."""
    report = connect(args).post(f"{BASE}/bulk-remove", {"macs": args.macs})
    if args.json:
        print_json(report)
    elif report["removed"]:
        print(f"Removed {report['removed']}.")
    for mac in report["missing"]:
        print(f"error: {mac} was not on the allowlist", file=sys.stderr)
    if report["missing"]:
        print("  see: pi-orchestrator allowlist list", file=sys.stderr)
    return 1 if report["missing"] else 0


def import_file(args: argparse.Namespace) -> int:
    """Add the cameras of a file; exit code 1 if a row is invalid."""
    client = connect(args)
    report = client.upload(
        f"{BASE}/import", _read(args.file), media_type="text/csv", dry_run="true" if args.dry_run else None
    )
    if args.json:
        print_json(report)
    else:
        if args.dry_run and report["rows"]:
            rows = [(row["line"], row["effect"], row["mac"], row.get("reason", "")) for row in report["rows"]]
            print(table(("LINE", "EFFECT", "MAC", "REASON"), rows))
        print(f"{report['message']}{' (dry run, nothing changed)' if args.dry_run else ''}")
    for error in report["errors"]:
        print(wrapped(f"line {error['line']}: {error['reason']}"), file=sys.stderr)
    return 1 if report["errors"] else 0


def export(args: argparse.Namespace) -> int:
    """Write the list to a file or stdout."""
    import json

    from pi_orchestrator.features.allowlist.csv_format import write_csv

    entries = connect(args).get(BASE)["entries"]
    if args.file == "-" and args.json:
        print_json(entries)
        return 0
    rows = ((entry["mac"], entry.get("description"), entry.get("container_id")) for entry in entries)
    text = json.dumps(entries, indent=2) + "\n" if args.json else write_csv(rows)
    if args.file == "-":
        sys.stdout.buffer.write(text.encode())
        return 0
    try:
        Path(args.file).write_bytes(text.encode())
    except OSError as error:
        raise OrchestratorError(
            f"cannot write {args.file}: {error.strerror}", details="choose another file, or - for stdout"
        ) from error
    print(f"{len(entries)} entries written to {args.file}.")
    return 0


def _row(entry: dict[str, Any]) -> tuple[object, ...]:
    used = entry.get("used_at", "")[:10] if entry["used"] else "no"
    return (entry["mac"], entry["added_at"][:10], used, entry.get("container_id"), entry.get("description"))


def _read(name: str) -> bytes:
    """Read a file or stdin, up to `MAX_FILE_BYTES`; the daemon validates the content."""
    try:
        if name == "-":
            content = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise OrchestratorError(
            f"cannot read {name}: {error.strerror}", details="choose a CSV file, or - for stdin"
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise OrchestratorError(f"{name} is over {MAX_FILE_BYTES // 1024} KiB", details="split it into several files")
    return content
