"""A provisioning session around simulated cameras, for tests of what becomes of them."""

import contextlib
from dataclasses import dataclass, field

from tests.support.waiting import eventually

BASE = "/api/v1/provisioning"
SSID = "Target-Net"
PASSWORD = "correct horse battery"
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


async def allow(admin, cameras):
    answer = await admin.post(f"{BASE}/allowlist/bulk", json={"entries": [{"mac": one.mac} for one in cameras]})
    assert answer.status == 200, answer.body


@contextlib.asynccontextmanager
async def batch(world, count, *, allowed=True, daemon=None, settings=None, **fleet):
    """Cameras on the onboarding network, all on the allowlist, and a daemon without auto-onboarding."""
    sections = {"auto_onboard": {"enabled": False, "mode": "off"}} | (settings or {})
    async with world.daemon(**sections) as running, world.fleet(count, **({"rejoin_s": 0.2} | fleet)) as cameras:
        if allowed:
            await allow(running.admin, cameras.cameras)
        yield Batch(world, running, cameras)
