"""The last lines of the log, in memory: what the log endpoints read and log streams resume from.

Lines come from any thread, also from one that collects garbage in the middle of this very code. So a line's id is its
place: what stands in the ring needs no number of its own, and none is given twice. Ids go on over restarts because
the daemon counts its starts, and each start has a range of ids for itself.
"""

from __future__ import annotations

import json
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

MOST_LINES = 4096
MOST_BYTES = 2 * 1024 * 1024
IDS_A_START = 2**31
STARTS = 2**22
"""Their product is what a double, and so JavaScript, can count to."""
LINE_BYTES = 200
LONGEST_MESSAGE = 2000
LONGEST_TEXT = 1000
LONGEST_TRACE = 8000
LONGEST_NAME = 64
MOST_ITEMS = 32
MOST_VALUES = 200
MOST_TEXT = 10_000
DEEPEST = 4
LARGEST_INTEGER = 2**53

LEVELS = {"debug": 10, "info": 20, "warn": 30, "error": 40}
"""As the log endpoints call them; `warning` and `critical` are names of the same."""
_LEVEL_NAMES = {"warning": "warn", "critical": "error", "exception": "error"}
_NO_FIELDS = frozenset({"event", "level", "timestamp", "component"})
_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class LineWanted:
    """Which lines somebody wants: of this rank (see `LEVELS`) and above, of a component or of one below it."""

    rank: int = 0
    source: str = ""

    def takes(self, line: Line) -> bool:
        """Whether this line is one of them."""
        if line.rank < self.rank:
            return False
        return not self.source or line.component == self.source or line.component.startswith(f"{self.source}.")


@dataclass(frozen=True, slots=True)
class Line:
    """One line, encoded once: `rest` is its JSON object from after the id on."""

    rank: int
    component: str
    at: str
    rest: bytes

    def json(self, line_id: int) -> bytes:
        """The line as `{id, timestamp, level, component, message, fields}`."""
        return b'{"id":%d,%b' % (line_id, self.rest)

    @property
    def size(self) -> int:
        """What it costs, about."""
        return len(self.rest) + LINE_BYTES


class LogRing:
    """The newest lines, bounded in number and bytes; hand `hear` to the log, and read from any thread."""

    def __init__(self, *, start: int = 0) -> None:
        # Reentrant: what is collected as garbage in here may log, too.
        self._lock = threading.RLock()
        self._lines: deque[Line] = deque()
        self._bytes = 0
        self._oldest = start % STARTS * IDS_A_START + 1
        self._listeners: tuple[Callable[[], None], ...] = ()

    @property
    def oldest(self) -> int:
        """The id of the oldest line; where there is none, that of the next one."""
        return self._oldest

    @property
    def newest(self) -> int:
        """The id of the newest line; where there is none, one less than that of the next one."""
        with self._lock:
            return self._oldest + len(self._lines) - 1

    def hear(self, event: Mapping[str, Any]) -> None:
        """Keep an entry of the log, which has been made safe."""
        line = line_of(event)
        with self._lock:
            self._lines.append(line)
            self._bytes += line.size
            while len(self._lines) > MOST_LINES or self._bytes > MOST_BYTES:
                self._bytes -= self._lines.popleft().size
                self._oldest += 1
        for tell in self._listeners:
            tell()

    @contextmanager
    def told(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call somebody after each line, from whichever thread it came, for the length of the block."""
        with self._lock:
            self._listeners = (*self._listeners, listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners = tuple(one for one in self._listeners if one is not listener)

    def after(self, position: int, *, most: int, most_bytes: int = MOST_BYTES) -> list[tuple[int, Line]]:
        """The lines after an id, oldest first, at most so many or so much; those that are gone are passed over."""
        with self._lock:
            first = max(position + 1, self._oldest)
            begin = first - self._oldest
            found = list(enumerate(islice(self._lines, begin, begin + most), first))
        size = 0
        for count, (_, line) in enumerate(found):
            size += line.size
            if size > most_bytes:
                return found[: max(1, count)]
        return found

    def before_last(self, count: int, *, wanted: LineWanted) -> int:
        """After which id the last so many lines of a kind come."""
        if not count:
            return self.newest
        ids = [line_id for line_id, line in self.all() if wanted.takes(line)]
        return ids[-count] - 1 if len(ids) >= count else self.oldest - 1

    def all(self) -> list[tuple[int, Line]]:
        """Every line with its id, oldest first."""
        return self.after(0, most=MOST_LINES)


def line_of(event: Mapping[str, Any]) -> Line:
    """An entry of the log as it is kept: cut to size, and encoded."""
    level = str(event.get("level", "info"))
    level = _LEVEL_NAMES.get(level, level if level in LEVELS else "info")
    component = _cut(str(event.get("component", "")), LONGEST_NAME)
    at = str(event.get("timestamp", ""))
    document = {
        "timestamp": at,
        "level": level,
        "component": component,
        "message": _cut(str(event.get("event", "")), LONGEST_MESSAGE),
        "fields": _Bounded().fields(event),
    }
    # ASCII in one line, whatever is in it.
    return Line(LEVELS[level], component, at, _encode(document)[1:].encode())


class _Bounded:
    """Values of one entry as plain JSON, of which there are only so many and so much in all."""

    def __init__(self) -> None:
        self._left = MOST_VALUES
        self._room = MOST_TEXT

    def fields(self, event: Mapping[str, Any]) -> dict[str, Any]:
        own = ((name, value) for name, value in event.items() if name not in _NO_FIELDS and value is not None)
        return {
            self._text(name, LONGEST_NAME): self._value(
                value, DEEPEST, LONGEST_TRACE if name == "exception" else LONGEST_TEXT
            )
            for name, value in islice(own, MOST_ITEMS)
        }

    def _value(self, value: object, deep: int, longest: int = LONGEST_TEXT) -> Any:
        self._left -= 1
        if self._left < 0:
            return "…"
        if value is None or isinstance(value, bool):  # None: in a list
            return value
        if isinstance(value, int) and abs(value) < LARGEST_INTEGER:
            return int(value)
        if isinstance(value, float) and math.isfinite(value):
            return float(value)
        if isinstance(value, dict) and deep:
            items = islice(((name, item) for name, item in value.items() if item is not None), MOST_ITEMS)
            return {self._text(name, LONGEST_NAME): self._value(item, deep - 1) for name, item in items}
        if isinstance(value, list | tuple | set | frozenset) and deep:
            return [self._value(item, deep - 1) for item in islice(value, MOST_ITEMS)]
        return self._text(value, longest)

    def _text(self, value: object, longest: int) -> str:
        text = f"<{type(value).__name__}>"
        with suppress(Exception):
            text = str(value)
        text = _cut(text, min(longest, max(0, self._room)))
        self._room -= len(text)
        return text


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text) - longest} more)"
