"""A camera that answers differently than when it was first seen is marked, and waits for an operator if configured."""

import json

import pytest

from tests.support import process
from tests.support.provisioning import BASE, FAST, HOME, batch, scripted_cameras
from tests.support.rig import ScriptedCamera
from tests.support.terminal import on_terminal
from tests.support.waiting import eventually

WAITS = {"provisioning": {"confirm_changed": True}}
LONG = FAST | {"verification_timeout_seconds": 600}
CHANGED = "fingerprint_changes"
QUESTION = "Is it your camera? [y/N] "


@pytest.fixture
def posts(monkeypatch):
    """MACs of the cameras to which provisioning requests were sent, in order."""
    answer, received = ScriptedCamera.respond, []

    async def recording_answer(self, request):
        if request.method == "POST":
            received.append(self.mac)
        return await answer(self, request)

    monkeypatch.setattr(ScriptedCamera, "respond", recording_answer)
    return received


async def joined(setup, **fields):
    """Start a session, wait until the first camera joins it, and return the camera."""
    camera = setup.cameras[0]
    await camera.publish_status(ssid=HOME, **fields)
    await setup.start(config=LONG)
    await setup.wait_for_cameras(1)
    return camera


async def first_seen(rig, **fields):
    """Let a daemon see the first camera, which rejects its credentials, and stop."""
    async with scripted_cameras(rig) as setup:
        setup.cameras[0].body["accepted"] = False
        setup.cameras[0].headers = {"Server": "esp-idf/5.1", "X-Lens": "wide"}
        camera = await joined(setup, **fields)
        await setup.post(f"devices/{camera.mac}/provision")
        end = await setup.wait_for_state(camera.mac, "failed", "verifying")
        assert end["error_code"] == "DEVICE_REJECTED"
        assert CHANGED not in end
        assert (await setup.post("close")).status == 200


async def provision(setup, camera, *, verb="provision"):
    answer = await setup.post(f"devices/{camera.mac}/{verb}")
    assert answer.status == 202, answer.body
    return await setup.wait_for_state(camera.mac, "failed", "verifying")


async def confirm(setup, camera, changes_id=None):
    """Confirm the changes with this id, or those that are shown now."""
    shown = changes_id or (await setup.devices())[camera.mac].get("changes_id")
    return await setup.post(f"devices/{camera.mac}/confirm", json={"changes_id": shown})


async def test_changed_camera_waits_until_confirmed(rig, posts):
    await first_seen(rig)
    async with scripted_cameras(rig, **WAITS) as setup:
        setup.cameras[0].headers = {"Server": "nginx/1.25", "X-Lens": "wide"}
        camera = await joined(setup)
        for verb in ("provision", "retry"):
            end = await provision(setup, camera, verb=verb)
            assert (end["state"], end["error_code"]) == ("failed", "DEVICE_CHANGED")
            assert "HTTP server 'esp-idf', now 'nginx'" in end["error_message"]
            assert [(part["part"], part["first"], part["now"]) for part in end[CHANGED]] == [
                ("server", "esp-idf", "nginx")
            ]
        assert len(posts) == 1, "only the first daemon has sent the credentials"
        assert (await confirm(setup, camera)).status == 202
        after = await setup.wait_for_state(camera.mac, "failed", "verifying")
        assert after["state"] == "verifying"
        assert (len(posts), after["retry_count"]) == (2, 1)
        assert not after.keys() & {CHANGED, "changes_id"}
        repeat = await confirm(setup, camera, end["changes_id"])
        assert (repeat.status, repeat.data["state"]) == (202, "verifying")
        assert rig.rows("SELECT outcome FROM operator_actions WHERE action = 'device.confirm' ORDER BY id") == [
            ("ok",),
            ("was so already",),
        ]


async def test_confirmation_covers_only_what_was_seen(rig, posts):
    await first_seen(rig)
    async with scripted_cameras(rig, **WAITS) as setup:
        setup.cameras[0].headers = {"Server": "nginx", "X-Lens": "wide"}
        camera = await joined(setup)
        assert (await provision(setup, camera))["error_code"] == "DEVICE_CHANGED"
        camera.headers = {"Server": "nginx", "X-Powered-By": "PHP"}
        assert (await confirm(setup, camera)).status == 202
        end = await setup.wait_for_state(camera.mac, "failed", "verifying")
        assert end["error_code"] == "DEVICE_CHANGED"
        assert [part["text"] for part in end[CHANGED]] == ["HTTP headers +x-powered-by -x-lens"]
        assert len(posts) == 1


async def test_changes_that_were_not_shown_are_not_confirmed(rig, posts):
    await first_seen(rig)
    async with scripted_cameras(rig, **WAITS) as setup:
        setup.cameras[0].headers = {"Server": "nginx", "X-Lens": "wide"}
        camera = await joined(setup)
        shown = (await provision(setup, camera))["changes_id"]
        camera.headers = {"Server": "lighttpd", "X-Lens": "wide"}
        assert (await provision(setup, camera, verb="retry"))["changes_id"] != shown
        refused = await confirm(setup, camera, shown)
        assert (refused.status, refused.json["error"]["code"]) == (409, "DEVICE_INVALID_STATE")
        assert "HTTP server 'esp-idf', now 'lighttpd'" in refused.json["error"]["details"]
        assert (await setup.devices())[camera.mac]["state"] == "failed"
        assert (await setup.post(f"devices/{camera.mac}/confirm", json={})).status == 400
        assert len(posts) == 1


async def test_changed_camera_is_marked_and_provisioned_by_default(rig, posts):
    await first_seen(rig)
    async with scripted_cameras(rig) as setup:
        setup.cameras[0].headers = {"Server": "nginx", "X-Lens": "wide"}
        camera = await joined(setup)
        end = await provision(setup, camera)
        assert end["state"] == "verifying"
        assert [part["part"] for part in end[CHANGED]] == ["server"]
        assert len(posts) == 2


async def test_new_firmware_version_is_no_change(rig, posts):
    await first_seen(rig, firmware_version="2.4.1")
    async with scripted_cameras(rig, **WAITS) as setup:
        setup.cameras[0].headers = {"Server": "esp-idf/5.3", "X-Lens": "wide"}
        setup.cameras[0].body["firmware_version"] = "3.0.0"
        camera = await joined(setup, firmware_version="3.0.0")
        end = await provision(setup, camera)
        assert (end["state"], CHANGED in end) == ("verifying", False)


async def test_other_topic_is_marked_before_provisioning(rig, posts):
    await first_seen(rig)
    async with scripted_cameras(rig, **WAITS) as setup:
        camera = await joined(setup, topic="camera/status/evil-1", device_id="evil-1")

        async def marked():
            return (await setup.devices())[camera.mac].get(CHANGED)

        parts = {part["part"]: (part["first"], part["now"]) for part in await eventually(marked)}
        assert parts == {
            "topic": (f"camera/status/{camera.mac}", "camera/status/evil-1"),
            "device_id": (camera.device_id, "evil-1"),
        }
        assert (await setup.devices())[camera.mac]["state"] == "discovered"
        # Confirmed before it is provisioned.
        camera.headers = {"Server": "esp-idf", "X-Lens": "wide"}
        assert (await confirm(setup, camera)).status == 202
        assert (await setup.wait_for_state(camera.mac, "failed", "verifying"))["state"] == "verifying"
        assert len(posts) == 2


async def test_cloned_sandbox_camera_is_marked(rig):
    async with batch(rig, 1, faults=["cloned-mac"]) as setup:
        await setup.start()
        await setup.wait_for_cameras(1)
        await setup.post("provision-all", json={})
        (camera,) = setup.cameras
        await setup.wait_for_state(camera.mac, "verified")
        found = (await setup.devices())[camera.mac]
        assert {part["part"]: part["text"] for part in found[CHANGED]} == {
            "server": "HTTP server 'Python', now 'lighttpd'",
            "headers": "HTTP headers +x-powered-by",
        }


async def test_command_line_shows_and_confirms_change(rig, posts, tmp_path):
    await first_seen(rig)
    async with scripted_cameras(rig, **WAITS) as setup:
        setup.cameras[0].headers = {"Server": "nginx", "X-Lens": "wide"}
        camera = await joined(setup)
        await provision(setup, camera)
        tree = rig.tree(http={"listen": [setup.admin.url.removeprefix("http://")]})
        client = ("--config", process.write_toml(tmp_path / "client.toml", tree))
        shown = await process.command("sessions", "devices", *client)
        assert "changed since first seen: HTTP server 'esp-idf', now 'nginx'" in shown.out
        without_terminal = await process.command("sessions", "confirm", camera.mac, *client)
        assert (without_terminal.code, "--changes-id" in without_terminal.err) == (2, True)
        for_script = await on_terminal("sessions", "confirm", camera.mac, "--json", *client)
        assert (for_script.code, "--changes-id: required with --json" in for_script.out) == (2, True)
        refused = await on_terminal("sessions", "confirm", camera.mac, *client, question=QUESTION, answer="n\n")
        assert (refused.code, "is not confirmed" in refused.out) == (1, True)
        assert len(posts) == 1
        accepted = await on_terminal("sessions", "confirm", camera.mac, *client, question=QUESTION, answer="y\n")
        assert (accepted.code, "HTTP server 'esp-idf', now 'nginx'" in accepted.out) == (0, True)
        assert "queued" in accepted.out
        assert (await setup.wait_for_state(camera.mac, "verifying"))["state"] == "verifying"


async def test_script_confirms_by_id(rig, posts, tmp_path):
    await first_seen(rig)
    async with scripted_cameras(rig, **WAITS) as setup:
        setup.cameras[0].headers = {"Server": "nginx", "X-Lens": "wide"}
        camera = await joined(setup)
        await provision(setup, camera)
        tree = rig.tree(http={"listen": [setup.admin.url.removeprefix("http://")]})
        client = ("--config", process.write_toml(tmp_path / "client.toml", tree))
        listed = await process.command("sessions", "devices", "--json", *client)
        (device,) = json.loads(listed.out)
        ended = await process.command("sessions", "confirm", camera.mac, "--changes-id", device["changes_id"], *client)
        assert (ended.code, "queued" in ended.out) == (0, True)
        again = await on_terminal("sessions", "confirm", camera.mac, *client)
        assert (again.code, "has not changed" in again.out) == (1, True)


async def test_fingerprints_of_unlisted_cameras_are_deleted(rig):
    async with scripted_cameras(rig, 2) as setup:
        camera, unlisted = setup.cameras
        assert (await setup.admin.delete(f"{BASE}/allowlist/{unlisted.mac}")).status == 204
        await setup.fleet.publish_status()
        await setup.start(config=LONG)
        await setup.wait_for_cameras(2)
        assert len(rig.rows("SELECT mac FROM fingerprints")) == 2
        assert (await setup.post("close")).status == 200
        await rig.execute_in_thread("DELETE FROM session_devices")
        for rule in setup.running.app.provisioning.retention:
            await setup.running.app.resources.database.write(rule.by_number)
        assert rig.rows("SELECT mac FROM fingerprints") == [(camera.mac,)]
