"""The allowlist: `/api/v1/provisioning/allowlist`.

Every write is idempotent: the same request again changes nothing and appends no event. Counts in an answer are the
effect of the request itself: if it is sent again, every row is reported as skipped or not found. With the same
Idempotency-Key, the first answer is returned again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.clock import rfc3339
from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.core.errors import ConflictError, FieldError, InvalidRequestError, NotFoundError
from pi_orchestrator.core.mac import Mac, MacField
from pi_orchestrator.features.allowlist import store as allowlist
from pi_orchestrator.features.allowlist.csv_format import read_csv
from pi_orchestrator.features.allowlist.model import (
    MAX_DESCRIPTION_CHARS,
    Effect,
    Entry,
    PlannedChange,
    Row,
    parse_container,
    parse_description,
    parse_row,
)
from pi_orchestrator.http.model import ApiModel, RequestModel, Time
from pi_orchestrator.http.paging import MacPath
from pi_orchestrator.http.route import Csv, Reply
from pi_orchestrator.storage import audit_log
from pi_orchestrator.storage.database import Database, Tx

MAX_BULK = 1000

Description = Annotated[
    str | None,
    BeforeValidator(parse_description),
    WithJsonSchema({"anyOf": [{"type": "string", "maxLength": MAX_DESCRIPTION_CHARS}, {"type": "null"}]}),
]
ContainerId = Annotated[
    str | None,
    BeforeValidator(parse_container),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": "^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$"}, {"type": "null"}]}
    ),
]
_DESCRIPTION = "a note for operators; control characters are removed, empty or null deletes the value"
_CONTAINER = "the intended container, which need not exist yet; empty or null deletes the value"


class AllowlistEntry(ApiModel):
    """A camera that may be provisioned; `used` is true once a camera with this MAC has been verified."""

    mac: str
    description: str | None = None
    container_id: str | None = None
    added_at: Time
    used: bool
    used_at: Time | None = None


class AllowlistEntries(ApiModel):
    """Entries in MAC order."""

    entries: list[AllowlistEntry]
    count: int


class EntryAnswer(ApiModel):
    """An entry."""

    entry: AllowlistEntry


class ChangedEntry(EntryAnswer):
    """An entry after a change."""

    message: str


class RefusedRow(ApiModel):
    """A row that was refused. `index`: its position in the request, from 0; `line`: where it starts in a CSV file."""

    index: int
    line: int | None = None
    mac: str
    reason: str


class BulkReport(ApiModel):
    """Number of rows by result; the refused rows, in `errors`, are not counted."""

    added: int
    updated: int
    skipped: int
    message: str
    errors: list[RefusedRow]


class ImportedRow(ApiModel):
    """Effect of one row of the file."""

    line: int
    mac: str
    effect: Effect
    reason: str | None = None


class ImportReport(BulkReport):
    """Result of an import, or the plan of a dry run."""

    dry_run: bool
    rows: list[ImportedRow]


class RemovalReport(ApiModel):
    """Number of removed entries, and the MACs that were not listed."""

    removed: int
    not_found: int
    missing: list[str]
    message: str


class ClearedList(ApiModel):
    """Number of removed entries."""

    cleared: int
    message: str


class AllowlistStats(ApiModel):
    """Numbers of all entries, of used entries, and of those not used yet (`available`)."""

    total: int
    used: int
    available: int


class AllowlistQuery(RequestModel):
    """Filter of the list."""

    available: bool = Field(False, description="only entries whose camera has not been verified yet")


class ImportQuery(RequestModel):
    """Options of an import."""

    dry_run: bool = Field(False, description="change nothing; report what each row would do")


class NewEntry(RequestModel):
    """A camera that may be provisioned."""

    model_config = ConfigDict(extra="forbid")

    mac: MacField
    description: Description = Field(None, description=_DESCRIPTION)
    container_id: ContainerId = Field(None, description=_CONTAINER)


class EntryChange(RequestModel):
    """New values of an entry; missing fields do not change."""

    model_config = ConfigDict(extra="forbid")

    description: Description = Field(None, description=_DESCRIPTION)
    container_id: ContainerId = Field(None, description=_CONTAINER)


class NewEntries(RequestModel):
    """Cameras that may be provisioned."""

    model_config = ConfigDict(extra="forbid")

    entries: list[Any] = Field(
        max_length=MAX_BULK,
        description="objects with mac, description and container_id; a refused entry does not affect the others",
    )


class RemovedEntries(RequestModel):
    """Cameras to remove from the list."""

    model_config = ConfigDict(extra="forbid")

    macs: list[MacField] = Field(max_length=MAX_BULK, description="MACs in any usual format")


async def list_entries(database: Database, query: AllowlistQuery) -> Reply[AllowlistEntries]:
    """List all entries, or only unused ones: at most 10,000, in MAC order."""
    entries = (await allowlist.listed(database)).values()
    selected = [entry for entry in entries if not (query.available and entry.used)]
    return Reply(encoded=await asyncio.to_thread(_encode_list, selected))


async def add(database: Database, body: NewEntry, actor: Actor) -> Reply[EntryAnswer]:
    """Add a camera: 201. If it is listed already: 200, and the given fields replace the old ones.

    Fields that the request does not have keep their values, and so do `added_at` and `used`: a repeat returns the same
    entry. 409 when the list is full (10,000 entries).
    """

    async def job(tx: Tx) -> tuple[Entry, Effect]:
        (planned,) = await allowlist.apply_rows(tx, [_row_of(body.mac, body)])
        if planned.effect is Effect.ERROR:
            raise ConflictError(planned.reason or "", details="remove entries that are no longer needed")
        await audit_log.record(tx, actor, target=body.mac)
        return await _require_entry(tx, body.mac), planned.effect

    entry, effect = await database.write(job)
    return Reply(EntryAnswer(entry=_view(entry)), status=201 if effect is Effect.ADD else 200)


async def show(database: Database, path: MacPath) -> EntryAnswer:
    """Return one entry; 404 `DEVICE_NOT_FOUND` if the MAC is not listed."""
    entry = await allowlist.load(database, path.mac)
    if entry is None:
        raise _not_listed(path.mac)
    return EntryAnswer(entry=_view(entry))


async def change(database: Database, path: MacPath, body: EntryChange, actor: Actor) -> ChangedEntry:
    """Change an entry; missing fields do not change."""

    async def job(tx: Tx) -> Entry:
        await _require_entry(tx, path.mac)
        await allowlist.apply_rows(tx, [_row_of(path.mac, body)])
        await audit_log.record(tx, actor, target=path.mac)
        return await _require_entry(tx, path.mac)

    entry = await database.write(job)
    return ChangedEntry(entry=_view(entry), message="Entry updated")


async def remove(database: Database, path: MacPath, actor: Actor) -> None:
    """Remove a camera from the list. 204 also when it was not listed."""

    async def job(tx: Tx) -> None:
        removed = await allowlist.remove(tx, [path.mac])
        await audit_log.record(tx, actor, target=path.mac, outcome=audit_log.removal_outcome(bool(removed)))

    await database.write(job)


async def bulk(database: Database, body: NewEntries, actor: Actor) -> BulkReport:
    """Add up to 1,000 cameras. Valid rows are applied, refused rows are in `errors`.

    `added` counts new entries, `updated` changed ones. `skipped` counts rows without effect: the entry has these values
    already, or an earlier row is the same. A row is refused if it is invalid, contradicts an earlier row with the same
    MAC, or if the list is full (10,000 entries). A repeat of the request skips what was added or updated.
    """
    rows = [parse_row(values, number=number) for number, values in enumerate(body.entries)]
    return BulkReport(**_report(await _apply(database, rows, actor), dry_run=False))


async def bulk_remove(database: Database, body: RemovedEntries, actor: Actor) -> RemovalReport:
    """Remove up to 1,000 cameras from the list; a duplicate MAC is counted once.

    A repeat removes none and reports all as not found.
    """
    macs = list(dict.fromkeys(body.macs))

    async def job(tx: Tx) -> set[Mac]:
        removed = await allowlist.remove(tx, macs)
        await audit_log.record(tx, actor, target=f"{len(macs)} MACs", outcome=f"{len(removed)} removed")
        return removed

    removed = await database.write(job)
    missing = [mac for mac in macs if mac not in removed]
    return RemovalReport(
        removed=len(removed),
        not_found=len(missing),
        missing=missing,
        message=f"{len(removed)} removed, {len(missing)} not found",
    )


async def clear(database: Database, actor: Actor) -> ClearedList:
    """Remove every camera from the list; a repeat removes 0."""

    async def job(tx: Tx) -> int:
        cleared = await allowlist.clear(tx)
        await audit_log.record(tx, actor, outcome=f"{cleared} removed")
        return cleared

    cleared = await database.write(job)
    return ClearedList(cleared=cleared, message=f"{cleared} entries removed")


async def stats(database: Database) -> AllowlistStats:
    """Count the entries, and those whose camera has been verified."""
    found = await allowlist.stats(database)
    return AllowlistStats(total=found.total, used=found.used, available=found.total - found.used)


async def import_csv(database: Database, query: ImportQuery, body: Csv, actor: Actor) -> Reply[ImportReport]:
    """Add the cameras of a CSV file as `/bulk` does, and report the effect of every row.

    RFC 4180 in UTF-8, with or without a byte order mark, any line ends, at most 10,000 rows. The first line names the
    columns in any order: `mac`, and optionally `description` and `container_id`. An empty cell deletes the value; a
    missing column does not change it. A file that is not valid CSV is refused as a whole. Cells that
    look like spreadsheet formulas are text; an apostrophe that a spreadsheet puts before them is removed.
    """
    try:
        rows = await asyncio.to_thread(read_csv, body)
    except FieldError as error:
        raise InvalidRequestError("the file is not a valid CSV list", details=str(error)) from None
    if query.dry_run:
        # Reads only; in a transaction, because `plan_changes` needs one.
        changes = await database.write(lambda tx: allowlist.plan_changes(tx, rows))
    else:
        changes = await _apply(database, rows, actor)
    return Reply(encoded=await asyncio.to_thread(_encode_report, changes, dry_run=query.dry_run))


async def _apply(database: Database, rows: Sequence[Row], actor: Actor) -> list[PlannedChange]:
    async def job(tx: Tx) -> list[PlannedChange]:
        changes = await allowlist.apply_rows(tx, rows)
        await audit_log.record(tx, actor, target=f"{len(rows)} rows", outcome=_summary(changes, dry_run=False))
        return changes

    return await database.write(job)


async def _require_entry(tx: Tx, mac: Mac) -> Entry:
    entry = await allowlist.find(tx, mac)
    if entry is None:
        raise _not_listed(mac)
    return entry


def _not_listed(mac: Mac) -> NotFoundError:
    return NotFoundError(f"{mac} is not on the allowlist", code=ErrorCode.DEVICE_NOT_FOUND)


def _row_of(mac: Mac, body: NewEntry | EntryChange) -> Row:
    return Row(0, mac, body.model_dump(exclude={"mac"}, exclude_unset=True))


def _view(entry: Entry) -> AllowlistEntry:
    return AllowlistEntry(
        mac=entry.mac,
        description=entry.description,
        container_id=entry.container_id,
        added_at=rfc3339(entry.added_at),
        used=entry.used,
        used_at=rfc3339(entry.used_at) if entry.used_at else None,
    )


def _encode_list(entries: Iterable[Entry]) -> bytes:
    """Encode up to 10,000 entries as JSON; too slow for the event loop."""
    views = [_view(entry) for entry in entries]
    return AllowlistEntries(entries=views, count=len(views)).model_dump_json(exclude_none=True).encode()


def _encode_report(changes: Sequence[PlannedChange], *, dry_run: bool) -> bytes:
    rows = [
        ImportedRow(line=planned.row.line or 0, mac=planned.row.mac, effect=planned.effect, reason=planned.reason)
        for planned in changes
    ]
    report = ImportReport(**_report(changes, dry_run=dry_run), dry_run=dry_run, rows=rows)
    return report.model_dump_json(exclude_none=True).encode()


def _report(changes: Sequence[PlannedChange], *, dry_run: bool) -> dict[str, Any]:
    effects = Counter(planned.effect for planned in changes)
    return {
        "added": effects[Effect.ADD],
        "updated": effects[Effect.UPDATE],
        "skipped": effects[Effect.SKIP],
        "message": _summary(changes, dry_run=dry_run),
        "errors": [
            RefusedRow(
                index=planned.row.number, line=planned.row.line, mac=planned.row.mac, reason=planned.reason or ""
            )
            for planned in changes
            if planned.effect is Effect.ERROR
        ],
    }


def _summary(changes: Sequence[PlannedChange], *, dry_run: bool) -> str:
    effects = Counter(planned.effect for planned in changes)
    labels = ("to add", "to update", "to skip") if dry_run else ("added", "updated", "skipped")
    counted = zip((Effect.ADD, Effect.UPDATE, Effect.SKIP, Effect.ERROR), (*labels, "refused"), strict=True)
    return ", ".join(f"{effects[effect]} {label}" for effect, label in counted)
