"""SQL of provisioning sessions, their devices and sealed passwords.

Functions that only read have a parameter `run`: `Tx.run` or `Database.read`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pi_orchestrator.core.clock import parse_rfc3339, rfc3339
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.devices.fingerprint_store import changes_of
from pi_orchestrator.features.provisioning.session import Counts, Ending, Session, SessionConfig, SessionState
from pi_orchestrator.features.provisioning.session_device import Sent, SessionDevice, SessionDeviceState
from pi_orchestrator.storage.database import Database, Params, Row, Tx
from pi_orchestrator.storage.vault import Sealed

Run = Callable[[str, Params], Awaitable[list[Row]]]
"""Runs one statement, inside a transaction or on committed data."""

_SESSIONS = (
    "SELECT s.*,"
    " count(d.mac) AS devices,"
    " count(d.mac) FILTER (WHERE d.state IN ('provisioned', 'verifying', 'verified')) AS provisioned,"
    " count(d.mac) FILTER (WHERE d.state = 'verified') AS verified,"
    " count(d.mac) FILTER (WHERE d.state = 'failed') AS failed,"
    " count(d.mac) FILTER (WHERE d.state IN ('provisioning', 'provisioned', 'verifying')) AS under_way"
    " FROM sessions s LEFT JOIN session_devices d ON d.session_id = s.id {where} GROUP BY s.number {order}"
)
_DEVICES = (
    "SELECT d.*, a.mac IS NOT NULL AS in_allowlist, a.container_id, f.first, f.latest"
    " FROM session_devices d LEFT JOIN allowlist a USING (mac) LEFT JOIN fingerprints f USING (mac)"
    " WHERE d.session_id = ? {where} ORDER BY {order}"
)


@dataclass(frozen=True, slots=True)
class SessionPage:
    """A page of sessions, newest first; `total` counts all."""

    sessions: list[Session]
    total: int


async def insert(tx: Tx, session: Session, password: Sealed | None) -> None:
    """Store a new session with its password; sqlite3.IntegrityError while another is open on its interface."""
    config = session.config
    await tx.run(
        "INSERT INTO sessions (id, state, network_interface, target_ssid, discovery_timeout_seconds,"
        " provisioning_timeout_seconds, verification_timeout_seconds, created_at, updated_at, boot_id, monotonic,"
        " clock_trusted) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            session.id,
            session.state,
            session.network_interface,
            session.target_ssid,
            config.discovery_timeout_seconds,
            config.provisioning_timeout_seconds,
            config.verification_timeout_seconds,
            rfc3339(session.created_at),
            rfc3339(session.updated_at),
            tx.stamp.boot_id,
            tx.stamp.monotonic,
            tx.stamp.trusted,
        ),
    )
    if password:
        await put_password(tx, session.id, password)


async def save(tx: Tx, session: Session) -> None:
    """Store the fields of a session that can change."""
    await tx.run(
        "UPDATE sessions SET state = ?, interrupted = ?, ending = ?, closed_at = ?, updated_at = ? WHERE id = ?",
        (
            session.state,
            session.interrupted,
            session.ending,
            rfc3339(session.closed_at) if session.closed_at else None,
            rfc3339(tx.stamp.at),
            session.id,
        ),
    )


async def touch(tx: Tx, session_id: str) -> None:
    """Record activity in a session."""
    await tx.run("UPDATE sessions SET updated_at = ? WHERE id = ?", (rfc3339(tx.stamp.at), session_id))


async def get(run: Run, session_id: str) -> Session | None:
    """One session with its counts."""
    rows = await run(_SESSIONS.format(where="WHERE s.id = ?", order=""), (session_id,))
    return _session(rows[0]) if rows else None


async def open_sessions(run: Run) -> list[Session]:
    """Every session that is not closed, oldest first."""
    sql = _SESSIONS.format(where="WHERE s.state <> 'closed'", order="ORDER BY s.number")
    return [_session(row) for row in await run(sql, ())]


async def open_on_interface(run: Run, interface: str) -> Session | None:
    """The open session on an interface, if any."""
    sql = _SESSIONS.format(where="WHERE s.state <> 'closed' AND s.network_interface = ?", order="")
    rows = await run(sql, (interface,))
    return _session(rows[0]) if rows else None


async def history(database: Database, *, limit: int, offset: int) -> SessionPage:
    """Closed sessions, newest first."""
    sql = _SESSIONS.format(where="WHERE s.state = 'closed'", order="ORDER BY s.number DESC LIMIT ? OFFSET ?")
    rows = await database.read(sql, (limit, offset))
    total = (await database.read("SELECT count(*) AS n FROM sessions WHERE state = 'closed'"))[0]["n"]
    return SessionPage([_session(row) for row in rows], total)


async def devices(run: Run, session_id: str, *, state: SessionDeviceState | None = None) -> list[SessionDevice]:
    """The devices of a session in the order of their discovery."""
    where, params = ("AND d.state = ?", (session_id, state)) if state else ("", (session_id,))
    rows = await run(_DEVICES.format(where=where, order="d.discovered_at, d.mac"), params)
    return [_device(row) for row in rows]


async def under_way(run: Run, session_id: str) -> list[SessionDevice]:
    """The devices of a session that are under way, in queue order."""
    sql = _DEVICES.format(where="AND d.state IN ('provisioning', 'provisioned', 'verifying')", order="d.queued")
    return [_device(row) for row in await run(sql, (session_id,))]


async def device(run: Run, session_id: str, mac: Mac) -> SessionDevice | None:
    """One device of a session."""
    rows = await run(_DEVICES.format(where="AND d.mac = ?", order="d.mac"), (session_id, mac))
    return _device(rows[0]) if rows else None


async def next_queue_position(run: Run, session_id: str) -> int:
    """The next free position in a session's queue, from 1."""
    sql = "SELECT coalesce(max(queued), 0) + 1 AS position FROM session_devices WHERE session_id = ?"
    rows = await run(sql, (session_id,))
    return int(rows[0]["position"])


async def put_device(tx: Tx, device: SessionDevice) -> None:
    """Insert or replace a device of a session."""
    sent = device.sent
    await tx.run(
        "INSERT OR REPLACE INTO session_devices (session_id, mac, state, progress, ip, rssi, firmware_version,"
        " retry_count, queued, unlisted, error_code, error_message, discovered_at, provisioned_at, verified_at,"
        " sent_ip, sent_boot_id, sent_monotonic) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            device.session_id,
            device.mac,
            device.state,
            int(device.progress),
            device.ip,
            device.rssi,
            device.firmware_version,
            device.retry_count,
            device.queued,
            device.unlisted,
            device.error_code,
            device.error_message,
            rfc3339(device.discovered_at),
            _text(device.provisioned_at),
            _text(device.verified_at),
            sent.ip if sent else None,
            sent.boot_id if sent else None,
            sent.monotonic if sent else None,
        ),
    )


async def put_password(tx: Tx, session_id: str, password: Sealed) -> None:
    """Store a session's password, sealed."""
    await tx.run(
        "INSERT OR REPLACE INTO session_secrets (session_id, key_id, sealed) VALUES (?, ?, ?)",
        (session_id, password.key_id, password.content),
    )


async def password(run: Run, session_id: str) -> Sealed | None:
    """A session's sealed password; None if it has none or is closed."""
    rows = await run("SELECT key_id, sealed FROM session_secrets WHERE session_id = ?", (session_id,))
    return Sealed(rows[0]["key_id"], rows[0]["sealed"]) if rows else None


async def passwords(run: Run) -> dict[str, Sealed]:
    """Every sealed password by session id."""
    rows = await run("SELECT session_id, key_id, sealed FROM session_secrets", ())
    return {row["session_id"]: Sealed(row["key_id"], row["sealed"]) for row in rows}


async def exposed(run: Run) -> set[Mac]:
    """The cameras that may have received a password without being verified.

    Only the latest session in which provisioning of a camera was requested counts.
    """
    # `queued` is set when provisioning is requested, and kept.
    sql = (
        "SELECT mac FROM (SELECT d.mac, d.state, max(s.number)"
        " FROM session_devices d JOIN sessions s ON s.id = d.session_id WHERE d.queued IS NOT NULL GROUP BY d.mac)"
        " WHERE state <> 'verified'"
    )
    return {Mac(row["mac"]) for row in await run(sql, ())}


async def erase_password(tx: Tx, session_id: str) -> None:
    """Delete a session's password; the write connection overwrites deleted content (PRAGMA secure_delete)."""
    await tx.run("DELETE FROM session_secrets WHERE session_id = ?", (session_id,))


async def keep_newest(tx: Tx, *, keep: int) -> None:
    """Delete closed sessions that are older than the newest `keep` sessions."""
    await tx.run(
        "DELETE FROM sessions WHERE state = 'closed' AND number <= (SELECT max(number) FROM sessions) - ?", (keep,)
    )


def _session(row: Row) -> Session:
    return Session(
        id=row["id"],
        state=SessionState(row["state"]),
        network_interface=row["network_interface"],
        target_ssid=row["target_ssid"],
        config=SessionConfig(
            row["discovery_timeout_seconds"], row["provisioning_timeout_seconds"], row["verification_timeout_seconds"]
        ),
        created_at=parse_rfc3339(row["created_at"]),
        updated_at=parse_rfc3339(row["updated_at"]),
        interrupted=bool(row["interrupted"]),
        ending=Ending(row["ending"]) if row["ending"] else None,
        closed_at=_time(row["closed_at"]),
        counts=Counts(row["devices"], row["provisioned"], row["verified"], row["failed"], row["under_way"]),
    )


def _device(row: Row) -> SessionDevice:
    device = SessionDevice(
        session_id=row["session_id"],
        mac=Mac(row["mac"]),
        ip=row["ip"],
        discovered_at=parse_rfc3339(row["discovered_at"]),
        state=SessionDeviceState(row["state"]),
        progress=row["progress"],
        rssi=row["rssi"],
        firmware_version=row["firmware_version"],
        retry_count=row["retry_count"],
        queued=row["queued"],
        unlisted=bool(row["unlisted"]),
        error_code=row["error_code"],
        error_message=row["error_message"],
        provisioned_at=_time(row["provisioned_at"]),
        verified_at=_time(row["verified_at"]),
        in_allowlist=bool(row["in_allowlist"]),
        container_id=row["container_id"],
        changed=changes_of(row["first"], row["latest"]),
    )
    if row["sent_ip"] is None:
        return device
    return replace(device, sent=Sent(row["sent_ip"], row["sent_boot_id"], row["sent_monotonic"]))


def _time(text: Any) -> datetime | None:
    return parse_rfc3339(text) if text else None


def _text(time: datetime | None) -> str | None:
    return rfc3339(time) if time else None
