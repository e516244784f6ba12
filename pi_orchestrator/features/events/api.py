"""Event streams: `/api/v1/provisioning/batch/events`, and `/api/v1/events` for all events."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.core.errors import FieldError, NotFoundError
from pi_orchestrator.core.events import (
    DeviceDiscovered,
    DeviceStateChanged,
    NetworkStatusChanged,
    SessionError,
    SessionStatus,
)
from pi_orchestrator.core.log_buffer import LineFilter
from pi_orchestrator.edge_http.auth import Caller
from pi_orchestrator.edge_http.feeds import EventFeed, FeedSources
from pi_orchestrator.edge_http.stream_sources import LOG_LINE
from pi_orchestrator.features.events.snapshots import Snapshots
from pi_orchestrator.features.provisioning import store as sessions
from pi_orchestrator.features.provisioning.views import SessionId
from pi_orchestrator.http.model import ApiModel, RequestModel, Time
from pi_orchestrator.http.sse import EventId, ResumeHeaders
from pi_orchestrator.storage.database import Database
from pi_orchestrator.storage.event_store import EventFilter

BATCH_TYPES = frozenset(
    kind.type for kind in (SessionStatus, DeviceDiscovered, DeviceStateChanged, NetworkStatusChanged, SessionError)
)
MAX_TYPES = 20
_TYPE = r"[a-z_]+(\.[a-z_]+)*(\.\*)?"
_TYPES = re.compile(rf"{_TYPE}(,{_TYPE}){{0,{MAX_TYPES - 1}}}", re.ASCII)


def _types(value: object) -> frozenset[str]:
    if not _TYPES.fullmatch(str(value)):
        raise FieldError(f"must be 1 to {MAX_TYPES} comma-separated types or families, e.g. session.status,camera.*")
    return frozenset(str(value).split(","))


Types = Annotated[
    frozenset[str], BeforeValidator(_types), WithJsonSchema({"type": "string", "pattern": f"^{_TYPES.pattern}$"})
]


class StreamEvent(ApiModel):
    """One event, sent as the `data` of an SSE frame; the payload of a heartbeat is null."""

    version: Literal["1.0"]
    type: str
    timestamp: Time
    session_id: str | None = None
    payload: dict[str, Any] | None


class BatchQuery(RequestModel):
    """The session, and the event to resume after."""

    session_id: SessionId | None = Field(None, description="only events of this session, and events without a session")
    last_event_id: EventId | None = Field(None, description="begin with the events after this id")


class EventsQuery(RequestModel):
    """The event types, and the event to resume after."""

    types: Types | None = Field(
        None, description="only these types, comma-separated; `camera.*` is every type that begins with `camera.`"
    )
    last_event_id: EventId | None = Field(None, description="begin with the events after this id")


async def batch(
    database: Database, snapshots: Snapshots, sources: FeedSources, query: BatchQuery, headers: ResumeHeaders
) -> EventFeed[StreamEvent]:
    """Events of all provisioning sessions, or of one session.

    The types are `session.status`, `device.discovered`, `device.state_changed`, `network.status_changed` and `error`.
    In addition, `connection.established` is sent at the beginning and `connection.heartbeat` every 15 s. Each event is
    sent under its name, and a second time without a name unless `http.sse_unnamed_copy` is off. A client that sends its
    last id (`Last-Event-ID` or `last_event_id`) receives the events that it missed. If these are too many or no longer
    stored, the payload of `connection.established` has `"snapshot": true`, and a snapshot follows: every session as
    `session.status` and every device as `device.discovered`. Only the last event of a snapshot has an id.
    """
    session_id = query.session_id
    if session_id is not None and await sessions.get(database.read, session_id) is None:
        raise NotFoundError("session not found", code=ErrorCode.SESSION_NOT_FOUND, details=session_id)
    return EventFeed(
        sources=sources,
        message="Connected to batch provisioning events",
        event_filter=EventFilter(types=BATCH_TYPES, session_id=session_id),
        after=_after(headers, query),
        state=lambda: snapshots.take(session_id),
    )


async def everything(
    caller: Caller, snapshots: Snapshots, sources: FeedSources, query: EventsQuery, headers: ResumeHeaders
) -> EventFeed[StreamEvent]:
    """All events in one stream, so that a page needs only one connection.

    It works like the stream of provisioning events. A snapshot ends with `camera.list`, whose payload is the data of
    `GET /api/v1/cameras`. Events of provisioning sessions are sent only to callers that may open the provisioning
    stream. If `types` includes `log`, new lines of the daemon's log are sent too: as events of the type `log` without
    an id, whose payload is a line as in `GET /api/v1/system/logs`.
    """
    types = query.types or frozenset()

    return EventFeed(
        sources=sources,
        message="Connected to events",
        event_filter=EventFilter(
            types=frozenset(name for name in types if not name.endswith("*")),
            families=tuple(sorted(name.removesuffix("*") for name in types if name.endswith("*"))),
            include_sessions=caller.has_key_access,
        ),
        after=_after(headers, query),
        state=lambda: snapshots.take(None),
        lines=LineFilter() if LOG_LINE in types else None,
    )


def _after(headers: ResumeHeaders, query: BatchQuery | EventsQuery) -> int | None:
    return query.last_event_id if headers.last_event_id is None else headers.last_event_id
