"""Models that many routes share: for the pages of a list, and for a device in the path."""

from __future__ import annotations

from pydantic import Field

from pi_orchestrator.core.mac import MacField
from pi_orchestrator.http.model import ApiModel, RequestModel


class Paging(RequestModel):
    """Query parameters of a page."""

    limit: int = Field(50, ge=1, le=100, description="maximum number of rows")
    offset: int = Field(0, ge=0, le=2**31, description="number of rows to skip")


class Pagination(ApiModel):
    """The position of a page in the list."""

    total: int
    limit: int
    offset: int
    has_more: bool

    @classmethod
    def of(cls, paging: Paging, *, rows: int, total: int) -> Pagination:
        """The position of a page that has `rows` rows, of `total` rows in the list."""
        has_more = paging.offset + rows < total
        return cls(total=total, limit=paging.limit, offset=paging.offset, has_more=has_more)


class MacPath(RequestModel):
    """A device by its MAC."""

    mac: MacField
