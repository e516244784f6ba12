"""Cameras as text: a table row, and a card with details. Input: camera objects of the API."""

from __future__ import annotations

from typing import Any

from pi_orchestrator.cli.output import age, fit, moment, table, wrapped

HEADERS = ("NAME", "MAC", "STATUS", "ADDRESS", "DBM", "POSITION")
LONGEST_NAME = 20
"""Longer names are shortened in the table, to leave space for the other columns."""


def row(camera: dict[str, Any]) -> tuple[object, ...]:
    """A camera as a table row."""
    name, position = fit(camera["name"], LONGEST_NAME), _position(camera)
    return (name, camera["mac_address"], camera["status"], camera.get("ip_address"), _rssi(camera), position)


def card(camera: dict[str, Any], *, why: str) -> str:
    """One camera with its last error, and `why` it is in its state."""
    health = camera["health"]
    fields = {
        "name": camera["name"],
        "device id": camera["device_id"],
        "mac": camera["mac_address"],
        "address": camera["ip_address"],
        "status": camera["status"],
        "last error": health.get("last_error"),
        "warning": "; ".join(camera.get("warnings", ())),
        "position": _position(camera),
        "firmware": camera.get("firmware_version"),
        "signal": f"{_rssi(camera)} dBm" if _rssi(camera) else None,
        "free memory": f"{health['free_heap'] // 1024} KiB" if health.get("free_heap") else None,
        "running for": age(health["uptime_seconds"]) if health.get("uptime_seconds") else None,
        "last seen": moment(camera.get("last_seen")),
        "last picture": moment(health.get("last_capture")),
    }
    text = table(("FIELD", "VALUE"), [(name, value) for name, value in fields.items() if value], flow=True)
    return f"{text}\n\n{wrapped(f'Why: {why}.')}" if why else text


def _rssi(camera: dict[str, Any]) -> int | None:
    return camera.get("health", {}).get("wifi_rssi") or camera.get("signal_strength") or None


def _position(camera: dict[str, Any]) -> str | None:
    return f"{camera['position']} {camera['container_id']}" if camera.get("container_id") else None
