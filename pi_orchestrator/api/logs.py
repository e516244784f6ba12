"""The daemon's own log: its last lines, and those that come."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from pi_orchestrator.api.route import Reply, Time, Wire
from pi_orchestrator.api.services import Services
from pi_orchestrator.api.sse import LineFeed
from pi_orchestrator.api.streams import NEWEST_ID, EventId, ResumeHeaders
from pi_orchestrator.errors import FieldError
from pi_orchestrator.log_ring import LEVELS, LineWanted

MOST = 1000
OLD_DASHBOARDS_SHOW = 200
_SOURCE = re.compile(r"[A-Za-z0-9_]{1,64}(\.[A-Za-z0-9_]{1,64}){0,8}", re.ASCII)
_OTHER_NAMES = {"warning": "warn"}


def _level(value: object) -> str:
    name = _OTHER_NAMES.get(str(value).lower(), str(value).lower())
    if name not in LEVELS:
        raise FieldError(f"one of {', '.join(LEVELS)}")
    return name


def _source(value: object) -> str:
    if not _SOURCE.fullmatch(str(value)):
        raise FieldError("a component as lines name it, such as net.mqtt, or a family of them, such as workers")
    return str(value)


Level = Annotated[str, BeforeValidator(_level), WithJsonSchema({"type": "string", "enum": [*LEVELS, *_OTHER_NAMES]})]
Component = Annotated[
    str, BeforeValidator(_source), WithJsonSchema({"type": "string", "pattern": f"^{_SOURCE.pattern}$"})
]


class LogLine(Wire):
    """One line; `fields` are what it says beside its message, as many as fit."""

    id: int
    timestamp: Time
    level: Literal["debug", "info", "warn", "error"]
    component: str
    message: str
    fields: dict[str, Any]


class LogPagination(Wire):
    """Where a page stands in what is kept: `before` asks for the next one."""

    total: int
    limit: int
    has_more: bool
    before: int | None = None


class LogPage(Wire):
    """Lines, newest first."""

    logs: list[LogLine]
    count: int
    pagination: LogPagination


class BareLogs(Wire):
    """The same for old dashboards."""

    count: int
    logs: list[LogLine]


class _Which(BaseModel):
    level: Level = Field("debug", description="lines of this level and above")
    source: Component | None = Field(None, description="lines of this component, or of those below it")

    def wanted(self) -> LineWanted:
        """The same, as the ring reads it."""
        return LineWanted(LEVELS[self.level], self.source or "")


class LogQuery(_Which):
    """Which lines, and how many."""

    limit: int = Field(100, ge=1, le=MOST, description="lines at most")
    before: EventId | None = Field(None, description="only lines older than the one with this id")


class LogStreamQuery(_Which):
    """Which lines, and since when."""

    last_event_id: EventId | None = Field(None, description="send what came after the line with this id first")
    tail: int = Field(100, ge=0, le=MOST, description="without an id: how many of the last lines to begin with")


async def recent(services: Services, query: LogQuery) -> Reply[LogPage]:
    """The last lines of the log, newest first, secrets masked.

    Up to 4096 lines (2 MiB) of the running daemon are kept in memory: what is `info` or worse in any case, `debug`
    where that is what the journal is written at. Ids increase, over restarts, too. The next page is that `before` the
    id in `pagination`.
    """
    wanted, before = query.wanted(), NEWEST_ID if query.before is None else query.before
    found = [(line_id, line) for line_id, line in services.log_ring.all() if wanted.takes(line)]
    older = [(line_id, line) for line_id, line in found if line_id < before]
    page = older[-query.limit :][::-1]
    place = LogPagination(
        total=len(found),
        limit=query.limit,
        has_more=len(older) > len(page),
        before=page[-1][0] if len(older) > len(page) else None,
    )
    lines = b",".join(line.json(line_id) for line_id, line in page)
    rest = b'"count":%d,"pagination":%b' % (len(page), place.model_dump_json(exclude_none=True).encode())
    return Reply(encoded=b'{"logs":[%b],%b}' % (lines, rest))


async def recent_bare(services: Services) -> BareLogs:
    """The last lines, as old dashboards ask for them: newest first."""
    lines = services.log_ring.all()[-OLD_DASHBOARDS_SHOW:]
    return BareLogs(
        count=len(lines), logs=[LogLine.model_validate_json(line.json(line_id)) for line_id, line in reversed(lines)]
    )


async def stream(services: Services, query: LogStreamQuery, headers: ResumeHeaders) -> LineFeed[LogLine]:
    """Lines of the log as they come, as events named `log`, secrets masked.

    It begins with `connection.established` and the last lines (`tail`), or with those after the line whose id the
    client names. Where that is no longer kept, or was another run's, it begins with all that is kept. Each line is
    sent once more without its name unless `http.sse_unnamed_copy` is off; `keepalive` comes every 15 s. A client that
    takes lines more slowly than they come misses some, which it can tell by their ids.
    """
    del services
    return LineFeed(
        message="Connected to logs",
        wanted=query.wanted(),
        after=query.last_event_id if headers.last_event_id is None else headers.last_event_id,
        tail=query.tail,
    )
