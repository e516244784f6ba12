"""kill -9 during operators' commands: acknowledged commands survive, and no camera is between two places."""

import asyncio
import contextlib
import os
import random
import sqlite3

import aiohttp

from tests.support.broker import free_port
from tests.support.process import daemon
from tests.support.sampling import repeats
from tests.support.waiting import eventually

CLIENTS = 6
MACS = [f"24:6F:28:00:0{number:X}:10" for number in range(12)]
EXPECTED_REFUSALS = (404, 409)
"""Six clients move the same twelve cameras: a camera may be gone, or its position occupied."""


class Operator:
    """Sends commands one after another, without a pause.

    `acked`: ids of acknowledged commands. `unexpected`: error answers that other clients cannot have caused.
    """

    def __init__(self, name, dice, session, url, key):
        self.name, self.dice, self.session, self.url, self.key = name, dice, session, url, key
        self.acked, self.unexpected = [], []

    async def run(self, may_send):
        for number in range(1_000_000):
            await may_send.wait()
            await self.write(number)

    async def write(self, number):
        old, new = self.dice.sample(MACS, 2)
        method, path, body = self.dice.choice(
            (
                ("POST", "/espcam/pair", {"mac": old, "container_id": "auto-onboard"}),
                ("POST", "/espcam/pair", {"mac": new, "container_id": "auto-onboard", "position": 2}),
                ("DELETE", f"/espcam/paired/{old}", None),
                ("POST", "/espcam/replace", {"old_mac": old, "new_mac": new}),
                ("DELETE", f"/containers/auto-onboard/cameras/{old}", None),
                ("PATCH", f"/cameras/{old}", {"name": f"name {number}"}),
            )
        )
        headers = {"X-API-Key": self.key, "X-Request-Id": f"{self.name}.{number}"}
        try:
            async with self.session.request(method, f"{self.url}/api/v1{path}", json=body, headers=headers) as answer:
                if answer.status < 300:
                    self.acked.append(f"{self.name}.{number}")
                elif answer.status not in EXPECTED_REFUSALS:
                    self.unexpected.append((path, answer.status, await answer.text()))
        except (aiohttp.ClientError, OSError):
            await asyncio.sleep(0.02)  # the daemon was killed, or does not listen yet


def check_disk(state_dir, operators):
    with contextlib.closing(sqlite3.connect(f"file:{state_dir}/orchestrator.db?mode=ro", uri=True)) as disk:
        assert disk.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert disk.execute("PRAGMA foreign_key_check").fetchall() == []
        rows = disk.execute("SELECT correlation_id, outcome FROM operator_actions").fetchall()
        done = {correlation for correlation, _ in rows}
        assert len(done) == len(rows), "requested once and done twice"
        for operator in operators:
            assert set(operator.acked) <= done, "acknowledged and not on disk"
        cameras = {mac for (mac,) in disk.execute("SELECT mac FROM cameras")}
        excluded = {mac for (mac,) in disk.execute("SELECT mac FROM dismissed")}
        assert cameras.isdisjoint(excluded), "registered and excluded"
        state = dict.fromkeys(MACS, False)
        for kind, mac, payload in disk.execute("SELECT type, mac, payload ->> 'replaces' FROM events ORDER BY id"):
            if kind in ("camera.registered", "camera.replaced"):
                state[mac] = True
            if kind == "camera.removed":
                state[mac] = False
            if payload and kind == "camera.replaced":
                state[payload] = False
        assert {mac for mac, registered in state.items() if registered} == cameras, "every change has its event"
        return {mac: place for mac, *place in disk.execute("SELECT mac, container_id, position FROM assignments")}


async def check_answers(process, places):
    cameras = (await process.api.get("/api/v1/espcam/paired")).data["cameras"]
    assert {camera["mac_address"]: [camera["container_id"], camera["position"]] for camera in cameras} == places
    (container,) = (await process.api.get("/api/v1/containers")).data["containers"]
    assert {camera["mac_address"]: ["auto-onboard", camera["position"]] for camera in container["cameras"]} == places


async def wait_for_acknowledged(operators, more):
    """Wait until this many more commands are acknowledged."""

    def count():
        return sum(len(operator.acked) for operator in operators)

    before = count()
    await eventually(lambda: count() >= before + more, what=f"{more} more commands are acknowledged")


async def test_kills_leave_no_camera_between_places(rig, tmp_path):
    seed = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(2**32))
    dice = random.Random(seed)
    sections = {"http": {"listen": [f"127.0.0.1:{free_port()}"]}, "auto_onboard": {"enabled": False}}
    may_send = asyncio.Event()
    try:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            async with daemon(rig, tmp_path, connected=False, **sections) as first:
                url, key = first.api.url, first.admin.key
            operators = [Operator(f"o{number}", dice, session, url, key) for number in range(CLIENTS)]
            tasks = [asyncio.create_task(operator.run(may_send)) for operator in operators]
            places = await asyncio.to_thread(check_disk, rig.state_dir, operators)
            for _ in range(repeats(4, slow=20)):
                async with daemon(rig, tmp_path, connected=False, **sections) as process:
                    await check_answers(process, places)
                    may_send.set()
                    await wait_for_acknowledged(operators, dice.randint(6, 20))
                may_send.clear()  # leaving the block has killed the daemon
                await asyncio.sleep(0.05)
                places = await asyncio.to_thread(check_disk, rig.state_dir, operators)
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {asyncio.CancelledError}
        assert [operator.unexpected for operator in operators] == [[]] * CLIENTS
    except BaseException as error:
        error.add_note(f"repeat with KILL_SEED={seed}")
        raise
