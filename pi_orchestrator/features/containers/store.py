"""SQL for containers (places with positions for four cameras), and their free positions.

`load` reads committed data, `find` within a transaction.
"""

from __future__ import annotations

from pi_orchestrator.core.clock import parse_rfc3339, rfc3339
from pi_orchestrator.core.events import ContainerCreated, ContainerEvent
from pi_orchestrator.features.cameras.store import occupants
from pi_orchestrator.features.containers.model import Container, lowest_free, overflow_id, overflow_label
from pi_orchestrator.storage import event_store
from pi_orchestrator.storage.database import Database, Row, Tx

_SELECT_CONTAINER = "SELECT * FROM containers WHERE id = ?"


async def listed(database: Database) -> list[Container]:
    """Every container, in creation order."""
    rows = await database.read("SELECT * FROM containers ORDER BY created_at, id")
    return [_container(row) for row in rows]


async def load(database: Database, container_id: str) -> Container | None:
    """The container, or None."""
    rows = await database.read(_SELECT_CONTAINER, (container_id,))
    return _container(rows[0]) if rows else None


async def find(tx: Tx, container_id: str) -> Container | None:
    """The container as of this transaction, or None."""
    rows = await tx.run(_SELECT_CONTAINER, (container_id,))
    return _container(rows[0]) if rows else None


async def count(tx: Tx) -> int:
    """Number of containers."""
    (row,) = await tx.run("SELECT count(*) AS total FROM containers")
    return int(row["total"])


async def find_repeated_create(
    tx: Tx, *, label: str | None, description: str | None, within_s: float
) -> Container | None:
    """The unchanged, empty container that an identical create request made in the last `within_s` seconds, or None."""
    rows = await tx.run(
        "SELECT * FROM containers c WHERE label IS ? AND description IS ? AND boot_id = ? AND monotonic > ?"
        " AND created_at = updated_at AND NOT EXISTS (SELECT 1 FROM assignments WHERE container_id = c.id)",
        (label, description, tx.stamp.boot_id, tx.stamp.monotonic - within_s),
    )
    return _container(rows[0]) if rows else None


async def insert(tx: Tx, container_id: str, *, label: str | None, description: str | None) -> Container:
    """Insert a container on the request of an operator; its time is stored for `find_repeated_create`."""
    now = tx.stamp.at
    await tx.run(
        "INSERT INTO containers (id, label, description, created_at, updated_at, boot_id, monotonic)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (container_id, label, description, rfc3339(now), rfc3339(now), tx.stamp.boot_id, tx.stamp.monotonic),
    )
    return Container(container_id, now, now, label, description)


async def save(tx: Tx, container: Container) -> None:
    """Store the label and description of a container."""
    await tx.run(
        "UPDATE containers SET label = ?, description = ?, updated_at = ? WHERE id = ?",
        (container.label, container.description, rfc3339(container.updated_at), container.id),
    )


async def remove(tx: Tx, container_id: str) -> None:
    """Delete an empty container; sqlite3.IntegrityError if a camera is assigned to it."""
    await tx.run("DELETE FROM containers WHERE id = ?", (container_id,))


async def append_event(tx: Tx, kind: type[ContainerEvent], container: Container) -> None:
    """Append the event for a created, updated or deleted container."""
    event = kind(
        id=container.id,
        label=container.label,
        description=container.description,
        created_at=rfc3339(container.created_at),
        updated_at=rfc3339(container.updated_at),
    )
    await event_store.append(tx, event)


async def ensure(tx: Tx, container_id: str, *, label: str) -> bool:
    """Create a container if it does not exist; True if it was created. `find_repeated_create` never returns it."""
    now = rfc3339(tx.stamp.at)
    created = await tx.run(
        "INSERT INTO containers (id, label, created_at, updated_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (id) DO NOTHING RETURNING id",
        (container_id, label, now, now),
    )
    return bool(created)


async def free_position(tx: Tx, container_id: str) -> int | None:
    """The lowest free position of an existing container, or None if it is full."""
    return lowest_free(await occupants(tx, container_id))


async def next_overflow(tx: Tx, target_id: str, target_label: str) -> tuple[str, int]:
    """The first overflow container with a free position, created if necessary, and that position."""
    number = 2
    while True:
        container_id = overflow_id(target_id, number)
        created = await ensure(tx, container_id, label=overflow_label(target_label, number))
        if created and (container := await find(tx, container_id)):
            await append_event(tx, ContainerCreated, container)
        position = lowest_free(occupied=()) if created else await free_position(tx, container_id)
        if position is not None:
            return container_id, position
        number += 1


async def free_position_if_exists(tx: Tx, container_id: str) -> int | None:
    """The lowest free position, or None if the container does not exist or is full."""
    return await free_position(tx, container_id) if await find(tx, container_id) else None


def _container(row: Row) -> Container:
    return Container(
        id=row["id"],
        created_at=parse_rfc3339(row["created_at"]),
        updated_at=parse_rfc3339(row["updated_at"]),
        label=row["label"],
        description=row["description"],
    )
