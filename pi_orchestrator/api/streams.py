"""Event streams: `/api/v1/provisioning/batch/events`, and `/api/v1/events` for everything in one."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from pi_orchestrator.api.route import Time, Wire
from pi_orchestrator.api.services import Services
from pi_orchestrator.api.sources import LINE
from pi_orchestrator.api.sse import Feed
from pi_orchestrator.clock import rfc3339
from pi_orchestrator.errors import FieldError, NotFoundError
from pi_orchestrator.events import Logged
from pi_orchestrator.log_ring import LineWanted
from pi_orchestrator.storage import sessions
from pi_orchestrator.storage.event_log import Wanted

BATCH_TYPES = frozenset(
    {"session.status", "device.discovered", "device.state_changed", "network.status_changed", "error"}
)
NEWEST_ID = 2**63 - 1
MAX_TYPES = 20
_ID = re.compile(r"[0-9]{1,19}", re.ASCII)
_SESSION_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_TYPE = r"[a-z_]+(\.[a-z_]+)*(\.\*)?"
_TYPES = re.compile(rf"{_TYPE}(,{_TYPE}){{0,{MAX_TYPES - 1}}}", re.ASCII)


def _event_id(value: object) -> int:
    text = str(value)
    if not _ID.fullmatch(text) or int(text) > NEWEST_ID:
        raise FieldError(f"an event's id is a whole number from 0 to {NEWEST_ID}")
    return int(text)


def _session_id(value: object) -> str:
    if not _SESSION_ID.fullmatch(str(value)):
        raise FieldError("a session's id looks like 550e8400-e29b-41d4-a716-446655440000")
    return str(value).lower()


def _types(value: object) -> frozenset[str]:
    if not _TYPES.fullmatch(str(value)):
        raise FieldError(f"1 to {MAX_TYPES} types or families of them with commas between, as session.status,camera.*")
    return frozenset(str(value).split(","))


EventId = Annotated[
    int, BeforeValidator(_event_id), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": NEWEST_ID})
]
SessionId = Annotated[
    str, BeforeValidator(_session_id), WithJsonSchema({"type": "string", "pattern": f"^{_SESSION_ID.pattern}$"})
]
Types = Annotated[
    frozenset[str], BeforeValidator(_types), WithJsonSchema({"type": "string", "pattern": f"^{_TYPES.pattern}$"})
]


class StreamEvent(Wire):
    """The data of a frame: one event; a heartbeat's payload is null."""

    version: Literal["1.0"]
    type: str
    timestamp: Time
    session_id: str | None = None
    payload: dict[str, Any] | None


class ResumeHeaders(BaseModel):
    """What a browser sends by itself when it opens a stream again."""

    last_event_id: EventId | None = Field(
        None, alias="Last-Event-ID", description="the last id that was received; before the query's"
    )


class BatchQuery(BaseModel):
    """Whose events, and since when."""

    session_id: SessionId | None = Field(None, description="only events of this session and of none")
    last_event_id: EventId | None = Field(None, description="send what came after this id first")


class EventsQuery(BaseModel):
    """Which events, and since when."""

    types: Types | None = Field(
        None, description="only these types, with commas between; `camera.*` is every type that begins with `camera.`"
    )
    last_event_id: EventId | None = Field(None, description="send what came after this id first")


async def batch(services: Services, query: BatchQuery, headers: ResumeHeaders) -> Feed[StreamEvent]:
    """What happens in provisioning sessions, or in one of them.

    The types are `session.status`, `device.discovered`, `device.state_changed`, `network.status_changed` and `error`,
    beside `connection.established` at the beginning and `connection.heartbeat` every 15 s. Each is sent under its
    name, and once more without one unless `http.sse_unnamed_copy` is off. A client that says which id it has got to
    (`Last-Event-ID` or `last_event_id`) is sent what it missed. Where that is too much or no longer known,
    `connection.established` says `snapshot`, and every session comes as `session.status` and every device as
    `device.discovered`, the last of which alone has an id.
    """
    session_id = query.session_id
    if session_id is not None and await sessions.get(services.database.read, session_id) is None:
        raise NotFoundError("there is no such session", code="SESSION_NOT_FOUND", details=session_id)
    return Feed(
        message="Connected to batch provisioning events",
        wanted=Wanted(types=BATCH_TYPES, session_id=session_id),
        after=_after(headers, query),
        state=lambda: services.provisioning.snapshot(session_id),
    )


async def everything(
    services: Services, query: EventsQuery, headers: ResumeHeaders, *, keyed: bool
) -> Feed[StreamEvent]:
    """Every event in one stream, so that a page needs one connection only.

    It works as the stream of provisioning does; a snapshot ends with `camera.list`, which is the answer of
    `GET /api/v1/cameras`. Events of provisioning sessions are only for those who may open that stream. With `log`
    among `types`, lines of the daemon's log come, too, from now on: as events of the type `log` without an id, whose
    payload is a line as `GET /api/v1/system/logs` has it.
    """
    asked = query.types or frozenset()

    async def state() -> list[Logged]:
        told = await services.provisioning.snapshot(None) if keyed else []
        cameras = json.loads(services.views.encoded_list())
        return [*told, Logged("camera.list", cameras, at=rfc3339(services.clock.wall()))]

    return Feed(
        message="Connected to events",
        wanted=Wanted(
            types=frozenset(one for one in asked if not one.endswith("*")),
            families=tuple(sorted(one.removesuffix("*") for one in asked if one.endswith("*"))),
            sessions=keyed,
        ),
        after=_after(headers, query),
        state=state,
        lines=LineWanted() if LINE in asked else None,
    )


def _after(headers: ResumeHeaders, query: BatchQuery | EventsQuery) -> int | None:
    return query.last_event_id if headers.last_event_id is None else headers.last_event_id
