"""Text for terminals: tables that fit, and JSON for scripts."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

GAP = 2
SMALLEST_COLUMN = 6


def print_json(value: Any) -> None:
    """JSON, indented, with every printable character as it is; no other can reach the terminal."""
    print(_harmless(json.dumps(value, indent=2, ensure_ascii=False)))


def print_json_line(value: Any) -> None:
    """JSON on a line of its own, which is out before the next one is known."""
    print(_harmless(json.dumps(value, ensure_ascii=False)), flush=True)


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    width: int | None = None,
    shrink: Sequence[int] = (),
    flow: bool = False,
) -> str:
    """Columns as wide as they need to be; where that is too wide, those of `shrink` give way in turn, then the last.

    With `flow` the last one goes on in the lines below instead of being cut: what it says has to be read to its end.
    """
    limit = width or columns()
    lines = [tuple(headers), *(tuple(_text(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for column in (*shrink, len(widths) - 1):
        excess = sum(widths) + GAP * (len(widths) - 1) - limit
        widths[column] -= max(0, min(excess, widths[column] - SMALLEST_COLUMN))
    if flow:
        lines = [part for line in lines for part in _flowing(line, widths[-1])]
    return "\n".join(_line(line, widths)[:limit].rstrip() for line in lines)


def wrapped(text: str, *, indent: str = "", whole_words: bool = False) -> str:
    """A text in lines that fit, with what may not reach a terminal made visible.

    With `whole_words` a word that is longer than a line stays whole, so that a path can be copied.
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
    """A text in one line that is no longer than this, with what may not reach a terminal made visible."""
    return _cut(_text(text), width)


def columns() -> int:
    """How wide the terminal is; 80 where there is none."""
    return max(40, shutil.get_terminal_size((80, 24)).columns)


class StatusLine:
    """The last line of the terminal on stderr, for what passes; nothing where that is no terminal."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()

    def show(self, text: str) -> None:
        """Write it in place of what stands there."""
        if self._on:
            # One short of the width: some terminals begin a new line with the last column.
            print(f"\r{_text(text)[: min(80, columns()) - 1]}\x1b[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leave an empty line for whatever is printed next."""
        if self._on:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _flowing(cells: tuple[str, ...], width: int) -> Iterator[tuple[str, ...]]:
    first, *others = textwrap.wrap(cells[-1], width, break_on_hyphens=False) or [""]
    yield (*cells[:-1], first)
    for more in others:
        yield (*("" for _ in cells[:-1]), more)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return (" " * GAP).join(_cut(cell, width).ljust(width) for cell, width in zip(cells, widths, strict=True))


def _cut(cell: str, width: int) -> str:
    return cell if len(cell) <= width else f"{cell[: width - 1]}…"


def _text(cell: object) -> str:
    text = "-" if cell in (None, "") else str(cell)
    # What came from a camera must not drive the terminal.
    return "".join(char if char.isprintable() else "?" for char in text)


def _harmless(document: str) -> str:
    """JSON in which what is not printable is escaped; outside of texts there is none but line ends."""
    if document.replace("\n", "").isprintable():
        return document
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in document)
