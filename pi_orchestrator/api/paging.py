"""Lists in pages: how one is asked for, and where it stands in the whole."""

from __future__ import annotations

from pydantic import BaseModel, Field

from pi_orchestrator.api.route import Wire
from pi_orchestrator.domain.mac import MacField


class Paging(BaseModel):
    """Which page."""

    limit: int = Field(50, ge=1, le=100, description="rows at most")
    offset: int = Field(0, ge=0, le=2**31, description="rows to pass over")


class Pagination(Wire):
    """Where a page stands in the whole."""

    total: int
    limit: int
    offset: int
    has_more: bool

    @classmethod
    def of(cls, asked: Paging, *, rows: int, total: int) -> Pagination:
        """The place of a page of so many rows."""
        more = asked.offset + rows < total
        return cls(total=total, limit=asked.limit, offset=asked.offset, has_more=more)


class MacPath(BaseModel):
    """A device by its MAC."""

    mac: MacField
