"""Page tests in Chromium: contexts that fail on page errors, axe checks, and screenshots.

    async with chromium.page(url, phone=True, dark=True) as page:
        await page.get_by_role("link", name="Cameras").click()

Console errors and warnings, exceptions and failed requests fail the test. A test allows those that it provokes:
`page.expect(r"401")`. Screenshots are written to the folder in $PIORCH_SHOTS, if set.
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

from tests.support.waiting import HANG_S

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
FAILING_IMPACTS = ("serious", "critical")


# JavaScript: [tag, accessible name, whether the focus is visible] of the focused element.
FOCUS = """() => {
    const at = document.activeElement, style = getComputedStyle(at), box = at.getBoundingClientRect();
    const name = at.getAttribute("aria-label") ?? (at.labels?.[0]?.textContent || at.textContent);
    const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
    const horizontally = box.width > 0 && box.right > 0 && box.left < innerWidth;
    const inViewport = horizontally && box.bottom > 0 && box.top < innerHeight;
    return [at.tagName, name.trim().slice(0, 60), inViewport && (outlined || style.boxShadow !== "none")];
}"""


class Chromium:
    """One browser; each page has its own context, with its own cookies and storage."""

    def __init__(self, browser):
        self.browser = browser

    @contextlib.asynccontextmanager
    async def page(self, url, *, phone=False, dark=False, expect=(), **options):
        """A loaded page; at the end of the block, asserts that the page had no errors.

        `expect`: regular expressions of errors that are allowed from the start.
        """
        defaults = {
            "viewport": PHONE if phone else DESKTOP,
            "color_scheme": "dark" if dark else "light",
            "reduced_motion": "reduce",
            "has_touch": phone,
        }
        context = await self.browser.new_context(**defaults | options)
        context.set_default_timeout(WITHIN_MS)
        try:
            watched = Watched(await context.new_page(), expect)
            await watched.goto(url)
            yield watched
            await watched.evaluate("0")  # errors up to now have been delivered after this round trip
            assert not watched.faults, "\n".join(watched.faults)
        finally:
            await context.close()


@contextlib.asynccontextmanager
async def opened():
    """Run Debian's Chromium during the block."""
    program = shutil.which("chromium")
    assert program, "chromium is not installed: scripts/test installs it"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield Chromium(browser)
        await browser.close()


class Watched:
    """A Playwright page (all its methods are available) and its errors."""

    def __init__(self, page, expect):
        self.page = page
        self.messages = []
        self.faults = []
        self._expected = []
        for pattern in expect:
            self.expect(pattern)
        self._open_requests = set()
        page.on("request", self._request_started)
        page.on("requestfinished", self._request_ended)
        page.on("requestfailed", self._request_ended)
        page.on("console", lambda message: message.type in ("error", "warning") and self._note(message.text))
        page.on("pageerror", lambda error: self._note(f"exception: {error}"))
        page.on("requestfailed", self._request_failed)

    def __getattr__(self, name):
        return getattr(self.page, name)

    def expect(self, pattern):
        """Allow errors that match a regular expression from now on."""
        self._expected.append(re.compile(pattern))

    def _request_started(self, request):
        if request.resource_type != "eventsource":
            self._open_requests.add(request)

    def _request_ended(self, request):
        self._open_requests.discard(request)

    def _request_failed(self, request):
        # The page closes streams and cancels unneeded pictures; these are not errors.
        if request.failure != "net::ERR_ABORTED":
            self._note(f"{request.method} {request.url}: {request.failure}")

    def _note(self, text):
        self.messages.append(text)
        if not any(pattern.search(text) for pattern in self._expected):
            self.faults.append(text)

    async def wait_until_idle(self):
        """Wait until open requests and those that follow from them have finished and are drawn."""
        for _ in range(2):
            await self._wait_for_frames()
            pending, deadline = set(self._open_requests), time.monotonic() + WITHIN_MS / 1000
            while late := pending & self._open_requests:
                assert time.monotonic() < deadline, f"requests not finished: {[request.url for request in late]}"
                await self._wait_for_frames()

    async def _wait_for_frames(self):
        await self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    async def wait_for_text(self, text, within=HANG_S):
        """Wait until a text (or regular expression) is visible."""
        await self.page.get_by_text(text).locator("visible=true").first.wait_for(timeout=within * 1000)

    async def save_screenshot(self, name):
        """Write a screenshot of the whole page to $PIORCH_SHOTS, if set."""
        if folder := os.environ.get("PIORCH_SHOTS"):
            # Draw content below the viewport too.
            await self.page.evaluate(
                """() => {
                    const sheet = new CSSStyleSheet();
                    sheet.replaceSync("* { content-visibility: visible !important }");
                    document.adoptedStyleSheets = [sheet];
                }"""
            )
            await self.page.screenshot(path=Path(folder, f"{name}.png"), full_page=True)

    async def axe(self, *rules):
        """The axe violations with impact serious or critical, one line each; `rules`: ids to check (default: all)."""
        if not await self.page.evaluate("'axe' in window"):
            await self.page.evaluate(await asyncio.to_thread(AXE.read_text))
        options = {"resultTypes": ["violations"]} | ({"runOnly": list(rules)} if rules else {})
        found = await self.page.evaluate("(options) => axe.run(document, options)", options)
        return [
            f"{violation['impact']}: {violation['id']}: {violation['help']}: "
            f"{node['html'][:200]} {node.get('failureSummary', '')[:300]}"
            for violation in found["violations"]
            if violation["impact"] in FAILING_IMPACTS
            for node in violation["nodes"]
        ]

    async def focus(self):
        """The focused element: (tag, accessible name)."""
        return tuple((await self.page.evaluate(f"({FOCUS})()"))[:2])

    async def tab_order(self, limit=200):
        """Press Tab from the first link until the focus returns to it: [(tag, name, is focus visible), …]."""
        await self.page.evaluate(
            f"""() => {{
                window.walked = [];
                document.addEventListener("focusin", () => window.walked.push(({FOCUS})()));
                document.querySelector("a").focus();
            }}"""
        )
        for _ in range(limit // 10):
            for _ in range(10):
                await self.page.keyboard.press("Tab")
            if await self.page.evaluate("window.walked.slice(1).some((element) => element[1] === window.walked[0][1])"):
                break
        walked = [tuple(element) for element in await self.page.evaluate("window.walked")]
        repeats = [number for number, element in enumerate(walked) if number and element == walked[0]]
        return walked[: repeats[0]] if repeats else walked


@contextlib.asynccontextmanager
async def forwarded_port(namespace, port):
    """Forward a local port to a port inside a namespace; yields the local URL."""

    async def copy(reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def forward(reader, writer):
        try:
            inside = await namespace.run(socket.create_connection, ("127.0.0.1", port))
        except OSError:
            writer.close()  # no listener in the namespace
            return
        streams = await asyncio.open_connection(sock=inside)
        await asyncio.gather(copy(reader, streams[1]), copy(streams[0], writer))

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
