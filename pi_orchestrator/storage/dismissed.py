"""Cameras that were taken out (also in memory, as of the last commit), and whose history went over to which."""

from __future__ import annotations

from collections.abc import Iterator

from pi_orchestrator.clock import parse_rfc3339, rfc3339
from pi_orchestrator.domain.dismissal import Dismissal, Reason
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.storage.database import Database, Row, Tx


class Dismissed:
    """Every camera that was taken out, by MAC: asked for whenever a camera may be onboarded."""

    def __init__(self) -> None:
        self._by_mac: dict[Mac, Dismissal] = {}

    async def load(self, database: Database) -> None:
        """Fill from the database."""
        for row in await database.read("SELECT * FROM dismissed ORDER BY at, mac"):
            self.put(_dismissal(row))

    def put(self, dismissal: Dismissal) -> None:
        """Add one."""
        self._by_mac[dismissal.mac] = dismissal

    def drop(self, mac: Mac) -> None:
        """Take one off, if it is there."""
        self._by_mac.pop(mac, None)

    def get(self, mac: Mac) -> Dismissal | None:
        """Who took this camera out, and why."""
        return self._by_mac.get(mac)

    def __iter__(self) -> Iterator[Dismissal]:
        return iter(tuple(self._by_mac.values()))


async def find(tx: Tx, mac: Mac) -> Dismissal | None:
    """The dismissal of a camera, as of this transaction."""
    rows = await tx.run("SELECT * FROM dismissed WHERE mac = ?", (mac,))
    return _dismissal(rows[0]) if rows else None


async def insert(tx: Tx, dismissal: Dismissal) -> None:
    """Store one."""
    stamp = tx.stamp
    await tx.run(
        "INSERT OR REPLACE INTO dismissed"
        " (mac, reason, replaced_by, device_id, name, actor, at, boot_id, monotonic, clock_trusted)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            dismissal.mac,
            dismissal.reason,
            dismissal.replaced_by,
            dismissal.device_id,
            dismissal.name,
            dismissal.by,
            rfc3339(dismissal.at),
            stamp.boot_id,
            stamp.monotonic,
            stamp.trusted,
        ),
    )


async def lift(tx: Tx, mac: Mac) -> bool:
    """Delete one; whether it was there."""
    return bool(await tx.run("DELETE FROM dismissed WHERE mac = ? RETURNING mac", (mac,)))


async def record_replacement(tx: Tx, *, old: Mac, new: Mac, by: str) -> None:
    """Give the audit of the old camera, as it is now, to the new one."""
    stamp = tx.stamp
    await tx.run(
        "INSERT INTO replacements (old_mac, new_mac, audit_upto, actor, at, boot_id, monotonic, clock_trusted)"
        " VALUES (?, ?, (SELECT coalesce(max(id), 0) FROM onboarding_audit), ?, ?, ?, ?, ?)",
        (old, new, by, rfc3339(stamp.at), stamp.boot_id, stamp.monotonic, stamp.trusted),
    )


async def predecessors(database: Database, mac: Mac) -> list[tuple[Mac, int]]:
    """(MAC, last audit row) of each camera whose history a camera has taken over, through all replacements."""
    rows = await database.read(
        "WITH RECURSIVE line (mac, upto) AS (VALUES (?, 9223372036854775807) UNION"
        " SELECT r.old_mac, r.audit_upto FROM replacements r JOIN line ON r.new_mac = line.mac"
        " AND r.audit_upto <= line.upto)"
        " SELECT mac, max(upto) AS upto FROM line GROUP BY mac",
        (mac,),
    )
    return [(Mac(row["mac"]), row["upto"]) for row in rows if row["mac"] != mac]


def _dismissal(row: Row) -> Dismissal:
    return Dismissal(
        mac=Mac(row["mac"]),
        reason=Reason(row["reason"]),
        device_id=row["device_id"],
        by=row["actor"],
        at=parse_rfc3339(row["at"]),
        name=row["name"],
        replaced_by=Mac(row["replaced_by"]) if row["replaced_by"] else None,
    )
