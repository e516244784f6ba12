"""SQL for scans."""

from __future__ import annotations

from dataclasses import dataclass

from pi_orchestrator.core.clock import Stamp, parse_rfc3339, rfc3339
from pi_orchestrator.features.discovery.model import Scan, ScanState
from pi_orchestrator.storage.database import Database, Row, Tx


@dataclass(frozen=True, slots=True)
class ScanPage:
    """A page of scans, newest first, and the total number of scans."""

    scans: list[Scan]
    total: int


async def save(tx: Tx, scan: Scan, *, started: Stamp) -> None:
    """Insert a scan, or update its result."""
    await tx.run(
        "INSERT INTO scans (id, requested_by, engine, interface, subnet, state, found, new, moved, gone, message,"
        " duration_ms, started_at, boot_id, monotonic, clock_trusted)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET state = excluded.state, found = excluded.found, new = excluded.new,"
        " moved = excluded.moved, gone = excluded.gone, message = excluded.message,"
        " duration_ms = excluded.duration_ms",
        (
            scan.id,
            scan.requested_by,
            scan.engine,
            scan.interface,
            scan.subnet,
            scan.state,
            scan.found,
            scan.new,
            scan.moved,
            scan.gone,
            scan.message,
            scan.duration_ms,
            rfc3339(scan.started_at),
            started.boot_id,
            started.monotonic,
            started.trusted,
        ),
    )


async def interrupt(tx: Tx) -> None:
    """Mark scans that were running when the daemon ended as interrupted."""
    await tx.run("UPDATE scans SET state = 'interrupted' WHERE state = 'running'")


async def load(database: Database, scan_id: str) -> Scan | None:
    """A scan by its id; None if not stored."""
    rows = await database.read("SELECT * FROM scans WHERE id = ?", (scan_id,))
    return _scan(rows[0]) if rows else None


async def page(database: Database, *, limit: int, offset: int) -> ScanPage:
    """A page of stored ended scans, newest first."""
    rows = await database.read(
        "SELECT * FROM scans WHERE state <> 'running' ORDER BY rowid DESC LIMIT ? OFFSET ?", (limit, offset)
    )
    total = (await database.read("SELECT count(*) AS n FROM scans WHERE state <> 'running'"))[0]["n"]
    return ScanPage([_scan(row) for row in rows], total)


async def keep_newest(tx: Tx, *, keep: int) -> None:
    """Delete all but the newest `keep` scans."""
    await tx.run("DELETE FROM scans WHERE rowid <= (SELECT max(rowid) FROM scans) - ?", (keep,))


def _scan(row: Row) -> Scan:
    return Scan(
        id=row["id"],
        requested_by=row["requested_by"],
        engine=row["engine"],
        interface=row["interface"],
        subnet=row["subnet"],
        state=ScanState(row["state"]),
        progress=100 if row["state"] == ScanState.DONE else 0,
        found=row["found"],
        new=row["new"],
        moved=row["moved"],
        gone=row["gone"],
        message=row["message"],
        duration_ms=row["duration_ms"],
        started_at=parse_rfc3339(row["started_at"]),
    )
