"""Discovery runs: start or join one, look at it, cancel it, and what came of earlier ones."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from pi_orchestrator.api.paging import Pagination, Paging
from pi_orchestrator.api.route import Time, Wire
from pi_orchestrator.api.services import Services
from pi_orchestrator.clock import rfc3339
from pi_orchestrator.domain.scan import Scan, ScanState
from pi_orchestrator.errors import FieldError
from pi_orchestrator.storage.actions import Actor

_ID = re.compile(r"^[A-Za-z0-9-]{1,64}$", re.ASCII)


def _scan_id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise FieldError("this is no scan's id: letters, digits and hyphens, at most 64")
    return text


class ScanView(Wire):
    """A run: `progress` 0 to 100; how many devices it found, and how many of them were new, moved or gone."""

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


class OneScan(Wire):
    """A run."""

    scan: ScanView


class ScanList(Wire):
    """A page of ended runs, newest first, and the one under way."""

    scans: list[ScanView]
    current: ScanView | None = None
    pagination: Pagination


class ScanPath(BaseModel):
    """A run by its id."""

    id: Annotated[str, AfterValidator(_scan_id)] = Field(
        description="what `POST /api/v1/espcam/scan` returned", json_schema_extra={"pattern": _ID.pattern}
    )


async def start(services: Services, actor: Actor) -> OneScan:
    """Scan the camera network now; a request while a run is under way joins it, and gets the same id."""
    return OneScan(scan=view(await services.discovery.start(actor)))


async def show(services: Services, path: ScanPath) -> OneScan:
    """A run of now or of the past."""
    return OneScan(scan=view(await services.discovery.get(path.id)))


async def cancel(services: Services, path: ScanPath, actor: Actor) -> OneScan:
    """End a run early; what it has found stays found. One that has ended is left as it is."""
    return OneScan(scan=view(await services.discovery.cancel(path.id, actor)))


async def history(services: Services, query: Paging) -> ScanList:
    """Ended runs, newest first."""
    current = services.discovery.current
    page = await services.discovery.history(limit=query.limit, offset=query.offset)
    return ScanList(
        scans=[view(scan) for scan in page.scans],
        current=view(current) if current else None,
        pagination=Pagination.of(query, rows=len(page.scans), total=page.total),
    )


def view(scan: Scan) -> ScanView:
    """A run as it is told."""
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
