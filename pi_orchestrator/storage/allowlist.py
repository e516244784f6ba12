"""The allowlist as rows. What changes it appends an event that says how many entries, and none where none did."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from pi_orchestrator.clock import parse_rfc3339, rfc3339
from pi_orchestrator.domain.allowlist import MAX_ENTRIES, Details, Effect, Entry, Step, plan
from pi_orchestrator.domain.allowlist import Row as Wanted
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.events import Logged
from pi_orchestrator.storage import event_log
from pi_orchestrator.storage.database import Database, Row, Tx

_ONE = "SELECT * FROM allowlist WHERE mac = ?"


@dataclass(frozen=True, slots=True)
class Stats:
    """How many entries there are, and of how many of them the camera has been verified."""

    total: int
    used: int


async def find(tx: Tx, mac: Mac) -> Entry | None:
    """The entry of a MAC, as of this transaction."""
    rows = await tx.run(_ONE, (mac,))
    return _entry(rows[0]) if rows else None


async def is_listed(tx: Tx, mac: Mac) -> bool:
    """Whether a camera may be given credentials, as of this transaction: the last word before they are sent."""
    return bool(await tx.run("SELECT 1 FROM allowlist WHERE mac = ?", (mac,)))


async def mark_used(tx: Tx, mac: Mac) -> None:
    """Say of an entry that its camera is verified; the first time counts, and one that is not there stays away."""
    await tx.run(
        "UPDATE allowlist SET used_at = ? WHERE mac = ? AND used_at IS NULL",
        (rfc3339(tx.stamp.at), mac),
    )


async def load(database: Database, mac: Mac) -> Entry | None:
    """The entry of a MAC."""
    rows = await database.read(_ONE, (mac,))
    return _entry(rows[0]) if rows else None


async def listed(database: Database) -> dict[Mac, Entry]:
    """Every entry, by MAC and in their order."""
    rows = await database.read("SELECT * FROM allowlist ORDER BY mac")
    # Thousands of times are parsed here, which would hold the loop.
    return await asyncio.to_thread(_entries, rows)


async def stats(database: Database) -> Stats:
    """How many entries there are."""
    (row,) = await database.read("SELECT count(*) AS total, count(used_at) AS used FROM allowlist")
    return Stats(total=row["total"], used=row["used"])


async def planned(tx: Tx, rows: Sequence[Wanted]) -> list[Step]:
    """What `change` would do."""
    named = json.dumps([row.mac for row in rows if row.fault is None])
    found = await tx.run(
        "SELECT mac, description, container_id FROM allowlist WHERE mac IN (SELECT value FROM json_each(?))", (named,)
    )
    (counted,) = await tx.run("SELECT count(*) AS total FROM allowlist")
    known = {Mac(row["mac"]): Details(row["description"], row["container_id"]) for row in found}
    return plan(rows, known, room=max(0, MAX_ENTRIES - counted["total"]))


async def change(tx: Tx, rows: Sequence[Wanted]) -> list[Step]:
    """Do what the rows ask for; what became of each."""
    steps = await planned(tx, rows)
    now = rfc3339(tx.stamp.at)
    added = [(step.row.mac, *step.details, now) for step in steps if step.effect is Effect.ADD]
    updated = [(*step.details, step.row.mac) for step in steps if step.effect is Effect.UPDATE]
    await tx.run_many(
        "INSERT INTO allowlist (mac, description, container_id, added_at) VALUES (?, ?, ?, ?)",
        added,
    )
    await tx.run_many("UPDATE allowlist SET description = ?, container_id = ? WHERE mac = ?", updated)
    touched = [*(row[0] for row in added), *(row[-1] for row in updated)]
    await _tell(tx, touched, added=len(added), updated=len(updated))
    return steps


async def remove(tx: Tx, macs: Collection[Mac]) -> set[Mac]:
    """Take entries off the list; returns which of them were on it."""
    rows = await tx.run(
        "DELETE FROM allowlist WHERE mac IN (SELECT value FROM json_each(?)) RETURNING mac",
        (json.dumps(list(macs)),),
    )
    gone = {Mac(row["mac"]) for row in rows}
    await _tell(tx, gone, removed=len(gone))
    return gone


async def clear(tx: Tx) -> int:
    """Take every entry off the list; returns how many there were."""
    (row,) = await tx.run("SELECT count(*) AS total FROM allowlist")
    cleared: int = row["total"]
    await tx.run("DELETE FROM allowlist")
    await _tell(tx, (), removed=cleared)
    return cleared


async def _tell(tx: Tx, macs: Collection[str], *, added: int = 0, removed: int = 0, updated: int = 0) -> None:
    if added or removed or updated:
        only = Mac(next(iter(macs))) if len(macs) == 1 else None
        counts = {"added": added, "removed": removed, "updated": updated}
        await event_log.append(tx, Logged("allowlist.changed", counts, mac=only))


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
