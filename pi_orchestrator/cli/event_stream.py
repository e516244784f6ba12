"""The daemon's event streams as the command line reads them: from where it was, for as long as somebody looks."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pi_orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from pi_orchestrator.cli.client import Client

ESTABLISHED = "connection.established"
HEARTBEAT = "connection.heartbeat"
_JITTER = random.Random()  # noqa: S311  # guards nothing
FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0
_PASSES = frozenset({"UNREACHABLE", "RATE_LIMITED", "INTERNAL_ERROR"})
"""The daemon is away, restarts, or has too many listeners just now: it is worth asking again."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `id` None where it is not stored, `document` the whole of it as it was sent."""

    type: str
    id: int | None
    at: str
    session_id: str | None
    payload: dict[str, Any]
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is gone; it will be tried again in so many seconds."""

    reason: str
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class Frame:
    """A block of a stream: its name, its id, its data; each None where it has none."""

    name: str | None
    id: int | None
    data: str | None


def follow(
    client: Client,
    path: str,
    *,
    after: int | None = None,
    patience_s: float | None = None,
    sleep: Callable[[float], object] = time.sleep,
    **query: Any,
) -> Iterator[Event | Lost]:
    """Events after an id (None: from now on), again from the last one whenever the connection was lost.

    What the daemon refuses is raised, and so is that it cannot be reached at first, or for longer than `patience_s`.
    """
    delay_s, waited_s, was_there = FIRST_DELAY_S, 0.0, False
    while True:
        reason = "the daemon has ended the stream"
        try:
            for frame in frames(client.lines(path, last_event_id=after, **query)):
                was_there, delay_s, waited_s = True, FIRST_DELAY_S, 0.0
                after = after if frame.id is None else frame.id
                if event := read(frame):
                    yield event
        except OrchestratorError as error:
            if error.code not in _PASSES or not was_there or (patience_s is not None and waited_s >= patience_s):
                raise
            reason = error.message
        # Not all who were cut off at once come back at once.
        pause_s = delay_s * _JITTER.uniform(0.5, 1.0)
        yield Lost(reason, pause_s)
        sleep(pause_s)
        waited_s += pause_s
        delay_s = min(2 * delay_s, LONGEST_DELAY_S)


def frames(lines: Iterable[bytes]) -> Iterator[Frame]:
    """The blocks of a stream; what is in a block that is not whole is not known."""
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


def read(frame: Frame) -> Event | None:
    """The event in a frame under its name; None for its copy without one and for what is no event."""
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
