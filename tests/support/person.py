"""What a person does with the console page, in their words; a page is a `browser.Watched`."""

import re


def link(page, name):
    """A view's entry in the navigation."""
    return page.locator("#nav").get_by_role("link", name=name)


def button(page, name):
    return page.get_by_role("button", name=name)


def dialog(page):
    return page.get_by_role("dialog")


async def show(page, view):
    """Go to a view by its address, and wait until nothing in it is on its way any more."""
    await page.evaluate("(hash) => { location.hash = hash; }", f"#/{view}")
    await page.locator("main .skeleton").first.wait_for(state="detached")
    await page.settled()


async def give_key(page, key):
    """Through the dialogue, wherever it was opened from."""
    await dialog(page).get_by_label("Key", exact=False).first.fill(key)
    await button(page, "Use key").click()
    await dialog(page).wait_for(state="detached")


async def is_live(page):
    await page.locator(".pill", has_text=re.compile("^Live$")).wait_for(timeout=20_000)
