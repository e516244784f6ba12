"""The check of `doctor` for cameras: what a running daemon reports of their names."""

from __future__ import annotations

from pi_orchestrator.features.system.cli_finding import Finding
from pi_orchestrator.settings import Settings

MAX_NOTES = 5
NOT_CHECKED = "not checked: the daemon does not run"


def check_cameras(settings: Settings) -> Finding:
    """Ask the running daemon which device ids and topics several clients use."""
    from pi_orchestrator.cli.client import connect_to
    from pi_orchestrator.core.errors import ArgumentsError, OrchestratorError, UnauthorizedError

    try:
        devices = connect_to(settings).get("/api/v1/devices", limit=5000)["devices"]
    except UnauthorizedError as error:
        return Finding("cameras", "warn", f"not checked: {error.message}", error.details or "set PIORCH_API_KEY")
    except (ArgumentsError, OrchestratorError):
        return Finding("cameras", "ok", NOT_CHECKED)
    notes = [f"{device['mac_address']}: {note}" for device in devices for note in device["notes"]]
    if not notes:
        return Finding("cameras", "ok", "each has its own device id and topic")
    more = f"; and {len(notes) - MAX_NOTES} more" if len(notes) > MAX_NOTES else ""
    remedy = "flash different device ids; while ids are shared, only pictures and reboots by HTTP work"
    return Finding("cameras", "warn", "; ".join(notes[:MAX_NOTES]) + more, remedy)
