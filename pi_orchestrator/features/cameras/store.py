"""SQL for registered cameras, their positions and their presence."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pi_orchestrator.core.clock import parse_rfc3339, rfc3339
from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.mac import Mac, try_mac
from pi_orchestrator.features.cameras.model import Camera, device_id_for
from pi_orchestrator.features.devices.status_message import topic_id
from pi_orchestrator.storage.database import Database, Row, Tx

SELECT_CAMERA = (
    "SELECT c.*, a.container_id, a.position, a.assigned_at, p.seen_at FROM cameras c"
    " LEFT JOIN assignments a USING (mac) LEFT JOIN presence p USING (mac)"
)


async def find(tx: Tx, mac: Mac) -> Camera | None:
    """A registered camera with container and position, as of this transaction."""
    rows = await tx.run(f"{SELECT_CAMERA} WHERE c.mac = ?", (mac,))
    return camera_of(rows[0]) if rows else None


async def is_registered(tx: Tx, mac: Mac) -> bool:
    """Whether the database holds this camera."""
    return bool(await tx.run("SELECT 1 FROM cameras WHERE mac = ?", (mac,)))


async def register(tx: Tx, mac: Mac, *, device_id: str | None, ip: str | None, firmware: str | None, by: str) -> Camera:
    """Insert a camera; `by` is "auto" or "manual".

    If the claimed `device_id` belongs to another camera or is another MAC, the camera's MAC is its device id.
    """
    chosen = device_id_for(mac, device_id)
    is_other_mac = try_mac(chosen) not in (None, mac)
    if is_other_mac or await tx.run("SELECT 1 FROM cameras WHERE device_id = ?", (chosen,)):
        chosen = mac
    await tx.run(
        "INSERT INTO cameras (mac, device_id, ip_address, firmware_version, registered_by, registered_at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (mac, chosen, ip, firmware, by, rfc3339(tx.stamp.at)),
    )
    return Camera(mac=mac, device_id=chosen, ip_address=ip, firmware_version=firmware, registered_at=tx.stamp.at)


async def remove(tx: Tx, mac: Mac) -> None:
    """Delete a camera with its position and presence."""
    await tx.run("DELETE FROM cameras WHERE mac = ?", (mac,))


async def rename(tx: Tx, mac: Mac, name: str | None) -> None:
    """Store the name of a camera."""
    await tx.run("UPDATE cameras SET name = ? WHERE mac = ?", (name, mac))


async def inherit(tx: Tx, mac: Mac, *, name: str | None, registered_at: datetime) -> None:
    """Store the values that a camera inherits from the one that it replaces."""
    await tx.run("UPDATE cameras SET name = ?, registered_at = ? WHERE mac = ?", (name, rfc3339(registered_at), mac))


async def save_reported(tx: Tx, cameras: list[Camera]) -> None:
    """Store the address, firmware and topic of cameras."""
    await tx.run_many(
        "UPDATE cameras SET ip_address = ?, firmware_version = ?, topic = ? WHERE mac = ?",
        [(camera.ip_address, camera.firmware_version, camera.topic, camera.mac) for camera in cameras],
    )


async def save_presence(tx: Tx, rows: list[tuple[Mac, str, datetime, str, float]]) -> None:
    """Store (mac, state, seen at, boot id, monotonic s) of registered cameras."""
    await tx.run_many(
        "INSERT INTO presence (mac, state, seen_at, boot_id, seen_monotonic)"
        " SELECT ?1, ?2, ?3, ?4, ?5 WHERE EXISTS (SELECT 1 FROM cameras WHERE mac = ?1)"
        " ON CONFLICT (mac) DO UPDATE SET state = excluded.state, seen_at = excluded.seen_at,"
        " boot_id = excluded.boot_id, seen_monotonic = excluded.seen_monotonic",
        [
            (mac, state, at.strftime("%Y-%m-%dT%H:%M:%SZ"), short_boot(boot_id), monotonic)
            for mac, state, at, boot_id, monotonic in rows
        ],
    )


def short_boot(boot_id: str) -> str:
    """The first 8 characters of a boot id: enough to identify a boot, and fifty rows then fit in one database page."""
    return boot_id[:8]


async def load_presence(database: Database) -> list[tuple[Mac, str, str, float]]:
    """(mac, state, short boot id, monotonic s) as last stored."""
    rows = await database.read("SELECT mac, state, boot_id, seen_monotonic FROM presence")
    return [(Mac(row["mac"]), row["state"], row["boot_id"], row["seen_monotonic"]) for row in rows]


def camera_of(row: Row) -> Camera:
    """The camera in a row of SELECT_CAMERA."""

    def moment(name: str) -> datetime | None:
        text: Any = row[name]
        return parse_rfc3339(text) if text else None

    return Camera(
        mac=Mac(row["mac"]),
        device_id=row["device_id"],
        name=row["name"],
        ip_address=row["ip_address"],
        firmware_version=row["firmware_version"],
        topic=_topic(row["topic"]),
        registered_at=parse_rfc3339(row["registered_at"]),
        container_id=row["container_id"],
        position=row["position"],
        paired_at=moment("assigned_at"),
        last_seen_at=moment("seen_at"),
    )


def _topic(text: str | None) -> str | None:
    try:
        return text if text and topic_id(text) else None
    except FieldError:
        return None


async def occupants(tx: Tx, container_id: str) -> dict[int, Mac]:
    """The cameras of a container: {position: MAC}."""
    rows = await tx.run("SELECT position, mac FROM assignments WHERE container_id = ?", (container_id,))
    return {row["position"]: Mac(row["mac"]) for row in rows}


async def assign(tx: Tx, mac: Mac, container_id: str, position: int, *, since: datetime | None = None) -> None:
    """Assign a position, from `since` (default: now) on; sqlite3.IntegrityError if it is occupied."""
    await tx.run(
        "INSERT INTO assignments (mac, container_id, position, assigned_at) VALUES (?, ?, ?, ?)",
        (mac, container_id, position, rfc3339(since or tx.stamp.at)),
    )


async def unassign(tx: Tx, mac: Mac) -> None:
    """Remove a camera from its container."""
    await tx.run("DELETE FROM assignments WHERE mac = ?", (mac,))
