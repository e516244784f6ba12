"""Getting the database file into shape before it is opened for work: check, set aside, back up, migrate.

Runs once at start, in a thread, on plain sqlite3. Order matters: a file that was not closed cleanly is checked
first. A damaged one is moved aside (never deleted), a new one is built beside it from what can be read, and put in
place whole; a repair that a crash cut short is done again. Otherwise pending migrations run in one transaction each
after a backup, and a file of a newer program is refused.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pi_orchestrator.errors import StartupError

SIDE_FILES = ("-wal", "-shm", "-journal")


@dataclass(slots=True)
class Report:
    """What was done to the file: shown in health and log."""

    checked: bool = False
    set_aside: Path | None = None
    rows_saved: int = 0
    migrated_from: int | None = None
    backup: Path | None = None
    notes: list[str] = field(default_factory=list)


def migrations() -> list[tuple[int, str]]:
    """Every migration as (number, SQL), in order."""
    folder = files("pi_orchestrator.storage") / "migrations"
    found = [entry for entry in folder.iterdir() if entry.name.endswith(".sql")]
    return sorted((int(entry.name.split("_")[0]), entry.read_text(encoding="utf-8")) for entry in found)


def prepare(path: Path, *, backups: Path, backups_kept: int, closed_cleanly: bool) -> Report:
    """Leave a sound file of the current schema at `path`; StartupError where a person must act."""
    report = Report()
    rebuilding = path.with_name(f"{path.name}.rebuilding")
    damaged = report.set_aside = _interrupted_repair(path, rebuilding)
    if damaged is not None:
        report.notes.append("an earlier repair was interrupted: it is done again")
    elif path.is_dir():
        damaged = report.set_aside = _set_aside(path, rebuilding)
        report.notes.append("a folder stood in the database's place")
    elif path.exists() and path.stat().st_size:
        report.checked = not closed_cleanly
        fault = _fault(path, check=report.checked)
        if fault:
            damaged = report.set_aside = _set_aside(path, rebuilding)
            report.notes.append(fault)
    elif _has_log(path):
        # SQLite would delete a log without its file: what was committed there is kept for those who can read it.
        damaged = report.set_aside = _set_aside(path, rebuilding)
        report.notes.append("the file was empty or gone, but its write-ahead log was not")
    try:
        if damaged is None:
            _migrate(path, backups=backups, backups_kept=backups_kept, report=report)
        else:
            _migrate(rebuilding, backups=backups, backups_kept=backups_kept, report=report)
            if damaged.is_file() and damaged.stat().st_size:
                report.rows_saved = _salvage(damaged, rebuilding)
            _put_in_place(rebuilding, path)
    except (sqlite3.Error, OSError) as error:
        before = f", or go back to the backup {report.backup} and the version that wrote it" if report.backup else ""
        raise StartupError(
            f"cannot bring the database {path} to this program's schema: {error}",
            remedy=f"look for a full disk or missing permissions{before}; the step that failed left no trace",
        ) from error
    return report


def backup(source: sqlite3.Connection, target: Path) -> None:
    """Copy a database so that `target` is there whole or not at all."""
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with closing(sqlite3.connect(partial)) as copy:
        source.backup(copy)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(target)
    fsync_folder(target.parent)


def fsync_folder(folder: Path) -> None:
    """Make a rename or a removal in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fault(path: Path, *, check: bool) -> str | None:
    """Why the file cannot be trusted, or None."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if check and version:
                answer: str = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                return None if answer == "ok" else f"the check found: {answer}"
    except sqlite3.OperationalError as error:
        raise StartupError(
            f"cannot open the database {path}: {error}",
            remedy="let the daemon's user read and write the file and its folder",
        ) from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # damage can reach the text of the error itself
        return f"cannot be read: {error}"
    return None


def _has_log(path: Path) -> bool:
    log = path.with_name(path.name + "-wal")
    return log.is_file() and log.stat().st_size > 0


def _interrupted_repair(path: Path, rebuilding: Path) -> Path | None:
    """The damaged file whose repair a crash cut short, if there is one; what had been rebuilt of it is dropped."""
    if not rebuilding.exists():
        return None
    for leftover in (rebuilding, *(rebuilding.with_name(rebuilding.name + suffix) for suffix in SIDE_FILES)):
        leftover.unlink(missing_ok=True)
    aside = sorted(path.parent.glob(f"{path.name}.damaged-*"), key=lambda file: file.name)
    found = [file for file in aside if not file.name.endswith(SIDE_FILES)]
    if path.exists() or not found:
        return None
    rebuilding.touch(mode=0o600)
    return found[-1]


def _put_in_place(rebuilding: Path, path: Path) -> None:
    """Make the rebuilt file the database: whole, or not at all."""
    with closing(sqlite3.connect(rebuilding, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with rebuilding.open("rb") as file:
        os.fsync(file.fileno())
    rebuilding.replace(path)
    fsync_folder(path.parent)


def _set_aside(path: Path, rebuilding: Path) -> Path:
    # The file in which the new one will be built says that a repair is under way, from before its first step.
    rebuilding.touch(mode=0o600)
    fsync_folder(path.parent)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    for suffix in SIDE_FILES:
        side = path.with_name(path.name + suffix)
        if side.exists():
            side.replace(aside.with_name(aside.name + suffix))
    if path.exists():
        path.replace(aside)
    fsync_folder(path.parent)
    return aside


def _migrate(path: Path, *, backups: Path, backups_kept: int, report: Report) -> None:
    steps = migrations()
    newest = steps[-1][0]
    # SQLite gives its side files the mode of this one: nobody else reads the record.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > newest:
            raise _newer(path, version, newest, backups)
        if version == newest:
            return
        if version:
            report.migrated_from = version
            report.backup = _back_up_before(connection, version, backups, backups_kept)
        for number, sql in steps:
            if number > version:
                try:
                    connection.executescript(f"BEGIN IMMEDIATE;\n{sql}\nPRAGMA user_version={number};\nCOMMIT;")
                except sqlite3.Error:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise


def _back_up_before(connection: sqlite3.Connection, version: int, backups: Path, kept: int) -> Path:
    backups.mkdir(mode=0o700, exist_ok=True)
    target = backups / f"schema-{version:04d}-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S%f')}.db"
    backup(connection, target)
    # Times do not order a Pi's files for sure: the one just made stays, whatever its clock says.
    others = sorted(set(backups.glob("schema-*.db")) - {target}, key=lambda file: file.name.split("-")[-1])
    for old in others[: max(0, len(others) + 1 - kept)]:
        old.unlink()
    return target


def _newer(path: Path, version: int, newest: int, backups: Path) -> StartupError:
    fitting = [file for file in sorted(backups.glob("schema-*.db")) if int(file.name.split("-")[1]) <= newest]
    restore = f", or stop the daemon and put the backup {fitting[-1]} in its place" if fitting else ""
    return StartupError(
        f"the database {path} is of schema {version}; this program knows up to {newest}",
        remedy=f"install the newer version again{restore}",
    )


def _salvage(damaged: Path, path: Path) -> int:
    """Copy every row that can still be read; returns how many."""
    saved = 0
    # A connection of its own: one that has met damage refuses every further write, to a sound file too.
    source = f"file:{quote(str(damaged))}?mode=ro"
    with closing(sqlite3.connect(source, uri=True)) as old, closing(sqlite3.connect(path, isolation_level=None)) as new:
        new.execute("PRAGMA foreign_keys=OFF")
        tables = [
            row[0]
            for row in new.execute("SELECT name FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite_%'")
        ]
        new.execute("BEGIN IMMEDIATE")
        for table in tables:
            saved += _salvage_table(old, new, table)
        # What hangs on a lost camera goes: the camera will be onboarded anew. A lost container is made again.
        # What hangs on a lost session goes too: above all its password.
        for parent, key, column in (("cameras", "mac", "mac"), ("sessions", "session_id", "id")):
            for table in {row[0] for row in new.execute("PRAGMA foreign_key_check") if row[2] == parent}:
                orphans = f"DELETE FROM {table} WHERE {key} NOT IN (SELECT {column} FROM {parent})"  # noqa: S608
                saved -= new.execute(orphans).rowcount
        new.execute(
            "INSERT OR IGNORE INTO containers (id, created_at, updated_at)"
            " SELECT container_id, min(assigned_at), min(assigned_at) FROM assignments GROUP BY container_id"
        )
        new.execute("COMMIT")
    return saved


def _salvage_table(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> int:
    """Read from both ends towards the damage. Table names come from our own schema."""
    saved = 0
    columns = {row[1]: row[5] for row in new.execute(f"PRAGMA table_info({table})")}
    primary = next(name for name, place in columns.items() if place == 1)
    try:
        known = {row[1] for row in old.execute(f"PRAGMA table_info({table})")}
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return 0
    shared = [column for column in columns if column in known]
    if primary not in shared:
        return 0
    names, marks = ", ".join(shared), ", ".join("?" for _ in shared)
    for direction in ("ASC", "DESC"):
        for row in _readable(old, f"SELECT {names} FROM {table} ORDER BY {primary} {direction}"):  # noqa: S608
            saved += new.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", row).rowcount  # noqa: S608
    return saved


def _readable(damaged: sqlite3.Connection, sql: str) -> Iterator[tuple[Any, ...]]:
    """Rows up to the damage. Faults of the file that is written to are no concern of this."""
    try:
        cursor = damaged.execute(sql)
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return
    while True:
        try:
            row = cursor.fetchone()
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            return
        if row is None:
            return
        yield row
