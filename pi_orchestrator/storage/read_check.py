"""Read a database that a daemon may be using, without changing anything."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote


def read_error(database: Path) -> str | None:
    """Why the database cannot be read; None if it can, or if the file does not exist. Creates no file."""
    if not database.exists():
        return None
    # Without a write-ahead log no process uses the database, and reading must not create one.
    mode = "mode=ro" if database.with_name(f"{database.name}-wal").exists() else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(database))}?{mode}", uri=True)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            answer: str = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            return None if answer == "ok" else answer
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the error text itself may be damaged
        return str(error)
