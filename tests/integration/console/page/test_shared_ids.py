"""Two cameras with one device id, on the page: the card, the camera's page and the list of devices say so."""

import re

import pytest

from tests.support.page_actions import show, wait_until_live
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

TEXT = re.compile(r"Two cameras share the id esp32cam: flash different ids")


async def test_shared_id_is_on_card_and_in_lists(chromium, rig):
    async with rig.daemon() as running, rig.fleet(2, faults=["shared-id:2"], interval=0.5) as fleet:
        await eventually(lambda: all(camera.mac in running.app.cameras.cache for camera in fleet.cameras))
        await eventually(running.app.devices.registry.names.conflicts)
        async with chromium.page(running.daemon.url) as page:
            page.expect(r"status of 404.*|image")  # of a camera without a picture
            await wait_until_live(page)
            await show(page, "cameras")
            await page.locator(".card .note", has_text=TEXT).nth(1).wait_for()
            await show(page, f"cameras/{fleet.cameras[0].mac}")
            await page.locator(".note", has_text=TEXT).first.wait_for()
            await page.locator("p.small", has_text=TEXT).first.wait_for()
            await show(page, "discovery")
            await page.locator(".note", has_text=TEXT).nth(1).wait_for()
