"""A real browser for pages: contexts that fail on any fault of the page, axe, and pictures for people.

    async with chromium.page(url, phone=True, dark=True) as page:
        await page.get_by_role("link", name="Cameras").click()

Whatever a page complains about ends its test: errors in its console, exceptions, requests that fail. What a test
provokes on purpose it names beforehand: `page.expect(r"401")`. Pictures are taken where $PIORCH_SHOTS names a folder.
"""

import asyncio
import contextlib
import os
import re
import shutil
import socket
from pathlib import Path

import axe_playwright_python
from playwright.async_api import async_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
WITHIN_MS = 10_000
AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
GRAVE = ("serious", "critical")


class Chromium:
    """One browser; each page has a context, and so cookies and storage, of its own."""

    def __init__(self, browser):
        self.browser = browser

    @contextlib.asynccontextmanager
    async def page(self, url, *, phone=False, dark=False, **options):
        """A page that has loaded; leaving the block without an error asserts that it had no fault either."""
        given = {
            "viewport": PHONE if phone else DESKTOP,
            "color_scheme": "dark" if dark else "light",
            "reduced_motion": "reduce",
            "has_touch": phone,
        }
        context = await self.browser.new_context(**given | options)
        context.set_default_timeout(WITHIN_MS)
        try:
            watched = Watched(await context.new_page())
            await watched.goto(url)
            yield watched
            await watched.evaluate("0")  # what was complained about until now has been told by then
            assert not watched.faults, "\n".join(watched.faults)
        finally:
            await context.close()


@contextlib.asynccontextmanager
async def opened():
    """Debian's Chromium for the length of the block."""
    program = shutil.which("chromium")
    assert program, "chromium is not installed: scripts/test installs it"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield Chromium(browser)
        await browser.close()


class Watched:
    """A page of Playwright's, all of whose methods it has, and what it complained about."""

    def __init__(self, page):
        self.page = page
        self.told = []
        self.faults = []
        self._expected = []
        page.on("console", lambda message: message.type in ("error", "warning") and self._note(message.text))
        page.on("pageerror", lambda error: self._note(f"exception: {error}"))
        page.on("requestfailed", self._failed)

    def __getattr__(self, name):
        return getattr(self.page, name)

    def expect(self, pattern):
        """From now on this is no fault."""
        self._expected.append(re.compile(pattern))

    def _failed(self, request):
        # A stream that the page closed and a picture that it has no use for any more are no faults.
        if request.failure != "net::ERR_ABORTED":
            self._note(f"{request.method} {request.url}: {request.failure}")

    def _note(self, text):
        self.told.append(text)
        if not any(pattern.search(text) for pattern in self._expected):
            self.faults.append(text)

    async def said(self, text, within=10):
        """Wait until this text can be seen; a pattern where it is one."""
        await self.page.get_by_text(text).locator("visible=true").first.wait_for(timeout=within * 1000)

    async def shoot(self, name):
        """A picture of the whole page, for people."""
        if folder := os.environ.get("PIORCH_SHOTS"):
            await self.page.screenshot(path=Path(folder, f"{name}.png"), full_page=True)

    async def axe(self):
        """What axe finds serious or worse, as lines."""
        if not await self.page.evaluate("'axe' in window"):
            await self.page.evaluate(await asyncio.to_thread(AXE.read_text))
        found = await self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['impact']}: {one['id']}: {one['help']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
            for one in found["violations"]
            if one["impact"] in GRAVE
            for node in one["nodes"]
        ]

    async def focus(self):
        """What has the focus: (tag, role or type, name as it is read out)."""
        return await self.page.evaluate(
            """() => {
                const at = document.activeElement;
                const name = at.getAttribute("aria-label") ?? (at.labels?.[0]?.textContent || at.textContent);
                return [at.tagName, name.trim().slice(0, 60)];
            }"""
        )

    async def focus_is_visible(self):
        """Whether a person can see where the focus is: an outline or a shadow, inside the window."""
        return await self.page.evaluate(
            """() => {
                const at = document.activeElement, style = getComputedStyle(at), box = at.getBoundingClientRect();
                const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
                const across = box.width > 0 && box.right > 0 && box.left < innerWidth;
                return across && box.bottom > 0 && box.top < innerHeight && (outlined || style.boxShadow !== "none");
            }"""
        )


@contextlib.asynccontextmanager
async def reached(namespace, port):
    """A port of this machine that leads to one inside a namespace; yields its URL."""

    async def pipe(reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connected(reader, writer):
        try:
            inside = await namespace.run(socket.create_connection, ("127.0.0.1", port))
        except OSError:
            writer.close()  # nobody listens in there
            return
        streams = await asyncio.open_connection(sock=inside)
        await asyncio.gather(pipe(reader, streams[1]), pipe(streams[0], writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
