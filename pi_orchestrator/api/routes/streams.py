"""Routes: what happens, as it happens."""

from __future__ import annotations

from pi_orchestrator.api import streams
from pi_orchestrator.api.envelope import Shape
from pi_orchestrator.api.route import Route
from pi_orchestrator.api.sources import bookmark, frames
from pi_orchestrator.api.sse import RETRY_MS
from pi_orchestrator.storage.keys import Scope

_AT = "2026-01-22T15:00:00.000000Z"


def _example(message: str, event: bytes) -> str:
    payload = {"message": message, "last_event_id": 41}
    established = frames("connection.established", at=_AT, payload=payload, copy=False)
    return f"retry: {RETRY_MS}\n{(established + bookmark(41) + event).decode()}"


ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/api/v1/provisioning/batch/events",
        streams.batch,
        "streams",
        "Events of provisioning",
        Scope.READ,
        keyed=True,
        shape=Shape.STREAM,
        errors=("SESSION_NOT_FOUND",),
        example=_example(
            "Connected to batch provisioning events",
            frames(
                "device.state_changed",
                at=_AT,
                session_id="550e8400-e29b-41d4-a716-446655440000",
                event_id=42,
                payload={
                    "mac": "24:6F:28:B0:F7:F1",
                    "previous_state": "discovered",
                    "new_state": "provisioning",
                    "progress": 0,
                },
                copy=True,
            ),
        ),
    ),
    Route(
        "GET",
        "/api/v1/events",
        streams.everything,
        "streams",
        "Every event",
        Scope.READ,
        shape=Shape.STREAM,
        example=_example(
            "Connected to events",
            frames(
                "network.status_changed",
                at=_AT,
                event_id=42,
                payload={"ssid": "DeliCasa-AP", "is_active": True, "connected_devices": 12},
                copy=True,
            ),
        ),
    ),
)
