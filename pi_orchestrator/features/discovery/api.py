"""Handlers for scans: start or join, show, cancel, list."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.clock import rfc3339
from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.features.discovery.model import Scan, ScanState
from pi_orchestrator.features.discovery.scan_service import ScanService
from pi_orchestrator.http.model import ApiModel, RequestModel, Time
from pi_orchestrator.http.paging import Pagination, Paging

_ID = re.compile(r"^[A-Za-z0-9-]{1,64}$", re.ASCII)


def _scan_id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise FieldError("not a scan id: 1 to 64 letters, digits and hyphens")
    return text


class ScanView(ApiModel):
    """A scan with its progress in percent, and numbers of devices.

    `found` answered during the scan; `new` are those of them that were unknown at the end of the previous scan. `moved`
    and `gone`: address changes, and devices that are no longer present, since the end of the previous scan.
    """

    id: str
    state: ScanState
    progress: int
    requested_by: str
    engine: str
    interface: str
    subnet: str
    started_at: Time
    duration_ms: int | None = None
    found: int
    new: int
    moved: int
    gone: int
    message: str | None = None


class ScanReply(ApiModel):
    """One scan."""

    scan: ScanView


class ScanList(ApiModel):
    """A page of ended scans, newest first, and the running one."""

    scans: list[ScanView]
    current: ScanView | None = None
    pagination: Pagination


class ScanPath(RequestModel):
    """A scan by its id."""

    id: Annotated[str, AfterValidator(_scan_id)] = Field(
        description="id returned by `POST /api/v1/espcam/scan`", json_schema_extra={"pattern": _ID.pattern}
    )


async def start(scans: ScanService, actor: Actor) -> ScanReply:
    """Scan the camera network now; a request during a scan joins it and returns the same id."""
    return ScanReply(scan=view(await scans.start(actor)))


async def show(scans: ScanService, path: ScanPath) -> ScanReply:
    """A running or ended scan."""
    return ScanReply(scan=view(await scans.get(path.id)))


async def cancel(scans: ScanService, path: ScanPath, actor: Actor) -> ScanReply:
    """Cancel a scan; devices already found remain in the list. No effect on an ended scan."""
    return ScanReply(scan=view(await scans.cancel(path.id, actor)))


async def history(scans: ScanService, query: Paging) -> ScanList:
    """Ended scans, newest first, and the running one."""
    current = scans.current
    page = await scans.history(limit=query.limit, offset=query.offset)
    return ScanList(
        scans=[view(scan) for scan in page.scans],
        current=view(current) if current else None,
        pagination=Pagination.of(query, rows=len(page.scans), total=page.total),
    )


def view(scan: Scan) -> ScanView:
    """The view of a scan."""
    return ScanView(
        id=scan.id,
        state=scan.state,
        progress=scan.progress,
        requested_by=scan.requested_by,
        engine=scan.engine,
        interface=scan.interface,
        subnet=scan.subnet,
        started_at=rfc3339(scan.started_at),
        duration_ms=scan.duration_ms,
        found=scan.found,
        new=scan.new,
        moved=scan.moved,
        gone=scan.gone,
        message=scan.message,
    )
