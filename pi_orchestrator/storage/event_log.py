"""The event log: every state change as a row, whose id is what streams resume from."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from pi_orchestrator.clock import rfc3339
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.events import Logged
from pi_orchestrator.storage.database import Database, Row, Tx


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events somebody wants, as a rule for those that come and as SQL for those that are stored.

    Of these `types`, or of a type that begins with one of `families` (`camera.`); where neither is named, of all.
    With a `session_id` those of that session and of none; without `sessions` only those of none.
    """

    types: frozenset[str] = frozenset()
    families: tuple[str, ...] = ()
    session_id: str | None = None
    sessions: bool = True

    def takes(self, event: Logged) -> bool:
        """Whether this event is one of them."""
        if event.session_id is not None and (
            not self.sessions or (self.session_id is not None and event.session_id != self.session_id)
        ):
            return False
        if not self.types and not self.families:
            return True
        return event.type in self.types or event.type.startswith(self.families)

    def sql(self) -> tuple[str, list[str]]:
        """The same as a condition on rows, and its parameters."""
        conditions, params = ["TRUE"], []
        if not self.sessions:
            conditions.append("session_id IS NULL")
        elif self.session_id is not None:
            conditions.append("(session_id IS NULL OR session_id = ?)")
            params.append(self.session_id)
        if named := ["type = ?"] * len(self.types) + ["instr(type, ?) = 1"] * len(self.families):
            conditions.append(f"({' OR '.join(named)})")
            params += [*self.types, *self.families]
        return " AND ".join(conditions), params


@dataclass(frozen=True, slots=True)
class Bounds:
    """The newest id that was given, and the oldest whose row is still there (newest + 1 where none is)."""

    oldest: int
    newest: int


async def append(tx: Tx, event: Logged) -> None:
    """Store an event with the change that it tells of; the hub hears of it after the commit."""
    at = rfc3339(tx.stamp.at)
    rows = await tx.run(
        "INSERT INTO events (type, mac, session_id, payload, at, boot_id, monotonic, clock_trusted)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (
            event.type,
            event.mac,
            event.session_id,
            json.dumps(event.payload, separators=(",", ":")),
            at,
            tx.stamp.boot_id,
            tx.stamp.monotonic,
            tx.stamp.trusted,
        ),
    )
    tx.publish(replace(event, id=rows[0]["id"], at=at))


async def bounds(database: Database) -> Bounds:
    """What the log holds."""
    # The sequence remembers the newest id even where its row is gone.
    sql = (
        "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0) AS newest,"
        " (SELECT min(id) FROM events) AS oldest"
    )
    row = (await database.read(sql))[0]
    return Bounds(row["newest"] + 1 if row["oldest"] is None else row["oldest"], row["newest"])


async def between(database: Database, after: int, upto: int, *, wanted: Wanted) -> list[Logged]:
    """The wanted events with ids above `after` and not above `upto`, oldest first."""
    condition, params = wanted.sql()
    rows = await database.read(
        f"SELECT * FROM events WHERE id > ? AND id <= ? AND {condition} ORDER BY id",  # noqa: S608  # no value in it
        (after, upto, *params),
    )
    return [_event(row) for row in rows]


async def trim(tx: Tx, *, keep: int) -> None:
    """Drop all but the newest `keep` events."""
    await tx.run("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (keep,))


def _event(row: Row) -> Logged:
    return Logged(
        row["type"],
        _payload(row["payload"]),
        mac=Mac(row["mac"]) if row["mac"] else None,
        session_id=row["session_id"],
        id=row["id"],
        at=row["at"],
    )


def _payload(text: str) -> dict[str, Any]:
    """A stored payload; an empty one where its text is damaged, which must not end a stream."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
