"""Audit log of operator actions: actor, peer, action, target, outcome."""

from __future__ import annotations

from datetime import timedelta

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.clock import rfc3339
from pi_orchestrator.storage.database import Tx

OK = "ok"
UNCHANGED = "was so already"
ABSENT = "was not there"
"""Outcomes of a successful action: something changed, nothing to change, nothing to remove."""


def changed(is_changed: bool) -> str:
    """The outcome of an action that may have had nothing to change."""
    return OK if is_changed else UNCHANGED


def removed(has_existed: bool) -> str:
    """The outcome of a removal, which also succeeds when there was nothing to remove."""
    return OK if has_existed else ABSENT


async def record(tx: Tx, actor: Actor, *, target: str | None = None, outcome: str = OK) -> None:
    """Store an action in the transaction of its change."""
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
    """Delete actions older than `days`; those with an untrusted time stay."""
    before = rfc3339(tx.stamp.at - timedelta(days=days))
    await tx.run("DELETE FROM operator_actions WHERE at < ? AND clock_trusted", (before,))


async def trim(tx: Tx, *, keep: int) -> None:
    """Delete all but the newest `keep` actions."""
    await tx.run("DELETE FROM operator_actions WHERE id <= (SELECT max(id) FROM operator_actions) - ?", (keep,))
