"""Routes: event streams."""

from __future__ import annotations

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.edge_http.key_store import Scope
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.edge_http.stream_sources import event_frame
from pi_orchestrator.features.events import api as streams
from pi_orchestrator.http.route import STREAM, table
from pi_orchestrator.http.sse import RETRY_MS, bookmark

_AT = "2026-01-22T15:00:00.000000Z"


def _example(message: str, event: bytes) -> str:
    payload = {"message": message, "last_event_id": 41}
    established = event_frame("connection.established", at=_AT, payload=payload, copy=False)
    return f"retry: {RETRY_MS}\n{(established + bookmark(41) + event).decode()}"


ROUTES: tuple[Route, ...] = table(
    "streams",
    Route(
        "GET",
        "/api/v1/provisioning/batch/events",
        streams.batch,
        "streams",
        "Provisioning events",
        Scope.READ,
        needs_key_in_provisioning_mode=True,
        shape=STREAM,
        errors=(ErrorCode.SESSION_NOT_FOUND,),
        example=_example(
            "Connected to batch provisioning events",
            event_frame(
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
        "All events",
        Scope.READ,
        shape=STREAM,
        example=_example(
            "Connected to events",
            event_frame(
                "network.status_changed",
                at=_AT,
                event_id=42,
                payload={"ssid": "DeliCasa-AP", "is_active": True, "connected_devices": 12},
                copy=True,
            ),
        ),
    ),
)
