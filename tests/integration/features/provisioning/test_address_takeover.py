"""A device takes over a camera's address while credentials are sent to the camera; the device never receives them."""

import contextlib
from dataclasses import dataclass

import pytest

from tests.support import lan
from tests.support.discovery import run_scan
from tests.support.impostor import CameraServer, Frames, Impostor
from tests.support.process import patched
from tests.support.provisioning import FAST, HOME, NO_AUTO_ONBOARDING, PASSWORD, Batch, allow, assert_secret_absent
from tests.support.waiting import eventually

SECTIONS = NO_AUTO_ONBOARDING | {
    "discovery": {"probe": False, "mdns": False, "interval_s": 60},
    "provisioning": {"request_timeout_s": 2},
}
BRIEF = FAST | {"provisioning_timeout_seconds": 4}


HOLDING = patched("""
import asyncio
from pathlib import Path
from pi_orchestrator.features.provisioning.session_device import SessionDeviceState
from pi_orchestrator.features.provisioning.steps import DeviceSteps
take = DeviceSteps.take
async def held_take(self, device, change, **options):
    if "before_save" in options and device.state is SessionDeviceState.PROVISIONING and Path("hold").exists():
        Path("held").touch()
        while Path("hold").exists():
            await asyncio.sleep(0.005)
    return await take(self, device, change, **options)
DeviceSteps.take = held_take
""")
"""A daemon that waits while the file `hold` exists: after the proof of identity, before it stores that it sends."""


@dataclass
class Scene:
    """A camera of a session, its server, an impostor, and the frames on the cable that contain the password."""

    site: object
    batch: Batch
    camera: object
    server: CameraServer
    impostor: Impostor
    wire: Frames

    async def provision(self):
        assert (await self.batch.post(f"devices/{self.camera.mac}/provision")).status == 202

    @contextlib.asynccontextmanager
    async def held(self):
        """Provision, and run the block between the proof of identity and the send."""
        hold, held = self.site.folder / "hold", self.site.folder / "held"
        hold.touch()
        await self.provision()
        await eventually(held.exists, what="the camera has proved its identity")
        yield
        hold.unlink()

    async def end(self):
        return await self.batch.wait_for_state(self.camera.mac, "failed", "verifying", "verified")


@contextlib.asynccontextmanager
async def scene(folder, *, closes=False):
    async with (
        lan.opened(folder, cameras=1) as site,
        site.daemon(**SECTIONS, launch_options={"command": HOLDING}) as daemon,
    ):
        (camera,) = site.cameras
        server = CameraServer(camera.mac, closes=closes)
        async with (
            server.running(site.camera_ns, camera.address),
            Impostor.opened(site, camera, secret=PASSWORD) as impostor,
        ):
            batch = Batch(site, daemon, site)
            await allow(daemon.admin, site.cameras)
            await site.announce(camera.mac, camera.address, ssid=HOME)
            await run_scan(daemon)
            await batch.start(config=BRIEF)
            await batch.wait_for_cameras(1)
            with Frames.on(site.camera_ns, lan.CABLE, PASSWORD) as wire:
                yield Scene(site, batch, camera, server, impostor, wire)
    assert_secret_absent(folder)


@pytest.mark.parametrize("closes", [False, True], ids=["kept", "closed"])
async def test_undisturbed_camera_gets_its_password(tmp_path, closes):
    async with scene(tmp_path, closes=closes) as found:
        await found.provision()
        assert (await found.end())["state"] == "verifying"
        assert [(number, method) for number, method, _ in found.server.requests] == [
            (1, "GET"),
            (2 if closes else 1, "POST"),
        ]
        assert found.impostor.stolen == []


@pytest.mark.parametrize("closes", [False, True], ids=["kept", "closed"])
async def test_takeover_after_status_gets_no_password(tmp_path, closes):
    async with scene(tmp_path, closes=closes) as found:
        async with found.held():
            await found.impostor.take_over()
        end = await found.end()
        assert found.impostor.stolen == []
        assert (end["state"], end["error_code"]) == ("failed", "MAC_MISMATCH"), end
        assert found.wire.found == []


@pytest.mark.parametrize("instant", ["before", "connected", "requested"])
async def test_earlier_takeover_gets_no_password(tmp_path, instant):
    async with scene(tmp_path) as found:
        if instant == "before":
            found.site.resolve(found.camera)
            await found.impostor.take_over()
        else:
            found.server.hooks[instant] = found.impostor.take_over
        await found.provision()
        end = await found.end()
        assert end["state"] == "failed", end
        assert found.impostor.stolen == []
        assert found.wire.found == []


async def test_takeover_and_return_before_send_is_seen(tmp_path):
    """The neighbour entry has the camera's MAC again when the body would be sent."""
    async with scene(tmp_path) as found:
        async with found.held():
            await found.impostor.take_over()
            await found.impostor.announce(found.camera.mac)
        end = await found.end()
        assert (end["state"], end["error_code"]) == ("failed", "MAC_MISMATCH"), end
        assert found.wire.found == []


async def test_unacknowledged_body_is_not_repeated(tmp_path):
    """The camera is jammed when the body is sent: the kernel would send the body again, to the other device."""
    async with scene(tmp_path) as found:
        async with found.held():
            found.site.switch_off(found.camera)
        await eventually(lambda: found.wire.to(found.camera.mac), what="the body is sent to the camera")
        await found.impostor.take_over()
        end = await found.end()
        assert (end["state"], end["error_code"]) == ("failed", "MAC_MISMATCH"), end
        assert "change the password" in end["error_message"]
        await eventually(lambda: connections(found) == [], what="the kernel has ended the connection")
        assert found.impostor.stolen == []


async def test_password_is_dropped_with_the_connection(tmp_path):
    """The camera never acknowledges: after the timeout, nothing is left for a device that takes over later."""
    async with scene(tmp_path) as found:
        async with found.held():
            found.site.switch_off(found.camera)
        assert (await found.end())["error_code"] == "DEVICE_TIMEOUT"
        assert connections(found) == []
        await found.impostor.take_over()
        assert found.impostor.stolen == []


def connections(found):
    """Lines of the Pi's TCP table for connections to the camera's address, without those in TIME_WAIT."""
    lines = found.site.pi.call(open_text, "/proc/thread-self/net/tcp").splitlines()[1:]
    address = bytes(reversed([int(part) for part in found.camera.address.split(".")])).hex().upper()
    return [line for line in lines if line.split()[2] == f"{address}:0050" and line.split()[3] != "06"]


def open_text(path):
    with open(path) as file:  # noqa: PTH123  # the file of the calling thread's network namespace
        return file.read()
