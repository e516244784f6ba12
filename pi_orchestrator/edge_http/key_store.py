"""API keys: names, scopes and digests; a key itself is never stored."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pi_orchestrator.core.clock import parse_rfc3339, rfc3339
from pi_orchestrator.core.errors import ConflictError
from pi_orchestrator.storage.database import Database, Tx


class Scope(StrEnum):
    """What a key may do; each scope includes the previous one."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"

    def covers(self, required: Scope) -> bool:
        """Whether this scope is enough."""
        order = list(Scope)
        return order.index(self) >= order.index(required)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A stored key; `digest` is the SHA-256 of the key."""

    id: str
    name: str
    scope: Scope
    digest: bytes
    created_at: datetime


async def load(database: Database) -> list[ApiKey]:
    """Every key, oldest first."""
    rows = await database.read("SELECT * FROM api_keys ORDER BY created_at, id")
    return [
        ApiKey(row["id"], row["name"], Scope(row["scope"]), row["digest"], parse_rfc3339(row["created_at"]))
        for row in rows
    ]


async def insert(tx: Tx, *, key_id: str, name: str, scope: Scope, digest: bytes) -> ApiKey:
    """Store a key; ConflictError if the name is taken."""
    try:
        await tx.run(
            "INSERT INTO api_keys (id, name, scope, digest, created_at) VALUES (?, ?, ?, ?, ?)",
            (key_id, name, scope, digest, rfc3339(tx.stamp.at)),
        )
    except sqlite3.IntegrityError:
        raise ConflictError(
            f"a key named {name!r} already exists", details="revoke it first, or choose another name"
        ) from None
    return ApiKey(key_id, name, scope, digest, tx.stamp.at)


async def delete(tx: Tx, key_id: str) -> bool:
    """Delete a key; False if it does not exist."""
    return bool(await tx.run("DELETE FROM api_keys WHERE id = ? RETURNING id", (key_id,)))
