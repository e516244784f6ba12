"""The console page after a restart of the daemon, with many log lines, without an API key, and with hostile texts."""

import signal

import pytest

from pi_orchestrator.core.logging import get_logger
from tests.support import process
from tests.support.broker import free_port
from tests.support.page_actions import button, dialog, enter_key, link, show, wait_until_live
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

UNREACHABLE = r"ERR_(CONNECTION|EMPTY|INCOMPLETE|SOCKET|NETWORK)"
HOSTILE_HTML = "<img src=/hostile onerror=window.ran=1>"


async def test_page_after_restart_shows_changes(chromium, rig, tmp_path):
    sections = {"http": {"listen": [f"127.0.0.1:{free_port()}"]}, "auto_onboard": {"enabled": False}}
    async with (
        rig.fleet(3, interval=0.5) as fleet,
        process.daemon(rig, tmp_path, **sections) as first,
        chromium.page(first.api.url) as page,
    ):
        await wait_until_live(page)
        await show(page, "onboarding")
        await page.wait_for_text("Off")
        page.expect(UNREACHABLE)
        await first.kill()
        await page.wait_for_text("Connection lost")
        await page.locator(".pill", has_text="Offline").wait_for()
        assert await page.locator(".pill", has_text="Healthy").is_hidden(), "the health is unknown now"
        async with process.daemon(rig, tmp_path, **sections) as second:
            # Changes before the page reconnects are shown after it reconnects.
            await second.api.post("/api/v1/onboarding/auto/enable")
            rows = page.locator(".onboarding-events > li", has_text=str(fleet.cameras[0].mac))
            await rows.filter(has_text="Paired").wait_for(timeout=30_000)
            await wait_until_live(page)
            await page.wait_for_text("Development mode.")
            await link(page, "Cameras").click()
            await page.locator(".card", has_text="Online").nth(2).wait_for()
            # The page also reconnects after a clean stop.
            await second.stop(signal.SIGTERM)
            await page.locator(".pill", has_text="Offline").wait_for()
        async with process.daemon(rig, tmp_path, **sections):
            await wait_until_live(page)
            await page.locator(".card", has_text="Online").nth(2).wait_for(timeout=20_000)


async def test_log_is_followed_until_scrolled_up(chromium, rig):
    """On a phone, where every log line is wrapped to several rows."""
    log = get_logger("test")
    async with rig.daemon(connected=False) as running:
        for number in range(200):
            log.info("a line", number=number, words="so long that it takes three rows of a phone " * 2)
        async with chromium.page(running.daemon.url, phone=True) as page:
            await wait_until_live(page)
            await show(page, "logs")
            lines, new_lines_button = page.locator(".lines > li"), page.locator(".newest")

            async def is_scrolled_to(text):
                """Whether the last line, which has this text, is visible; waits until the line exists."""
                await lines.filter(has_text=text).wait_for()
                return await page.locator(".log").evaluate(
                    "(it) => it.scrollHeight - it.scrollTop - it.clientHeight < 40"
                )

            await eventually(lambda: is_scrolled_to("number=199"), what="the newest line is shown")
            log.info("one more", number=200)
            await eventually(lambda: is_scrolled_to("number=200"), what="the log is followed")
            assert await new_lines_button.is_hidden()
            await page.locator(".log").hover()
            await page.mouse.wheel(0, -2000)
            await new_lines_button.wait_for()
            log.info("and another", number=201)
            await page.get_by_role("button", name="1 new line below").click()
            await eventually(lambda: is_scrolled_to("number=201"), what="the button returns to the end")


async def test_page_with_required_auth_prompts_for_key(chromium, rig):
    async with (
        rig.daemon(auth={"mode": "required"}) as running,
        chromium.page(running.daemon.url, expect=["401"]) as page,
    ):
        await dialog(page).or_(button(page, "Enter a key")).first.wait_for()
        if not await dialog(page).is_visible():
            await button(page, "Enter a key").click()
        entry = dialog(page).get_by_label("Key", exact=False).first
        await entry.fill("wrong-key-wrong-key")
        await button(page, "Use key").click()
        await dialog(page).get_by_text("not valid").wait_for()
        await enter_key(page, running.admin.key)
        await wait_until_live(page)
        # Without the check box the key is in memory only, not in any storage.
        stored = await page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        assert running.admin.key not in stored
        await button(page, "Forget API key").click()
        await button(page, "Enter API key").click()
        await dialog(page).get_by_role("checkbox").check()
        await enter_key(page, running.admin.key)
        await page.reload()
        await wait_until_live(page)
        await button(page, "Forget API key").wait_for()
        assert running.admin.key in await page.evaluate("JSON.stringify({...sessionStorage})")


async def test_unreadable_status_is_shown(chromium, rig):
    """On the camera's card, above the list of devices, and in the policy check."""
    text = f"publishes on camera/status/{rig.mac(1)} what is no JSON: unescaped quote at byte 18"
    async with rig.daemon() as running, rig.camera(1) as camera, rig.broker.client() as client:
        await camera.publish_status(client=client)
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        await client.publish(f"camera/status/{camera.mac}", b'{"location":"the "blue" room"}', qos=1)
        await client.publish("camera/status/<b>", b"busy", qos=1)
        await eventually(lambda: len(running.app.devices.unreadable) == 2)
        async with chromium.page(running.daemon.url) as page:
            await wait_until_live(page)
            await show(page, "cameras")
            await page.locator(".card .note", has_text=f"It {text}").wait_for()
            await show(page, "discovery")
            topics = page.get_by_label("Status messages that cannot be read").get_by_role("listitem")
            await topics.filter(has_text=f"{camera.mac} {text}").wait_for()
            await topics.filter(
                has_text="An unknown device publishes on camera/status/<b> what cannot be read"
            ).wait_for()
            await page.save_screenshot("discovery-unreadable")
            await show(page, "onboarding")
            await page.get_by_label("MAC").fill(camera.mac)
            await button(page, "Check").click()
            await page.locator(".note", has_text=f"Status messages cannot be read: {text}.").wait_for()


async def test_hostile_text_is_never_markup(chromium, rig):
    """Names, networks, firmware, errors, labels and log lines contain a tag that would run a script."""
    async with rig.daemon() as running, rig.camera(1, firmware_version=HOSTILE_HTML) as camera:
        fields = {
            "ssid": HOSTILE_HTML[:32],  # the longest SSID
            "last_error": HOSTILE_HTML,
            "firmware_version": HOSTILE_HTML,
            "name": HOSTILE_HTML,
            "resolution": HOSTILE_HTML,
        }
        await camera.publish_status(rssi=-50, **fields)
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        await camera.publish_status(rssi=-50, **fields)
        renamed = await running.admin.call("PATCH", f"/api/v1/cameras/{camera.mac}", json={"name": HOSTILE_HTML})
        assert renamed.status in (200, 400), "stored or refused, as the limits of a name decide"
        container = {"label": HOSTILE_HTML, "description": HOSTILE_HTML}
        assert (await running.admin.post("/api/v1/containers", json=container)).status == 201
        key = {"name": HOSTILE_HTML[:40], "scope": "read"}
        created = await running.admin.post("/api/v1/keys", json=key)
        assert created.status in (201, 400), "stored or refused, as the limits of a name decide"
        async with chromium.page(running.daemon.url) as page:
            page.expect("404")
            await wait_until_live(page)
            shown = ""
            for view in ("cameras", f"cameras/{camera.mac}", "containers", "onboarding", "discovery", "logs", "system"):
                await show(page, view)
                if view == "logs":
                    get_logger("hostile").warning(HOSTILE_HTML, words=HOSTILE_HTML, more={HOSTILE_HTML: [HOSTILE_HTML]})
                    await page.locator(".lines > li", has_text="onerror").first.wait_for()
                shown += await page.locator("main").inner_text()
                assert await page.evaluate("window.ran") is None, view
                assert await page.locator("img[src='/hostile']").count() == 0, view
            assert shown.count("onerror=window.ran=1") >= 4, "several fields are shown as text"
