"""The checks of `doctor` on data of the running daemon: names of cameras, and messages that it cannot read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pi_orchestrator.features.system.cli_finding import Finding

if TYPE_CHECKING:
    from pi_orchestrator.cli.client import Client
    from pi_orchestrator.settings import Settings

ANSWER_S = 5.0
"""Time limit of the whole request: another program may use the port and never answer, or send byte by byte."""
MAX_NAMED = 3


def examine_daemon(settings: Settings) -> Iterator[Finding]:
    """Check what one request to the daemon returns; without a daemon, the findings say that nothing was checked."""
    from pi_orchestrator.cli import client
    from pi_orchestrator.core.errors import OrchestratorError

    listen = settings.http.listen[0]
    if not listen.port:
        yield from _not_checked("ok", "http.listen has no fixed port")
        return
    try:
        found = _devices(client.connect_to(settings, timeout_s=ANSWER_S))
        findings = [_check_names(found["devices"]), _check_messages(found["unreadable"])]
    except client.UnreachableError:
        yield from _not_checked("ok", f"no daemon responds at {listen.url}")
    except (OrchestratorError, KeyError, TypeError) as error:
        reason = getattr(error, "message", "unexpected response")
        yield from _not_checked("warn", reason, "run this with sudo, or set PIORCH_API_KEY")
    else:
        yield from findings


def _devices(daemon: Client) -> Any:
    """The daemon's devices; UnreachableError if the answer is not complete within ANSWER_S."""
    from pi_orchestrator.cli.client import UnreachableError

    outcome: list[Any] = []

    def request() -> None:
        try:
            outcome.append(daemon.get("/api/v1/devices", limit=5000))
        except Exception as error:  # noqa: BLE001  # raised below, in the calling thread
            outcome.append(error)

    # A socket's time limit is for each read only. A daemon thread: the program can end while it still waits.
    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(ANSWER_S)
    if not outcome:
        raise UnreachableError(f"no complete answer within {ANSWER_S:g} s")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _not_checked(result: str, reason: str, remedy: str = "") -> Iterator[Finding]:
    for check in ("cameras", "messages"):
        yield Finding(check, result, f"not checked: {reason}", remedy)


def _check_names(devices: list[dict[str, Any]]) -> Finding:
    notes = [f"{device['mac_address']}: {note}" for device in devices for note in device["notes"]]
    if not notes:
        return Finding("cameras", "ok", "each has its own device id and topic")
    remedy = "flash different device ids; while ids are shared, only pictures and reboots by HTTP work"
    return Finding("cameras", "warn", _first(notes), remedy)


def _check_messages(unreadable: list[dict[str, Any]]) -> Finding:
    if not unreadable:
        return Finding("messages", "ok", "the daemon can read the status messages of all cameras")
    texts = [f"{topic.get('mac_address') or 'an unknown device'} {topic['text']}" for topic in unreadable]
    remedy = "correct the firmware; see the messages with: mosquitto_sub -t 'camera/status/#' -v"
    return Finding("messages", "warn", _first(texts), remedy)


def _first(texts: list[str]) -> str:
    more = f"; and {len(texts) - MAX_NAMED} more" if len(texts) > MAX_NAMED else ""
    return "; ".join(texts[:MAX_NAMED]) + more
