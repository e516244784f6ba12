"""A camera that answers differently than first seen: the page shows what has changed, and confirms in a dialogue."""

import pytest

from tests.support.page_actions import button, dialog, enter_key, link
from tests.support.provisioning import FAST, HOME, scripted_cameras

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_changed_camera_is_shown_and_confirmed(rig, chromium):
    async with (
        scripted_cameras(rig, provisioning={"confirm_changed": True}) as setup,
        chromium.page(setup.admin.url) as page,
    ):
        (camera,) = setup.cameras
        await camera.publish_status(ssid=HOME)
        await setup.start()
        await setup.wait_for_cameras(1)
        assert (await setup.post("close")).status == 200
        await camera.publish_status(state="OFFLINE")
        await camera.publish_status(ssid=HOME, topic="camera/status/other", device_id="other")
        await setup.start(config=FAST | {"verification_timeout_seconds": 600})
        await link(page, "Sessions").click()
        await button(page, "Enter a key").click()
        await enter_key(page, setup.admin.key)
        row = page.locator(".candidates > li", has_text=camera.mac)
        await row.get_by_text("Changed since first seen: MQTT topic").wait_for()
        await page.save_screenshot("session-changed-camera")
        await button(row, f"Confirm {camera.mac}").click()
        await dialog(page).get_by_text("copied MAC").wait_for()
        await dialog(page).get_by_text("MQTT device id").wait_for()
        await dialog(page).get_by_role("button", name="Confirm and provision").click()
        await setup.wait_for_state(camera.mac, "verifying")
        await row.get_by_text("Changed since first seen").wait_for(state="hidden")
