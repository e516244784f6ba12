"""Provisioning sessions, their cameras and their sealed passwords; readers take `Tx.run` or `Database.read`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pi_orchestrator.clock import parse_rfc3339, rfc3339
from pi_orchestrator.domain.candidate import Candidate, CandidateState, Sent
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.session import Counts, Ending, Session, SessionConfig, SessionState
from pi_orchestrator.storage.database import Database, Params, Row, Tx

Run = Callable[[str, Params], Awaitable[list[Row]]]
"""Runs one statement: within a transaction, or as of the last commit."""

_SESSIONS = (
    "SELECT s.*,"
    " count(d.mac) AS devices,"
    " count(d.mac) FILTER (WHERE d.state IN ('provisioned', 'verifying', 'verified')) AS provisioned,"
    " count(d.mac) FILTER (WHERE d.state = 'verified') AS verified,"
    " count(d.mac) FILTER (WHERE d.state = 'failed') AS failed,"
    " count(d.mac) FILTER (WHERE d.state IN ('provisioning', 'provisioned', 'verifying')) AS under_way"
    " FROM sessions s LEFT JOIN session_devices d ON d.session_id = s.id {where} GROUP BY s.number {order}"
)
_CANDIDATES = (
    "SELECT d.*, a.mac IS NOT NULL AS in_allowlist, a.container_id"
    " FROM session_devices d LEFT JOIN allowlist a USING (mac) WHERE d.session_id = ? {where} ORDER BY {order}"
)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A secret as it lies on disk: readable only with the key of this id."""

    key_id: str
    content: bytes


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Some sessions of `total`, newest first."""

    sessions: list[Session]
    total: int


async def insert(tx: Tx, session: Session, password: Sealed | None) -> None:
    """Store a new session with its password; sqlite3.IntegrityError while one is open on its interface."""
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
    """Store what can change of a session."""
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
    """Something has happened in a session."""
    await tx.run("UPDATE sessions SET updated_at = ? WHERE id = ?", (rfc3339(tx.stamp.at), session_id))


async def get(run: Run, session_id: str) -> Session | None:
    """One session with its counts."""
    rows = await run(_SESSIONS.format(where="WHERE s.id = ?", order=""), (session_id,))
    return _session(rows[0]) if rows else None


async def unended(run: Run) -> list[Session]:
    """Every session that is not closed, oldest first."""
    sql = _SESSIONS.format(where="WHERE s.state <> 'closed'", order="ORDER BY s.number")
    return [_session(row) for row in await run(sql, ())]


async def open_on(run: Run, interface: str) -> Session | None:
    """The session that is open on an interface."""
    sql = _SESSIONS.format(where="WHERE s.state <> 'closed' AND s.network_interface = ?", order="")
    rows = await run(sql, (interface,))
    return _session(rows[0]) if rows else None


async def history(database: Database, *, limit: int, offset: int) -> SessionPage:
    """Closed sessions, newest first."""
    sql = _SESSIONS.format(where="WHERE s.state = 'closed'", order="ORDER BY s.number DESC LIMIT ? OFFSET ?")
    rows = await database.read(sql, (limit, offset))
    total = (await database.read("SELECT count(*) AS n FROM sessions WHERE state = 'closed'"))[0]["n"]
    return SessionPage([_session(row) for row in rows], total)


async def candidates(run: Run, session_id: str, *, state: CandidateState | None = None) -> list[Candidate]:
    """The cameras of a session in the order in which they were found."""
    where, params = ("AND d.state = ?", (session_id, state)) if state else ("", (session_id,))
    rows = await run(_CANDIDATES.format(where=where, order="d.discovered_at, d.mac"), params)
    return [_candidate(row) for row in rows]


async def in_line(run: Run, session_id: str) -> list[Candidate]:
    """The cameras of a session that were asked for and are not done, in the order in which they were asked for."""
    sql = _CANDIDATES.format(where="AND d.state IN ('provisioning', 'provisioned', 'verifying')", order="d.queued")
    return [_candidate(row) for row in await run(sql, (session_id,))]


async def candidate(run: Run, session_id: str, mac: Mac) -> Candidate | None:
    """One camera of a session."""
    rows = await run(_CANDIDATES.format(where="AND d.mac = ?", order="d.mac"), (session_id, mac))
    return _candidate(rows[0]) if rows else None


async def next_place(run: Run, session_id: str) -> int:
    """The next free place in a session's line."""
    sql = "SELECT coalesce(max(queued), 0) + 1 AS place FROM session_devices WHERE session_id = ?"
    rows = await run(sql, (session_id,))
    return int(rows[0]["place"])


async def put_candidate(tx: Tx, one: Candidate) -> None:
    """Store a camera of a session as it is now."""
    sent = one.sent
    await tx.run(
        "INSERT OR REPLACE INTO session_devices (session_id, mac, state, progress, ip, rssi, firmware_version,"
        " retry_count, queued, unlisted, error_code, error_message, discovered_at, provisioned_at, verified_at,"
        " sent_ip, sent_boot_id, sent_monotonic) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            one.session_id,
            one.mac,
            one.state,
            int(one.progress),
            one.ip,
            one.rssi,
            one.firmware_version,
            one.retry_count,
            one.queued,
            one.unlisted,
            one.error_code,
            one.error_message,
            rfc3339(one.discovered_at),
            _text(one.provisioned_at),
            _text(one.verified_at),
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
    """A session's password, sealed; None where it has none or has ended."""
    rows = await run("SELECT key_id, sealed FROM session_secrets WHERE session_id = ?", (session_id,))
    return Sealed(rows[0]["key_id"], rows[0]["sealed"]) if rows else None


async def passwords(run: Run) -> dict[str, Sealed]:
    """Every sealed password by session id."""
    rows = await run("SELECT session_id, key_id, sealed FROM session_secrets", ())
    return {row["session_id"]: Sealed(row["key_id"], row["sealed"]) for row in rows}


async def in_doubt(run: Run) -> set[Mac]:
    """The cameras that were asked for in the last session that they were in, and are not verified since."""
    sql = (
        "SELECT mac FROM (SELECT d.mac, d.state, max(s.number)"
        " FROM session_devices d JOIN sessions s ON s.id = d.session_id WHERE d.queued IS NOT NULL GROUP BY d.mac)"
        " WHERE state <> 'verified'"
    )
    return {Mac(row["mac"]) for row in await run(sql, ())}


async def erase_password(tx: Tx, session_id: str) -> None:
    """Remove a session's password; the writer overwrites what it removes (secure_delete)."""
    await tx.run("DELETE FROM session_secrets WHERE session_id = ?", (session_id,))


async def trim(tx: Tx, *, keep: int) -> None:
    """Drop all but the newest `keep` closed sessions."""
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
        closed_at=_moment(row["closed_at"]),
        counts=Counts(row["devices"], row["provisioned"], row["verified"], row["failed"], row["under_way"]),
    )


def _candidate(row: Row) -> Candidate:
    one = Candidate(
        session_id=row["session_id"],
        mac=Mac(row["mac"]),
        ip=row["ip"],
        discovered_at=parse_rfc3339(row["discovered_at"]),
        state=CandidateState(row["state"]),
        progress=row["progress"],
        rssi=row["rssi"],
        firmware_version=row["firmware_version"],
        retry_count=row["retry_count"],
        queued=row["queued"],
        unlisted=bool(row["unlisted"]),
        error_code=row["error_code"],
        error_message=row["error_message"],
        provisioned_at=_moment(row["provisioned_at"]),
        verified_at=_moment(row["verified_at"]),
        in_allowlist=bool(row["in_allowlist"]),
        container_id=row["container_id"],
    )
    if row["sent_ip"] is None:
        return one
    return replace(one, sent=Sent(row["sent_ip"], row["sent_boot_id"], row["sent_monotonic"]))


def _moment(text: Any) -> datetime | None:
    return parse_rfc3339(text) if text else None


def _text(moment: datetime | None) -> str | None:
    return rfc3339(moment) if moment else None
