"""`bundle`: everything that helps to find a fault, in one file that may be sent to somebody.

The daemon makes it. Where none answers, it is made from what is on disk: that is when one needs it most.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.options import add_client, load_settings
from pi_orchestrator.cli.output import print_json, wrapped
from pi_orchestrator.errors import OrchestratorError, SettingsError

if TYPE_CHECKING:
    from pi_orchestrator.api.archive import Archive
    from pi_orchestrator.cli.options import Subparsers
    from pi_orchestrator.settings import Loaded, Settings

PATH = "/api/v1/system/bundle"
STDOUT = "-"
JOURNAL = ("journalctl", "--unit", "pi-orchestrator", "--lines", "3000", "--no-pager", "--output", "short-iso")
JOURNAL_S = 15.0
MOST_FILES = 1000


def add_parser(subparsers: Subparsers) -> None:
    """Add `bundle`."""
    parser = subparsers.add_parser(
        "bundle",
        help="collect what helps to find a fault, in one file",
        description="Figures of the machine, configuration, log, cameras, sessions, events and the audit, with"
        " passwords and keys masked. Where no daemon answers it is made from what is on disk.",
    )
    add_client(parser)
    parser.add_argument("--output", "-o", metavar="FILE", help="where to write it; - is standard output")
    parser.set_defaults(func=bundle)


def bundle(args: argparse.Namespace) -> int:
    """Write a bundle."""
    if args.output == STDOUT and sys.stdout.isatty():
        raise SettingsError(["--output: a bundle is no text for a terminal; name a file, or pipe it on"])
    content, made_by = _made(args)
    if args.output == STDOUT:
        sys.stdout.buffer.write(content)
        return 0
    file = Path(args.output or f"pi-orchestrator-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar.gz")
    _write(file, content)
    if args.json:
        print_json({"file": str(file), "bytes": len(content), "made_by": made_by})
    else:
        print(file)
        print(wrapped(f"{len(content) / 1024:.0f} KiB. Passwords and keys are masked; addresses and names are not."))
    return 0


def _made(args: argparse.Namespace) -> tuple[bytes, str]:
    from pi_orchestrator.cli.client import connect

    try:
        return connect(args).download(PATH), "daemon"
    except SettingsError as error:
        if args.url:
            raise
        return _from_disk(args, f"the configuration cannot be used: {'; '.join(error.problems)}"), "disk"
    except OrchestratorError as error:
        if error.code != "UNREACHABLE" or args.url:
            raise
        return _from_disk(args, error.message), "disk"


def _write(file: Path, content: bytes) -> None:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
    except OSError as error:
        raise OrchestratorError(
            f"{file} cannot be written: {error.strerror}", details="name another with -o"
        ) from error


def _from_disk(args: argparse.Namespace, why: str) -> bytes:
    from pi_orchestrator.api.archive import Archive
    from pi_orchestrator.api.bundle import put_program, put_tables
    from pi_orchestrator.logs import conceal, mask_text
    from pi_orchestrator.settings import StorageSettings, secrets_of
    from pi_orchestrator.storage import dump
    from pi_orchestrator.storage.state_dir import DATABASE

    print(wrapped(f"{mask_text(why)}. This bundle is made from what is on disk."), file=sys.stderr)
    archive = Archive(at=datetime.now(UTC), made_by="the command line, from what is on disk")
    archive.notes.append(why)
    loaded = _loaded(args)
    state_dir = Path(args.state_dir) if args.state_dir else StorageSettings().state_dir
    if loaded:
        conceal(secrets_of(loaded.settings))
        state_dir = loaded.settings.storage.state_dir
        put_program(archive, loaded)
        _put_machine(archive, loaded.settings)
    _put_journal(archive)
    _put_files(archive, state_dir)
    put_tables(archive, lambda: dump.of_copy(state_dir / DATABASE))
    return archive.finish()


def _loaded(args: argparse.Namespace) -> Loaded | None:
    try:
        return load_settings(args)
    except SettingsError:
        return None  # it is told already


def _put_machine(archive: Archive, settings: Settings) -> None:
    """Figures of the machine, and what `doctor` finds."""
    import asyncio

    from pi_orchestrator.cli.doctor import examine
    from pi_orchestrator.clock import Clock
    from pi_orchestrator.domain.host import judge
    from pi_orchestrator.net.host import HostReader

    host = asyncio.run(HostReader(clock=Clock(), folder=settings.storage.state_dir).look())
    status, reasons = judge(host)
    archive.add_json("system.json", asdict(host) | {"overall_status": status, "reasons": reasons})
    archive.add_json("doctor.json", [asdict(finding) for finding in examine(settings)])


def _put_journal(archive: Archive) -> None:
    """What was said before: the ring of the daemon is gone with it."""
    try:
        done = subprocess.run(JOURNAL, capture_output=True, timeout=JOURNAL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        archive.notes.append(f"the journal could not be read: {type(error).__name__}")
        return
    archive.add_text("journal.txt", (done.stdout or done.stderr).decode("utf-8", "replace"))


def _put_files(archive: Archive, folder: Path) -> None:
    """Which files there are, how large, whose and how old; not what is in them."""
    found: list[dict[str, Any]] = []
    try:
        for file in sorted(folder.rglob("*"))[:MOST_FILES]:
            status = file.lstat()
            found.append(
                {
                    "name": str(file.relative_to(folder)),
                    "bytes": status.st_size,
                    "mode": f"{status.st_mode:o}",
                    "owner": status.st_uid,
                    "written": datetime.fromtimestamp(status.st_mtime, UTC).isoformat(),
                }
            )
    except OSError as error:
        archive.notes.append(f"{folder} could not be read: {error.strerror}")
    archive.add_json("files.json", {"folder": str(folder), "files": found})
