"""The console page through a day: cameras in a namespace, a real daemon, and a person at a browser."""

import re

import pytest

from tests.support import lan
from tests.support.browser import reached
from tests.support.person import show
from tests.support.provisioning import PASSWORD, SSID
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

OFF = {"auto_onboard": {"enabled": False, "mode": "dev", "subnet_allowlist": ["10.77.0.0/24"], "burst_size": 100}}
AWAY = r"ERR_(CONNECTION|EMPTY|INCOMPLETE|SOCKET|NETWORK)|Failed to load resource"


def link(page, name):
    return page.locator("#nav").get_by_role("link", name=name)


def button(page, name):
    return page.get_by_role("button", name=name)


def dialog(page):
    return page.get_by_role("dialog")


async def scan(page):
    """From the button to the line among past scans."""
    await link(page, "Discovery").click()
    await button(page, "Scan now").click()
    await page.said(re.compile(r"done: \d+ devices found"), within=20)
    await page.locator("table", has_text="ms").get_by_text("done").first.wait_for()


async def give_key(page, key):
    """A wrong key is told to be wrong and may be corrected; the right one opens what needed it."""
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
    await page.said("New session")


async def session(page, cameras):
    """Three of five are put on the allowlist and taken from start to all verified."""
    await page.get_by_label("Network name").fill(SSID)
    await page.get_by_label("Password", exact=False).first.fill(PASSWORD)
    await button(page, "Start the session").click()
    await page.locator(".candidates > li").nth(len(cameras) - 1).wait_for(timeout=20_000)
    await button(page, re.compile(r"Add \d+ to the allowlist")).click()
    await dialog(page).get_by_role("textbox").fill("\n".join(camera.mac for camera in cameras[:3]))
    await dialog(page).get_by_role("button", name="Add").click()
    await dialog(page).wait_for(state="detached")
    await button(page, "Provision all").click()
    await page.said("3 of 5 cameras", within=30)
    await page.shoot("flow-session-verified")
    await button(page, re.compile("^Close")).click()
    await dialog(page).get_by_role("button", name="Close the session").click()
    await page.said(re.compile(r"3 of 5 cameras verified.*2 left out"))
    assert PASSWORD not in await page.content()


async def onboarding(page, api):
    """Switched on after its consequences were told; the trail grows; the kill switch stops it."""
    await link(page, "Onboarding").click()
    await button(page, "Switch on").click()
    await dialog(page).get_by_text("without anybody's consent").wait_for()
    await dialog(page).get_by_role("button", name="Switch on").click()
    await page.locator(".trail > li", has_text="Paired").nth(1).wait_for(timeout=20_000)
    await page.said("Development mode.")
    await button(page, "Stop onboarding now").click()
    await button(page, "Switch on").wait_for()
    assert (await api.get("/api/v1/onboarding/auto/status")).data["enabled"] is False
    await page.locator(".banner").wait_for(state="detached")


async def place(page, camera):
    """A camera that came by a session stands nowhere; it is put on the third place of a new container."""
    await link(page, "Containers").click()
    await page.said("3 registered cameras stand in no container")
    await button(page, "New container").click()
    await dialog(page).get_by_label("Label").fill("Hall")
    await page.keyboard.press("Enter")
    box = page.locator(".box", has_text="Hall")
    await box.get_by_role("button", name="Put a camera on position 3").click()
    await dialog(page).get_by_role("combobox").select_option(camera.mac)
    await dialog(page).get_by_role("button", name="Put it here").click()
    await box.locator(".place").nth(2).get_by_text("Online").wait_for()
    await page.said("2 registered cameras stand in no container")


async def capture(page):
    """A picture, taken for whoever looks at the list; it is seen in the container too."""
    await link(page, "Cameras").click()
    card = page.locator(".card", has_text="Hall · position 3")
    await card.get_by_role("button", name=re.compile("^Capture")).click()
    for shown in (card, page.locator(".box", has_text="Hall")):
        image = shown.locator("img").first

        async def drawn(image=image):
            return await image.evaluate("(image) => image.complete && image.naturalWidth > 0")

        await eventually(drawn, within=20, what="the picture is drawn")
        await link(page, "Containers").click()


async def pair_again(page, camera):
    """Who was unpaired is not let in by itself; its own page is where it is paired by hand."""
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
    await page.said("Hall · position 2")
    await button(page, "Unpair").wait_for()


async def logs(page, api):
    await link(page, "Logs").click()
    rows = page.locator(".lines > li")
    await rows.first.wait_for()
    # A level below the daemon's own would show nothing new; what is done now is written at once.
    await api.post("/api/v1/keys", json={"name": "for the log", "scope": "read"})
    await api.post("/api/v1/onboarding/auto/enable")
    await rows.filter(has_text="onboarding").last.wait_for()


async def test_a_day_with_the_page(chromium, tmp_path):
    async with (
        lan.opened(tmp_path, cameras=5) as site,
        site.fleet(interval=1),
        site.daemon(**OFF) as daemon,
        reached(site.pi, lan.API_PORT) as url,
        chromium.page(url) as page,
    ):
        await page.said("Live")
        await scan(page)
        await give_key(page, daemon.admin.key)
        await session(page, site.cameras)
        await onboarding(page, daemon.api)
        await place(page, site.cameras[0])
        await capture(page)
        await pair_again(page, site.cameras[0])
        await logs(page, daemon.admin)
