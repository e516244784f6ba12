"""A real browser: `EventSource` in Chromium, on a page of the daemon's origin and on a foreign page."""

import contextlib
import json
import shutil

import pytest
from aiohttp import web
from playwright.async_api import async_playwright

from pi_orchestrator.app.build import ROUTES
from pi_orchestrator.http.server import build_app, served
from pi_orchestrator.settings import Listen
from tests.support.browser import FLAGS
from tests.support.sse import BATCH, EVENTS, SESSION, store_events, store_session
from tests.support.waiting import eventually

REQUIRED = {"auth": {"mode": "required"}}
PAGE = """<!doctype html><title>streams</title><script>
    const seen = [], types = ["connection.established", "session.status", "device.discovered", "error",
        "network.status_changed", "scan.started"];
    let source;
    function open_(url, options) {
        // "error" is an event of the daemon, and the browser's own event for a failed connection, which has no data.
        const record = (event) => seen.push(event.data === undefined
            ? ["failed", "", String(source.readyState)]
            : [event.type, event.lastEventId, event.data]);
        source = new EventSource(url, options);
        for (const type of types) source.addEventListener(type, record);
        source.onmessage = record;
    }
</script>"""


@pytest.fixture
async def browser():
    program = shutil.which("chromium")
    assert program, "chromium is not installed: scripts/test installs it"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        await browser.close()


@contextlib.asynccontextmanager
async def site(running):
    """The daemon's API, with a page on the same origin."""

    async def page(_request):
        return web.Response(text=PAGE, content_type="text/html")

    daemon = running.daemon
    app = build_app(daemon.app.api, routes=ROUTES, guard=daemon.app.base.guard, answered=daemon.app.base.answered)
    app.router.add_get("/page", page)
    async with served(app, [Listen("127.0.0.1", 0)]) as (address,):
        yield f"http://{address}"


class Tab:
    """A page with an `EventSource`."""

    def __init__(self, page):
        self.page = page

    async def log_in(self, key):
        """Send a request with a key, as the dashboard does: the browser stores the cookie."""
        script = "(key) => fetch('/api/v1/cameras', {headers: {'X-API-Key': key}}).then((answer) => answer.status)"
        assert await self.page.evaluate(script, key) == 200

    async def open(self, url, **options):
        await self.page.evaluate("([url, options]) => open_(url, options)", [url, options])

    async def seen(self):
        """Events that the page received: (name of the listener, last id, decoded data)."""
        received = await self.page.evaluate("seen")
        return [(name, last_id, json.loads(data)) for name, last_id, data in received]

    async def wait_for_events(self, count):
        """Wait until the page has received this many events; return them."""

        async def enough():
            received = await self.seen()
            return received if len(received) >= count else None

        return await eventually(enough, what=f"{count} events in the browser")


@contextlib.asynccontextmanager
async def tab(browser, origin):
    context = await browser.new_context()
    try:
        page = await context.new_page()
        await page.goto(f"{origin}/page")
        yield Tab(page)
    finally:
        await context.close()


async def test_page_with_cookie_receives_named_and_unnamed_frames(rig, browser):
    async with rig.daemon(connected=False, **REQUIRED) as running, site(running) as origin:
        await store_session(running)
        async with tab(browser, origin) as page:
            await page.log_in(running.admin.key)
            await page.open(f"{BATCH}?session_id={SESSION}")
            established = await page.wait_for_events(2)
            payload = {"mac": "x", "note": "é\n\u2028"}
            types = ["session.status", "device.discovered", "error"]
            newest = await store_events(running, *types, session_id=SESSION, payload=payload)
            received = (await page.wait_for_events(8))[2:]
    both = [*established, *received]
    for (name, _, data), other in zip(both[::2], both[1::2], strict=True):
        assert name == data["type"]
        assert (other[0], other[2]) == ("message", data)
    assert established[0][2]["payload"]["message"] == "Connected to batch provisioning events"
    assert [data["type"] for _, _, data in received[::2]] == types
    assert [last_id for _, last_id, _ in received[::2]] == [str(newest - 2), str(newest - 1), str(newest)]
    assert [last_id for _, last_id, _ in received[1::2]] == [last_id for _, last_id, _ in received[::2]]
    assert all(data["payload"] == payload and data["session_id"] == SESSION for _, _, data in received)


async def test_browser_reconnects_without_loss(rig, browser):
    """Even if the browser has received no event: the stream sends an id before its first event."""
    async with rig.daemon(connected=False, **REQUIRED) as running, site(running) as origin:
        await store_events(running, "scan.started")
        async with tab(browser, origin) as page:
            await page.log_in(running.admin.key)
            await page.open(EVENTS)
            await page.wait_for_events(2)
            for attempt in range(2):
                before = len(await page.seen())
                for client in running.app.events.streams.all_clients:
                    client.abort()
                newest = await store_events(running, "scan.started", "scan.started", session_id=SESSION)
                received = (await page.wait_for_events(before + 7))[before:]
                assert [name for name, _, _ in received] == [
                    "failed",
                    "connection.established",
                    "message",
                    "scan.started",
                    "message",
                    "scan.started",
                    "message",
                ], attempt
                assert [last_id for _, last_id, _ in received[3:]] == [str(newest - 1)] * 2 + [str(newest)] * 2
                assert "snapshot" not in received[1][2]["payload"]


async def test_stream_without_cookie_needs_query_key(rig, browser):
    async with (
        rig.daemon(connected=False, **REQUIRED) as running,
        site(running) as origin,
        tab(browser, origin) as page,
    ):
        await page.open(BATCH)
        assert await page.wait_for_events(1) == [("failed", "", 2)], "refused, without a retry"
        await page.open(f"{BATCH}?api_key={running.admin.key}")
        assert [name for name, _, _ in await page.wait_for_events(3)] == ["failed", "connection.established", "message"]
        assert await page.page.context.cookies() == []


@pytest.mark.parametrize("mode", ["required", "provisioning"])
async def test_foreign_page_receives_nothing(rig, browser, mode):
    async with (
        rig.daemon(connected=False, auth={"mode": mode}) as running,
        site(running) as origin,
        site(running) as other,
    ):
        for foreign_origin in (other, other.replace("127.0.0.1", "localhost")):
            async with tab(browser, origin) as own:
                await own.log_in(running.admin.key)
                page = await own.page.context.new_page()  # the same browser, so it has the cookie
                await page.goto(f"{foreign_origin}/page")
                foreign = Tab(page)
                number, refused = 0, running.app.base.answered[401]
                for path in (BATCH, EVENTS):
                    for options in ({}, {"withCredentials": True}):
                        await foreign.open(origin + path, **options)
                        number += 1
                        assert await foreign.wait_for_events(number) == [("failed", "", 2)] * number
                        if mode == "required":
                            # Refused by the daemon, not only hidden from the page by the browser.
                            assert running.app.base.answered[401] == refused + number
                await own.open(origin + EVENTS)
                await own.wait_for_events(2)
                await store_events(running, "network.status_changed")
                await own.wait_for_events(4)
                assert len(await foreign.seen()) == number
