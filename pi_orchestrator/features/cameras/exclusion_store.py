"""Stores exclusions and replacements of cameras. The committed exclusions are held in memory as well."""

from __future__ import annotations

from collections.abc import Iterator

from pi_orchestrator.core.clock import parse_rfc3339, rfc3339
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.cameras.exclusions import Exclusion, Reason
from pi_orchestrator.storage.database import Database, Row, Tx


class ExcludedCameras:
    """Exclusions by MAC, held in memory: onboarding looks them up for each camera."""

    def __init__(self) -> None:
        self._by_mac: dict[Mac, Exclusion] = {}

    async def load(self, database: Database) -> None:
        """Fill from the database."""
        for row in await database.read("SELECT * FROM dismissed ORDER BY at, mac"):
            self.put(_exclusion(row))

    def put(self, exclusion: Exclusion) -> None:
        """Add an exclusion."""
        self._by_mac[exclusion.mac] = exclusion

    def drop(self, mac: Mac) -> None:
        """Remove an exclusion, if present."""
        self._by_mac.pop(mac, None)

    def get(self, mac: Mac) -> Exclusion | None:
        """The exclusion of a camera."""
        return self._by_mac.get(mac)

    def __iter__(self) -> Iterator[Exclusion]:
        return iter(tuple(self._by_mac.values()))


async def find(tx: Tx, mac: Mac) -> Exclusion | None:
    """The exclusion of a camera, as of this transaction."""
    rows = await tx.run("SELECT * FROM dismissed WHERE mac = ?", (mac,))
    return _exclusion(rows[0]) if rows else None


async def insert(tx: Tx, exclusion: Exclusion) -> None:
    """Store an exclusion."""
    stamp = tx.stamp
    await tx.run(
        "INSERT OR REPLACE INTO dismissed"
        " (mac, reason, replaced_by, device_id, name, actor, at, boot_id, monotonic, clock_trusted)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            exclusion.mac,
            exclusion.reason,
            exclusion.replaced_by,
            exclusion.device_id,
            exclusion.name,
            exclusion.by,
            rfc3339(exclusion.at),
            stamp.boot_id,
            stamp.monotonic,
            stamp.trusted,
        ),
    )


async def lift(tx: Tx, mac: Mac) -> bool:
    """Delete an exclusion; False if there was none."""
    return bool(await tx.run("DELETE FROM dismissed WHERE mac = ? RETURNING mac", (mac,)))


async def record_replacement(tx: Tx, *, old: Mac, new: Mac, by: str) -> None:
    """Store that `new` replaced `old` and takes over its onboarding events up to now."""
    stamp = tx.stamp
    await tx.run(
        "INSERT INTO replacements (old_mac, new_mac, audit_upto, actor, at, boot_id, monotonic, clock_trusted)"
        " VALUES (?, ?, (SELECT coalesce(max(id), 0) FROM onboarding_audit), ?, ?, ?, ?, ?)",
        (old, new, by, rfc3339(stamp.at), stamp.boot_id, stamp.monotonic, stamp.trusted),
    )


async def predecessors(database: Database, mac: Mac) -> list[tuple[Mac, int]]:
    """Cameras that this one replaced, directly or through others.

    Each with its MAC and the id of the last onboarding event that this camera takes over from it.
    """
    rows = await database.read(
        "WITH RECURSIVE lineage (mac, upto) AS (VALUES (?, 9223372036854775807) UNION"
        " SELECT r.old_mac, r.audit_upto FROM replacements r JOIN lineage ON r.new_mac = lineage.mac"
        " AND r.audit_upto <= lineage.upto)"
        " SELECT mac, max(upto) AS upto FROM lineage GROUP BY mac",
        (mac,),
    )
    return [(Mac(row["mac"]), row["upto"]) for row in rows if row["mac"] != mac]


def _exclusion(row: Row) -> Exclusion:
    return Exclusion(
        mac=Mac(row["mac"]),
        reason=Reason(row["reason"]),
        device_id=row["device_id"],
        by=row["actor"],
        at=parse_rfc3339(row["at"]),
        name=row["name"],
        replaced_by=Mac(row["replaced_by"]) if row["replaced_by"] else None,
    )
