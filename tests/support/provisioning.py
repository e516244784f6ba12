"""A provisioning session around simulated cameras, for tests of what becomes of them."""

import base64
import contextlib
import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import quote

from tests.support.waiting import eventually

BASE = "/api/v1/provisioning"
HOME, SSID = "DeliCasa-AP", "Target-Net"
PASSWORD = "correct horse battery"
QUIET = {"auto_onboard": {"enabled": False, "mode": "off"}}
"""Settings: nobody is onboarded but by a session."""
FAST = {"discovery_timeout_seconds": 30, "provisioning_timeout_seconds": 20, "verification_timeout_seconds": 10}


@dataclass
class Batch:
    """A daemon, its cameras, and the session that `start` opens."""

    world: object
    running: object
    fleet: object
    id: str = ""
    last: dict = field(default_factory=dict)

    @property
    def admin(self):
        return self.running.admin

    @property
    def cameras(self):
        return self.fleet.cameras

    @property
    def url(self):
        return f"{BASE}/batch/{self.id}"

    async def start(self, *, form="", **body):
        given = {"target_ssid": SSID, "target_password": PASSWORD, "config": FAST} | body
        answer = await self.admin.post(f"{BASE}/batch{form}", json=given)
        assert answer.status == 201, answer.body
        self.id = answer.data["session"]["id"]
        return answer

    async def post(self, what, **more):
        return await self.admin.post(f"{self.url}/{what}", **more)

    async def session(self):
        return (await self.admin.get(self.url)).data["session"]

    async def devices(self, **query):
        return {one["mac"]: one for one in (await self.admin.get(f"{self.url}/devices", params=query)).data["devices"]}

    async def joined(self, count, within=10):
        async def all_there():
            found = await self.devices()
            return found if len(found) == count else None

        return await eventually(all_there, within=within, what=f"{count} cameras in the session")

    async def until(self, mac, *states, within=20):
        async def there():
            one = (await self.devices()).get(mac)
            return one if one and one["state"] in states else None

        return await eventually(there, within=within, what=f"{mac} {states}")

    async def until_done(self, within=30):
        """The session once nothing is under way any more."""

        async def done():
            found = await self.devices()
            ended = all(one["state"] in ("discovered", "verified", "failed") for one in found.values())
            return await self.session() if ended else None

        return await eventually(done, within=within, what="every camera has come to an end")


@contextlib.asynccontextmanager
async def by_hand(world, count=1, *, ssid=HOME, **settings):
    """The same with cameras that the test plays: they accept whatever is sent, and say what they are told to."""
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(world.daemon(**(QUIET | settings)))
        cameras = [world.camera(number, accepted=True, ssid=ssid) for number in range(1, count + 1)]
        for camera in cameras:
            await stack.enter_async_context(camera)
        await allow(running.admin, cameras)
        yield Batch(world, running, Hands(cameras))


@dataclass
class Hands:
    """HandCameras, as a fleet."""

    cameras: list

    async def say(self, **fields):
        for camera in self.cameras:
            await camera.say(ssid=HOME, **fields)


async def allow(admin, cameras):
    answer = await admin.post(f"{BASE}/allowlist/bulk", json={"entries": [{"mac": one.mac} for one in cameras]})
    assert answer.status == 200, answer.body


@contextlib.asynccontextmanager
async def batch(world, count, *, allowed=True, daemon=None, settings=None, **fleet):
    """Cameras on the onboarding network, all on the allowlist, and a daemon without auto-onboarding."""
    sections = QUIET | (settings or {})
    async with world.daemon(**sections) as running, world.fleet(count, **({"rejoin_s": 0.2} | fleet)) as cameras:
        if allowed:
            await allow(running.admin, cameras.cameras)
        yield Batch(world, running, cameras)


# The same program, which kills itself when it has come to the place KILL_AT for the N-th time: PLACE EDGE N, where a
# place is the step of a camera by its progress, the state of a session, or POST, and an edge is before or after: the
# commit of it, or the request.
KILLED = (
    sys.executable,
    "-c",
    """
import os, signal, sys
from pi_orchestrator.net.espcam import EspCamClient
from pi_orchestrator.workers.session_record import SessionRecord
place, edge, left = os.environ["KILL_AT"].split()
left = int(left)
def reached(name):
    global left
    left -= str(name) == place
    return str(name) == place and left == 0
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def stored(method, name_of):
    async def patched(self, tx, *given):
        if reached(name_of(*given)):
            if edge == "before":
                die()
            tx.after_commit(die)
        return await method(self, tx, *given)
    return patched
SessionRecord.changed = stored(SessionRecord.changed, lambda before, after: int(after.progress))
SessionRecord.save = stored(SessionRecord.save, lambda session: session.state.value)
post = EspCamClient.provision
async def provision(self, *address, **fields):
    here = reached("POST")
    if here and edge == "before":
        die()
    await post(self, *address, **fields)
    if here:
        die()
EspCamClient.provision = provision
from pi_orchestrator.cli.main import main
sys.exit(main())
""",
)


def write_down(cameras):
    """What every camera is asked from now on: {MAC: [request id of each POST /provision]}."""
    asked = {camera.mac: [] for camera in cameras}

    def listen(camera):
        judge = camera._provisioning.judge

        def heard(body, **more):
            asked[camera.mac].append(json.loads(body)["request_id"])
            return judge(body, **more)

        camera._provisioning.judge = heard

    for camera in cameras:
        listen(camera)
    return asked


def spellings(secret):
    """A secret as it might be written somewhere, as bytes."""
    raw = secret.encode()
    texts = (base64.b64encode(raw).decode().rstrip("=")[:-1], raw.hex(), quote(secret), json.dumps(secret)[1:-1])
    return {raw, secret.encode("utf-16-le"), *(text.encode() for text in texts)}


def assert_nowhere(folder, secret=PASSWORD):
    """No file below the folder holds the secret, however it is spelled."""
    for file in folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            found = [text for text in spellings(secret) if text in content]
            assert not found, f"{file} holds {found}"


def assert_done_once(world, cameras, asked):
    """Every camera took its credentials once and has arrived, and the record has nothing twice and nothing half."""
    macs = Counter(camera.mac for camera in cameras)
    for camera in cameras:
        assert [one.ssid for one in camera.provisioned] == [SSID], f"{camera.mac} changed its network once"
        assert camera.ssid == SSID
        assert len(set(asked[camera.mac])) == 1, "a repeat is known by its request id"
    with world.connect() as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    everyone = world.rows("SELECT mac, state, progress, retry_count, error_code FROM session_devices")
    assert Counter(everyone) == Counter((mac, "verified", 100, 0, None) for mac in macs)
    assert Counter(mac for (mac,) in world.rows("SELECT mac FROM cameras")) == macs
    assert Counter(mac for (mac,) in world.rows("SELECT mac FROM allowlist WHERE used_at IS NOT NULL")) == macs
    for kind in (
        "type = 'camera.registered'",
        "type = 'device.state_changed' AND json_extract(payload, '$.new_state') = 'verified'",
    ):
        assert Counter(mac for (mac,) in world.rows(f"SELECT mac FROM events WHERE {kind}")) == macs, kind
