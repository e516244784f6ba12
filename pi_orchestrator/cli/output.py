"""Output of commands: text and tables for terminals, JSON for scripts."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

GAP = 2
MIN_COLUMN = 6


def print_json(value: Any) -> None:
    """Print indented JSON; characters that cannot be printed are escaped."""
    print(_escape_unprintable(json.dumps(value, indent=2, ensure_ascii=False)))


def print_json_line(value: Any) -> None:
    """Print JSON on one line, and flush it."""
    print(_escape_unprintable(json.dumps(value, ensure_ascii=False)), flush=True)


def print_result(args: argparse.Namespace, answer: object, text: str) -> int:
    """Print `answer` (the API's data) with `--json`, else `text`; returns exit code 0."""
    print_json(answer) if args.json else print(wrapped(text))
    return 0


def print_note(text: str) -> None:
    """Print a note to stderr, and flush it to keep it in order with stdout."""
    print(wrapped(text), file=sys.stderr, flush=True)


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    width: int | None = None,
    shrink: Sequence[int] = (),
    flow: bool = False,
) -> str:
    """A table with columns as wide as their content.

    If the table is wider than `width` (default: the terminal), the columns in `shrink` are cut one after the other,
    then the last column; with `flow` the last column is wrapped instead of cut.
    """
    limit = width or columns()
    lines = [tuple(headers), *(tuple(_text(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for column in (*shrink, len(widths) - 1):
        excess = sum(widths) + GAP * (len(widths) - 1) - limit
        widths[column] -= max(0, min(excess, widths[column] - MIN_COLUMN))
    if flow:
        lines = [row for line in lines for row in _flow_rows(line, widths[-1])]
    return "\n".join(_line(line, widths)[:limit].rstrip() for line in lines)


def wrapped(text: str, *, indent: str = "", whole_words: bool = False) -> str:
    """A text wrapped to the terminal width; characters that cannot be printed become `?`.

    With `whole_words` a word longer than a line is not broken, so that a path can be copied.
    """
    return textwrap.fill(
        _text(text),
        columns(),
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=not whole_words,
    )


def fit(text: object, width: int) -> str:
    """A text cut to this width; characters that cannot be printed become `?`."""
    return _cut(_text(text), width)


def columns() -> int:
    """The width of the terminal, at least 40; 80 without a terminal."""
    return max(40, shutil.get_terminal_size((80, 24)).columns)


class StatusLine:
    """A status line on stderr, rewritten in place; prints nothing if stderr is not a terminal."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()

    def show(self, text: str) -> None:
        """Replace the status line."""
        if self._on:
            # One column less than the width, because some terminals wrap after the last column.
            print(f"\r{_text(text)[: min(80, columns()) - 1]}\x1b[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Erase the status line, so that other output can follow."""
        if self._on:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _flow_rows(cells: tuple[str, ...], width: int) -> Iterator[tuple[str, ...]]:
    first, *rest = textwrap.wrap(cells[-1], width, break_on_hyphens=False) or [""]
    yield (*cells[:-1], first)
    for text in rest:
        yield (*("" for _ in cells[:-1]), text)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return (" " * GAP).join(_cut(cell, width).ljust(width) for cell, width in zip(cells, widths, strict=True))


def _cut(cell: str, width: int) -> str:
    return cell if len(cell) <= width else f"{cell[: width - 1]}…"


def _text(cell: object) -> str:
    """A value as text: `-` for None and "", `?` for a character that cannot be printed."""
    text = "-" if cell in (None, "") else str(cell)
    # Text from a camera must not contain control sequences.
    return "".join(char if char.isprintable() else "?" for char in text)


def _escape_unprintable(document: str) -> str:
    """Escape unprintable characters in JSON; outside strings the only ones are line ends."""
    if document.replace("\n", "").isprintable():
        return document
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in document)


def age(seconds: float) -> str:
    """A duration as text, in the largest unit in which it is at least 2, else in seconds: `90 s`, `3 h`."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def moment(text: str | None) -> str | None:
    """An RFC 3339 time as `YYYY-MM-DD HH:MM:SS UTC`; None if there is no time."""
    return f"{text[:19].replace('T', ' ')} UTC" if text else None
