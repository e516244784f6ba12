"""Provisioning sessions with simulated or scripted cameras."""

import base64
import contextlib
import json
import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote

from pi_orchestrator.features.provisioning import feature
from pi_orchestrator.features.provisioning.circuits import Circuits
from tests.support.waiting import HANG_S, eventually

BASE = "/api/v1/provisioning"
HOME, SSID = "DeliCasa-AP", "Target-Net"
PASSWORD = "correct horse battery"
NO_AUTO_ONBOARDING = {"auto_onboard": {"enabled": False, "mode": "off"}}
"""Settings without auto-onboarding: cameras are onboarded by sessions only."""
FAST = {"discovery_timeout_seconds": 30, "provisioning_timeout_seconds": 20, "verification_timeout_seconds": 10}


def set_breaker(monkeypatch, **numbers):
    """Set the circuit breaker parameters (`failures`, `reset_s`) of daemons started after this call."""
    monkeypatch.setattr(feature, "Circuits", partial(Circuits, **numbers))


@dataclass
class Batch:
    """A daemon, its cameras, and the session that `start` opens."""

    rig: object
    running: object
    fleet: object
    id: str = ""

    @property
    def admin(self):
        return self.running.admin

    @property
    def cameras(self):
        return self.fleet.cameras

    @property
    def url(self):
        return f"{BASE}/batch/{self.id}"

    async def start(self, *, suffix="", **body):
        values = {"target_ssid": SSID, "target_password": PASSWORD, "config": FAST} | body
        answer = await self.admin.post(f"{BASE}/batch{suffix}", json=values)
        assert answer.status == 201, answer.body
        self.id = answer.data["session"]["id"]
        return answer

    async def post(self, action, **options):
        return await self.admin.post(f"{self.url}/{action}", **options)

    async def session(self):
        return (await self.admin.get(self.url)).data["session"]

    async def devices(self, **query):
        return {
            device["mac"]: device
            for device in (await self.admin.get(f"{self.url}/devices", params=query)).data["devices"]
        }

    async def wait_for_cameras(self, count, within=HANG_S):
        async def all_joined():
            found = await self.devices()
            return found if len(found) == count else None

        return await eventually(all_joined, within=within, what=f"{count} cameras in the session")

    async def wait_for_state(self, mac, *states, within=HANG_S):
        device = None

        async def device_in_state():
            nonlocal device
            device = (await self.devices()).get(mac)
            return device if device and device["state"] in states else None

        return await eventually(device_in_state, within=within, what=lambda: f"{mac} {states}, but is {device}")

    async def wait_until_done(self, within=HANG_S):
        """Wait until no attempt is in progress; returns the session."""

        async def session_if_done():
            found = await self.devices()
            ended = all(device["state"] in ("discovered", "verified", "failed") for device in found.values())
            return await self.session() if ended else None

        return await eventually(session_if_done, within=within, what="every attempt has ended")


@contextlib.asynccontextmanager
async def scripted_cameras(rig, count=1, *, ssid=HOME, **settings):
    """Like `batch`, with scripted cameras: they accept every request and publish only on command."""
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(rig.daemon(**(NO_AUTO_ONBOARDING | settings)))
        cameras = [rig.camera(number, accepted=True, ssid=ssid) for number in range(1, count + 1)]
        for camera in cameras:
            await stack.enter_async_context(camera)
        await allow(running.admin, cameras)
        yield Batch(rig, running, ScriptedFleet(cameras))


@dataclass
class ScriptedFleet:
    """ScriptedCameras with the interface of a Fleet."""

    cameras: list

    async def publish_status(self, **fields):
        for camera in self.cameras:
            await camera.publish_status(ssid=HOME, **fields)


async def allow(admin, cameras):
    answer = await admin.post(f"{BASE}/allowlist/bulk", json={"entries": [{"mac": camera.mac} for camera in cameras]})
    assert answer.status == 200, answer.body


@contextlib.asynccontextmanager
async def batch(rig, count, *, allowed=True, daemon=None, settings=None, **fleet):
    """Cameras on the camera network, on the allowlist if `allowed`, and a daemon without auto-onboarding."""
    sections = NO_AUTO_ONBOARDING | (settings or {})
    async with rig.daemon(**sections) as running, rig.fleet(count, **({"rejoin_s": 0.2} | fleet)) as cameras:
        if allowed:
            await allow(running.admin, cameras.cameras)
        yield Batch(rig, running, cameras)


# The program, which kills itself at KILL_AT="PLACE EDGE N". PLACE is the progress of a camera, the state of a session,
# or POST. EDGE is before or after the commit (for POST: the request). N is the occurrence, from 1.
SELF_KILLING_DAEMON = (
    sys.executable,
    "-c",
    """
import os, signal, sys
from pi_orchestrator.net.camera_http import CameraHttpClient
from pi_orchestrator.features.provisioning.recorder import SessionRecorder
place, edge, remaining = os.environ["KILL_AT"].split()
remaining = int(remaining)
def is_reached(name):
    global remaining
    remaining -= str(name) == place
    return str(name) == place and remaining == 0
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def stored(method, name_of):
    async def patched(self, tx, *args):
        if is_reached(name_of(*args)):
            if edge == "before":
                die()
            tx.after_commit(die)
        return await method(self, tx, *args)
    return patched
SessionRecorder.save_step = stored(SessionRecorder.save_step, lambda before, after: int(after.progress))
SessionRecorder.save = stored(SessionRecorder.save, lambda session: session.state.value)
post = CameraHttpClient.provision
async def provision(self, *address, **fields):
    is_target = is_reached("POST")
    if is_target and edge == "before":
        die()
    await post(self, *address, **fields)
    if is_target:
        die()
CameraHttpClient.provision = provision
from pi_orchestrator.app.main import main
sys.exit(main())
""",
)


def record_requests(cameras):
    """Record POST /provision of cameras from now on: {MAC: [request id, …]}; the lists grow with each request."""
    request_ids = {camera.mac: [] for camera in cameras}

    def record(camera):
        handle = camera.provisioning.handle

        def handle_and_record(body, **options):
            request_ids[camera.mac].append(json.loads(body)["request_id"])
            return handle(body, **options)

        camera.provisioning.handle = handle_and_record

    for camera in cameras:
        record(camera)
    return request_ids


def spellings(secret):
    """Encodings in which a secret could be stored, as bytes."""
    raw = secret.encode()
    texts = (base64.b64encode(raw).decode().rstrip("=")[:-1], raw.hex(), quote(secret), json.dumps(secret)[1:-1])
    return {raw, secret.encode("utf-16-le"), *(text.encode() for text in texts)}


def assert_secret_absent(folder, secret=PASSWORD):
    """Assert that no file below the folder contains the secret in any encoding."""
    for file in folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            found = [text for text in spellings(secret) if text in content]
            assert not found, f"{file} contains {found}"


def assert_provisioned_once(rig, cameras, request_ids):
    """Assert that each camera was provisioned exactly once, is verified, and is stored without duplicates."""
    macs = Counter(camera.mac for camera in cameras)
    for camera in cameras:
        assert [record.ssid for record in camera.provisioned] == [SSID], f"{camera.mac} must change its network once"
        assert camera.ssid == SSID
        assert len(set(request_ids[camera.mac])) == 1, "retries must reuse the request id"
    with rig.connect() as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    devices = rig.rows("SELECT mac, state, progress, retry_count, error_code FROM session_devices")
    assert Counter(devices) == Counter((mac, "verified", 100, 0, None) for mac in macs)
    assert Counter(mac for (mac,) in rig.rows("SELECT mac FROM cameras")) == macs
    assert Counter(mac for (mac,) in rig.rows("SELECT mac FROM allowlist WHERE used_at IS NOT NULL")) == macs
    for kind in (
        "type = 'camera.registered'",
        "type = 'device.state_changed' AND json_extract(payload, '$.new_state') = 'verified'",
    ):
        assert Counter(mac for (mac,) in rig.rows(f"SELECT mac FROM events WHERE {kind}")) == macs, kind
