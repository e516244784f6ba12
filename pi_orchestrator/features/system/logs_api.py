"""The log of the daemon: last lines, and a stream of new lines."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.log_buffer import LEVELS, LineFilter, LogBuffer
from pi_orchestrator.edge_http.feeds import FeedSources, LogFeed
from pi_orchestrator.http.model import ApiModel, RequestModel, Time
from pi_orchestrator.http.route import Reply
from pi_orchestrator.http.sse import MAX_EVENT_ID, EventId, ResumeHeaders

MAX_LINES = 1000
OLD_DASHBOARD_LINES = 200
_SOURCE = re.compile(r"[A-Za-z0-9_]{1,64}(\.[A-Za-z0-9_]{1,64}){0,8}", re.ASCII)
_LEVEL_ALIASES = {"warning": "warn"}


def _level(value: object) -> str:
    name = _LEVEL_ALIASES.get(str(value).lower(), str(value).lower())
    if name not in LEVELS:
        raise FieldError(f"must be one of {', '.join(LEVELS)}")
    return name


def _source(value: object) -> str:
    if not _SOURCE.fullmatch(str(value)):
        raise FieldError("must be a component such as net.mqtt, or a prefix such as net")
    return str(value)


Level = Annotated[str, BeforeValidator(_level), WithJsonSchema({"type": "string", "enum": [*LEVELS, *_LEVEL_ALIASES]})]
Component = Annotated[
    str, BeforeValidator(_source), WithJsonSchema({"type": "string", "pattern": f"^{_SOURCE.pattern}$"})
]


class LogLine(ApiModel):
    """One log line; `fields` are its values, omitted or cut beyond the limits of a line."""

    id: int
    timestamp: Time
    level: Literal["debug", "info", "warn", "error"]
    component: str
    message: str
    fields: dict[str, Any]


class LogPagination(ApiModel):
    """Position of a page in the stored lines; request the next page with `before`."""

    total: int
    limit: int
    has_more: bool
    before: int | None = None


class LogPage(ApiModel):
    """Log lines, newest first."""

    logs: list[LogLine]
    count: int
    pagination: LogPagination


class BareLogs(ApiModel):
    """Log lines for old dashboards, newest first."""

    count: int
    logs: list[LogLine]


class _LineFilter(RequestModel):
    level: Level = Field("debug", description="only lines of this level and above")
    source: Component | None = Field(None, description="only lines of this component and its subcomponents")

    def line_filter(self) -> LineFilter:
        """The same filter for the log buffer."""
        return LineFilter(LEVELS[self.level], self.source or "")


class LogQuery(_LineFilter):
    """Filter, size and position of a page."""

    limit: int = Field(100, ge=1, le=MAX_LINES, description="maximum number of lines")
    before: EventId | None = Field(None, description="only lines older than the line with this id")


class LogStreamQuery(_LineFilter):
    """Filter and start of a stream."""

    last_event_id: EventId | None = Field(None, description="begin with the lines after the line with this id")
    tail: int = Field(100, ge=0, le=MAX_LINES, description="without an id: begin with this many of the last lines")


async def recent(buffer: LogBuffer, query: LogQuery) -> Reply[LogPage]:
    """The last lines of the log, newest first, secrets masked.

    Up to 4096 lines (2 MiB) of the running daemon are kept in memory: `info` and above always, `debug` only if
    `logging.level` is `debug`. Ids increase, even over restarts. For the next page, send `before` of `pagination`.
    """
    line_filter, before = query.line_filter(), MAX_EVENT_ID if query.before is None else query.before
    found = [(line_id, line) for line_id, line in buffer.all() if line_filter.matches(line)]
    older = [(line_id, line) for line_id, line in found if line_id < before]
    page = older[-query.limit :][::-1]
    pagination = LogPagination(
        total=len(found),
        limit=query.limit,
        has_more=len(older) > len(page),
        before=page[-1][0] if len(older) > len(page) else None,
    )
    lines = b",".join(line.json(line_id) for line_id, line in page)
    rest = b'"count":%d,"pagination":%b' % (len(page), pagination.model_dump_json(exclude_none=True).encode())
    return Reply(encoded=b'{"logs":[%b],%b}' % (lines, rest))


async def recent_bare(buffer: LogBuffer) -> BareLogs:
    """The last 200 lines, newest first, for old dashboards."""
    lines = buffer.all()[-OLD_DASHBOARD_LINES:]
    return BareLogs(
        count=len(lines), logs=[LogLine.model_validate_json(line.json(line_id)) for line_id, line in reversed(lines)]
    )


async def stream(sources: FeedSources, query: LogStreamQuery, headers: ResumeHeaders) -> LogFeed[LogLine]:
    """Lines of the log as events named `log`, secrets masked.

    The stream begins with `connection.established` and the last lines (`tail`), or with the lines after the id that the
    client sends. If that line is no longer stored or is from an earlier run, the stream begins with all stored lines.
    Each line is sent a second time without a name unless `http.sse_unnamed_copy` is off. `keepalive` is sent every
    15 s. A client that is too slow misses lines; gaps in the ids show it.
    """
    return LogFeed(
        sources=sources,
        message="Connected to logs",
        line_filter=query.line_filter(),
        after=query.last_event_id if headers.last_event_id is None else headers.last_event_id,
        tail=query.tail,
    )
