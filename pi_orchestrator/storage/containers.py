"""Containers and who stands where in them."""

from __future__ import annotations

from dataclasses import replace

from pi_orchestrator.clock import rfc3339
from pi_orchestrator.domain.camera import Camera
from pi_orchestrator.domain.container import free_position, overflow_id, overflow_label
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.storage.database import Tx


async def ensure(tx: Tx, container_id: str, *, label: str) -> bool:
    """Create a container if it is not there; True when it was made."""
    now = rfc3339(tx.stamp.at)
    made = await tx.run(
        "INSERT INTO containers (id, label, created_at, updated_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (id) DO NOTHING RETURNING id",
        (container_id, label, now, now),
    )
    return bool(made)


async def label_of(tx: Tx, container_id: str) -> str | None:
    """A container's label (its id where it has none); None when there is no such container."""
    rows = await tx.run("SELECT coalesce(label, id) AS label FROM containers WHERE id = ?", (container_id,))
    return rows[0]["label"] if rows else None


async def next_free(tx: Tx, container_id: str) -> int | None:
    """The lowest free position, or None when the container is full."""
    rows = await tx.run("SELECT position FROM assignments WHERE container_id = ?", (container_id,))
    return free_position(row["position"] for row in rows)


async def next_overflow(tx: Tx, target_id: str, target_label: str) -> tuple[str, int]:
    """The first further container of a full target with room (made if need be), and its free position."""
    number = 2
    while True:
        container_id = overflow_id(target_id, number)
        made = await ensure(tx, container_id, label=overflow_label(target_label, number))
        position = free_position(()) if made else await next_free(tx, container_id)
        if position is not None:
            return container_id, position
        number += 1


async def assign(tx: Tx, mac: Mac, container_id: str, position: int) -> None:
    """Put a camera on a position; sqlite3.IntegrityError when it is taken."""
    await tx.run(
        "INSERT INTO assignments (mac, container_id, position, assigned_at) VALUES (?, ?, ?, ?)",
        (mac, container_id, position, rfc3339(tx.stamp.at)),
    )


async def place(tx: Tx, camera: Camera, container_id: str) -> Camera:
    """The camera on the first free position of a container; as it is where there is no such container, or no room."""
    if await label_of(tx, container_id) is None or (position := await next_free(tx, container_id)) is None:
        return camera
    await assign(tx, camera.mac, container_id, position)
    return replace(camera, container_id=container_id, position=position, paired_at=tx.stamp.at)
