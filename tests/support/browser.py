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
import time
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


FOCUS = """() => {
    const at = document.activeElement, style = getComputedStyle(at), box = at.getBoundingClientRect();
    const name = at.getAttribute("aria-label") ?? (at.labels?.[0]?.textContent || at.textContent);
    const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
    const across = box.width > 0 && box.right > 0 && box.left < innerWidth;
    const there = across && box.bottom > 0 && box.top < innerHeight;
    return [at.tagName, name.trim().slice(0, 60), there && (outlined || style.boxShadow !== "none")];
}"""


class Chromium:
    """One browser; each page has a context, and so cookies and storage, of its own."""

    def __init__(self, browser):
        self.browser = browser

    @contextlib.asynccontextmanager
    async def page(self, url, *, phone=False, dark=False, expect=(), **options):
        """A page that has loaded; leaving the block without an error asserts that it had no fault either.

        `expect` are the patterns of what it will complain about from the start.
        """
        given = {
            "viewport": PHONE if phone else DESKTOP,
            "color_scheme": "dark" if dark else "light",
            "reduced_motion": "reduce",
            "has_touch": phone,
        }
        context = await self.browser.new_context(**given | options)
        context.set_default_timeout(WITHIN_MS)
        try:
            watched = Watched(await context.new_page(), expect)
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

    def __init__(self, page, expect):
        self.page = page
        self.told = []
        self.faults = []
        self._expected = []
        for pattern in expect:
            self.expect(pattern)
        self._asked = set()
        page.on("request", self._begun)
        page.on("requestfinished", self._ended)
        page.on("requestfailed", self._ended)
        page.on("console", lambda message: message.type in ("error", "warning") and self._note(message.text))
        page.on("pageerror", lambda error: self._note(f"exception: {error}"))
        page.on("requestfailed", self._failed)

    def __getattr__(self, name):
        return getattr(self.page, name)

    def expect(self, pattern):
        """From now on this is no fault."""
        self._expected.append(re.compile(pattern))

    def _begun(self, request):
        if request.resource_type != "eventsource":
            self._asked.add(request)

    def _ended(self, request):
        self._asked.discard(request)

    def _failed(self, request):
        # A stream that the page closed and a picture that it has no use for any more are no faults.
        if request.failure != "net::ERR_ABORTED":
            self._note(f"{request.method} {request.url}: {request.failure}")

    def _note(self, text):
        self.told.append(text)
        if not any(pattern.search(text) for pattern in self._expected):
            self.faults.append(text)

    async def settled(self):
        """Wait until what is being asked for now has come, and what was asked for because of it, and is drawn."""
        for _ in range(2):
            await self._drawn()
            asked, until = set(self._asked), time.monotonic() + WITHIN_MS / 1000
            while late := asked & self._asked:
                assert time.monotonic() < until, f"not answered, or not read: {[one.url for one in late]}"
                await self._drawn()

    async def _drawn(self):
        await self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    async def said(self, text, within=10):
        """Wait until this text can be seen; a pattern where it is one."""
        await self.page.get_by_text(text).locator("visible=true").first.wait_for(timeout=within * 1000)

    async def shoot(self, name):
        """A picture of the whole page, for people."""
        if folder := os.environ.get("PIORCH_SHOTS"):
            # What is below the window is drawn too.
            await self.page.evaluate(
                """() => {
                    const sheet = new CSSStyleSheet();
                    sheet.replaceSync("* { content-visibility: visible !important }");
                    document.adoptedStyleSheets = [sheet];
                }"""
            )
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
        """What has the focus: (tag, name as it is read out)."""
        return tuple((await self.page.evaluate(f"({FOCUS})()"))[:2])

    async def walk(self, most=200):
        """From the first link, press Tab until the focus leaves the page: (tag, name, seen by a person) of each."""
        await self.page.evaluate(
            f"""() => {{
                window.walked = [];
                document.addEventListener("focusin", () => window.walked.push(({FOCUS})()));
                document.querySelector("a").focus();
            }}"""
        )
        for _ in range(most // 10):
            for _ in range(10):
                await self.page.keyboard.press("Tab")
            if await self.page.evaluate("window.walked.slice(1).some((one) => one[1] === window.walked[0][1])"):
                break
        walked = [tuple(one) for one in await self.page.evaluate("window.walked")]
        again = [number for number, one in enumerate(walked) if number and one == walked[0]]
        return walked[: again[0]] if again else walked


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
