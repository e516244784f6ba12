"""Operator actions on the console page; a page is a `browser.Watched`."""

import re

from tests.support.waiting import HANG_S


def link(page, name):
    """The navigation link of a view."""
    return page.locator("#nav").get_by_role("link", name=name)


def button(page, name):
    return page.get_by_role("button", name=name)


def dialog(page):
    return page.get_by_role("dialog")


async def show(page, view):
    """Open a view by its URL fragment, and wait until it is loaded."""
    await page.evaluate("(hash) => { location.hash = hash; }", f"#/{view}")
    await page.locator("main .skeleton").first.wait_for(state="detached")
    await page.wait_until_idle()


async def enter_key(page, key):
    """Enter an API key in the open key dialog."""
    await dialog(page).get_by_label("Key", exact=False).first.fill(key)
    await button(page, "Use key").click()
    await dialog(page).wait_for(state="detached")


async def wait_until_live(page):
    """Wait until the page shows that its event stream is connected."""
    await page.locator(".pill", has_text=re.compile("^Live$")).wait_for(timeout=1000 * HANG_S)
