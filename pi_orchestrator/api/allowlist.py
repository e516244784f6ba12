"""The allowlist: `/api/v1/provisioning/allowlist`.

Every write may be sent again: what was asked for is there already, so nothing is done a second time and no event is
told. Where an answer counts what a request did, a repeat counts what was left for it to do, which is nothing: all is
skipped, or not found. A repeat under the same Idempotency-Key gets the first answer, counts and all.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from pi_orchestrator.api.paging import MacPath
from pi_orchestrator.api.route import Csv, Reply, Time, Wire
from pi_orchestrator.api.services import Services
from pi_orchestrator.clock import rfc3339
from pi_orchestrator.domain.allowlist import (
    MAX_DESCRIPTION_CHARS,
    Effect,
    Entry,
    Row,
    Step,
    parse_container,
    parse_description,
    parse_row,
    read_csv,
)
from pi_orchestrator.domain.mac import Mac, MacField
from pi_orchestrator.errors import ConflictError, FieldError, InvalidRequestError, NotFoundError
from pi_orchestrator.storage import actions, allowlist
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.storage.database import Tx

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
_DESCRIPTION = "what it is, for people; control characters are left out, empty or null takes it away"
_CONTAINER = "the container that it is meant for, which need not be there yet; empty or null takes it away"


class AllowlistEntry(Wire):
    """A camera that may be provisioned; `used` once one of this MAC has been verified."""

    mac: str
    description: str | None = None
    container_id: str | None = None
    added_at: Time
    used: bool
    used_at: Time | None = None


class AllowlistEntries(Wire):
    """Entries, in the order of their MACs."""

    entries: list[AllowlistEntry]
    count: int


class OneEntry(Wire):
    """An entry."""

    entry: AllowlistEntry


class ChangedEntry(OneEntry):
    """An entry, and that it is like this now."""

    message: str


class RefusedRow(Wire):
    """A bad row: its place in the request, from 0, the line that it begins on in a file, and why nothing came of it."""

    index: int
    line: int | None = None
    mac: str
    reason: str


class BulkReport(Wire):
    """What became of the rows; each is counted once, and those of `errors` in no number."""

    added: int
    updated: int
    skipped: int
    message: str
    errors: list[RefusedRow]


class ImportedRow(Wire):
    """What a row of the file does, or would do."""

    line: int
    mac: str
    effect: Effect
    reason: str | None = None


class ImportReport(BulkReport):
    """What became of the rows of a file, or what would after a dry run."""

    dry_run: bool
    rows: list[ImportedRow]


class RemovalReport(Wire):
    """How many MACs were taken off the list, and which were not on it."""

    removed: int
    not_found: int
    missing: list[str]
    message: str


class ClearedList(Wire):
    """How many entries there were."""

    cleared: int
    message: str


class AllowlistStats(Wire):
    """How many entries there are."""

    total: int
    used: int
    available: int


class AllowlistQuery(BaseModel):
    """Which entries."""

    available: bool = Field(False, description="only those of which no camera has been verified yet")


class ImportQuery(BaseModel):
    """Whether it is meant."""

    dry_run: bool = Field(False, description="change nothing, and tell what would become of each row")


class NewEntry(BaseModel):
    """A camera that may be provisioned."""

    model_config = ConfigDict(extra="forbid")

    mac: MacField
    description: Description = Field(None, description=_DESCRIPTION)
    container_id: ContainerId = Field(None, description=_CONTAINER)


class EntryChange(BaseModel):
    """What to say of a listed camera; what is not given stays as it is."""

    model_config = ConfigDict(extra="forbid")

    description: Description = Field(None, description=_DESCRIPTION)
    container_id: ContainerId = Field(None, description=_CONTAINER)


class NewEntries(BaseModel):
    """Cameras that may be provisioned."""

    model_config = ConfigDict(extra="forbid")

    entries: list[Any] = Field(
        max_length=MAX_BULK,
        description="each as one alone is added: mac, description, container_id; a bad one costs no other",
    )


class GoneEntries(BaseModel):
    """Cameras that may no longer be provisioned."""

    model_config = ConfigDict(extra="forbid")

    macs: list[MacField] = Field(max_length=MAX_BULK, description="in any usual spelling")


async def list_entries(services: Services, query: AllowlistQuery) -> Reply[AllowlistEntries]:
    """Every entry, or those that are still unused; at most 10,000, in the order of their MACs."""
    entries = (await allowlist.listed(services.database)).values()
    wanted = [entry for entry in entries if not (query.available and entry.used)]
    return Reply(encoded=await asyncio.to_thread(_encoded_list, wanted))


async def add(services: Services, body: NewEntry, actor: Actor) -> Reply[OneEntry]:
    """List a camera: 201. One that is listed already is 200, with what is given in place of what was there.

    What is not given stays as it is, and so do `added_at` and `used`: a repeat of the same request gives the same
    entry. 409 where the list is full, which it is with 10,000 entries.
    """

    async def job(tx: Tx) -> tuple[Entry, Effect]:
        (step,) = await allowlist.change(tx, [_row_of(body.mac, body)])
        if step.effect is Effect.ERROR:
            raise ConflictError(step.reason or "", details="remove entries that are no longer needed")
        await actions.record(tx, actor, target=body.mac)
        return await _found(tx, body.mac), step.effect

    entry, effect = await services.database.write(job)
    return Reply(OneEntry(entry=_view(entry)), status=201 if effect is Effect.ADD else 200)


async def show(services: Services, path: MacPath) -> OneEntry:
    """One entry; 404 `DEVICE_NOT_FOUND` where the MAC is not listed."""
    entry = await allowlist.load(services.database, path.mac)
    if entry is None:
        raise _not_listed(path.mac)
    return OneEntry(entry=_view(entry))


async def change(services: Services, path: MacPath, body: EntryChange, actor: Actor) -> ChangedEntry:
    """Say something else of a listed camera; what is not given stays as it is."""

    async def job(tx: Tx) -> Entry:
        await _found(tx, path.mac)
        await allowlist.change(tx, [_row_of(path.mac, body)])
        await actions.record(tx, actor, target=path.mac)
        return await _found(tx, path.mac)

    entry = await services.database.write(job)
    return ChangedEntry(entry=_view(entry), message="Entry updated")


async def remove(services: Services, path: MacPath, actor: Actor) -> None:
    """Take a camera off the list. 204 also when it was not there."""

    async def job(tx: Tx) -> None:
        gone = await allowlist.remove(tx, [path.mac])
        await actions.record(tx, actor, target=path.mac, outcome="ok" if gone else "was not there")

    await services.database.write(job)


async def bulk(services: Services, body: NewEntries, actor: Actor) -> BulkReport:
    """List up to 1,000 cameras: good rows land, bad rows are named, and each row is counted once.

    `added` were not on the list, `updated` are told differently now. `skipped` changes nothing: it is listed like this
    already, or the request says the same of this MAC before. A row that says something else of a MAC than one before
    it in the request is bad, and so is one for which the list (10,000 entries) has no room.
    A repeat of the request adds 0, updates 0 and skips what was added or updated.
    """
    rows = [parse_row(values, number=number) for number, values in enumerate(body.entries)]
    return BulkReport(**_report(await _do(services, rows, actor), dry_run=False))


async def bulk_remove(services: Services, body: GoneEntries, actor: Actor) -> RemovalReport:
    """Take up to 1,000 cameras off the list; one that is named twice is counted once.

    A repeat removes 0 and finds none of them.
    """
    asked = list(dict.fromkeys(body.macs))

    async def job(tx: Tx) -> set[Mac]:
        gone = await allowlist.remove(tx, asked)
        await actions.record(tx, actor, target=f"{len(asked)} MACs", outcome=f"{len(gone)} removed")
        return gone

    gone = await services.database.write(job)
    missing = [mac for mac in asked if mac not in gone]
    return RemovalReport(
        removed=len(gone),
        not_found=len(missing),
        missing=missing,
        message=f"{len(gone)} removed, {len(missing)} not found",
    )


async def clear(services: Services, actor: Actor) -> ClearedList:
    """Take every camera off the list; a repeat clears 0."""

    async def job(tx: Tx) -> int:
        cleared = await allowlist.clear(tx)
        await actions.record(tx, actor, outcome=f"{cleared} removed")
        return cleared

    cleared = await services.database.write(job)
    return ClearedList(cleared=cleared, message=f"{cleared} entries removed")


async def stats(services: Services) -> AllowlistStats:
    """How many entries there are, and how many cameras of them have been verified."""
    found = await allowlist.stats(services.database)
    return AllowlistStats(total=found.total, used=found.used, available=found.total - found.used)


async def import_csv(services: Services, query: ImportQuery, body: Csv, actor: Actor) -> Reply[ImportReport]:
    """List the cameras of a CSV file as `/bulk` does, and say of every row what it does, or would do.

    RFC 4180 in UTF-8, with or without a byte order mark, any line ends, at most 10,000 rows. The first line names the
    columns in any order: `mac`, and if wanted `description` and `container_id`. An empty cell takes away what was
    there; a column that the file does not have leaves it. A file that cannot be read as a whole is refused as a whole.
    What a spreadsheet would take for a formula is text here; the apostrophe that keeps it from doing so is not kept.
    """
    try:
        rows = await asyncio.to_thread(read_csv, body)
    except FieldError as error:
        raise InvalidRequestError("the file cannot be read", details=str(error)) from None
    if query.dry_run:
        steps = await services.database.write(lambda tx: allowlist.planned(tx, rows))
    else:
        steps = await _do(services, rows, actor)
    return Reply(encoded=await asyncio.to_thread(_encoded_report, steps, dry_run=query.dry_run))


async def _do(services: Services, rows: Sequence[Row], actor: Actor) -> list[Step]:
    async def job(tx: Tx) -> list[Step]:
        steps = await allowlist.change(tx, rows)
        await actions.record(tx, actor, target=f"{len(rows)} rows", outcome=_summary(steps, dry_run=False))
        return steps

    return await services.database.write(job)


async def _found(tx: Tx, mac: Mac) -> Entry:
    entry = await allowlist.find(tx, mac)
    if entry is None:
        raise _not_listed(mac)
    return entry


def _not_listed(mac: Mac) -> NotFoundError:
    return NotFoundError(f"{mac} is not on the allowlist", code="DEVICE_NOT_FOUND")


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


def _encoded_list(entries: Iterable[Entry]) -> bytes:
    """Thousands of entries take longer than the loop has time for."""
    views = [_view(entry) for entry in entries]
    return AllowlistEntries(entries=views, count=len(views)).model_dump_json(exclude_none=True).encode()


def _encoded_report(steps: Sequence[Step], *, dry_run: bool) -> bytes:
    rows = [
        ImportedRow(line=step.row.line or 0, mac=step.row.mac, effect=step.effect, reason=step.reason) for step in steps
    ]
    report = ImportReport(**_report(steps, dry_run=dry_run), dry_run=dry_run, rows=rows)
    return report.model_dump_json(exclude_none=True).encode()


def _report(steps: Sequence[Step], *, dry_run: bool) -> dict[str, Any]:
    effects = Counter(step.effect for step in steps)
    return {
        "added": effects[Effect.ADD],
        "updated": effects[Effect.UPDATE],
        "skipped": effects[Effect.SKIP],
        "message": _summary(steps, dry_run=dry_run),
        "errors": [
            RefusedRow(index=step.row.number, line=step.row.line, mac=step.row.mac, reason=step.reason or "")
            for step in steps
            if step.effect is Effect.ERROR
        ],
    }


def _summary(steps: Sequence[Step], *, dry_run: bool) -> str:
    effects = Counter(step.effect for step in steps)
    words = ("to add", "to update", "to skip") if dry_run else ("added", "updated", "skipped")
    counted = zip((Effect.ADD, Effect.UPDATE, Effect.SKIP, Effect.ERROR), (*words, "refused"), strict=True)
    return ", ".join(f"{effects[effect]} {word}" for effect, word in counted)
