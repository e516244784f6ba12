"""The database as text for the support bundle: bounded, without secrets.

Every function blocks, so the daemon calls it in a thread; it opens its own read-only connection. If a table cannot be
read, the error takes the place of its rows.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pi_orchestrator.core.errors import StorageError
from pi_orchestrator.storage.schema import SIDE_FILES

MAX_ROWS = 2000
SQLITE_VERSION = sqlite3.sqlite_version
MAX_COPY_BYTES = 256 * 1024 * 1024
SECRET_TABLES = frozenset({"session_secrets", "idempotency"})
"""Tables that are omitted. Blobs of other tables are omitted too: they are digests or sealed secrets."""


@dataclass(frozen=True, slots=True)
class Table:
    """The last MAX_ROWS rows of a table by primary key, as JSON lines in ascending order; `rows` counts all rows."""

    name: str
    lines: list[str]
    rows: int


def read_database(path: Path) -> Iterator[Table]:
    """All tables without secrets, of a database that may be in use; StorageError if it cannot be read."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            connection.text_factory = lambda raw: raw.decode("utf-8", errors="replace")
            yield from _tables(connection)
    except sqlite3.Error as error:
        raise StorageError(f"the database could not be read: {error}") from error


def read_database_copy(path: Path) -> Iterator[Table]:
    """As `read_database`, but of a copy, for a stopped daemon.

    SQLite can create files beside a database that it opens, even to read it; the state folder must not change.
    """
    with tempfile.TemporaryDirectory(prefix="pi-orchestrator-") as folder:
        try:
            size = sum(file.stat().st_size for file in _files(path))
            if size > MAX_COPY_BYTES:
                raise StorageError(f"the database is too large to copy: {size // 1024**2} MiB")
            for file in _files(path):
                shutil.copyfile(file, Path(folder) / file.name)
        except OSError as error:
            raise StorageError(f"the database could not be copied: {error.strerror}") from error
        yield from read_database(Path(folder) / path.name)


def _files(path: Path) -> list[Path]:
    # Without the shared-memory index: SQLite rebuilds it from the WAL.
    side_files = [path.with_name(path.name + suffix) for suffix in SIDE_FILES if suffix != "-shm"]
    return [path, *(side for side in side_files if side.exists())]


def _tables(connection: sqlite3.Connection) -> Iterator[Table]:
    names = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY name"
    ).fetchall()
    for name in (str(row["name"]) for row in names):
        if name in SECRET_TABLES:
            continue
        table = f'"{name}"'  # safe to insert into SQL: the name comes from the schema, not from a request
        try:
            key = connection.execute("SELECT name FROM pragma_table_info(?) WHERE pk = 1", (name,)).fetchone()
            order = f'ORDER BY "{key["name"]}" DESC' if key else ""
            count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
            rows = connection.execute(f"SELECT * FROM {table} {order} LIMIT ?", (MAX_ROWS,)).fetchall()  # noqa: S608
        except sqlite3.DatabaseError as error:
            yield Table(name, [json.dumps({"unreadable": str(error)})], 0)
            continue
        yield Table(name, [_line(row) for row in reversed(rows)], count)


def _line(row: sqlite3.Row) -> str:
    return json.dumps({name: _shown(name, row[name]) for name in row.keys()})  # noqa: SIM118  # iterating gives values


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, bytes):
        return f"({len(value)} bytes)"
    if name == "payload" and isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
