"""The OpenAPI document of the edge's API."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pi_orchestrator import __version__
from pi_orchestrator.edge_http.auth import KeyAccess
from pi_orchestrator.edge_http.envelope import EnvelopeErrors
from pi_orchestrator.edge_http.route import Route
from pi_orchestrator.http import openapi
from pi_orchestrator.http.openapi import ApiInfo
from pi_orchestrator.http.route import Json


class ApiDocument:
    """The document, built from the route table on first request; `tags` are name → description."""

    def __init__(self, routes: Sequence[Route], tags: Mapping[str, str]) -> None:
        self._routes = routes
        self._tags = tags
        self._encoded: bytes | None = None

    def document(self) -> Json:
        """Build the document."""
        info = ApiInfo(
            title="Pi Orchestrator",
            version=__version__,
            summary="Edge daemon for ESP32 cameras behind a Raspberry Pi",
            license_id="MIT",
            tags=self._tags,
        )
        return openapi.document(self._routes, info=info, errors=EnvelopeErrors(), access=KeyAccess())

    def encoded(self) -> bytes:
        """The document as JSON; cached."""
        if self._encoded is None:
            self._encoded = json.dumps(self.document(), separators=(",", ":"), ensure_ascii=False).encode()
        return self._encoded
