"""Reads event streams of the daemon for the command line; reconnects and resumes."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pi_orchestrator.core.error_codes import ErrorCode, LocalCode
from pi_orchestrator.core.errors import OrchestratorError
from pi_orchestrator.core.stream_events import ESTABLISHED

if TYPE_CHECKING:
    from pi_orchestrator.cli.client import Client

_JITTER = random.Random()  # noqa: S311  # not security relevant
FIRST_DELAY_S = 1.0
MAX_DELAY_S = 30.0
_TRANSIENT_CODES = frozenset({LocalCode.UNREACHABLE, ErrorCode.RATE_LIMITED, ErrorCode.INTERNAL_ERROR})
"""The daemon is unreachable, restarts, or has too many clients: retry."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event; `id` is None if it is not stored, `document` is the complete JSON object."""

    type: str
    id: int | None
    at: str
    session_id: str | None
    payload: dict[str, Any]
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection was lost; the next attempt is in `retry_in_s` seconds."""

    reason: str
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of a stream; a part that is missing is None."""

    name: str | None
    id: int | None
    data: str | None


def follow(
    client: Client,
    path: str,
    *,
    after: int | None = None,
    retry_limit_s: float | None = None,
    answered: bool = False,
    sleep: Callable[[float], object] = time.sleep,
    **query: Any,
) -> Iterator[Event | Disconnected]:
    """Events after the id `after` (None: only new ones); when the connection is lost, Disconnected, then missed events.

    A failure with one of `_TRANSIENT_CODES` is retried until the pauses since the last frame sum up to `retry_limit_s`
    (None: no limit); then it is raised. It is raised at once if the daemon has never answered: neither a request of
    this function nor an earlier one of the caller (`answered`). Every other error response is raised at once, too.
    """
    delay_s, waited_s = FIRST_DELAY_S, 0.0
    while True:
        reason = "the daemon closed the stream"
        try:
            for frame in parse_frames(client.lines(path, last_event_id=after, **query)):
                answered, delay_s, waited_s = True, FIRST_DELAY_S, 0.0
                after = after if frame.id is None else frame.id
                if event := parse_event(frame):
                    yield event
            answered = True  # a daemon that stops closes a new stream before its first frame
        except OrchestratorError as error:
            if (
                error.code not in _TRANSIENT_CODES
                or not answered
                or (retry_limit_s is not None and waited_s >= retry_limit_s)
            ):
                raise
            reason = error.message
        # Jitter, so that clients disconnected at the same time do not all reconnect at the same time.
        pause_s = delay_s * _JITTER.uniform(0.5, 1.0)
        yield Disconnected(reason, pause_s)
        sleep(pause_s)
        waited_s += pause_s
        delay_s = min(2 * delay_s, MAX_DELAY_S)


def follow_with_notes(
    client: Client,
    path: str,
    *,
    note: Callable[[str], object],
    after: int | None = None,
    answered: bool = False,
    **query: Any,
) -> Iterator[Event]:
    """The events of `follow`; calls `note` with a text when the connection is lost and when it is restored."""
    was_lost = False
    for item in follow(client, path, after=after, answered=answered, **query):
        if isinstance(item, Disconnected):
            was_lost = True
            note(f"{item.reason}; retrying in {item.retry_in_s:.0f} s")
            continue
        if item.type == ESTABLISHED and was_lost:
            was_lost = False
            note("reconnected")
        yield item


def parse_frames(lines: Iterable[bytes]) -> Iterator[Frame]:
    """Parse the lines of a stream into frames; drops an incomplete last frame."""
    name: str | None = None
    event_id: int | None = None
    data: list[str] = []
    for raw in lines:
        line = raw.decode("utf-8", errors="replace").rstrip("\r\n")
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data or event_id is not None:
                yield Frame(name, event_id, "\n".join(data) if data else None)
            name, event_id, data = None, None, []
        elif field == "event":
            name = value
        elif field == "id" and value.isascii() and value.isdigit():
            event_id = int(value)
        elif field == "data":
            data.append(value)


def parse_event(frame: Frame) -> Event | None:
    """The event in a frame; None if the frame has no data, or no name (the copy of an event, for `onmessage`)."""
    if frame.name is None or frame.data is None:
        return None
    try:
        document = json.loads(frame.data)
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    payload, session_id = document.get("payload"), document.get("session_id")
    return Event(
        type=frame.name,
        id=frame.id,
        at=str(document.get("timestamp", "")),
        session_id=session_id if isinstance(session_id, str) else None,
        payload=payload if isinstance(payload, dict) else {},
        document=document,
    )
