"""Containers and who stands where in them."""

from __future__ import annotations

from datetime import datetime

from pi_orchestrator.clock import parse_rfc3339, rfc3339
from pi_orchestrator.domain.container import Container, free_position, overflow_id, overflow_label
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.events import Logged
from pi_orchestrator.storage import event_log
from pi_orchestrator.storage.database import Database, Row, Tx

_ONE = "SELECT * FROM containers WHERE id = ?"


async def listed(database: Database) -> list[Container]:
    """Every container, in the order in which they were made."""
    rows = await database.read("SELECT * FROM containers ORDER BY created_at, id")
    return [_container(row) for row in rows]


async def load(database: Database, container_id: str) -> Container | None:
    """A container."""
    rows = await database.read(_ONE, (container_id,))
    return _container(rows[0]) if rows else None


async def find(tx: Tx, container_id: str) -> Container | None:
    """A container, as of this transaction."""
    rows = await tx.run(_ONE, (container_id,))
    return _container(rows[0]) if rows else None


async def count(tx: Tx) -> int:
    """How many there are."""
    (row,) = await tx.run("SELECT count(*) AS total FROM containers")
    return int(row["total"])


async def just_made(tx: Tx, *, label: str | None, description: str | None, within_s: float) -> Container | None:
    """The container that an operator made with these very words a moment ago, if nothing was done with it since."""
    rows = await tx.run(
        "SELECT * FROM containers c WHERE label IS ? AND description IS ? AND boot_id = ? AND monotonic > ?"
        " AND created_at = updated_at AND NOT EXISTS (SELECT 1 FROM assignments WHERE container_id = c.id)",
        (label, description, tx.stamp.boot_id, tx.stamp.monotonic - within_s),
    )
    return _container(rows[0]) if rows else None


async def insert(tx: Tx, container_id: str, *, label: str | None, description: str | None) -> Container:
    """Make a container as an operator asks for it."""
    now = tx.stamp.at
    await tx.run(
        "INSERT INTO containers (id, label, description, created_at, updated_at, boot_id, monotonic)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (container_id, label, description, rfc3339(now), rfc3339(now), tx.stamp.boot_id, tx.stamp.monotonic),
    )
    return Container(container_id, now, now, label, description)


async def save(tx: Tx, container: Container) -> None:
    """Store what is written on a container."""
    await tx.run(
        "UPDATE containers SET label = ?, description = ?, updated_at = ? WHERE id = ?",
        (container.label, container.description, rfc3339(container.updated_at), container.id),
    )


async def remove(tx: Tx, container_id: str) -> None:
    """Delete an empty container; sqlite3.IntegrityError where a camera stands in it."""
    await tx.run("DELETE FROM containers WHERE id = ?", (container_id,))


async def tell(tx: Tx, what: str, container: Container) -> None:
    """Append the event that a container was created, updated or deleted."""
    payload = {
        "id": container.id,
        "label": container.label,
        "description": container.description,
        "created_at": rfc3339(container.created_at),
        "updated_at": rfc3339(container.updated_at),
    }
    told = {name: value for name, value in payload.items() if value is not None}
    await event_log.append(tx, Logged(f"container.{what}", told))


async def ensure(tx: Tx, container_id: str, *, label: str) -> bool:
    """Create a container if it is not there; True when it was made."""
    now = rfc3339(tx.stamp.at)
    made = await tx.run(
        "INSERT INTO containers (id, label, created_at, updated_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (id) DO NOTHING RETURNING id",
        (container_id, label, now, now),
    )
    return bool(made)


async def next_free(tx: Tx, container_id: str) -> int | None:
    """The lowest free position, or None when the container is full."""
    return free_position(await occupants(tx, container_id))


async def next_overflow(tx: Tx, target_id: str, target_label: str) -> tuple[str, int]:
    """The first further container of a full target with room (made if need be), and its free position."""
    number = 2
    while True:
        container_id = overflow_id(target_id, number)
        made = await ensure(tx, container_id, label=overflow_label(target_label, number))
        if made and (container := await find(tx, container_id)):
            await tell(tx, "created", container)
        position = free_position(()) if made else await next_free(tx, container_id)
        if position is not None:
            return container_id, position
        number += 1


async def room_in(tx: Tx, container_id: str) -> int | None:
    """The lowest free position; None where there is no such container, or no room."""
    return await next_free(tx, container_id) if await find(tx, container_id) else None


async def occupants(tx: Tx, container_id: str) -> dict[int, Mac]:
    """Who stands where in a container."""
    rows = await tx.run("SELECT position, mac FROM assignments WHERE container_id = ?", (container_id,))
    return {row["position"]: Mac(row["mac"]) for row in rows}


async def assign(tx: Tx, mac: Mac, container_id: str, position: int, *, since: datetime | None = None) -> None:
    """Put a camera on a position, which it has had `since` then or now; sqlite3.IntegrityError when it is taken."""
    await tx.run(
        "INSERT INTO assignments (mac, container_id, position, assigned_at) VALUES (?, ?, ?, ?)",
        (mac, container_id, position, rfc3339(since or tx.stamp.at)),
    )


async def unassign(tx: Tx, mac: Mac) -> None:
    """Take a camera out of its container."""
    await tx.run("DELETE FROM assignments WHERE mac = ?", (mac,))


def _container(row: Row) -> Container:
    return Container(
        id=row["id"],
        created_at=parse_rfc3339(row["created_at"]),
        updated_at=parse_rfc3339(row["updated_at"]),
        label=row["label"],
        description=row["description"],
    )
