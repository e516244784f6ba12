"""Operator actions: who did what, from where, with which outcome."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from pi_orchestrator.clock import rfc3339
from pi_orchestrator.storage.database import Tx


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks (the key's name, `-` without one), from where, in which request, and for which action."""

    key_name: str
    peer: str
    correlation_id: str
    action: str


async def record(tx: Tx, actor: Actor, *, target: str | None = None, outcome: str = "ok") -> None:
    """Store an action in the transaction of what it changed."""
    await tx.run(
        "INSERT INTO operator_actions"
        " (actor, peer, correlation_id, action, target, outcome, at, boot_id, monotonic, clock_trusted)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            actor.key_name,
            actor.peer,
            actor.correlation_id,
            actor.action,
            target,
            outcome,
            rfc3339(tx.stamp.at),
            tx.stamp.boot_id,
            tx.stamp.monotonic,
            tx.stamp.trusted,
        ),
    )


async def clean(tx: Tx, *, days: int) -> None:
    """Delete actions that are surely older than this many days."""
    before = rfc3339(tx.stamp.at - timedelta(days=days))
    await tx.run("DELETE FROM operator_actions WHERE at < ? AND clock_trusted", (before,))


async def trim(tx: Tx, *, keep: int) -> None:
    """Drop all but the newest `keep` actions."""
    await tx.run("DELETE FROM operator_actions WHERE id <= (SELECT max(id) FROM operator_actions) - ?", (keep,))
