"""SQL of the allowlist. A change that affects at least one row appends an event with the counts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from pi_orchestrator.core.clock import parse_rfc3339, rfc3339
from pi_orchestrator.core.events import AllowlistChanged
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.allowlist.model import MAX_ENTRIES, Details, Effect, Entry, PlannedChange, plan
from pi_orchestrator.features.allowlist.model import Row as RequestedRow
from pi_orchestrator.storage import event_store
from pi_orchestrator.storage.database import Database, Row, Tx

_SELECT_ENTRY = "SELECT * FROM allowlist WHERE mac = ?"


@dataclass(frozen=True, slots=True)
class Stats:
    """Number of entries, and of those whose camera has been verified."""

    total: int
    used: int


async def find(tx: Tx, mac: Mac) -> Entry | None:
    """The entry of a MAC, as of this transaction, or None."""
    rows = await tx.run(_SELECT_ENTRY, (mac,))
    return _entry(rows[0]) if rows else None


async def is_listed(tx: Tx, mac: Mac) -> bool:
    """Whether a camera may get credentials, as of this transaction; the final check before they are sent."""
    return bool(await tx.run("SELECT 1 FROM allowlist WHERE mac = ?", (mac,)))


async def mark_used(tx: Tx, mac: Mac) -> None:
    """Mark the entry's camera as verified; only the first call has an effect, and a missing entry is not created."""
    await tx.run(
        "UPDATE allowlist SET used_at = ? WHERE mac = ? AND used_at IS NULL",
        (rfc3339(tx.stamp.at), mac),
    )


async def load(database: Database, mac: Mac) -> Entry | None:
    """The entry of a MAC, or None."""
    rows = await database.read(_SELECT_ENTRY, (mac,))
    return _entry(rows[0]) if rows else None


async def listed(database: Database) -> dict[Mac, Entry]:
    """Every entry by MAC, in MAC order."""
    rows = await database.read("SELECT * FROM allowlist ORDER BY mac")
    # Parses up to thousands of timestamps, which would block the event loop.
    return await asyncio.to_thread(_entries, rows)


async def stats(database: Database) -> Stats:
    """Number of entries, and of those whose camera has been verified."""
    (row,) = await database.read("SELECT count(*) AS total, count(used_at) AS used FROM allowlist")
    return Stats(total=row["total"], used=row["used"])


async def plan_changes(tx: Tx, rows: Sequence[RequestedRow]) -> list[PlannedChange]:
    """Plan what `apply_rows` would change; change nothing."""
    macs = json.dumps([row.mac for row in rows if row.error is None])
    found = await tx.run(
        "SELECT mac, description, container_id FROM allowlist WHERE mac IN (SELECT value FROM json_each(?))", (macs,)
    )
    (count,) = await tx.run("SELECT count(*) AS total FROM allowlist")
    listed_details = {Mac(row["mac"]): Details(row["description"], row["container_id"]) for row in found}
    return plan(rows, listed_details, capacity=max(0, MAX_ENTRIES - count["total"]))


async def apply_rows(tx: Tx, rows: Sequence[RequestedRow]) -> list[PlannedChange]:
    """Apply the rows; return the planned change of each."""
    changes = await plan_changes(tx, rows)
    now = rfc3339(tx.stamp.at)
    added = [(planned.row.mac, *planned.details, now) for planned in changes if planned.effect is Effect.ADD]
    updated = [(*planned.details, planned.row.mac) for planned in changes if planned.effect is Effect.UPDATE]
    await tx.run_many(
        "INSERT INTO allowlist (mac, description, container_id, added_at) VALUES (?, ?, ?, ?)",
        added,
    )
    await tx.run_many("UPDATE allowlist SET description = ?, container_id = ? WHERE mac = ?", updated)
    changed = [*(row[0] for row in added), *(row[-1] for row in updated)]
    await _append_event(tx, changed, added=len(added), updated=len(updated))
    return changes


async def remove(tx: Tx, macs: Collection[Mac]) -> set[Mac]:
    """Remove entries; returns the MACs that were listed."""
    rows = await tx.run(
        "DELETE FROM allowlist WHERE mac IN (SELECT value FROM json_each(?)) RETURNING mac",
        (json.dumps(list(macs)),),
    )
    removed = {Mac(row["mac"]) for row in rows}
    await _append_event(tx, removed, removed=len(removed))
    return removed


async def clear(tx: Tx) -> int:
    """Remove every entry; returns their number."""
    (row,) = await tx.run("SELECT count(*) AS total FROM allowlist")
    cleared: int = row["total"]
    await tx.run("DELETE FROM allowlist")
    await _append_event(tx, (), removed=cleared)
    return cleared


async def _append_event(tx: Tx, macs: Collection[str], *, added: int = 0, removed: int = 0, updated: int = 0) -> None:
    if added or removed or updated:
        single = Mac(next(iter(macs))) if len(macs) == 1 else None
        event = AllowlistChanged(added=added, removed=removed, updated=updated, mac=single)
        await event_store.append(tx, event)


def _entries(rows: Iterable[Row]) -> dict[Mac, Entry]:
    return {entry.mac: entry for entry in map(_entry, rows)}


def _entry(row: Row) -> Entry:
    return Entry(
        mac=Mac(row["mac"]),
        added_at=parse_rfc3339(row["added_at"]),
        description=row["description"],
        container_id=row["container_id"],
        used_at=parse_rfc3339(row["used_at"]) if row["used_at"] else None,
    )
