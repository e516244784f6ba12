"""The onboarding audit, and the state that must survive: toggle, token bucket, metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pi_orchestrator.clock import parse_rfc3339, rfc3339
from pi_orchestrator.domain.bucket import BucketState
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.onboarding import AuditEntry, Code, Stage
from pi_orchestrator.events import Logged
from pi_orchestrator.storage import event_log
from pi_orchestrator.storage.database import Database, Row, Tx

COUNTERS = ("attempts", "success", "failed", "rejected_by_policy", "already_onboarded")


@dataclass(slots=True)
class Metrics:
    """The counters of the status answer, since the last reset."""

    attempts: int = 0
    success: int = 0
    failed: int = 0
    rejected_by_policy: int = 0
    already_onboarded: int = 0
    last_success_at: datetime | None = None
    last_failure_at: datetime | None = None

    def add(self, now: datetime, **more: int) -> None:
        """Count in memory what `count` counts on disk."""
        for name, number in more.items():
            setattr(self, name, getattr(self, name) + number)
        if more.get("success"):
            self.last_success_at = now
        if more.get("failed"):
            self.last_failure_at = now


@dataclass(frozen=True, slots=True)
class State:
    """What the worker starts from."""

    enabled: bool
    bucket: BucketState | None
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class AuditPage:
    """A page of the audit, newest first, and how many rows there are in all."""

    entries: list[AuditEntry]
    total: int


async def init_state(tx: Tx, *, enabled: bool) -> None:
    """Write the first toggle value; a later start finds it and leaves it alone."""
    await tx.run("INSERT INTO onboarding_state (id, enabled) VALUES (1, ?) ON CONFLICT (id) DO NOTHING", (enabled,))


async def load_state(database: Database) -> State:
    """The stored state."""
    row = (await database.read("SELECT * FROM onboarding_state WHERE id = 1"))[0]
    bucket = None
    if row["tokens"] is not None:
        bucket = BucketState(row["tokens"], row["tokens_monotonic"], row["tokens_boot_id"])
    return State(
        enabled=bool(row["enabled"]),
        bucket=bucket,
        metrics=Metrics(
            attempts=row["attempts"],
            success=row["success"],
            failed=row["failed"],
            rejected_by_policy=row["rejected_by_policy"],
            already_onboarded=row["already_onboarded"],
            last_success_at=_moment(row["last_success_at"]),
            last_failure_at=_moment(row["last_failure_at"]),
        ),
    )


async def is_enabled(tx: Tx) -> bool:
    """The toggle, as of this transaction: the kill switch's last word."""
    rows = await tx.run("SELECT enabled FROM onboarding_state WHERE id = 1")
    return bool(rows[0]["enabled"])


async def set_enabled(tx: Tx, *, enabled: bool) -> None:
    """Throw the toggle."""
    await tx.run("UPDATE onboarding_state SET enabled = ? WHERE id = 1", (enabled,))


async def save_bucket(tx: Tx, bucket: BucketState) -> None:
    """Store the token bucket."""
    await tx.run(
        "UPDATE onboarding_state SET tokens = ?, tokens_monotonic = ?, tokens_boot_id = ? WHERE id = 1",
        (bucket.tokens, bucket.at, bucket.boot_id),
    )


async def count(tx: Tx, **more: int) -> None:
    """Add to counters by name; a success or a failure also leaves its time."""
    sets = [f"{name} = {name} + {int(number)}" for name, number in more.items() if name in COUNTERS]
    now = rfc3339(tx.stamp.at)
    for name, column in (("success", "last_success_at"), ("failed", "last_failure_at")):
        if more.get(name):
            sets.append(f"{column} = '{now}'")
    if sets:
        await tx.run(f"UPDATE onboarding_state SET {', '.join(sets)} WHERE id = 1")  # noqa: S608  # our own names


async def reset_metrics(tx: Tx) -> None:
    """Set every counter to zero."""
    zeros = ", ".join(f"{name} = 0" for name in COUNTERS)
    await tx.run(f"UPDATE onboarding_state SET {zeros}, last_success_at = NULL, last_failure_at = NULL")  # noqa: S608


async def audit(tx: Tx, entries: Sequence[AuditEntry]) -> None:
    """Append rows to the audit, and one event that tells of them."""
    await tx.run_many(
        "INSERT INTO onboarding_audit (mac_address, stage, error_code, error_message, device_id, ip_address,"
        " firmware_version, container_id, duration_ms, at, boot_id, monotonic, clock_trusted)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                entry.mac,
                entry.stage,
                entry.code,
                entry.message,
                entry.device_id,
                entry.ip_address,
                entry.firmware_version,
                entry.container_id,
                entry.duration_ms,
                rfc3339(tx.stamp.at),
                tx.stamp.boot_id,
                tx.stamp.monotonic,
                tx.stamp.trusted,
            )
            for entry in entries
        ],
    )
    if entries:
        last = entries[-1]
        told = {"rows": len(entries), "mac": last.mac, "stage": last.stage, "error_code": last.code}
        payload = {name: value for name, value in told.items() if value is not None}
        await event_log.append(tx, Logged("onboarding.audited", payload, mac=last.mac))


async def audit_page(
    database: Database,
    *,
    limit: int,
    offset: int,
    mac: Mac | None = None,
    stage: Stage | None = None,
    since: datetime | None = None,
    before: Sequence[tuple[Mac, int]] = (),
) -> AuditPage:
    """A page of audit rows that fit the filters, newest first.

    `before` are the cameras whose place that of `mac` has taken, with the last row that is its history too.
    """
    whose = " OR ".join(["mac_address = ?", *["mac_address = ? AND id <= ?"] * len(before)])
    filters = [
        (clause, params)
        for clause, params in (
            (f"({whose})", [mac, *(value for one in before for value in one)]),
            ("stage = ?", [stage]),
            ("at >= ?", [rfc3339(since) if since else None]),
        )
        if params[0] is not None
    ]
    where = f" WHERE {' AND '.join(clause for clause, _ in filters)}" if filters else ""
    values = [value for _, params in filters for value in params]
    rows = await database.read(
        f"SELECT *, (SELECT count(*) FROM onboarding_audit{where}) AS total FROM onboarding_audit{where}"  # noqa: S608
        " ORDER BY id DESC LIMIT ? OFFSET ?",
        (*values, *values, limit, offset),
    )
    if rows:
        return AuditPage([_entry(row) for row in rows], rows[0]["total"])
    counted = await database.read(f"SELECT count(*) AS total FROM onboarding_audit{where}", values)  # noqa: S608
    return AuditPage([], counted[0]["total"])


async def clean_audit(tx: Tx, *, days: int, trusted_only: bool = False) -> int:
    """Delete audit rows older than this many days, if asked only those whose time is sure; returns how many."""
    before = rfc3339(tx.stamp.at - timedelta(days=days))
    deleted = await tx.run(
        "DELETE FROM onboarding_audit WHERE at < ? AND clock_trusted >= ? RETURNING id", (before, trusted_only)
    )
    return len(deleted)


async def trim_audit(tx: Tx, *, keep: int) -> None:
    """Drop all but the newest `keep` rows."""
    await tx.run("DELETE FROM onboarding_audit WHERE id <= (SELECT max(id) FROM onboarding_audit) - ?", (keep,))


def _entry(row: Row) -> AuditEntry:
    return AuditEntry(
        id=row["id"],
        mac=Mac(row["mac_address"]),
        stage=Stage(row["stage"]),
        code=next((code for code in Code if code == row["error_code"]), None),
        message=row["error_message"],
        device_id=row["device_id"],
        ip_address=row["ip_address"],
        firmware_version=row["firmware_version"],
        container_id=row["container_id"],
        duration_ms=row["duration_ms"],
        at=parse_rfc3339(row["at"]),
    )


def _moment(text: str | None) -> datetime | None:
    return parse_rfc3339(text) if text else None
