"""Text for terminals: tables that fit, and JSON for scripts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from typing import Any

GAP = 2


def print_json(value: Any) -> None:
    """JSON, indented, with every character that was in it."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, width: int | None = None) -> str:
    """Columns as wide as they need to be; the last one is cut where the terminal ends."""
    limit = width or max(40, shutil.get_terminal_size((80, 24)).columns)
    lines = [tuple(headers), *(tuple(_text(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    return "\n".join(_line(line, widths)[:limit].rstrip() for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return (" " * GAP).join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))


def _text(cell: object) -> str:
    text = "-" if cell in (None, "") else str(cell)
    # What came from a camera must not drive the terminal.
    return "".join(char if char.isprintable() else "?" for char in text)
