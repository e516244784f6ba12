"""The allowlist as CSV: RFC 4180 in UTF-8.

Spreadsheets run a cell that begins like a formula, so `write_csv` puts an apostrophe before such a cell and `read_csv`
removes it: importing an export gives the same list.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.features.allowlist.model import MAX_ENTRIES, Row, parse_row

MAX_LINES = 40_000
"""More than `MAX_ENTRIES`: a file may have blank lines, and a quoted cell may have several."""
MAX_LINE_CHARS = 16_384
COLUMNS = ("mac", "description", "container_id")

# The beginning of a formula, after any apostrophes; the last four are the full-width forms of = + - and @.
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_HEADER = f"the first line must be the header {','.join(COLUMNS)}"


def read_csv(raw: bytes) -> list[Row]:
    """Parse a CSV file into rows; FieldError with the line and a remedy if it is not valid CSV."""
    records = _records(_split_lines(_decode(raw)))
    columns = _parse_header(next(records, (1, []))[1])
    rows: list[Row] = []
    for line, cells in records:
        if len(rows) == MAX_ENTRIES:
            raise FieldError(f"line {line}: over the limit of {MAX_ENTRIES:,} rows; split the file")
        rows.append(_parse_cells(columns, cells, number=len(rows), line=line))
    return rows


def write_csv(entries: Iterable[tuple[str, str | None, str | None]]) -> str:
    """Write (mac, description, container id) entries as CSV: plain text for spreadsheets, readable by `read_csv`."""
    lines: list[str] = []
    writer = csv.writer(_LineSink(lines))
    writer.writerow(COLUMNS)
    for entry in entries:
        writer.writerow(_escape(cell or "") for cell in entry)
    return "".join(lines)


class _LineSink:
    """File-like object that appends what a CSV writer writes to a list."""

    def __init__(self, lines: list[str]) -> None:
        self.write = lines.append


def _escape(cell: str) -> str:
    return f"'{cell}" if _FORMULA.match(cell) else cell


def _unescape(cell: str) -> str:
    cell = cell.strip()
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _decode(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FieldError("the file is UTF-16; save it as CSV UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise FieldError(f"line {line}: byte 0x{raw[error.start]:02X} is not UTF-8; save it as CSV UTF-8") from None
    if (index := text.find("\0")) >= 0:
        line = text.count("\n", 0, index) + 1
        raise FieldError(f"line {line}: NUL character, so this is not a text file; save it as CSV UTF-8")
    return text


def _split_lines(text: str) -> list[str]:
    """Split at any line end; FieldError if the number or length of lines is over its limit."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.count("\n") > MAX_LINES:
        raise FieldError(f"over the limit of {MAX_LINES:,} lines; split the file")
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_LINE_CHARS:
            raise FieldError(f"line {number}: {len(line):,} characters, over the limit of {MAX_LINE_CHARS:,}")
    return lines


def _records(lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line, cells) of every record that is not blank."""
    reader = csv.reader((f"{line}\n" for line in lines), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            message = "quote is not closed" if "unexpected end" in str(error) else str(error)
            raise FieldError(f"line {line}: {message}") from None
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield line, cells


def _parse_header(cells: Sequence[str]) -> list[str]:
    names = [cell.strip().lower() for cell in cells]
    while names and not names[-1]:
        names.pop()  # spreadsheets append empty columns
    if not names:
        raise FieldError(f"the file is empty; {_HEADER}")
    if len(names) == 1 and (match := re.search("[;\t|]", names[0])):
        raise FieldError(f"the columns are separated by {match[0]!r}; use commas")
    errors = [f"unknown column {name[:40]!r}" for name in names if name not in COLUMNS][:3]
    errors += [f"duplicate column {name}" for name in COLUMNS if names.count(name) > 1]
    errors += [] if "mac" in names else ["column mac is missing"]
    if errors:
        raise FieldError(f"{'; '.join(errors)}; {_HEADER}")
    return names


def _parse_cells(columns: Sequence[str], cells: Sequence[str], *, number: int, line: int) -> Row:
    values = {name: _unescape(cell) for name, cell in zip(columns, cells, strict=False)}
    row = parse_row(values, number=number, line=line)
    if any(cell.strip() for cell in cells[len(columns) :]):
        return Row(number, row.mac, {}, error=f"{len(cells)} columns, but the header has {len(columns)}", line=line)
    return row
