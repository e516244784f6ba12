"""The record as text, for people who look into what went wrong: bounded, and without anything that opens something.

Reads on a connection of its own, in a thread; nothing is written, and a damaged or missing table is told, not raised.
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

from pi_orchestrator.errors import StorageError
from pi_orchestrator.storage.schema import SIDE_FILES

MOST_ROWS = 2000
SQLITE = sqlite3.sqlite_version
LARGEST_COPY = 256 * 1024 * 1024
CLOSED = frozenset({"session_secrets", "idempotency"})
"""Tables of which no row is shown. Of the others no blob is: what is binary in here are digests and what is sealed."""


@dataclass(frozen=True, slots=True)
class Table:
    """The newest rows of a table as lines of JSON, oldest first, and how many rows it has in all."""

    name: str
    lines: list[str]
    rows: int


def of_file(path: Path) -> Iterator[Table]:
    """Every open table of a database that somebody may be writing to; StorageError where it cannot be read."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            connection.text_factory = lambda raw: raw.decode("utf-8", errors="replace")
            yield from _tables(connection)
    except sqlite3.Error as error:
        raise StorageError(f"the database could not be read: {error}") from error


def of_copy(path: Path) -> Iterator[Table]:
    """The same of a copy, so that nothing in the folder of a daemon that is not running changes."""
    with tempfile.TemporaryDirectory(prefix="pi-orchestrator-") as folder:
        try:
            size = sum(file.stat().st_size for file in _files(path))
            if size > LARGEST_COPY:
                raise StorageError(f"the database is too large to be copied: {size // 1024**2} MiB")
            for file in _files(path):
                shutil.copyfile(file, Path(folder) / file.name)
        except OSError as error:
            raise StorageError(f"the database could not be copied: {error.strerror}") from error
        yield from of_file(Path(folder) / path.name)


def _files(path: Path) -> list[Path]:
    # The index of the log is made anew from the log.
    sides = [path.with_name(path.name + suffix) for suffix in SIDE_FILES if suffix != "-shm"]
    return [path, *(side for side in sides if side.exists())]


def _tables(connection: sqlite3.Connection) -> Iterator[Table]:
    names = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY name"
    ).fetchall()
    for name in (str(row["name"]) for row in names):
        if name in CLOSED:
            continue
        table = f'"{name}"'  # of our own schema
        try:
            key = connection.execute("SELECT name FROM pragma_table_info(?) WHERE pk = 1", (name,)).fetchone()
            order = f'ORDER BY "{key["name"]}" DESC' if key else ""
            count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
            rows = connection.execute(f"SELECT * FROM {table} {order} LIMIT ?", (MOST_ROWS,)).fetchall()  # noqa: S608
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
