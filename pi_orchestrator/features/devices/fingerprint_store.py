"""SQL of fingerprints: how each camera answered when it was first seen, and how it answers now."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from pi_orchestrator.core.clock import rfc3339
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.devices.fingerprint import UNKNOWN, Fingerprint, FingerprintChange
from pi_orchestrator.storage.database import Params, Row, Tx

Run = Callable[[str, Params], Awaitable[list[Row]]]
"""Runs one statement, inside a transaction or on committed data."""


async def compare(run: Run, mac: Mac, seen: Fingerprint) -> tuple[FingerprintChange, ...]:
    """What has changed since the device was first seen, given that it now answers as `seen`; stores nothing."""
    rows = await run("SELECT first, latest FROM fingerprints WHERE mac = ?", (mac,))
    return _decode(rows[0]["first"]).changes(seen.completed(_decode(rows[0]["latest"]))) if rows else ()


async def remember(tx: Tx, mac: Mac, seen: Fingerprint) -> tuple[FingerprintChange, ...]:
    """Store how a device answers; return what has changed since it was first seen."""
    rows = await tx.run("SELECT first, latest FROM fingerprints WHERE mac = ?", (mac,))
    if not rows:
        if seen != UNKNOWN:
            await tx.run(
                "INSERT INTO fingerprints (mac, first, latest, first_seen_at) VALUES (?, ?, ?, ?)",
                (mac, _encode(seen), _encode(seen), rfc3339(tx.stamp.at)),
            )
        return ()
    old_first, old_latest = _decode(rows[0]["first"]), _decode(rows[0]["latest"])
    first, latest = old_first.completed(seen), seen.completed(old_latest)
    if (first, latest) != (old_first, old_latest):
        await tx.run(
            "UPDATE fingerprints SET first = ?, latest = ? WHERE mac = ?", (_encode(first), _encode(latest), mac)
        )
    return first.changes(latest)


async def accept(tx: Tx, mac: Mac) -> None:
    """Accept the changes of a device: later answers are compared with its latest one instead of the first."""
    await tx.run("UPDATE fingerprints SET first = latest WHERE mac = ?", (mac,))


async def forget_unused(tx: Tx) -> None:
    """Delete the fingerprints of MACs that are not registered, not on the allowlist and in no session.

    Anyone can invent MACs, so these would fill the table.
    """
    await tx.run(
        "DELETE FROM fingerprints WHERE mac NOT IN (SELECT mac FROM cameras)"
        " AND mac NOT IN (SELECT mac FROM allowlist) AND mac NOT IN (SELECT mac FROM session_devices)"
    )


def changes_of(first: str | None, latest: str | None) -> tuple[FingerprintChange, ...]:
    """The changes from the column `first` to the column `latest`; empty if the device has no row (both None)."""
    return _decode(first).changes(_decode(latest)) if first and latest else ()


def _encode(fingerprint: Fingerprint) -> str:
    return json.dumps({name: value for name, value in asdict(fingerprint).items() if value is not None})


def _decode(text: str) -> Fingerprint:
    return Fingerprint(**json.loads(text))
