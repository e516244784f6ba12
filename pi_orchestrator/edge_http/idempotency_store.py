"""Stored answers to requests with an Idempotency-Key."""

from __future__ import annotations

from datetime import timedelta

from pi_orchestrator.core.clock import rfc3339
from pi_orchestrator.http.idempotency import StoredAnswer
from pi_orchestrator.storage.database import Database, Tx


class IdempotencyStore:
    """An `AnswerStore` in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, *, key: str, operation: str) -> StoredAnswer | None:
        """The answer to an earlier request with this key for the same operation."""
        rows = await self._database.read(
            "SELECT request_hash, status, body FROM idempotency WHERE key = ? AND operation = ?", (key, operation)
        )
        return StoredAnswer(rows[0]["request_hash"], rows[0]["status"], rows[0]["body"]) if rows else None

    async def save(self, *, key: str, operation: str, answer: StoredAnswer) -> None:
        """Store an answer."""
        await self._database.write(lambda tx: insert(tx, key=key, operation=operation, answer=answer))


async def insert(tx: Tx, *, key: str, operation: str, answer: StoredAnswer) -> None:
    """Store an answer in a transaction."""
    await tx.run(
        "INSERT OR REPLACE INTO idempotency (key, operation, request_hash, status, body, at) VALUES (?, ?, ?, ?, ?, ?)",
        (key, operation, answer.request_hash, answer.status, answer.body, rfc3339(tx.stamp.at)),
    )


async def keep_newest(tx: Tx, *, keep: int) -> None:
    """Delete all but the newest `keep` + 1 answers; more stay if several were stored at the same time."""
    await tx.run(
        "DELETE FROM idempotency WHERE at < (SELECT at FROM idempotency ORDER BY at DESC LIMIT 1 OFFSET ?)", (keep,)
    )


async def delete_older_than(tx: Tx, *, hours: int) -> None:
    """Delete answers older than `hours`."""
    await tx.run("DELETE FROM idempotency WHERE at < ?", (rfc3339(tx.stamp.at - timedelta(hours=hours)),))
