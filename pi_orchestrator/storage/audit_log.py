"""Audit log of operator actions: actor, peer, action, target, outcome."""

from __future__ import annotations

from datetime import timedelta

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.clock import rfc3339
from pi_orchestrator.storage.database import Tx

# Outcomes of a successful action. Stored; never change the texts.
OK = "ok"  # the action changed something
UNCHANGED = "was so already"  # there was nothing to change: the target already had the requested state
ABSENT = "was not there"  # there was nothing to remove: the target did not exist


def change_outcome(is_changed: bool) -> str:
    """The outcome of a change, which also succeeds when there was nothing to change."""
    return OK if is_changed else UNCHANGED


def removal_outcome(existed: bool) -> str:
    """The outcome of a removal, which also succeeds when there was nothing to remove."""
    return OK if existed else ABSENT


async def record(tx: Tx, actor: Actor, *, target: str | None = None, outcome: str = OK) -> None:
    """Store an operator action in the same transaction as the change it made."""
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


async def delete_older_than(tx: Tx, *, days: int) -> None:
    """Delete actions older than `days`; those with an untrusted time stay."""
    before = rfc3339(tx.stamp.at - timedelta(days=days))
    await tx.run("DELETE FROM operator_actions WHERE at < ? AND clock_trusted", (before,))


async def keep_newest(tx: Tx, *, keep: int) -> None:
    """Delete all but the newest `keep` actions."""
    await tx.run("DELETE FROM operator_actions WHERE id <= (SELECT max(id) FROM operator_actions) - ?", (keep,))
