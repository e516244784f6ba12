"""A real browser: `EventSource` in Chromium, on a page of the daemon's own origin and on one of another."""

import contextlib
import json
import shutil

import pytest
from aiohttp import web
from playwright.async_api import async_playwright

from pi_orchestrator.api.app import build_app, served
from pi_orchestrator.api.routes import ROUTES
from pi_orchestrator.settings import Listen
from tests.support.browser import FLAGS
from tests.support.sse import BATCH, EVENTS, SESSION, say, store_session
from tests.support.waiting import eventually

REQUIRED = {"auth": {"mode": "required"}}
PAGE = """<!doctype html><title>streams</title><script>
    const seen = [], types = ["connection.established", "session.status", "device.discovered", "error",
        "network.status_changed", "scan.started"];
    let source;
    function open_(url, options) {
        // "error" is the name of one of our events, and of what a browser tells of a connection, which has no data.
        const told = (event) => seen.push(event.data === undefined
            ? ["failed", "", String(source.readyState)]
            : [event.type, event.lastEventId, event.data]);
        source = new EventSource(url, options);
        for (const type of types) source.addEventListener(type, told);
        source.onmessage = told;
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
    """The daemon's API, and beside it a page."""

    async def page(_request):
        return web.Response(text=PAGE, content_type="text/html")

    daemon = running.daemon
    app = build_app(routes=ROUTES, services=daemon.services, gate=daemon._gate, guard=daemon._guard)
    app.router.add_get("/page", page)
    async with served(app, [Listen("127.0.0.1", 0)]) as (where,):
        yield f"http://{where}"


class Tab:
    """A page that has an `EventSource`."""

    def __init__(self, page):
        self.page = page

    async def log_in(self, key):
        """A keyed request, as the dashboard makes it: the browser keeps the cookie."""
        script = "(key) => fetch('/api/v1/cameras', {headers: {'X-API-Key': key}}).then((answer) => answer.status)"
        assert await self.page.evaluate(script, key) == 200

    async def open(self, url, **options):
        await self.page.evaluate("([url, options]) => open_(url, options)", [url, options])

    async def seen(self):
        """What the page was told: (name of the listener, last id, decoded data)."""
        told = await self.page.evaluate("seen")
        return [(name, last_id, json.loads(data)) for name, last_id, data in told]

    async def has_seen(self, count):
        async def enough():
            told = await self.seen()
            return told if len(told) >= count else None

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


async def test_a_page_with_the_cookie_hears_every_event_by_name_and_as_a_message(world, browser):
    async with world.daemon(connected=False, **REQUIRED) as running, site(running) as origin:
        await store_session(running)
        async with tab(browser, origin) as page:
            await page.log_in(running.admin.key)
            await page.open(f"{BATCH}?session_id={SESSION}")
            greeting = await page.has_seen(2)
            payload = {"mac": "x", "note": "é\n\u2028"}
            types = ["session.status", "device.discovered", "error"]
            newest = await say(running, *types, session_id=SESSION, payload=payload)
            told = (await page.has_seen(8))[2:]
    both = [*greeting, *told]
    for (name, _, data), other in zip(both[::2], both[1::2], strict=True):
        assert name == data["type"]
        assert (other[0], other[2]) == ("message", data)
    assert greeting[0][2]["payload"]["message"] == "Connected to batch provisioning events"
    assert [data["type"] for _, _, data in told[::2]] == types
    assert [last_id for _, last_id, _ in told[::2]] == [str(newest - 2), str(newest - 1), str(newest)]
    assert [last_id for _, last_id, _ in told[1::2]] == [last_id for _, last_id, _ in told[::2]]
    assert all(data["payload"] == payload and data["session_id"] == SESSION for _, _, data in told)


async def test_a_browser_that_is_cut_off_comes_back_by_itself_and_has_missed_nothing(world, browser):
    """Even before it has got any event: it knows where it was from the beginning of the stream."""
    async with world.daemon(connected=False, **REQUIRED) as running, site(running) as origin:
        await say(running, "scan.started")
        async with tab(browser, origin) as page:
            await page.log_in(running.admin.key)
            await page.open(EVENTS)
            await page.has_seen(2)
            for turn in range(2):
                before = len(await page.seen())
                for client in running.services.streams._clients:
                    client.abort()
                newest = await say(running, "scan.started", "scan.started", session_id=SESSION)
                told = (await page.has_seen(before + 7))[before:]
                assert [name for name, _, _ in told] == [
                    "failed",
                    "connection.established",
                    "message",
                    "scan.started",
                    "message",
                    "scan.started",
                    "message",
                ], turn
                assert [last_id for _, last_id, _ in told[3:]] == [str(newest - 1)] * 2 + [str(newest)] * 2
                assert "snapshot" not in told[1][2]["payload"]


async def test_without_a_cookie_the_query_opens_a_stream_and_nothing_else_does(world, browser):
    async with (
        world.daemon(connected=False, **REQUIRED) as running,
        site(running) as origin,
        tab(browser, origin) as page,
    ):
        await page.open(BATCH)
        assert await page.has_seen(1) == [("failed", "", 2)], "refused, and not tried again"
        await page.open(f"{BATCH}?api_key={running.admin.key}")
        assert [name for name, _, _ in await page.has_seen(3)] == ["failed", "connection.established", "message"]
        assert await page.page.context.cookies() == []


@pytest.mark.parametrize("mode", ["required", "provisioning"])
async def test_a_page_of_another_origin_gets_nothing(world, browser, mode):
    async with (
        world.daemon(connected=False, auth={"mode": mode}) as running,
        site(running) as origin,
        site(running) as other,
    ):
        for elsewhere in (other, other.replace("127.0.0.1", "localhost")):
            async with tab(browser, origin) as own:
                await own.log_in(running.admin.key)
                page = await own.page.context.new_page()  # the same browser, so the cookie is there
                await page.goto(f"{elsewhere}/page")
                foreign = Tab(page)
                number, refused = 0, running.services.metrics.answered[401]
                for path in (BATCH, EVENTS):
                    for options in ({}, {"withCredentials": True}):
                        await foreign.open(origin + path, **options)
                        number += 1
                        assert await foreign.has_seen(number) == [("failed", "", 2)] * number
                        if mode == "required":
                            # Refused by us, and not only kept from the page by its browser.
                            assert running.services.metrics.answered[401] == refused + number
                await own.open(origin + EVENTS)
                await own.has_seen(2)
                await say(running, "network.status_changed")
                await own.has_seen(4)
                assert len(await foreign.seen()) == number
