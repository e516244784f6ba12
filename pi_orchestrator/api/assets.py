"""What stands at `/`: a dashboard's folder where one is configured and has a page, else the daemon's own console page.

Everything here is open in every mode of access, because none of it is secret; the guard for foreign host names
stands before it as before everything. Paths of the API never come here.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path

from aiohttp import web

from pi_orchestrator.api.dashboard_folder import Body, DashboardFolder, Found, make_body
from pi_orchestrator.api.envelope import SECURITY_HEADERS
from pi_orchestrator.api.paced import paced
from pi_orchestrator.api.web_files import (
    CONSOLE_POLICY,
    FOR_EVER,
    INDEX,
    REVALIDATE,
    accepted_encodings,
    dashboard_policy,
    is_hashed,
    navigates,
    parts_of,
)
from pi_orchestrator.clock import Clock
from pi_orchestrator.health import Health, State
from pi_orchestrator.logs import get_logger

NAME = "dashboard"
CONSOLE = Path(__file__).parent / "console"
METHODS = ("GET", "HEAD")
READERS = 2

log = get_logger(__name__)


class ConsolePage:
    """The files that come with the package: read once, compressed once."""

    def __init__(self, root: Path = CONSOLE) -> None:
        self._root = root
        self._files: Mapping[str, tuple[Body, Body | None]] | None = None

    def read(self, parts: tuple[str, ...], encodings: Sequence[str]) -> Found | None:
        """A file of the page; the first time it touches the file system."""
        if self._files is None:
            self._files = {
                file.relative_to(self._root).as_posix(): _with_compressed(file)
                for file in self._root.rglob("*")
                if file.is_file()
            }
        as_it_is, compressed = self._files.get("/".join(parts), (None, None))
        if as_it_is is None:
            return None
        if compressed is not None and "gzip" in encodings:
            return Found(parts, compressed, "gzip")
        return Found(parts, as_it_is)


def _with_compressed(file: Path) -> tuple[Body, Body | None]:
    data = file.read_bytes()
    compressed = gzip.compress(data, mtime=0)
    return make_body(file.name, data), make_body("", compressed) if len(compressed) < len(data) else None


class Assets:
    """Answers for every path that no route has."""

    def __init__(self, *, folder: Path | None, clock: Clock, health: Health) -> None:
        self._console = ConsolePage()
        self._dashboard = DashboardFolder(folder, clock=clock) if folder else None
        self._health = health
        self._turn = asyncio.Semaphore(READERS)
        if folder:
            health.add(NAME)

    async def look(self) -> None:
        """Find out whether there is a dashboard to serve, and report it."""
        if self._dashboard:
            self._report(await asyncio.to_thread(self._dashboard.trouble))

    async def serve(self, request: web.Request, *, correlation: str) -> web.StreamResponse:
        """A file, or the page itself where a person is on the way to one of its views; HTTPNotFound otherwise."""
        if request.method not in METHODS:
            raise web.HTTPMethodNotAllowed(request.method, METHODS)
        parts = parts_of(request.path)
        if parts is None:
            raise web.HTTPNotFound
        encodings = accepted_encodings(",".join(request.headers.getall("Accept-Encoding", ())))
        async with self._turn:
            found, policy, trouble = await asyncio.to_thread(self._find, parts, encodings)
            if self._dashboard:
                self._report(trouble)
            on_the_way = navigates(request.path, ",".join(request.headers.getall("Accept", ())))
            if found is None and on_the_way:
                found, policy, _ = await asyncio.to_thread(self._find, (INDEX,), encodings)
        if found is None:
            raise web.HTTPNotFound
        headers = {
            **SECURITY_HEADERS,
            "Content-Security-Policy": policy,
            "Cache-Control": FOR_EVER if found.settled and is_hashed(found.parts) else REVALIDATE,
            "ETag": found.body.etag,
            "Vary": "Accept-Encoding" if found.parts == parts else "Accept, Accept-Encoding",
            "Accept-Ranges": "none",
            "X-Request-Id": correlation,
        }
        if _is_known(request, found.body.etag):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = found.media_type
        if found.encoding:
            headers["Content-Encoding"] = found.encoding
        # In here: what is being sent counts as in use.
        return await paced(request, web.Response(body=found.body.data, headers=headers))

    def _find(self, parts: tuple[str, ...], encodings: Sequence[str]) -> tuple[Found | None, str, str]:
        """In a thread: what answers for a path, the policy that goes with it, and what is wrong with the dashboard."""
        trouble = self._dashboard.trouble() if self._dashboard else ""
        if self._dashboard is None or trouble:
            return self._console.read(parts, encodings), CONSOLE_POLICY, trouble
        found = self._dashboard.read(parts, encodings)
        return found, dashboard_policy(found.body.scripts if found else ()), ""

    def _report(self, trouble: str) -> None:
        """Say once that the dashboard is there, or that it is not and why."""
        state = State.DEGRADED if trouble else State.OK
        reason = f"{trouble}; the console page is served in its place" if trouble else ""
        known = self._health.get(NAME)
        if (known.state, known.reason) != (state, reason):
            self._health.set(NAME, state, reason)
            (log.warning if trouble else log.info)("no dashboard" if trouble else "dashboard served", reason=reason)


def _is_known(request: web.Request, etag: str) -> bool:
    return any(known.value in ("*", etag.strip('"')) for known in request.if_none_match or ())
