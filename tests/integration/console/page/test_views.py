"""Every view on phone and desktop, light and dark: axe, keyboard, nothing wider than the window."""

import contextlib
import re

import pytest
import pytest_asyncio

from tests.support import lan
from tests.support.api import case
from tests.support.browser import forwarded_port
from tests.support.page_actions import button, dialog, enter_key, show, wait_until_live
from tests.support.provisioning import FAST, Batch, allow
from tests.support.sampling import Scale, sampled
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

AUTO = "/api/v1/onboarding/auto"
VIEWS = ("cameras", "containers", "onboarding", "sessions", "discovery", "logs", "system", "nowhere")
FAULTS = ("wrong-password:1", "capture-error:1", "http-500:1")
SETTINGS = {"auto_onboard": {"enabled": False, "mode": "dev", "subnet_allowlist": ["10.77.0.0/24"], "burst_size": 50}}


async def populate(site, daemon):
    """Provisioned, onboarded and failed cameras, with pictures, names and containers."""
    admin = daemon.admin
    *healthy, wrong_password, capture_error, _ = site.cameras
    listed = [wrong_password, *healthy[:3]]
    batch = Batch(site, daemon, site)
    await allow(admin, listed)
    await batch.start(config=FAST | {"verification_timeout_seconds": 3})
    await batch.wait_for_cameras(len(site.cameras))
    await batch.post("provision-all", json={})
    for camera in listed:
        await batch.wait_for_state(camera.mac, "verified", "failed", within=60)
    await admin.post(f"{AUTO}/enable")

    async def are_registered():
        found = {camera["mac_address"] for camera in (await admin.get("/api/v1/espcam/paired")).data["cameras"]}
        return found >= {camera.mac for camera in (capture_error, *healthy[3:])}

    await eventually(are_registered, what="the cameras are registered")
    await admin.post("/api/v1/containers", json={"label": "Hall, north side", "description": "Above the loading gates"})
    for number, camera in enumerate(healthy):
        name = ("Gate", "Ramp", "A name that is as long as a camera's name may be at the most:")[number % 3]
        await admin.call("PATCH", f"/api/v1/cameras/{camera.mac}", json={"name": f"{name} {number + 1}"})
        await admin.post(f"/api/v1/cameras/{camera.mac}/capture")
    await admin.post(f"/api/v1/cameras/{capture_error.mac}/capture")
    await admin.post("/api/v1/espcam/scan")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def populated(tmp_path_factory):
    """(URL, key, a camera's MAC) of a daemon with data in every view; the tests do not change it."""
    async with (
        lan.opened(tmp_path_factory.mktemp("lan"), cameras=9) as site,
        site.fleet(interval=1, flags=[flag for fault in FAULTS for flag in ("--fault", fault)]),
        site.daemon(**SETTINGS) as daemon,
        forwarded_port(site.pi, lan.API_PORT) as url,
    ):
        await populate(site, daemon)
        yield url, daemon.admin.key, site.cameras[4].mac


@contextlib.asynccontextmanager
async def opened(chromium, populated, **options):
    """The page, with the key entered."""
    url, key, _ = populated
    async with chromium.page(url, **options) as page:
        page.expect(r"status of 404.*|image")  # of a camera without a picture
        await wait_until_live(page)
        await show(page, "sessions")
        await button(page, "Enter a key").click()
        await enter_key(page, key)
        yield page


async def overflowing(page):
    """Elements beyond the window's right edge, if the page is wider than the window."""
    return await page.evaluate(
        """() => [...document.querySelectorAll("body *")].filter((it) => {
            if (document.documentElement.scrollWidth <= innerWidth) return false;
            return it.getBoundingClientRect().right > innerWidth + 1;
        }).map((it) => it.outerHTML.slice(0, 120))"""
    )


VARIANTS = {
    "desktop-light": {"phone": False, "dark": False},
    "phone-light": {"phone": True, "dark": False},
    "desktop-dark": {"phone": False, "dark": True},
    "phone-dark": {"phone": True, "dark": True},
}


@pytest.mark.parametrize("variant", sampled(VARIANTS, 2, last=True))
async def test_view_is_accessible_and_fits_window(chromium, populated, variant):
    faults = []
    phone, dark = VARIANTS[variant]["phone"], VARIANTS[variant]["dark"]
    # Dark is another set of colours; names, roles and order are those of the light page.
    rules = ("color-contrast", "link-in-text-block") if dark and not Scale.slow else ()
    # On a phone, colours and names are the same, so check only views with another layout; but without --slow, the
    # phone is the only dark variant.
    checked_with_axe = ("cameras", "sessions", "menu") if phone and (Scale.slow or not dark) else None
    async with opened(chromium, populated, **VARIANTS[variant]) as page:

        async def check(name):
            await page.save_screenshot(f"{name}-{variant}")
            faults.extend(f"{name} is too wide: {element}" for element in (await overflowing(page))[:3])
            if checked_with_axe is None or name in checked_with_axe:
                faults.extend(f"{name}: {fault}" for fault in await page.axe(*rules))

        for view in (*VIEWS, f"cameras/{populated[2]}"):
            await show(page, view)
            assert not await page.locator(".newest").is_visible(), (
                "the log stays at its end until the operator scrolls up"
            )
            current = await page.locator("#nav [aria-current=page]").all_inner_texts()
            assert current == ([] if view == "nowhere" else [view.partition("/")[0].title()]), current
            await check(view.replace("/", "-").replace(":", ""))
        await show(page, "cameras")
        for name, opener in (("health", "Health of the daemon"), ("confirm", re.compile("^Reboot"))):
            await button(page, opener).first.click()
            await dialog(page).wait_for()
            await check(name)
            await page.keyboard.press("Escape")
            await dialog(page).wait_for(state="detached")
        if phone:
            await button(page, "More").click()
            await check("menu")
    assert not faults, "\n".join(faults)


FOCUSABLE = """() => [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")]
    .filter((it) => !it.disabled && it.checkVisibility({visibilityProperty: true}) && it.tabIndex >= 0).length"""


@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
async def test_view_usable_with_keyboard_only(chromium, populated, phone):
    async with opened(chromium, populated, phone=phone) as page:
        for view in ("onboarding", "sessions") if phone else (*VIEWS, f"cameras/{populated[2]}"):
            with case(view):
                await page.goto("about:blank")
                await page.goto(f"{populated[0]}/#/{view}")
                await wait_until_live(page)
                await show(page, view)
                focusable = await page.evaluate(FOCUSABLE)
                walked = await page.tab_order()
                assert len(walked) >= focusable, "every control is reached by the tab key"
                assert [stop for stop in walked if not stop[2]] == [], "the focus is visible on every control"


async def test_dialogue_keeps_and_restores_focus(chromium, populated):
    url, key, mac = populated
    async with chromium.page(url) as page:
        page.expect("status of 404")
        await wait_until_live(page)
        # The skip link moves the focus past the navigation.
        await page.keyboard.press("Tab")
        assert (await page.focus())[1] == "Skip to content"
        await page.keyboard.press("Enter")
        assert (await page.focus())[0] == "MAIN"

        async def opens(opener, key_to_press="Enter"):
            """Open with the keyboard: the dialogue keeps the focus and restores it when dismissed."""
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
        await opens(button(page, re.compile("^Assign a camera")).first)
        # Enter submits the form.
        await button(page, "Enter API key").focus()
        await page.keyboard.press("Enter")
        await page.keyboard.type(key)
        await page.keyboard.press("Enter")
        await dialog(page).wait_for(state="detached")
        await button(page, "Forget API key").wait_for()


async def test_phone_menu_works_with_keyboard(chromium, populated):
    async with chromium.page(populated[0], phone=True) as page:
        page.expect("status of 404")
        await wait_until_live(page)
        more = page.locator("#nav .more")
        await more.focus()
        await page.keyboard.press("Enter")
        assert await more.get_attribute("aria-expanded") == "true"
        await page.keyboard.press("Escape")
        assert await more.get_attribute("aria-expanded") == "false"
        await page.keyboard.press("Enter")
        await page.locator("#nav").get_by_role("link", name="System").focus()
        await page.keyboard.press("Enter")
        await page.wait_for_text("Configuration")
        assert await more.get_attribute("aria-expanded") == "false"
