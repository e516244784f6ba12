"""`bundle`: write the support bundle, a file of diagnostics without secrets.

The daemon builds it. If the daemon does not answer, the bundle is built from the files on disk.
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

from pi_orchestrator.cli.connection import connect
from pi_orchestrator.cli.options import add_client, load_settings
from pi_orchestrator.cli.output import print_json, wrapped
from pi_orchestrator.core.error_codes import LocalCode
from pi_orchestrator.core.errors import ArgumentsError, OrchestratorError, SettingsError

if TYPE_CHECKING:
    from pi_orchestrator.cli.options import Subparsers
    from pi_orchestrator.features.system.archive import Archive
    from pi_orchestrator.settings import Loaded, Settings

PATH = "/api/v1/system/bundle"
STDOUT = "-"
JOURNAL = ("journalctl", "--unit", "pi-orchestrator", "--lines", "3000", "--no-pager", "--output", "short-iso")
JOURNAL_TIMEOUT_S = 15.0
MAX_FILES = 1000


def add_parser(subparsers: Subparsers) -> None:
    """Add `bundle`."""
    parser = subparsers.add_parser(
        "bundle",
        help="write diagnostics to one file",
        description="Write host status, configuration, log, cameras, sessions, events and operator actions to one"
        " archive, with passwords and keys masked. If the daemon does not answer, the files on disk are used.",
    )
    add_client(parser)
    parser.add_argument("--output", "-o", metavar="FILE", help="file to write; - for standard output")
    parser.set_defaults(func=bundle)


def bundle(args: argparse.Namespace) -> int:
    """Write a bundle, and print its name."""
    if args.output == STDOUT and sys.stdout.isatty():
        raise ArgumentsError(
            ["--output: a bundle is binary and cannot be written to a terminal; name a file, or use a pipe"]
        )
    content, made_by = _fetch_or_build(args)
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


def _fetch_or_build(args: argparse.Namespace) -> tuple[bytes, str]:
    try:
        return connect(args).download(PATH), "daemon"
    except SettingsError as error:
        if args.url:
            raise
        return _build_from_disk(args, f"the configuration is not valid: {'; '.join(error.problems)}"), "disk"
    except OrchestratorError as error:
        if error.code != LocalCode.UNREACHABLE or args.url:
            raise
        return _build_from_disk(args, error.message), "disk"


def _write(file: Path, content: bytes) -> None:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
    except OSError as error:
        raise OrchestratorError(
            f"{file} cannot be written: {error.strerror}", details="name another file with -o"
        ) from error


def _build_from_disk(args: argparse.Namespace, reason: str) -> bytes:
    from pi_orchestrator.core.logging import configure_redaction, mask_text
    from pi_orchestrator.features.system import database_dump
    from pi_orchestrator.features.system.archive import Archive
    from pi_orchestrator.features.system.bundle import add_tables, add_versions_and_settings
    from pi_orchestrator.settings import StorageSettings, secrets_of
    from pi_orchestrator.storage.files import DATABASE

    print(wrapped(f"{mask_text(reason)}. This bundle is built from the files on disk."), file=sys.stderr)
    archive = Archive(at=datetime.now(UTC), made_by="the command line, from the files on disk")
    archive.notes.append(reason)
    loaded = _try_load(args)
    state_dir = Path(args.state_dir) if args.state_dir else StorageSettings().state_dir
    if loaded:
        configure_redaction(secrets_of(loaded.settings))
        state_dir = loaded.settings.storage.state_dir
        add_versions_and_settings(archive, loaded)
        _add_host(archive, loaded.settings)
    _add_journal(archive)
    _add_files(archive, state_dir)
    add_tables(archive, lambda: database_dump.read_database_copy(state_dir / DATABASE))
    return archive.finish()


def _try_load(args: argparse.Namespace) -> Loaded | None:
    try:
        return load_settings(args)
    except SettingsError:
        return None  # already reported as the reason


def _add_host(archive: Archive, settings: Settings) -> None:
    """Add the host status, and the findings of `doctor`."""
    import asyncio

    from pi_orchestrator.core.clock import Clock
    from pi_orchestrator.features.system.cli_doctor import examine
    from pi_orchestrator.net.host.reader import HostReader
    from pi_orchestrator.net.host.readings import overall_status

    host = asyncio.run(HostReader(clock=Clock(), folder=settings.storage.state_dir).read())
    status, reasons = overall_status(host)
    archive.add_json("system.json", asdict(host) | {"overall_status": status, "reasons": reasons})
    archive.add_json("doctor.json", [asdict(finding) for finding in examine(settings)])


def _add_journal(archive: Archive) -> None:
    """Add the journal, because the log buffer of the daemon is not available."""
    try:
        result = subprocess.run(JOURNAL, capture_output=True, timeout=JOURNAL_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        archive.notes.append(f"the journal could not be read: {type(error).__name__}")
        return
    archive.add_text("journal.txt", (result.stdout or result.stderr).decode("utf-8", "replace"))


def _add_files(archive: Archive, folder: Path) -> None:
    """Add name, size, mode, owner and time of the last write of each file, not its content."""
    files: list[dict[str, Any]] = []
    try:
        for file in sorted(folder.rglob("*"))[:MAX_FILES]:
            status = file.lstat()
            files.append(
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
    archive.add_json("files.json", {"folder": str(folder), "files": files})
