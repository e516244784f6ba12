"""SQL of onboarding events, and of the state that is kept over restarts: enabled or not, token bucket, metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pi_orchestrator.core.clock import parse_rfc3339, rfc3339
from pi_orchestrator.core.events import OnboardingAudited
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.token_bucket import BucketState
from pi_orchestrator.features.onboarding.onboarding_event import OnboardingEvent, Stage
from pi_orchestrator.storage import event_store as event_log
from pi_orchestrator.storage.database import Database, Row, Tx

COUNTERS = ("attempts", "success", "failed", "rejected_by_policy", "already_onboarded")


@dataclass(slots=True)
class Metrics:
    """Counters since the last reset.

    `attempts` are the verifications that began. `failed` and `rejected_by_policy` also count cameras without an
    attempt.
    """

    attempts: int = 0
    success: int = 0
    failed: int = 0
    rejected_by_policy: int = 0
    already_onboarded: int = 0
    last_success_at: datetime | None = None
    last_failure_at: datetime | None = None

    def add(self, now: datetime, **increments: int) -> None:
        """Add to counters in memory by name; `count` does the same on disk."""
        for name, number in increments.items():
            setattr(self, name, getattr(self, name) + number)
        if increments.get("success"):
            self.last_success_at = now
        if increments.get("failed"):
            self.last_failure_at = now


@dataclass(frozen=True, slots=True)
class State:
    """The stored state with which the worker starts."""

    enabled: bool
    bucket: BucketState | None
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class OnboardingEventPage:
    """A page of onboarding events, newest first; `total` counts all that match."""

    events: list[OnboardingEvent]
    total: int


async def init_state(tx: Tx, *, enabled: bool) -> None:
    """Store whether onboarding is enabled, unless a value is already stored."""
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
            last_success_at=_time(row["last_success_at"]),
            last_failure_at=_time(row["last_failure_at"]),
        ),
    )


async def is_enabled(tx: Tx) -> bool:
    """Whether onboarding is enabled, read within this transaction."""
    rows = await tx.run("SELECT enabled FROM onboarding_state WHERE id = 1")
    return bool(rows[0]["enabled"])


async def set_enabled(tx: Tx, *, enabled: bool) -> None:
    """Store whether onboarding is enabled."""
    await tx.run("UPDATE onboarding_state SET enabled = ? WHERE id = 1", (enabled,))


async def save_bucket(tx: Tx, bucket: BucketState) -> None:
    """Store the token bucket."""
    await tx.run(
        "UPDATE onboarding_state SET tokens = ?, tokens_monotonic = ?, tokens_boot_id = ? WHERE id = 1",
        (bucket.tokens, bucket.at, bucket.boot_id),
    )


async def count(tx: Tx, **increments: int) -> None:
    """Add to counters by name; a success or a failure also stores its time."""
    sets = [f"{name} = {name} + {int(number)}" for name, number in increments.items() if name in COUNTERS]
    now = rfc3339(tx.stamp.at)
    for name, column in (("success", "last_success_at"), ("failed", "last_failure_at")):
        if increments.get(name):
            sets.append(f"{column} = '{now}'")
    if sets:
        await tx.run(f"UPDATE onboarding_state SET {', '.join(sets)} WHERE id = 1")  # noqa: S608  # names from COUNTERS


async def reset_metrics(tx: Tx) -> None:
    """Set every counter to zero."""
    zeros = ", ".join(f"{name} = 0" for name in COUNTERS)
    await tx.run(f"UPDATE onboarding_state SET {zeros}, last_success_at = NULL, last_failure_at = NULL")  # noqa: S608


async def append(tx: Tx, events: Sequence[OnboardingEvent]) -> None:
    """Store onboarding events, and one entry in the event log for all of them."""
    await tx.run_many(
        "INSERT INTO onboarding_audit (mac_address, stage, error_code, error_message, device_id, ip_address,"
        " firmware_version, container_id, duration_ms, at, boot_id, monotonic, clock_trusted)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                event.mac,
                event.stage,
                event.code,
                event.message,
                event.device_id,
                event.ip_address,
                event.firmware_version,
                event.container_id,
                event.duration_ms,
                rfc3339(tx.stamp.at),
                tx.stamp.boot_id,
                tx.stamp.monotonic,
                tx.stamp.trusted,
            )
            for event in events
        ],
    )
    if events:
        last = events[-1]
        notice = OnboardingAudited(rows=len(events), mac=last.mac, stage=last.stage, error_code=last.code)
        await event_log.append(tx, notice)


async def page(
    database: Database,
    *,
    limit: int,
    offset: int,
    mac: Mac | None = None,
    stage: Stage | None = None,
    since: datetime | None = None,
    predecessors: Sequence[tuple[Mac, int]] = (),
) -> OnboardingEventPage:
    """A page of onboarding events that match the filters, newest first.

    `predecessors` are the cameras that `mac` has replaced, each with the id of its last event to include.
    """
    macs = " OR ".join(["mac_address = ?", *["mac_address = ? AND id <= ?"] * len(predecessors)])
    filters = [
        (clause, params)
        for clause, params in (
            (f"({macs})", [mac, *(value for predecessor in predecessors for value in predecessor)]),
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
        return OnboardingEventPage([_event(row) for row in rows], rows[0]["total"])
    count_rows = await database.read(f"SELECT count(*) AS total FROM onboarding_audit{where}", values)  # noqa: S608
    return OnboardingEventPage([], count_rows[0]["total"])


async def delete_older_than(tx: Tx, *, days: int, trusted_only: bool = False) -> int:
    """Delete onboarding events older than `days`, optionally only those with a trusted time; return their number."""
    before = rfc3339(tx.stamp.at - timedelta(days=days))
    deleted = await tx.run(
        "DELETE FROM onboarding_audit WHERE at < ? AND clock_trusted >= ? RETURNING id", (before, trusted_only)
    )
    return len(deleted)


async def keep_newest(tx: Tx, *, keep: int) -> None:
    """Delete all but the newest `keep` onboarding events."""
    await tx.run("DELETE FROM onboarding_audit WHERE id <= (SELECT max(id) FROM onboarding_audit) - ?", (keep,))


def _event(row: Row) -> OnboardingEvent:
    return OnboardingEvent(
        id=row["id"],
        mac=Mac(row["mac_address"]),
        stage=Stage(row["stage"]),
        code=row["error_code"],
        message=row["error_message"],
        device_id=row["device_id"],
        ip_address=row["ip_address"],
        firmware_version=row["firmware_version"],
        container_id=row["container_id"],
        duration_ms=row["duration_ms"],
        at=parse_rfc3339(row["at"]),
    )


def _time(text: str | None) -> datetime | None:
    return parse_rfc3339(text) if text else None
