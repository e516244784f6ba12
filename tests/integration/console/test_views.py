"""Every view on a phone and at a desk, by day and by night: axe, the keyboard, nothing wider than the window."""

import contextlib
import re

import pytest
import pytest_asyncio

from tests.support import lan
from tests.support.api import case
from tests.support.browser import reached
from tests.support.person import button, dialog, give_key, is_live, show
from tests.support.provisioning import FAST, Batch, allow
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

AUTO = "/api/v1/onboarding/auto"
VIEWS = ("cameras", "containers", "onboarding", "sessions", "discovery", "logs", "system", "nowhere")
FAULTS = ("wrong-password:1", "capture-error:1", "http-500:1")
SETTINGS = {"auto_onboard": {"enabled": False, "mode": "dev", "subnet_allowlist": ["10.77.0.0/24"], "burst_size": 50}}


async def live_in(site, daemon):
    """A day's work: some were provisioned, some onboarded, some failed; pictures, names and places."""
    admin = daemon.admin
    *well, wrong, mute, _ = site.cameras
    listed = [wrong, *well[:3]]
    batch = Batch(site, daemon, site)
    await allow(admin, listed)
    await batch.start(config=FAST | {"verification_timeout_seconds": 3})
    await batch.joined(len(site.cameras))
    await batch.post("provision-all", json={})
    for camera in listed:
        await batch.until(camera.mac, "verified", "failed")
    await admin.post(f"{AUTO}/enable")

    async def all_in():
        found = {one["mac_address"] for one in (await admin.get("/api/v1/espcam/paired")).data["cameras"]}
        return found >= {camera.mac for camera in (mute, *well[3:])}

    await eventually(all_in, what="they are registered")
    await admin.post("/api/v1/containers", json={"label": "Hall, north side", "description": "Above the loading gates"})
    for number, camera in enumerate(well):
        name = ("Gate", "Ramp", "A name that is as long as a camera's name may be at the most:")[number % 3]
        await admin.call("PATCH", f"/api/v1/cameras/{camera.mac}", json={"name": f"{name} {number + 1}"})
        await admin.post(f"/api/v1/cameras/{camera.mac}/capture")
    await admin.post(f"/api/v1/cameras/{mute.mac}/capture")
    await admin.post("/api/v1/espcam/scan")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def lived_in(tmp_path_factory):
    """(URL, key, a camera's MAC) of a daemon with something in every view; nothing in here changes it."""
    async with (
        lan.opened(tmp_path_factory.mktemp("lan"), cameras=9) as site,
        site.fleet(interval=1, flags=[word for fault in FAULTS for word in ("--fault", fault)]),
        site.daemon(**SETTINGS) as daemon,
        reached(site.pi, lan.API_PORT) as url,
    ):
        await live_in(site, daemon)
        yield url, daemon.admin.key, site.cameras[4].mac


@contextlib.asynccontextmanager
async def opened(chromium, lived_in, **how):
    """The page, with the key."""
    url, key, _ = lived_in
    async with chromium.page(url, **how) as page:
        page.expect(r"status of 404.*|image")  # a camera that never took a picture
        await is_live(page)
        await show(page, "sessions")
        await button(page, "Enter a key").click()
        await give_key(page, key)
        yield page


async def wider(page):
    """What stands out of the window to the right, where that makes the page wider than it."""
    return await page.evaluate(
        """() => [...document.querySelectorAll("body *")].filter((it) => {
            if (document.documentElement.scrollWidth <= innerWidth) return false;
            return it.getBoundingClientRect().right > innerWidth + 1;
        }).map((it) => it.outerHTML.slice(0, 120))"""
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
async def test_every_view_can_be_read_by_everybody(chromium, lived_in, phone, dark):
    faults = []
    how = f"{'phone' if phone else 'desktop'}-{'dark' if dark else 'light'}"
    async with opened(chromium, lived_in, phone=phone, dark=dark) as page:

        async def look(name):
            await page.shoot(f"{name}-{how}")
            faults.extend(f"{name} is too wide: {one}" for one in (await wider(page))[:3])
            # A phone's colours and names are the desk's: it is what stands elsewhere on it that is looked at.
            if not phone or name in ("cameras", "sessions", "menu"):
                faults.extend(f"{name}: {fault}" for fault in await page.axe())

        for view in (*VIEWS, f"cameras/{lived_in[2]}"):
            await show(page, view)
            assert not await page.locator(".newest").is_visible(), "the log is at its end until somebody scrolls up"
            current = await page.locator("#nav [aria-current=page]").all_inner_texts()
            assert current == ([] if view == "nowhere" else [view.partition("/")[0].title()]), current
            await look(view.replace("/", "-").replace(":", ""))
        await show(page, "cameras")
        for name, opener in (("health", "Health of the daemon"), ("confirm", re.compile("^Reboot"))):
            await button(page, opener).first.click()
            await dialog(page).wait_for()
            await look(name)
            await page.keyboard.press("Escape")
            await dialog(page).wait_for(state="detached")
        if phone:
            await button(page, "More").click()
            await look("menu")
    assert not faults, "\n".join(faults)


FOCUSABLE = """() => [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")]
    .filter((it) => !it.disabled && it.checkVisibility({visibilityProperty: true}) && it.tabIndex >= 0).length"""


@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
async def test_every_view_is_walked_through_with_the_keyboard_alone(chromium, lived_in, phone):
    async with opened(chromium, lived_in, phone=phone) as page:
        for view in ("onboarding", "sessions") if phone else (*VIEWS, f"cameras/{lived_in[2]}"):
            with case(view):
                await page.goto("about:blank")
                await page.goto(f"{lived_in[0]}/#/{view}")
                await is_live(page)
                await show(page, view)
                there = await page.evaluate(FOCUSABLE)
                walked = await page.walk()
                assert len(walked) >= there, "what can be clicked can be reached"
                assert [one for one in walked if not one[2]] == [], "and it can be seen where one is"


async def test_dialogues_take_the_focus_and_give_it_back(chromium, lived_in):
    url, key, mac = lived_in
    async with chromium.page(url) as page:
        page.expect("status of 404")
        await is_live(page)
        # Past the navigation, straight to the content.
        await page.keyboard.press("Tab")
        assert (await page.focus())[1] == "Skip to content"
        await page.keyboard.press("Enter")
        assert (await page.focus())[0] == "MAIN"

        async def opens(opener, key_to_press="Enter"):
            """With the keyboard: the dialogue has the focus, keeps it, and gives it back when it is dismissed."""
            await opener.focus()
            before = await page.focus()
            await page.keyboard.press(key_to_press)
            await dialog(page).wait_for()
            for _ in range(8):
                inside = await page.evaluate("document.activeElement.closest('dialog') !== null")
                assert inside or (await page.focus())[0] == "BODY"
                await page.keyboard.press("Tab")
            await page.keyboard.press("Escape")
            await dialog(page).wait_for(state="detached")
            assert await page.focus() == before

        await opens(button(page, re.compile("^Health of the daemon")))
        await opens(button(page, "Enter API key"), "Space")
        await opens(button(page, re.compile("^Reboot")).first)
        await opens(button(page, re.compile("^Rename")).first)
        await show(page, f"cameras/{mac}")
        for name in ("Replace", "Unpair"):
            await opens(button(page, name))
        await show(page, "containers")
        await opens(button(page, "New container"))
        await opens(button(page, re.compile("^Edit")).first)
        await opens(button(page, re.compile("^Delete")).first)
        await opens(button(page, re.compile("^Put a camera")).first)
        # A form that is sent with Enter alone.
        await button(page, "Enter API key").focus()
        await page.keyboard.press("Enter")
        await page.keyboard.type(key)
        await page.keyboard.press("Enter")
        await dialog(page).wait_for(state="detached")
        await button(page, "Forget API key").wait_for()


async def test_a_phone_s_menu_opens_and_closes_with_keys(chromium, lived_in):
    async with chromium.page(lived_in[0], phone=True) as page:
        page.expect("status of 404")
        await is_live(page)
        more = page.locator("#nav .more")
        await more.focus()
        await page.keyboard.press("Enter")
        assert await more.get_attribute("aria-expanded") == "true"
        await page.keyboard.press("Escape")
        assert await more.get_attribute("aria-expanded") == "false"
        await page.keyboard.press("Enter")
        await page.locator("#nav").get_by_role("link", name="System").focus()
        await page.keyboard.press("Enter")
        await page.said("Configuration")
        assert await more.get_attribute("aria-expanded") == "false"
