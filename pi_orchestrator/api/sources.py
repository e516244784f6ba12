"""What streams are fed from: the event log on disk, and the log's last lines in memory.

Both are numbered entries that are kept for a while. A client stands somewhere in each that it reads (`Cursor`), and is
given what comes after that page by page.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Protocol

from pi_orchestrator.events import Logged
from pi_orchestrator.log_ring import Line, LineWanted, LogRing
from pi_orchestrator.storage import event_log
from pi_orchestrator.storage.database import Database

PAGE = 250
PAGE_BYTES = 256 * 1024
LINE = "log"
_encode = json.JSONEncoder(separators=(",", ":")).encode


def frames(
    type_: str, *, at: str, payload: object, session_id: str | None = None, event_id: int | None = None, copy: bool
) -> bytes:
    """An event as it is sent: under its name, and with `copy` once more without one, for those who listen to none."""
    envelope: dict[str, Any] = {"version": "1.0", "type": type_, "timestamp": at}
    if session_id is not None:
        envelope["session_id"] = session_id
    envelope["payload"] = payload
    # JSON in ASCII is one line, whatever is in it.
    return named(type_, _encode(envelope).encode(), event_id=event_id, copy=copy)


def named(name: str, document: bytes, *, event_id: int | None = None, copy: bool) -> bytes:
    """A document of one line as a frame, and with `copy` once more without its name."""
    data = b"data:%b\n\n" % document
    mark = b"" if event_id is None else b"id:%d\n" % event_id
    return b"%bevent:%b\n%b%b" % (mark, name.encode(), data, mark + data if copy else b"")


def bookmark(event_id: int) -> bytes:
    """A block without an event, by which a client learns where it stands before it has got one."""
    return b"id:%d\n\n" % event_id


class Source(Protocol):
    """Numbered entries."""

    @property
    def newest(self) -> int:
        """The id of the newest that may be told."""

    async def page(self, cursor: Cursor, *, copy: bool) -> list[bytes] | None:
        """What comes next of what is wanted, as frames, and move the cursor past it; None where some of it is lost."""


@dataclass(slots=True)
class Cursor:
    """How far a client has got in a source, and what it wants of it; one that is `behind` is told nothing: it reads."""

    source: Source
    wanted: Any
    position: int = 0
    behind: bool = True


class StoredEvents:
    """The event log; `newest` is the last event that was told, which is not always the last that is stored."""

    def __init__(self, database: Database) -> None:
        self.newest = 0
        self._database = database

    async def bounds(self) -> event_log.Bounds:
        """What the log holds."""
        return await event_log.bounds(self._database)

    async def page(self, cursor: Cursor, *, copy: bool) -> list[bytes] | None:
        """See `Source`."""
        upto = min(cursor.position + PAGE, self.newest)
        events = await event_log.between(self._database, cursor.position, upto, wanted=cursor.wanted)
        # Asked afterwards, so that it shows what was trimmed before the page was read.
        if (await self.bounds()).oldest > cursor.position + 1:
            return None
        cursor.position = upto
        cursor.behind = upto < self.newest
        return [event_frame(event, event.id, copy=copy) for event in events]


def event_frame(event: Logged, event_id: int | None, *, copy: bool) -> bytes:
    """A stored event as it is sent."""
    return frames(
        event.type, at=event.at, payload=event.payload, session_id=event.session_id, event_id=event_id, copy=copy
    )


class LogLines:
    """The ring; whoever does not keep up with it misses lines, and sees that by their ids.

    Lines are frames of their own, or `among_events` in the envelope of these and without ids, which are the events'.
    """

    def __init__(self, ring: LogRing, *, among_events: bool) -> None:
        self._ring = ring
        self._among_events = among_events

    @property
    def newest(self) -> int:
        """See `Source`."""
        return self._ring.newest

    async def page(self, cursor: Cursor, *, copy: bool) -> list[bytes] | None:
        """See `Source`."""
        lines = self._ring.after(cursor.position, most=PAGE, most_bytes=PAGE_BYTES)
        cursor.position = lines[-1][0] if lines else cursor.position
        cursor.behind = cursor.position < self._ring.newest
        await asyncio.sleep(0)  # in a flood there is always a next page: let others in between
        wanted: LineWanted = cursor.wanted
        return [self._frame(line_id, line, copy=copy) for line_id, line in lines if wanted.takes(line)]

    def _frame(self, line_id: int, line: Line, *, copy: bool) -> bytes:
        document = line.json(line_id)
        if not self._among_events:
            return named(LINE, document, event_id=line_id, copy=copy)
        return named(
            LINE,
            b'{"version":"1.0","type":"log","timestamp":%b,"payload":%b}' % (_encode(line.at).encode(), document),
            copy=copy,
        )
