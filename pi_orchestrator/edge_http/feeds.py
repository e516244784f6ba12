"""Feeds of the two event streams (SSE): stored events, and log lines.

A client that sends the last id it received gets the later entries. If these are no longer stored, or too many, an event
stream begins with a snapshot of the state, and a log stream with all stored lines.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pi_orchestrator.core.clock import Clock, rfc3339
from pi_orchestrator.core.events import StoredEvent
from pi_orchestrator.core.log_buffer import LineFilter, LogBuffer
from pi_orchestrator.core.stream_events import ESTABLISHED, HEARTBEAT
from pi_orchestrator.edge_http.stream_sources import LogLines, StoredEvents, event_frame, stored_frame
from pi_orchestrator.http.sse import Cursor, Feed, Opening, bookmark, frame
from pi_orchestrator.storage.event_store import Bounds, EventFilter

T = TypeVar("T")

LOG_HEARTBEAT = "keepalive"
MAX_REPLAY = 5000
_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedSources:
    """What feeds read from; provided to the handlers of streams."""

    clock: Clock
    events: StoredEvents
    buffer: LogBuffer
    lines: LogLines
    lines_among_events: LogLines


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFeed(Feed[T], Generic[T]):
    """First a `message`, then events after the id `after` (None: from now on).

    If events after this id are deleted or too many, the events of `state` are sent instead. With `lines`, new log lines
    that match this filter are sent, too.
    """

    sources: FeedSources
    message: str
    event_filter: EventFilter
    after: int | None
    state: Callable[[], Awaitable[list[StoredEvent]]]
    lines: LineFilter | None = None

    async def open(self, *, copy: bool) -> Opening:
        """See `Feed`."""
        sources, event_filter = self.sources, self.event_filter
        newest_line = sources.buffer.newest  # before any await, so that later lines are sent
        bounds = await sources.events.bounds()
        position = bounds.newest
        payload: dict[str, Any] = {"message": self.message}
        if event_filter.session_id is not None:
            payload["session_id"] = event_filter.session_id
        payload["last_event_id"] = bounds.newest
        if self.after is None:
            rest = bookmark(bounds.newest)
        elif can_replay(bounds, self.after):
            position = self.after
            rest = b""
        else:
            # The state is read after the newest id: an event stored between the two is sent twice, but never missed.
            payload["snapshot"] = True
            rest = _snapshot(await self.state(), event_filter, bounds.newest, copy=copy)
        at = rfc3339(sources.clock.wall())
        established = event_frame(ESTABLISHED, at=at, payload=payload, session_id=event_filter.session_id, copy=copy)
        cursors = [Cursor(sources.events, event_filter, position=position)]
        if self.lines is not None:
            cursors.append(Cursor(sources.lines_among_events, self.lines, position=newest_line))
        return Opening(established + rest, cursors)

    def heartbeat(self, *, copy: bool) -> bytes:
        """See `Feed`."""
        return event_frame(HEARTBEAT, at=rfc3339(self.sources.clock.wall()), payload=None, copy=copy)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFeed(Feed[T], Generic[T]):
    """Log lines after the id `after`; if that is None, the last `tail` lines and all later ones."""

    sources: FeedSources
    message: str
    line_filter: LineFilter
    after: int | None
    tail: int = 0

    async def open(self, *, copy: bool) -> Opening:
        """See `Feed`."""
        del copy
        buffer = self.sources.buffer
        payload: dict[str, Any] = {"message": self.message, "last_event_id": buffer.newest}
        if self.after is None:
            position = buffer.before_last(self.tail, line_filter=self.line_filter)
        elif buffer.oldest - 1 <= self.after <= buffer.newest:
            position = self.after
        else:
            payload["snapshot"] = True
            position = buffer.oldest - 1
        # The first event is never copied without its name: a client that ignores names would take it for a log line.
        at = rfc3339(self.sources.clock.wall())
        first_frames = event_frame(ESTABLISHED, at=at, payload=payload, copy=False) + bookmark(position)
        return Opening(first_frames, [Cursor(self.sources.lines, self.line_filter, position=position)])

    def heartbeat(self, *, copy: bool) -> bytes:
        """See `Feed`."""
        del copy
        at = rfc3339(self.sources.clock.wall())
        return frame(LOG_HEARTBEAT, _encode({"timestamp": at}).encode(), copy=False)


def can_replay(bounds: Bounds, after: int) -> bool:
    """Whether the log has all events after this id, at most MAX_REPLAY."""
    is_complete = bounds.oldest - 1 <= after <= bounds.newest
    return is_complete and bounds.newest - after <= MAX_REPLAY


def _snapshot(state: Iterable[StoredEvent], event_filter: EventFilter, newest: int, *, copy: bool) -> bytes:
    """The state as frames; only the last has an id, so a client that disconnects before it gets a new snapshot."""
    events = [event for event in state if event_filter.matches(event)]
    if not events:
        return bookmark(newest)
    last = events.pop()
    frames = [stored_frame(event, None, copy=copy) for event in events]
    return b"".join([*frames, stored_frame(last, newest, copy=copy)])
