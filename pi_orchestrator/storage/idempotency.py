"""Answers kept for requests that carried an Idempotency-Key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from pi_orchestrator.clock import rfc3339
from pi_orchestrator.storage.database import Database, Tx


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer as it was given, and the hash of the request that it answered."""

    request_hash: bytes
    status: int
    body: bytes


async def find(database: Database, *, key: str, operation: str) -> StoredAnswer | None:
    """The answer given under this key before."""
    rows = await database.read(
        "SELECT request_hash, status, body FROM idempotency WHERE key = ? AND operation = ?", (key, operation)
    )
    return StoredAnswer(rows[0]["request_hash"], rows[0]["status"], rows[0]["body"]) if rows else None


async def save(tx: Tx, *, key: str, operation: str, answer: StoredAnswer) -> None:
    """Keep an answer."""
    await tx.run(
        "INSERT OR REPLACE INTO idempotency (key, operation, request_hash, status, body, at) VALUES (?, ?, ?, ?, ?, ?)",
        (key, operation, answer.request_hash, answer.status, answer.body, rfc3339(tx.stamp.at)),
    )


async def trim(tx: Tx, *, keep: int) -> None:
    """Drop all but the newest `keep` answers."""
    await tx.run(
        "DELETE FROM idempotency WHERE at < (SELECT at FROM idempotency ORDER BY at DESC LIMIT 1 OFFSET ?)", (keep,)
    )


async def clean(tx: Tx, *, hours: int) -> None:
    """Forget answers older than this many hours."""
    await tx.run("DELETE FROM idempotency WHERE at < ?", (rfc3339(tx.stamp.at - timedelta(hours=hours)),))
