"""Event log: every state change is a row; streams resume after the id of a row."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from pi_orchestrator.core.clock import rfc3339
from pi_orchestrator.core.events import Event, StoredEvent
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.storage.database import Database, Row, Tx


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Filter of events: `matches` for live events, `sql` for stored ones.

    Type: one of `types`, or starting with one of `families` (such as `camera.`); any type if both are empty.
    Session: any; if `session_id` is set, events of that session and events without a session; if `include_sessions` is
    False, only events without a session.
    """

    types: frozenset[str] = frozenset()
    families: tuple[str, ...] = ()
    session_id: str | None = None
    include_sessions: bool = True

    def matches(self, event: StoredEvent) -> bool:
        """Whether this event passes the filter."""
        if event.session_id is not None and (
            not self.include_sessions or (self.session_id is not None and event.session_id != self.session_id)
        ):
            return False
        if not self.types and not self.families:
            return True
        return event.type in self.types or event.type.startswith(self.families)

    def sql(self) -> tuple[str, list[str]]:
        """The filter as an SQL condition, and its parameters."""
        conditions, params = ["TRUE"], []
        if not self.include_sessions:
            conditions.append("session_id IS NULL")
        elif self.session_id is not None:
            conditions.append("(session_id IS NULL OR session_id = ?)")
            params.append(self.session_id)
        if alternatives := ["type = ?"] * len(self.types) + ["instr(type, ?) = 1"] * len(self.families):
            conditions.append(f"({' OR '.join(alternatives)})")
            params += [*self.types, *self.families]
        return " AND ".join(conditions), params


@dataclass(frozen=True, slots=True)
class Bounds:
    """The newest id ever assigned, and the oldest one still stored (newest + 1 if the log is empty)."""

    oldest: int
    newest: int


async def append(tx: Tx, event: Event) -> None:
    """Store an event in the transaction of the change; listeners get the event now, the bus after the commit."""
    at, row = rfc3339(tx.stamp.at), event.row()
    rows = await tx.run(
        "INSERT INTO events (type, mac, session_id, payload, at, boot_id, monotonic, clock_trusted)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (
            row.type,
            row.mac,
            row.session_id,
            json.dumps(row.payload, separators=(",", ":")),
            at,
            tx.stamp.boot_id,
            tx.stamp.monotonic,
            tx.stamp.trusted,
        ),
    )
    stored = replace(row, id=rows[0]["id"], at=at)
    for listener in tx.listeners:
        await listener(tx, event, stored)
    tx.publish(event)
    tx.publish(stored)


async def bounds(database: Database) -> Bounds:
    """The range of ids in the log."""
    # sqlite_sequence has the newest id even if its row was deleted.
    sql = (
        "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0) AS newest,"
        " (SELECT min(id) FROM events) AS oldest"
    )
    row = (await database.read(sql))[0]
    return Bounds(row["newest"] + 1 if row["oldest"] is None else row["oldest"], row["newest"])


async def between(database: Database, after: int, upto: int, *, event_filter: EventFilter) -> list[StoredEvent]:
    """Events that pass the filter, with `after` < id <= `upto`, oldest first."""
    condition, params = event_filter.sql()
    rows = await database.read(
        f"SELECT * FROM events WHERE id > ? AND id <= ? AND {condition} ORDER BY id",  # noqa: S608  # values are parameters
        (after, upto, *params),
    )
    return [_event(row) for row in rows]


async def keep_newest(tx: Tx, *, keep: int) -> None:
    """Delete all but the newest `keep` events."""
    await tx.run("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (keep,))


def _event(row: Row) -> StoredEvent:
    return StoredEvent(
        row["type"],
        _payload(row["payload"]),
        mac=Mac(row["mac"]) if row["mac"] else None,
        session_id=row["session_id"],
        id=row["id"],
        at=row["at"],
    )


def _payload(text: str) -> dict[str, Any]:
    """A stored payload; empty if its text is damaged, because a damaged row must not end a stream."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
