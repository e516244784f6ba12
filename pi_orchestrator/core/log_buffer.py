"""The last log lines, in memory: log endpoints read them, and log streams resume from them.

Lines come from any thread, even from a garbage collection that runs in the middle of this code. So a line's id is not
stored: it is its position in the buffer, which cannot be used twice. Ids increase over restarts, because the daemon
counts its starts and each start has its own range of ids.
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

MAX_LINES = 4096
MAX_BYTES = 2 * 1024 * 1024
IDS_PER_START = 2**31
MAX_STARTS = 2**22
"""IDS_PER_START * MAX_STARTS is the integer limit of a double, and so of JavaScript."""
LINE_OVERHEAD_BYTES = 200
MAX_MESSAGE_CHARS = 2000
MAX_TEXT_CHARS = 1000
MAX_TRACE_CHARS = 8000
MAX_NAME_CHARS = 64
MAX_ITEMS = 32
MAX_VALUES = 200
MAX_TOTAL_CHARS = 10_000
MAX_DEPTH = 4
MAX_INTEGER = 2**53

LEVELS = {"debug": 10, "info": 20, "warn": 30, "error": 40}
"""Level name of the log endpoints → rank."""
_LEVEL_ALIASES = {"warning": "warn", "critical": "error", "exception": "error"}
_NOT_IN_FIELDS = frozenset({"event", "level", "timestamp", "component"})
_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class LineFilter:
    """A filter of log lines: minimum rank (see `LEVELS`), and component (`source` and those below it; "" for all)."""

    rank: int = 0
    source: str = ""

    def matches(self, line: Line) -> bool:
        """Whether a line passes the filter."""
        if line.rank < self.rank:
            return False
        return not self.source or line.component == self.source or line.component.startswith(f"{self.source}.")


@dataclass(frozen=True, slots=True)
class Line:
    """A log line, encoded once: `rest` is its JSON object after the id."""

    rank: int
    component: str
    at: str
    rest: bytes

    def json(self, line_id: int) -> bytes:
        """The line as `{id, timestamp, level, component, message, fields}`."""
        return b'{"id":%d,%b' % (line_id, self.rest)

    @property
    def size(self) -> int:
        """Approximate memory in bytes."""
        return len(self.rest) + LINE_OVERHEAD_BYTES


class LogBuffer:
    """The newest lines, bounded in number and bytes; register `append` with the log, and read from any thread."""

    def __init__(self, *, start: int = 0) -> None:
        # Reentrant: an object that is garbage-collected in here may log, too.
        self._lock = threading.RLock()
        self._lines: deque[Line] = deque()
        self._bytes = 0
        self._oldest = start % MAX_STARTS * IDS_PER_START + 1
        self._listeners: tuple[Callable[[], None], ...] = ()

    @property
    def oldest(self) -> int:
        """The id of the oldest line; if the buffer is empty, of the next one."""
        return self._oldest

    @property
    def newest(self) -> int:
        """The id of the newest line; if the buffer is empty, one less than that of the next one."""
        with self._lock:
            return self._oldest + len(self._lines) - 1

    def append(self, event: Mapping[str, Any]) -> None:
        """Append a log entry, which is already redacted."""
        line = encode_entry(event)
        with self._lock:
            self._lines.append(line)
            self._bytes += line.size
            while len(self._lines) > MAX_LINES or self._bytes > MAX_BYTES:
                self._bytes -= self._lines.popleft().size
                self._oldest += 1
        for notify in self._listeners:
            notify()

    @contextmanager
    def listening(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call `listener` after each line, in the thread that logged it, for the duration of the block."""
        with self._lock:
            self._listeners = (*self._listeners, listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners = tuple(other for other in self._listeners if other is not listener)

    def after(self, position: int, *, max_lines: int, max_bytes: int = MAX_BYTES) -> list[tuple[int, Line]]:
        """Stored lines after the id `position`, oldest first: as many as both limits allow, but at least one if any."""
        with self._lock:
            first = max(position + 1, self._oldest)
            begin = first - self._oldest
            found = list(enumerate(islice(self._lines, begin, begin + max_lines), first))
        size = 0
        for count, (_, line) in enumerate(found):
            size += line.size
            if size > max_bytes:
                return found[: max(1, count)]
        return found

    def before_last(self, count: int, *, line_filter: LineFilter) -> int:
        """The position, for `after`, before the last `count` lines that pass a filter; if fewer pass, before all."""
        if not count:
            return self.newest
        ids = [line_id for line_id, line in self.all() if line_filter.matches(line)]
        return ids[-count] - 1 if len(ids) >= count else self.oldest - 1

    def all(self) -> list[tuple[int, Line]]:
        """Every line with its id, oldest first."""
        return self.after(0, max_lines=MAX_LINES)


def encode_entry(event: Mapping[str, Any]) -> Line:
    """Truncate and encode a log entry."""
    level = str(event.get("level", "info"))
    level = _LEVEL_ALIASES.get(level, level if level in LEVELS else "info")
    component = _truncate(str(event.get("component", "")), MAX_NAME_CHARS)
    at = str(event.get("timestamp", ""))
    document = {
        "timestamp": at,
        "level": level,
        "component": component,
        "message": _truncate(str(event.get("event", "")), MAX_MESSAGE_CHARS),
        "fields": _ValueEncoder().fields(event),
    }
    # The encoder writes ASCII in one line, whatever the values.
    return Line(LEVELS[level], component, at, _encode(document)[1:].encode())


class _ValueEncoder:
    """Converts the values of one entry to plain JSON, with limits on their number and total size."""

    def __init__(self) -> None:
        self._values_left = MAX_VALUES
        self._chars_left = MAX_TOTAL_CHARS

    def fields(self, event: Mapping[str, Any]) -> dict[str, Any]:
        kept = ((name, value) for name, value in event.items() if name not in _NOT_IN_FIELDS and value is not None)
        return {
            self._text(name, MAX_NAME_CHARS): self._value(
                value, MAX_DEPTH, MAX_TRACE_CHARS if name == "exception" else MAX_TEXT_CHARS
            )
            for name, value in islice(kept, MAX_ITEMS)
        }

    def _value(self, value: object, depth: int, max_chars: int = MAX_TEXT_CHARS) -> Any:
        self._values_left -= 1
        if self._values_left < 0:
            return "…"
        if value is None or isinstance(value, bool):  # None occurs only in lists: it is omitted in objects
            return value
        if isinstance(value, int) and abs(value) < MAX_INTEGER:
            return int(value)
        if isinstance(value, float) and math.isfinite(value):
            return float(value)
        if isinstance(value, dict) and depth:
            items = islice(((name, item) for name, item in value.items() if item is not None), MAX_ITEMS)
            return {self._text(name, MAX_NAME_CHARS): self._value(item, depth - 1) for name, item in items}
        if isinstance(value, list | tuple | set | frozenset) and depth:
            return [self._value(item, depth - 1) for item in islice(value, MAX_ITEMS)]
        return self._text(value, max_chars)

    def _text(self, value: object, max_chars: int) -> str:
        text = f"<{type(value).__name__}>"
        with suppress(Exception):
            text = str(value)
        text = _truncate(text, min(max_chars, max(0, self._chars_left)))
        self._chars_left -= len(text)
        return text


def _truncate(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else f"{text[:max_chars]}… ({len(text) - max_chars} more)"
