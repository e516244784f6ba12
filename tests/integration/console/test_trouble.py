"""The page outlives its daemon, waits for the key that it needs, and makes markup of nobody's words."""

import signal

import pytest

from pi_orchestrator.logs import get_logger
from tests.support import process
from tests.support.broker import free_port
from tests.support.person import button, dialog, give_key, is_live, link, show
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

AWAY = r"ERR_(CONNECTION|EMPTY|INCOMPLETE|SOCKET|NETWORK)"
HOSTILE = "<img src=/hostile onerror=window.ran=1>"


async def test_the_page_outlives_the_daemon_and_shows_what_it_missed(chromium, world, tmp_path):
    sections = {"http": {"listen": [f"127.0.0.1:{free_port()}"]}, "auto_onboard": {"enabled": False}}
    async with (
        world.fleet(3, interval=0.5) as fleet,
        process.daemon(world, tmp_path, **sections) as first,
        chromium.page(first.api.url) as page,
    ):
        await is_live(page)
        await show(page, "onboarding")
        await page.said("Off")
        page.expect(AWAY)
        await first.kill()
        await page.said("Connection lost")
        await page.locator(".pill", has_text="Offline").wait_for()
        assert await page.locator(".pill", has_text="All well").is_hidden(), "nothing is known of it now"
        async with process.daemon(world, tmp_path, **sections) as second:
            # What happens before the page is back is shown once it is.
            await second.api.post("/api/v1/onboarding/auto/enable")
            rows = page.locator(".trail > li", has_text=str(fleet.cameras[0].mac))
            await rows.filter(has_text="Paired").wait_for(timeout=30_000)
            await is_live(page)
            await page.said("Development mode.")
            await link(page, "Cameras").click()
            await page.locator(".card", has_text="Online").nth(2).wait_for()
            # A stop in order is no other to the page: it goes on after that as well.
            await second.stop(signal.SIGTERM)
            await page.locator(".pill", has_text="Offline").wait_for()
        async with process.daemon(world, tmp_path, **sections):
            await is_live(page)
            await page.locator(".card", has_text="Online").nth(2).wait_for(timeout=20_000)


async def test_the_log_is_followed_until_somebody_goes_up_to_read(chromium, world):
    """On a phone, where every line takes several rows."""
    log = get_logger("test")
    async with world.daemon(connected=False) as running:
        for number in range(200):
            log.info("a line", number=number, words="so long that it takes three rows of a phone " * 2)
        async with chromium.page(running.daemon.url, phone=True) as page:
            await is_live(page)
            await show(page, "logs")
            lines, newest = page.locator(".lines > li"), page.locator(".newest")

            async def is_seen(text):
                await lines.filter(has_text=text).wait_for()
                return await page.locator(".log").evaluate(
                    "(it) => it.scrollHeight - it.scrollTop - it.clientHeight < 40"
                )

            await eventually(lambda: is_seen("number=199"), what="the end is seen")
            log.info("one more", number=200)
            await eventually(lambda: is_seen("number=200"), what="it is followed")
            assert await newest.is_hidden()
            await page.locator(".log").hover()
            await page.mouse.wheel(0, -2000)
            await newest.wait_for()
            log.info("and another", number=201)
            await page.get_by_role("button", name="1 new line below").click()
            await eventually(lambda: is_seen("number=201"), what="the way back")


async def test_where_a_key_is_needed_for_everything_the_page_asks_for_it(chromium, world):
    async with (
        world.daemon(auth={"mode": "required"}) as running,
        chromium.page(running.daemon.url, expect=["401"]) as page,
    ):
        await dialog(page).or_(button(page, "Enter a key")).first.wait_for()
        if not await dialog(page).is_visible():
            await button(page, "Enter a key").click()
        entry = dialog(page).get_by_label("Key", exact=False).first
        await entry.fill("wrong-key-wrong-key")
        await button(page, "Use key").click()
        await dialog(page).get_by_text("not valid").wait_for()
        await give_key(page, running.admin.key)
        await is_live(page)
        # Kept in memory alone: a reload asks again, unless it was ticked; nothing of it lies in any storage.
        kept = await page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        assert running.admin.key not in kept
        await button(page, "Forget API key").click()
        await button(page, "Enter API key").click()
        await dialog(page).get_by_role("checkbox").check()
        await give_key(page, running.admin.key)
        await page.reload()
        await is_live(page)
        await button(page, "Forget API key").wait_for()
        assert running.admin.key in await page.evaluate("JSON.stringify({...sessionStorage})")


async def test_nobody_s_words_become_markup(chromium, world):
    """Names, networks, firmware, errors, addresses, labels and log lines, each with a tag that would run a script."""
    async with world.daemon() as running, world.camera(1, firmware_version=HOSTILE) as camera:
        words = {
            "ssid": HOSTILE[:32],
            "last_error": HOSTILE,
            "firmware_version": HOSTILE,
            "name": HOSTILE,
            "resolution": HOSTILE,
        }
        await camera.say(rssi=-50, **words)
        await eventually(lambda: camera.mac in running.services.roster)
        await camera.say(rssi=-50, **words)
        renamed = await running.admin.call("PATCH", f"/api/v1/cameras/{camera.mac}", json={"name": HOSTILE})
        assert renamed.status in (200, 400)
        made = {"label": HOSTILE, "description": HOSTILE}
        assert (await running.admin.post("/api/v1/containers", json=made)).status == 201
        assert (await running.admin.post("/api/v1/keys", json={"name": HOSTILE[:40], "scope": "read"})).status in (
            201,
            400,
        )
        async with chromium.page(running.daemon.url) as page:
            page.expect("404")
            await is_live(page)
            seen = ""
            for view in ("cameras", f"cameras/{camera.mac}", "containers", "onboarding", "discovery", "logs", "system"):
                await show(page, view)
                if view == "logs":
                    get_logger("hostile").warning(HOSTILE, words=HOSTILE, more={HOSTILE: [HOSTILE]})
                    await page.locator(".lines > li", has_text="onerror").first.wait_for()
                seen += await page.locator("main").inner_text()
                assert await page.evaluate("window.ran") is None, view
                assert await page.locator("img[src='/hostile']").count() == 0, view
            assert seen.count("onerror=window.ran=1") >= 4, "it was shown, as text"
