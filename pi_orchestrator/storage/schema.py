"""Prepare the database file before it is opened: check, move aside, back up, migrate.

Runs once at start, in a thread, with plain sqlite3. A file that was not closed cleanly is checked first. A damaged file
is moved aside (never deleted); a new one is built next to it from the readable rows and renamed into place. A repair
that was interrupted by a crash is repeated. An intact file is backed up before pending migrations; each migration runs
in its own transaction. A file of a newer version is refused.
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

from pi_orchestrator.core.errors import StartupError

BACKUPS_KEPT = 5
"""Number of backups to keep; one is made before each migration of a file, and the oldest are deleted."""
SIDE_FILES = ("-wal", "-shm", "-journal")


@dataclass(slots=True)
class Report:
    """What `prepare` did to the file; shown in health and log. `moved_to`: where the damaged file is now."""

    checked: bool = False
    moved_to: Path | None = None
    rows_saved: int = 0
    migrated_from: int | None = None
    backup: Path | None = None
    notes: list[str] = field(default_factory=list)


def migrations() -> list[tuple[int, str]]:
    """Every migration as (number, SQL), in order."""
    folder = files("pi_orchestrator.storage") / "migrations"
    found = [entry for entry in folder.iterdir() if entry.name.endswith(".sql")]
    return sorted((int(entry.name.split("_")[0]), entry.read_text(encoding="utf-8")) for entry in found)


def prepare(path: Path, *, backups: Path, closed_cleanly: bool, backups_kept: int = BACKUPS_KEPT) -> Report:
    """Leave an intact file of the current schema at `path`; StartupError if an operator must act."""
    report = Report()
    rebuilding = path.with_name(f"{path.name}.rebuilding")
    damaged = report.moved_to = _interrupted_repair(path, rebuilding)
    if damaged is not None:
        report.notes.append("an earlier repair was interrupted and is repeated")
    elif path.is_dir():
        damaged = report.moved_to = _set_aside(path, rebuilding)
        report.notes.append("there was a folder at the database's path")
    elif path.exists() and path.stat().st_size:
        report.checked = not closed_cleanly
        damage = _find_damage(path, check=report.checked)
        if damage:
            damaged = report.moved_to = _set_aside(path, rebuilding)
            report.notes.append(damage)
    elif _has_wal(path):
        # SQLite would delete a write-ahead log without its database; it holds committed data, so it is moved aside.
        damaged = report.moved_to = _set_aside(path, rebuilding)
        report.notes.append("the file was empty or missing, but its write-ahead log was not")
    try:
        if damaged is None:
            _migrate(path, backups=backups, backups_kept=backups_kept, report=report)
        else:
            _migrate(rebuilding, backups=backups, backups_kept=backups_kept, report=report)
            if damaged.is_file() and damaged.stat().st_size:
                report.rows_saved = _salvage(damaged, rebuilding)
            _put_in_place(rebuilding, path)
    except (sqlite3.Error, OSError) as error:
        restore = (
            f", or restore the backup {report.backup} and install the version that wrote it" if report.backup else ""
        )
        raise StartupError(
            f"cannot migrate the database {path} to this version's schema: {error}",
            remedy=f"check free disk space and permissions{restore}; the failed step was rolled back",
        ) from error
    return report


def backup(source: sqlite3.Connection, target: Path) -> None:
    """Copy a database atomically: `target` is complete or does not exist."""
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


def _find_damage(path: Path, *, check: bool) -> str | None:
    """Why the file counts as damaged, or None."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if check and version:
                answer: str = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                return None if answer == "ok" else f"quick_check reported: {answer}"
    except sqlite3.OperationalError as error:
        raise StartupError(
            f"cannot open the database {path}: {error}",
            remedy="make the file and its folder readable and writable for the daemon's user",
        ) from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the error text itself may be damaged
        return f"cannot be read: {error}"
    return None


def _has_wal(path: Path) -> bool:
    wal = path.with_name(path.name + "-wal")
    return wal.is_file() and wal.stat().st_size > 0


def _interrupted_repair(path: Path, rebuilding: Path) -> Path | None:
    """The damaged file, if a crash interrupted its repair, else None; deletes the partly rebuilt file."""
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
    """Rename the rebuilt file to the database's path, atomically."""
    with closing(sqlite3.connect(rebuilding, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with rebuilding.open("rb") as file:
        os.fsync(file.fileno())
    rebuilding.replace(path)
    fsync_folder(path.parent)


def _set_aside(path: Path, rebuilding: Path) -> Path:
    # The `rebuilding` file marks a repair in progress, so it must exist before the first step.
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
    # SQLite gives its side files the same mode, so only the daemon's user may read them.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > newest:
            raise _newer_version_error(path, version, newest, backups)
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
    # A Pi's clock can be wrong, so the new backup stays even if its time looks older.
    others = sorted(set(backups.glob("schema-*.db")) - {target}, key=lambda file: file.name.split("-")[-1])
    for old in others[: max(0, len(others) + 1 - kept)]:
        old.unlink()
    return target


def _newer_version_error(path: Path, version: int, newest: int, backups: Path) -> StartupError:
    compatible = [file for file in sorted(backups.glob("schema-*.db")) if int(file.name.split("-")[1]) <= newest]
    restore = f", or stop the daemon and replace the database by the backup {compatible[-1]}" if compatible else ""
    return StartupError(
        f"the database {path} has schema {version}; this version supports up to {newest}",
        remedy=f"install the newer version again{restore}",
    )


def _salvage(damaged: Path, path: Path) -> int:
    """Copy every readable row; returns the number of rows."""
    saved = 0
    # Two connections: one that has met damage refuses every further write, even to an intact file.
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
        # Rows of a lost camera are deleted, because it will be onboarded again; so are those of a lost session,
        # above all its password. A lost container is created again.
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
    """Copy the readable rows of a table, from both ends towards the damage; returns their number.

    Table names come from the migrations, so the SQL is safe.
    """
    saved = 0
    key_positions = {row[1]: row[5] for row in new.execute(f"PRAGMA table_info({table})")}
    primary = next(name for name, position in key_positions.items() if position == 1)
    try:
        old_columns = {row[1] for row in old.execute(f"PRAGMA table_info({table})")}
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return 0
    shared = [column for column in key_positions if column in old_columns]
    if primary not in shared:
        return 0
    names, marks = ", ".join(shared), ", ".join("?" for _ in shared)
    for direction in ("ASC", "DESC"):
        for row in _readable(old, f"SELECT {names} FROM {table} ORDER BY {primary} {direction}"):  # noqa: S608
            saved += new.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", row).rowcount  # noqa: S608
    return saved


def _readable(damaged: sqlite3.Connection, sql: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a query, up to the damage; ends there without an error."""
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
