"""`sessions show`, `devices`, `recoverable` and `history`: print sessions and their devices."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pi_orchestrator.cli.connection import connect
from pi_orchestrator.cli.output import print_json, table
from pi_orchestrator.features.provisioning.cli_session import BATCH, SESSIONS, find_session_id, state_text

if TYPE_CHECKING:
    Json = dict[str, Any]


def show_session(args: argparse.Namespace) -> int:
    """Print one session, or watch it."""
    client = connect(args)
    session_id = find_session_id(client, args.session)
    if args.watch:
        from pi_orchestrator.features.provisioning.cli_watch import watch

        return watch(client, session_id, as_json=args.json)
    answer = client.get(f"{BATCH}/{session_id}")
    if args.json:
        print_json(answer)
        return 0
    session, network = answer["session"], answer["network_status"]
    config = session["config"]
    network_state = f"{network['ssid'] or 'no SSID'}, {'up' if network['is_active'] else 'down'}"
    rows = [
        ("id", session["id"]),
        ("state", state_text(session)),
        ("time left", answer["timeout_remaining"]),
        ("interface", session["network_interface"]),
        ("camera network", f"{network_state}, {network['connected_devices']} devices"),
        ("target network", session["target_ssid"] or "none: set provisioning.target_ssid or use --ssid"),
        ("cameras", session["device_count"]),
        ("provisioned", session["provisioned_count"]),
        ("verified", session["verified_count"]),
        ("failed or skipped", session["failed_count"]),
        (
            "timeouts",
            ", ".join(f"{name.removesuffix('_timeout_seconds')} {value} s" for name, value in config.items()),
        ),
        ("started", session["created_at"][:19].replace("T", " ")),
    ]
    print(table(("SESSION", ""), rows))
    return 0


def list_devices(args: argparse.Namespace) -> int:
    """Print the devices of a session."""
    from pi_orchestrator.cli.output import columns, fit
    from pi_orchestrator.features.provisioning.cli_view import camera_line, changed_texts

    client = connect(args)
    devices = client.get(f"{BATCH}/{find_session_id(client, args.session)}/devices", state=args.state)["devices"]
    if args.json:
        print_json(devices)
    elif devices:
        for device in devices:
            print(camera_line(device, width=columns()))
            for text in changed_texts(device):
                print(fit(f"  changed since first seen: {text}", columns()))
    else:
        print(
            "No cameras." if args.state else "No cameras yet. Cameras join when discovered on the session's interface."
        )
    return 0


def recoverable(args: argparse.Namespace) -> int:
    """Print the sessions that a restart interrupted."""
    sessions = connect(args).get(f"{SESSIONS}/recoverable")["sessions"]
    if args.json:
        print_json(sessions)
    elif sessions:
        print(_session_table(sessions))
        print("To resume a session: pi-orchestrator sessions resume ID --watch")
    else:
        print("No interrupted sessions.")
    return 0


def history(args: argparse.Namespace) -> int:
    """Print closed sessions."""
    page = connect(args).get(f"{SESSIONS}/history", limit=args.limit)
    if args.json:
        print_json(page)
        return 0
    print(_session_table(page["sessions"]) if page["sessions"] else "No closed sessions.")
    hidden = page["pagination"]["total"] - len(page["sessions"])
    if hidden > 0:
        print(f"… and {hidden} older sessions; use --limit to show more.")
    return 0


def _session_table(sessions: list[Json]) -> str:
    rows = [
        (
            session["id"][:8],
            session["created_at"][:16].replace("T", " "),
            state_text(session),
            session["network_interface"],
            session["device_count"],
            session["verified_count"],
            session["failed_count"],
            session["target_ssid"],
        )
        for session in sessions
    ]
    return table(
        ("ID", "STARTED (UTC)", "STATE", "INTERFACE", "CAMERAS", "VERIFIED", "FAILED", "TARGET"), rows, shrink=(7, 2)
    )
