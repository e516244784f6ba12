"""The OpenAPI document."""

from __future__ import annotations

from typing import Any

from pi_orchestrator.edge_http.api_document import ApiDocument
from pi_orchestrator.http.route import Reply


async def document(api: ApiDocument) -> Reply[dict[str, Any]]:
    """The OpenAPI document of this daemon."""
    return Reply(encoded=api.encoded())
