"""The allowlist: which cameras may be given credentials, and what a list of them asks for.

Rows come from strangers, as JSON or as CSV. Each is parsed by itself, so that one bad row costs nobody else; then
`plan` says what every row does to the list, and a dry run shows the same plan.

CSV is RFC 4180 in UTF-8. A spreadsheet takes a cell that begins like a formula for one, so what is written begins
with an apostrophe there, and what is read loses it again: an export that is imported is the same list.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from pi_orchestrator.domain.container import parse_container_id
from pi_orchestrator.domain.mac import Mac, parse_mac
from pi_orchestrator.domain.strict_json import clean_text, text_field
from pi_orchestrator.errors import FieldError

MAX_ENTRIES = 10_000
MAX_DESCRIPTION_CHARS = 200
MAX_LINES = 40_000
MAX_LINE_CHARS = 16_384
COLUMNS = ("mac", "description", "container_id")
FULL = f"the allowlist is full: it holds {MAX_ENTRIES:,} entries"

_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_HEADER = f"the first line must be the header {','.join(COLUMNS)}"


class Details(NamedTuple):
    """What is said of a listed camera; the container need not be there yet."""

    description: str | None = None
    container_id: str | None = None

    def changed(self, given: Mapping[str, str | None]) -> Details:
        """The same with what is given in place of what was there; None takes a value away."""
        return Details(
            given.get("description", self.description),
            given.get("container_id", self.container_id),
        )


NOTHING = Details()


@dataclass(frozen=True, slots=True)
class Entry:
    """A camera that may be provisioned; `used_at` is when one of this MAC was first verified."""

    mac: Mac
    added_at: datetime
    description: str | None = None
    container_id: str | None = None
    used_at: datetime | None = None

    @property
    def used(self) -> bool:
        """Whether a camera of this MAC has been verified."""
        return self.used_at is not None


class Effect(StrEnum):
    """What a row does to the list."""

    ADD = "add"
    UPDATE = "update"
    SKIP = "skip"
    ERROR = "error"


class Row(NamedTuple):
    """A parsed row: what it gives (None takes a value away), or what is wrong with it.

    `number` is its place in the request, from 0; `mac` is as it was sent where it is none; `line` is the one that a
    row of CSV begins on.
    """

    number: int
    mac: str
    given: Mapping[str, str | None]
    fault: str | None = None
    line: int | None = None


class Step(NamedTuple):
    """What becomes of a row: its effect, what is said of the camera then, and why nothing is done where it is not."""

    row: Row
    effect: Effect
    details: Details
    reason: str | None = None


def parse_description(value: object) -> str | None:
    """Text of up to 200 characters without control characters, None for none; FieldError for anything else."""
    return text_field(value, what="a description", max_chars=MAX_DESCRIPTION_CHARS)


def parse_container(value: object) -> str | None:
    """A container's id, None for none; FieldError for anything else."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise FieldError("a container id is text")
    return parse_container_id(value)


_PARSERS: Mapping[str, Callable[[object], str | None]] = {
    "mac": parse_mac,
    "description": parse_description,
    "container_id": parse_container,
}


def parse_row(values: object, *, number: int, line: int | None = None) -> Row:
    """An entry as it was sent → row; whatever is wrong with it is told in its `fault`, every field by name."""
    if not isinstance(values, Mapping):
        return Row(number, "", {}, fault="an entry is an object with a mac", line=line)
    given: dict[str, str | None] = {}
    unknown = [repr(str(name)[:40]) for name in values if name not in _PARSERS]
    faults = [f"{', '.join(unknown[:3])}: there is no such field"] if unknown else []
    if "mac" not in values:
        faults.append("mac: it is missing")
    for name, parse in _PARSERS.items():
        if name in values:
            try:
                given[name] = parse(values.get(name))
            except FieldError as error:
                faults.append(f"{name}: {error}")
    mac = given.pop("mac", None) or clean_text(values.get("mac"), max_chars=40) or ""
    if faults:
        return Row(number, mac, {}, fault="; ".join(faults), line=line)
    return Row(number, mac, given, line=line)


def plan(rows: Iterable[Row], listed: Mapping[Mac, Details], *, room: int) -> list[Step]:
    """What each row does to a list with room for so many more; a field that a row does not give stays as it is.

    Of several rows of one MAC the first counts, so that the same rows a second time change nothing: what says the
    same again is skipped, what says something else is an error.
    """
    steps: list[Step] = []
    first: dict[str, Step] = {}
    for row in rows:
        before = listed.get(Mac(row.mac))
        if row.fault is not None:
            step = Step(row, Effect.ERROR, NOTHING, row.fault)
        elif (other := first.get(row.mac)) is not None:
            step = _again(row, other)
        elif before is None and room == 0:
            step = Step(row, Effect.ERROR, NOTHING, FULL)
        else:
            room -= before is None
            step = first[row.mac] = _step(row, before)
        steps.append(step)
    return steps


def _step(row: Row, before: Details | None) -> Step:
    after = (before or NOTHING).changed(row.given)
    if before is None:
        return Step(row, Effect.ADD, after)
    if before == after:
        return Step(row, Effect.SKIP, after, "it is listed like this already")
    return Step(row, Effect.UPDATE, after)


def _again(row: Row, first: Step) -> Step:
    place = f"index {first.row.number}" if first.row.line is None else f"line {first.row.line}"
    if first.details.changed(row.given) == first.details:
        return Step(row, Effect.SKIP, first.details, f"the same as {place}")
    return Step(row, Effect.ERROR, first.details, f"{place} says something else of this MAC, and counts")


def read_csv(raw: bytes) -> list[Row]:
    """A CSV file → its rows; FieldError where it cannot be read as one, with the line and what would help."""
    records = _records(_lines(_decoded(raw)))
    columns = _columns(next(records, (1, []))[1])
    rows: list[Row] = []
    for line, cells in records:
        if len(rows) == MAX_ENTRIES:
            raise FieldError(f"line {line}: over the limit of {MAX_ENTRIES:,} rows; split the file")
        rows.append(_row(columns, cells, number=len(rows), line=line))
    return rows


def write_csv(entries: Iterable[tuple[str, str | None, str | None]]) -> str:
    """Entries (mac, description, container id) → a CSV file that a spreadsheet takes for text and `read_csv` reads."""
    lines: list[str] = []
    writer = csv.writer(_Lines(lines))
    writer.writerow(COLUMNS)
    for entry in entries:
        writer.writerow(_as_text(cell or "") for cell in entry)
    return "".join(lines)


class _Lines:
    """Where a CSV writer writes to."""

    def __init__(self, lines: list[str]) -> None:
        self.write = lines.append


def _as_text(cell: str) -> str:
    return f"'{cell}" if _FORMULA.match(cell) else cell


def _as_meant(cell: str) -> str:
    cell = cell.strip()
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _decoded(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FieldError("it is UTF-16; save it as CSV UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise FieldError(f"line {line}: byte 0x{raw[error.start]:02X} is not UTF-8; save it as CSV UTF-8") from None
    if (place := text.find("\0")) >= 0:
        line = text.count("\n", 0, place) + 1
        raise FieldError(f"line {line}: there is a NUL character, which no text has; save it as CSV UTF-8")
    return text


def _lines(text: str) -> list[str]:
    """The lines, whatever they end with; their number and length are bounded before anything is made of them."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.count("\n") > MAX_LINES:
        raise FieldError(f"over the limit of {MAX_LINES:,} lines; split the file")
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_LINE_CHARS:
            raise FieldError(f"line {number}: {len(line):,} characters, over the limit of {MAX_LINE_CHARS:,}")
    return lines


def _records(lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(line that it begins on, cells) of every record that is not blank."""
    reader = csv.reader((f"{line}\n" for line in lines), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            what = "a quote is never closed" if "unexpected end" in str(error) else str(error)
            raise FieldError(f"line {line}: {what}") from None
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield line, cells


def _columns(cells: Sequence[str]) -> list[str]:
    names = [cell.strip().lower() for cell in cells]
    while names and not names[-1]:
        names.pop()  # spreadsheets leave such a trail of commas
    if not names:
        raise FieldError(f"it is empty; {_HEADER}")
    if len(names) == 1 and (match := re.search("[;\t|]", names[0])):
        raise FieldError(f"the columns are separated by {match[0]!r}; use commas")
    faults = [f"{name[:40]!r} is no column" for name in names if name not in COLUMNS][:3]
    faults += [f"{name} is there twice" for name in COLUMNS if names.count(name) > 1]
    faults += [] if "mac" in names else ["there is no column mac"]
    if faults:
        raise FieldError(f"{'; '.join(faults)}; {_HEADER}")
    return names


def _row(columns: Sequence[str], cells: Sequence[str], *, number: int, line: int) -> Row:
    values = {name: _as_meant(cell) for name, cell in zip(columns, cells, strict=False)}
    row = parse_row(values, number=number, line=line)
    if any(cell.strip() for cell in cells[len(columns) :]):
        return Row(number, row.mac, {}, fault=f"{len(cells)} columns, but {len(columns)} in the header", line=line)
    return row
