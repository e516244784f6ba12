"""The event log: every state change as a row, whose id is what streams resume from."""

from __future__ import annotations

import json
from dataclasses import replace

from pi_orchestrator.clock import rfc3339
from pi_orchestrator.events import Logged
from pi_orchestrator.storage.database import Tx


async def append(tx: Tx, event: Logged) -> None:
    """Store an event with the change that it tells of; the hub hears of it after the commit."""
    at = rfc3339(tx.stamp.at)
    rows = await tx.run(
        "INSERT INTO events (type, mac, session_id, payload, at, boot_id, monotonic, clock_trusted)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (
            event.type,
            event.mac,
            event.session_id,
            json.dumps(event.payload, separators=(",", ":")),
            at,
            tx.stamp.boot_id,
            tx.stamp.monotonic,
            tx.stamp.trusted,
        ),
    )
    tx.publish(replace(event, id=rows[0]["id"], at=at))


async def trim(tx: Tx, *, keep: int) -> None:
    """Drop all but the newest `keep` events."""
    await tx.run("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (keep,))
