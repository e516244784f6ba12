"""The allowlist: entries, parsing of rows, and the plan of changes that the rows request.

Rows are untrusted. Each is parsed on its own, so that a bad row does not affect the others. `plan` then decides the
effect of every row; a dry run shows the same plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.identifiers import parse_container_id
from pi_orchestrator.core.mac import Mac, parse_mac
from pi_orchestrator.core.validation import clean_text, parse_text

MAX_ENTRIES = 10_000
MAX_DESCRIPTION_CHARS = 200
FULL = f"the allowlist is full: it holds {MAX_ENTRIES:,} entries"


class Details(NamedTuple):
    """Description and container of an entry; the container need not exist yet."""

    description: str | None = None
    container_id: str | None = None

    def with_fields(self, fields: Mapping[str, str | None]) -> Details:
        """Return a copy with `fields` replaced; None deletes a value."""
        return Details(
            fields.get("description", self.description),
            fields.get("container_id", self.container_id),
        )


NO_DETAILS = Details()


@dataclass(frozen=True, slots=True)
class Entry:
    """A camera that may be provisioned; `used_at` is when a camera with this MAC was first verified."""

    mac: Mac
    added_at: datetime
    description: str | None = None
    container_id: str | None = None
    used_at: datetime | None = None

    @property
    def used(self) -> bool:
        """Whether a camera with this MAC has been verified."""
        return self.used_at is not None


class Effect(StrEnum):
    """Effect of a row on the list."""

    ADD = "add"
    UPDATE = "update"
    SKIP = "skip"
    ERROR = "error"


class Row(NamedTuple):
    """A parsed row: the `fields` it sets (None deletes a value), or the `error` in it.

    `number` is its index in the request, from 0. An invalid `mac` is kept as it was sent. `line` is the first line of
    a CSV row.
    """

    number: int
    mac: str
    fields: Mapping[str, str | None]
    error: str | None = None
    line: int | None = None


class PlannedChange(NamedTuple):
    """Planned change of a row: its effect, the resulting details, and for SKIP and ERROR the reason."""

    row: Row
    effect: Effect
    details: Details
    reason: str | None = None


def parse_description(value: object) -> str | None:
    """Text of up to 200 characters without control characters, or None if empty; FieldError for other values."""
    return parse_text(value, field="a description", max_chars=MAX_DESCRIPTION_CHARS)


def parse_container(value: object) -> str | None:
    """A container id, or None if empty; FieldError for other values."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise FieldError("a container id must be text")
    return parse_container_id(value)


_PARSERS: Mapping[str, Callable[[object], str | None]] = {
    "mac": parse_mac,
    "description": parse_description,
    "container_id": parse_container,
}


def parse_row(values: object, *, number: int, line: int | None = None) -> Row:
    """Parse one entry of a request; the row's `error` lists every bad field by name."""
    if not isinstance(values, Mapping):
        return Row(number, "", {}, error="an entry must be an object with a mac", line=line)
    fields: dict[str, str | None] = {}
    unknown = [repr(str(name)[:40]) for name in values if name not in _PARSERS]
    errors = [f"unknown field {', '.join(unknown[:3])}"] if unknown else []
    if "mac" not in values:
        errors.append("mac: missing")
    for name, parse in _PARSERS.items():
        if name in values:
            try:
                fields[name] = parse(values.get(name))
            except FieldError as error:
                errors.append(f"{name}: {error}")
    mac = fields.pop("mac", None) or clean_text(values.get("mac"), max_chars=40) or ""
    if errors:
        return Row(number, mac, {}, error="; ".join(errors), line=line)
    return Row(number, mac, fields, line=line)


def plan(rows: Iterable[Row], listed: Mapping[Mac, Details], *, capacity: int) -> list[PlannedChange]:
    """Plan the change of each row, for a list that can take `capacity` more entries; missing fields do not change.

    If several rows have the same MAC, the first one without an error counts: a later row that agrees with it is
    skipped, one that contradicts it is an error. So the same rows sent twice change nothing.
    """
    changes: list[PlannedChange] = []
    first: dict[str, PlannedChange] = {}
    for row in rows:
        before = listed.get(Mac(row.mac))
        if row.error is not None:
            planned = PlannedChange(row, Effect.ERROR, NO_DETAILS, row.error)
        elif (other := first.get(row.mac)) is not None:
            planned = _plan_duplicate(row, other)
        elif before is None and capacity == 0:
            planned = PlannedChange(row, Effect.ERROR, NO_DETAILS, FULL)
        else:
            capacity -= before is None
            planned = first[row.mac] = _plan_row(row, before)
        changes.append(planned)
    return changes


def _plan_row(row: Row, before: Details | None) -> PlannedChange:
    after = (before or NO_DETAILS).with_fields(row.fields)
    if before is None:
        return PlannedChange(row, Effect.ADD, after)
    if before == after:
        return PlannedChange(row, Effect.SKIP, after, "already listed with these values")
    return PlannedChange(row, Effect.UPDATE, after)


def _plan_duplicate(row: Row, first: PlannedChange) -> PlannedChange:
    place = f"index {first.row.number}" if first.row.line is None else f"line {first.row.line}"
    if first.details.with_fields(row.fields) == first.details:
        return PlannedChange(row, Effect.SKIP, first.details, f"same as {place}")
    return PlannedChange(
        row, Effect.ERROR, first.details, f"conflicts with {place}, which has the same MAC and takes precedence"
    )
