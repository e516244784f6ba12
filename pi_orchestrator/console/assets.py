"""`/`: the dashboard in the configured folder, else the daemon's console page. Public in every auth mode."""

from __future__ import annotations

import asyncio
import functools
import gzip
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from aiohttp import web

from pi_orchestrator.console.dashboard_folder import DashboardFolder, StaticFile, content_tag
from pi_orchestrator.console.static_files import (
    CONSOLE_POLICY,
    IMMUTABLE,
    INDEX,
    REVALIDATE,
    dashboard_policy,
    has_content_hash,
    is_navigation,
    media_type,
    path_parts,
)
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.health import Health, State
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.http.headers import REQUEST_ID, SECURITY_HEADERS
from pi_orchestrator.http.negotiation import accepted_encodings
from pi_orchestrator.http.pacing import PIECE_BYTES, send_pieces
from pi_orchestrator.http.request import REQUEST_ID_KEY

NAME = "dashboard"
PAGE = Path(__file__).parent / "page"
METHODS = ("GET", "HEAD")
MAX_FILE_THREADS = 2

log = get_logger(__name__)


class ConsolePage:
    """The files of the package's own page, read and compressed once."""

    def open(self, parts: tuple[str, ...], encodings: Sequence[str]) -> StaticFile | None:
        """Open a file of the page; None if not found. The first call blocks on the file system."""
        variants = self._files.get("/".join(parts))
        if variants is None:
            return None
        encoding = "gzip" if "gzip" in encodings and len(variants["gzip"]) < len(variants[""]) else ""
        data = variants[encoding]
        return StaticFile(parts, io.BytesIO(data), len(data), content_tag(data), encoding=encoding)

    @functools.cached_property
    def _files(self) -> Mapping[str, Mapping[str, bytes]]:
        contents = {file.relative_to(PAGE).as_posix(): file.read_bytes() for file in PAGE.rglob("*") if file.is_file()}
        return {name: {"": data, "gzip": gzip.compress(data, mtime=0)} for name, data in contents.items()}


class Assets:
    """Serves every path that has no route."""

    def __init__(self, *, folder: Path | None, clock: Clock, health: Health) -> None:
        self._console = ConsolePage()
        self._dashboard = DashboardFolder(folder, clock=clock) if folder else None
        self._health = health
        self._threads = asyncio.Semaphore(MAX_FILE_THREADS)
        if folder:
            health.add(NAME)

    async def check_dashboard(self) -> None:
        """Check once whether the dashboard is available, and report it as health."""
        if self._dashboard:
            self._report(await asyncio.to_thread(self._dashboard.unavailable_reason))

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Send a file, or index.html for a page navigation; HTTPNotFound if neither exists."""
        if request.method not in METHODS:
            raise web.HTTPMethodNotAllowed(request.method, METHODS)
        parts = path_parts(request.path)
        if parts is None:
            raise web.HTTPNotFound
        encodings = accepted_encodings(",".join(request.headers.getall("Accept-Encoding", ())))
        is_page = is_navigation(request.path, ",".join(request.headers.getall("Accept", ())))
        async with self._threads:
            file, policy, reason = await asyncio.to_thread(self._find, parts, encodings)
            if self._dashboard:
                self._report(reason)
            if file is None and is_page:
                file, policy, _ = await asyncio.to_thread(self._find, (INDEX,), encodings)
        if file is None:
            raise web.HTTPNotFound
        with file.content:
            headers = {
                **SECURITY_HEADERS,
                "Content-Security-Policy": policy,
                "Cache-Control": IMMUTABLE if file.is_settled and has_content_hash(file.parts) else REVALIDATE,
                "ETag": file.etag,
                "Vary": "Accept-Encoding" if file.parts == parts else "Accept, Accept-Encoding",
                "Accept-Ranges": "none",
                REQUEST_ID: request[REQUEST_ID_KEY],
            }
            if any(tag.value in ("*", file.etag.strip('"')) for tag in request.if_none_match or ()):
                return web.Response(status=304, headers=headers)
            response = web.StreamResponse(headers={**headers, "Content-Type": media_type(file.parts[-1])})
            if file.encoding:
                response.headers["Content-Encoding"] = file.encoding
            response.content_length = file.size
            # Not web.FileResponse: it has no time limit for a client that stops reading, keeps the connection open
            # after a file that shrank while it was sent, ignores an ETag in If-Range, and tags by time and size only.
            return await send_pieces(request, response, self._pieces(file.content))

    async def _pieces(self, content: io.FileIO | io.BytesIO) -> AsyncIterator[bytes]:
        while True:
            async with self._threads:
                piece = await asyncio.to_thread(content.read, PIECE_BYTES)
            if not piece:
                return
            yield piece

    def _find(self, parts: tuple[str, ...], encodings: Sequence[str]) -> tuple[StaticFile | None, str, str]:
        """Blocking: the file of a path, its Content-Security-Policy, and the reason if the dashboard is unavailable."""
        reason = self._dashboard.unavailable_reason() if self._dashboard else ""
        if self._dashboard is None or reason:
            return self._console.open(parts, encodings), CONSOLE_POLICY, reason
        file = self._dashboard.open(parts, encodings)
        return file, dashboard_policy(file.scripts if file else ()), ""

    def _report(self, reason: str) -> None:
        """Set the health of the dashboard, and log it if it changed."""
        state = State.DEGRADED if reason else State.OK
        reason = f"{reason}; the console page is served instead" if reason else ""
        previous = self._health.get(NAME)
        if (previous.state, previous.reason) != (state, reason):
            self._health.set(NAME, state, reason)
            (log.warning if reason else log.info)(
                "dashboard unavailable" if reason else "dashboard served", reason=reason
            )
