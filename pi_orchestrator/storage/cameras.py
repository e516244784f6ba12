"""Registered cameras, and the roster: the same in memory, as of the last commit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from pi_orchestrator.clock import parse_rfc3339, rfc3339
from pi_orchestrator.domain.camera import Camera, device_id_for
from pi_orchestrator.domain.mac import Mac, try_mac
from pi_orchestrator.storage.database import Database, Row, Tx

_WHOLE = (
    "SELECT c.*, a.container_id, a.position, a.assigned_at, p.seen_at FROM cameras c"
    " LEFT JOIN assignments a USING (mac) LEFT JOIN presence p USING (mac)"
)


class Roster:
    """Every registered camera by MAC and by device id; a few hundred at most, asked for at every message."""

    def __init__(self) -> None:
        self._by_mac: dict[Mac, Camera] = {}
        self._by_device_id: dict[str, Mac] = {}
        self.revision = 0

    async def load(self, database: Database) -> None:
        """Fill from the database."""
        for row in await database.read(f"{_WHOLE} ORDER BY c.registered_at, c.mac"):
            self.put(_camera(row))

    def put(self, camera: Camera) -> None:
        """Add or replace a camera."""
        newest = next(reversed(self._by_mac.values()), None)
        self._by_mac[camera.mac] = camera
        self._by_device_id[camera.device_id] = camera.mac
        if newest and camera.registered_at < newest.registered_at:  # it took over an older one's registration
            oldest_first = sorted(self._by_mac.values(), key=lambda one: one.registered_at)
            self._by_mac = {one.mac: one for one in oldest_first}
        self.revision += 1

    def drop(self, mac: Mac) -> None:
        """Take a camera off, if it is on."""
        camera = self._by_mac.pop(mac, None)
        if camera is None:
            return
        if self._by_device_id.get(camera.device_id) == mac:
            del self._by_device_id[camera.device_id]
        self.revision += 1

    def get(self, mac: Mac) -> Camera | None:
        """The camera of a MAC."""
        return self._by_mac.get(mac)

    def find(self, name: str) -> Mac | None:
        """The MAC that a device id or any spelling of a MAC stands for."""
        # A MAC is proven, a device id only claimed: nobody is found under the MAC of another.
        mac = try_mac(name)
        return mac if mac in self._by_mac else self._by_device_id.get(name)

    def __contains__(self, mac: object) -> bool:
        return mac in self._by_mac

    def __iter__(self) -> Iterator[Camera]:
        return iter(tuple(self._by_mac.values()))

    def __len__(self) -> int:
        return len(self._by_mac)


async def find(tx: Tx, mac: Mac) -> Camera | None:
    """A registered camera and its place, as of this transaction."""
    rows = await tx.run(f"{_WHOLE} WHERE c.mac = ?", (mac,))
    return _camera(rows[0]) if rows else None


async def is_registered(tx: Tx, mac: Mac) -> bool:
    """Whether the database holds this camera."""
    return bool(await tx.run("SELECT 1 FROM cameras WHERE mac = ?", (mac,)))


async def register(tx: Tx, mac: Mac, *, device_id: str | None, ip: str | None, firmware: str | None, by: str) -> Camera:
    """Insert a camera; a device id that another camera has already, or another's MAC, gives way to the own MAC."""
    chosen = device_id_for(mac, device_id)
    foreign = try_mac(chosen) not in (None, mac)
    if foreign or await tx.run("SELECT 1 FROM cameras WHERE device_id = ?", (chosen,)):
        chosen = mac
    await tx.run(
        "INSERT INTO cameras (mac, device_id, ip_address, firmware_version, registered_by, registered_at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (mac, chosen, ip, firmware, by, rfc3339(tx.stamp.at)),
    )
    return Camera(mac=mac, device_id=chosen, ip_address=ip, firmware_version=firmware, registered_at=tx.stamp.at)


async def remove(tx: Tx, mac: Mac) -> None:
    """Delete a camera, and with it its place and presence."""
    await tx.run("DELETE FROM cameras WHERE mac = ?", (mac,))


async def rename(tx: Tx, mac: Mac, name: str | None) -> None:
    """Store what a camera is called."""
    await tx.run("UPDATE cameras SET name = ? WHERE mac = ?", (name, mac))


async def inherit(tx: Tx, mac: Mac, *, name: str | None, registered_at: datetime) -> None:
    """Store what a camera takes over from the one that it replaces."""
    await tx.run("UPDATE cameras SET name = ?, registered_at = ? WHERE mac = ?", (name, rfc3339(registered_at), mac))


async def save_facts(tx: Tx, changed: list[Camera]) -> None:
    """Store the address and firmware that cameras announce, where they changed."""
    await tx.run_many(
        "UPDATE cameras SET ip_address = ?, firmware_version = ? WHERE mac = ?",
        [(camera.ip_address, camera.firmware_version, camera.mac) for camera in changed],
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
    """The start of a boot id: enough to tell boots apart, and fifty cameras fit on one page of the card."""
    return boot_id[:8]


async def load_presence(database: Database) -> list[tuple[Mac, str, str, float]]:
    """(mac, state, short boot id, monotonic s) as last stored."""
    rows = await database.read("SELECT mac, state, boot_id, seen_monotonic FROM presence")
    return [(Mac(row["mac"]), row["state"], row["boot_id"], row["seen_monotonic"]) for row in rows]


def _camera(row: Row) -> Camera:
    def moment(name: str) -> datetime | None:
        text: Any = row[name]
        return parse_rfc3339(text) if text else None

    return Camera(
        mac=Mac(row["mac"]),
        device_id=row["device_id"],
        name=row["name"],
        ip_address=row["ip_address"],
        firmware_version=row["firmware_version"],
        registered_at=parse_rfc3339(row["registered_at"]),
        container_id=row["container_id"],
        position=row["position"],
        paired_at=moment("assigned_at"),
        last_seen_at=moment("seen_at"),
    )
