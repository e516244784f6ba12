"""A complete operator workflow on the console page: cameras in a namespace, a real daemon, a real browser."""

import re

import pytest

from tests.support import lan
from tests.support.browser import forwarded_port
from tests.support.page_actions import button, dialog, link, show
from tests.support.provisioning import PASSWORD, SSID
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

ONBOARDING_OFF = {
    "auto_onboard": {"enabled": False, "mode": "dev", "subnet_allowlist": ["10.77.0.0/24"], "burst_size": 100}
}


async def scan(page):
    """Start a scan and wait until it is listed under past scans."""
    await link(page, "Discovery").click()
    await button(page, "Scan now").click()
    await page.wait_for_text(re.compile(r"done: \d+ devices found"), within=20)
    await page.locator("table", has_text="ms").get_by_text("done").first.wait_for()


async def enter_wrong_then_right_key(page, key):
    """Enter a wrong key, then the right one; the session form is shown."""
    page.expect(r"401")
    await link(page, "Sessions").click()
    await button(page, "Enter a key").click()
    entry = dialog(page).get_by_label("Key", exact=False).first
    await entry.fill("wrong-key-wrong-key")
    await button(page, "Use key").click()
    await dialog(page).get_by_text("not valid").wait_for()
    await entry.fill(key)
    await button(page, "Use key").click()
    await dialog(page).wait_for(state="detached")
    await page.wait_for_text("New session")


async def run_session(page, cameras):
    """Add three of five cameras to the allowlist and provision them until they are verified."""
    await page.get_by_label("Network name").fill(SSID)
    await page.get_by_label("Password", exact=False).first.fill(PASSWORD)
    await button(page, "Start the session").click()
    await page.locator(".candidates > li").nth(len(cameras) - 1).wait_for(timeout=20_000)
    await button(page, re.compile(r"Add \d+ to the allowlist")).click()
    await dialog(page).get_by_role("textbox").fill("\n".join(camera.mac for camera in cameras[:3]))
    await dialog(page).get_by_role("button", name="Add").click()
    await dialog(page).wait_for(state="detached")
    await button(page, "Provision all").click()
    await page.wait_for_text("3 of 5 cameras", within=30)
    await page.save_screenshot("flow-session-verified")
    await button(page, re.compile("^Close")).click()
    await dialog(page).get_by_role("button", name="Close the session").click()
    await page.wait_for_text(re.compile(r"3 of 5 cameras verified.*2 not provisioned"))
    assert PASSWORD not in await page.content()


async def switch_onboarding(page, api):
    """Switch auto-onboarding on after a confirmation, see the onboarding events grow, use the kill switch."""
    await link(page, "Onboarding").click()
    await button(page, "Switch on").click()
    await dialog(page).get_by_text("without confirmation").wait_for()
    await dialog(page).get_by_role("button", name="Switch on").click()
    await page.locator(".onboarding-events > li", has_text="Paired").nth(1).wait_for(timeout=20_000)
    await page.wait_for_text("Development mode.")
    await button(page, "Stop onboarding now").click()
    await button(page, "Switch on").wait_for()
    assert (await api.get("/api/v1/onboarding/auto/status")).data["enabled"] is False
    await page.locator(".banner").wait_for(state="detached")


async def assign_position(page, camera):
    """A camera from a session has no container; assign it to position 3 of a new container."""
    await link(page, "Containers").click()
    await page.wait_for_text("3 registered cameras have no container")
    await button(page, "New container").click()
    await dialog(page).get_by_label("Label").fill("Hall")
    await page.keyboard.press("Enter")
    container = page.locator(".box", has_text="Hall")
    await container.get_by_role("button", name="Assign a camera to position 3").click()
    await dialog(page).get_by_role("combobox").select_option(camera.mac)
    await dialog(page).get_by_role("button", name="Assign").click()
    await container.locator(".place").nth(2).get_by_text("Online").wait_for()
    await page.wait_for_text("2 registered cameras have no container")


async def capture(page):
    """Take a picture; the list and the container show it."""
    await link(page, "Cameras").click()
    card = page.locator(".card", has_text="Hall · position 3")
    await card.get_by_role("button", name=re.compile("^Capture")).click()
    for shown in (card, page.locator(".box", has_text="Hall")):
        image = shown.locator("img").first

        async def is_drawn(image=image):
            return await image.evaluate("(image) => image.complete && image.naturalWidth > 0")

        await eventually(is_drawn, what="the picture is drawn")
        await link(page, "Containers").click()


async def pair_again(page, camera):
    """Unpair a camera and pair it manually on its own page."""
    await show(page, f"cameras/{camera.mac}")
    await button(page, "Unpair").click()
    await dialog(page).get_by_role("button", name="Unpair").click()
    await dialog(page).wait_for(state="detached")
    await show(page, f"cameras/{camera.mac}")
    assert not await button(page, "Unpair").is_visible()
    await page.get_by_role("button", name="Pair", exact=True).click()
    await dialog(page).get_by_label("Container").select_option(label="Hall, 0 of 4")
    await dialog(page).get_by_label("Position").select_option("2")
    await dialog(page).get_by_role("button", name="Pair").click()
    await dialog(page).wait_for(state="detached")
    await page.wait_for_text("Hall · position 2")
    await button(page, "Unpair").wait_for()


async def follow_logs(page, api):
    """Open the log and wait until it shows a line about onboarding that is written now."""
    await link(page, "Logs").click()
    rows = page.locator(".lines > li")
    await rows.first.wait_for()
    # These calls write log lines immediately.
    await api.post("/api/v1/keys", json={"name": "for the log", "scope": "read"})
    await api.post("/api/v1/onboarding/auto/enable")
    await rows.filter(has_text="onboarding").last.wait_for()


async def test_page_operator_workflow(chromium, tmp_path):
    async with (
        lan.opened(tmp_path, cameras=5) as site,
        site.fleet(interval=1),
        site.daemon(**ONBOARDING_OFF) as daemon,
        forwarded_port(site.pi, lan.API_PORT) as url,
        chromium.page(url) as page,
    ):
        await page.wait_for_text("Live")
        await scan(page)
        await enter_wrong_then_right_key(page, daemon.admin.key)
        await run_session(page, site.cameras)
        await switch_onboarding(page, daemon.api)
        await assign_position(page, site.cameras[0])
        await capture(page)
        await pair_again(page, site.cameras[0])
        await follow_logs(page, daemon.admin)
