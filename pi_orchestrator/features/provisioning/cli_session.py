"""Finds the session that the arguments of a command select, and describes its state."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.core.errors import NotFoundError, OrchestratorError

if TYPE_CHECKING:
    from pi_orchestrator.cli.client import Client

    Json = dict[str, Any]

BATCH = "/api/v1/provisioning/batch"
SESSIONS = "/api/v1/provisioning/sessions"
MAX_HISTORY = 100
"""How many closed sessions are searched for an id prefix."""
_ID = re.compile(r"[0-9a-f-]{1,36}", re.ASCII)
_FULL_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def find_session_id(client: Client, id_prefix: str | None) -> str:
    """The only session id that starts with `id_prefix`, or for None that of the only open session.

    OrchestratorError if several sessions match, NotFoundError if none does.
    """
    if id_prefix is not None and not _ID.fullmatch(id_prefix.lower()):
        raise OrchestratorError(
            f"{id_prefix!r} is not a session id or the start of one",
            details="list ids: pi-orchestrator sessions history; without an id the open session is used",
        )
    if id_prefix is not None and _FULL_ID.fullmatch(id_prefix.lower()):
        return id_prefix.lower()
    sessions = client.get(SESSIONS)["sessions"]
    if id_prefix is not None:
        prefix = id_prefix.lower()
        sessions = [*sessions, *client.get(f"{SESSIONS}/history", limit=MAX_HISTORY)["sessions"]]
        sessions = [session for session in sessions if str(session["id"]).startswith(prefix)]
    if len(sessions) == 1:
        return str(sessions[0]["id"])
    if sessions:
        raise OrchestratorError(
            f"{len(sessions)} sessions {'are open' if id_prefix is None else f'match {id_prefix!r}'}; name one of them",
            details="\n  ".join(_session_line(session) for session in sessions),
        )
    if id_prefix is not None:
        raise NotFoundError(
            f"no session id starts with {id_prefix!r}",
            code=ErrorCode.SESSION_NOT_FOUND,
            details="list ids: pi-orchestrator sessions history",
        )
    raise NotFoundError(
        "no session is open", code=ErrorCode.SESSION_NOT_FOUND, details="open one: pi-orchestrator sessions start"
    )


def state_text(session: Json) -> str:
    """The state, and why the session is closed or interrupted."""
    if session.get("interrupted"):
        return f"{session['state']} (interrupted by a restart)"
    ending = session.get("ending", session["state"])
    return str(session["state"]) if ending == session["state"] else f"{session['state']} ({ending})"


def _session_line(session: Json) -> str:
    return f"{session['id']} {state_text(session)} on {session['network_interface']}"
