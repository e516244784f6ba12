"""kill -9 in the middle of operators' commands: what was acknowledged is there, and no camera is half in its place."""

import asyncio
import contextlib
import os
import random
import sqlite3

import aiohttp
import pytest

from tests.support.broker import free_port
from tests.support.process import daemon

KILLS = 6
CLIENTS = 6
MACS = [f"24:6F:28:00:0{number:X}:10" for number in range(12)]
GONE = (404, 409)
"""Nobody's fault where twelve cameras are put about by six clients at once."""


class Operator:
    """Does one thing after the other as fast as it is answered; `acked` is what was acknowledged, newest last."""

    def __init__(self, name, dice, session, url, key):
        self.name, self.dice, self.session, self.url, self.key = name, dice, session, url, key
        self.acked, self.surprises = [], []

    async def run(self, up):
        for number in range(1_000_000):
            await up.wait()
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
                elif answer.status not in GONE:
                    self.surprises.append((path, answer.status, await answer.text()))
        except (aiohttp.ClientError, OSError):
            await asyncio.sleep(0.02)  # it was killed, or is not up yet


def check_disk(state_dir, operators):
    with contextlib.closing(sqlite3.connect(f"file:{state_dir}/orchestrator.db?mode=ro", uri=True)) as disk:
        assert disk.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert disk.execute("PRAGMA foreign_key_check").fetchall() == []
        rows = disk.execute("SELECT correlation_id, outcome FROM operator_actions").fetchall()
        done = {correlation for correlation, _ in rows}
        assert len(done) == len(rows), "asked for once and done twice"
        for operator in operators:
            assert set(operator.acked) <= done, "acknowledged and not on disk"
        cameras = {mac for (mac,) in disk.execute("SELECT mac FROM cameras")}
        gone = {mac for (mac,) in disk.execute("SELECT mac FROM dismissed")}
        assert cameras.isdisjoint(gone), "on the record and off it"
        state = dict.fromkeys(MACS, False)
        for kind, mac, payload in disk.execute("SELECT type, mac, payload ->> 'replaces' FROM events ORDER BY id"):
            if kind in ("camera.registered", "camera.replaced"):
                state[mac] = True
            if kind == "camera.removed":
                state[mac] = False
            if payload and kind == "camera.replaced":
                state[payload] = False
        assert {mac for mac, registered in state.items() if registered} == cameras, "each change with its event"
        return {mac: place for mac, *place in disk.execute("SELECT mac, container_id, position FROM assignments")}


async def check_answers(process, places):
    told = (await process.api.get("/api/v1/espcam/paired")).data["cameras"]
    assert {camera["mac_address"]: [camera["container_id"], camera["position"]] for camera in told} == places
    (box,) = (await process.api.get("/api/v1/containers")).data["containers"]
    assert {camera["mac_address"]: ["auto-onboard", camera["position"]] for camera in box["cameras"]} == places


@pytest.mark.timeout(60)
async def test_kills_leave_every_camera_wholly_where_it_was_or_wholly_where_it_goes(world, tmp_path):
    seed = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(2**32))
    dice = random.Random(seed)
    how = {"http": {"listen": [f"127.0.0.1:{free_port()}"]}, "auto_onboard": {"enabled": False}}
    up = asyncio.Event()
    try:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            async with daemon(world, tmp_path, connected=False, **how) as first:
                url, key = first.api.url, first.admin.key
            operators = [Operator(f"o{number}", dice, session, url, key) for number in range(CLIENTS)]
            tasks = [asyncio.create_task(operator.run(up)) for operator in operators]
            places = await asyncio.to_thread(check_disk, world.state_dir, operators)
            for _ in range(KILLS):
                async with daemon(world, tmp_path, connected=False, **how) as process:
                    await check_answers(process, places)
                    up.set()
                    await asyncio.sleep(dice.uniform(0.05, 0.5))
                up.clear()  # leaving the block has killed it
                await asyncio.sleep(0.05)
                places = await asyncio.to_thread(check_disk, world.state_dir, operators)
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {asyncio.CancelledError}
        assert [operator.surprises for operator in operators] == [[]] * CLIENTS
        assert sum(len(operator.acked) for operator in operators) > 20, "there was too little load to speak of"
    except BaseException as error:
        error.add_note(f"to see it again: KILL_SEED={seed}")
        raise
