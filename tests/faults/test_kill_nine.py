"""kill -9 at random moments under load: acknowledged writes survive, and no camera is half onboarded.

The ledger is in this process: a write is acknowledged when its 2xx status has been read. After every kill the files are
copied and the copy is compared with the ledger; then the daemon starts on the originals and its answers are compared
with the copy.
"""

import asyncio
import contextlib
import itertools
import os
import random
import shutil
import sqlite3
from collections import Counter
from dataclasses import dataclass, field

import aiohttp
import pytest

from tests.support.broker import free_port
from tests.support.process import daemon
from tests.support.sampling import repeats
from tests.support.waiting import eventually

CAMERAS_PER_KILL = 3
AUTO = "/api/v1/onboarding/auto"
LOAD = ("onboarding.disable", "api_key.create", "api_key.revoke", "onboarding.metrics_reset")
MOMENTS = ("any", "onboarding", "starting", "any")  # half of the kills are at any moment
TOGGLES = {"onboarding.enable": True, "onboarding.disable": False}


@dataclass
class Ledger:
    """Requested and acknowledged writes by correlation id, in the order of the requests."""

    requested: dict = field(default_factory=dict)
    """Correlation id → (action, target)."""
    acked: set = field(default_factory=set)
    """Correlation ids of acknowledged writes."""
    secrets: dict = field(default_factory=dict)
    """Name of an acknowledged API key → its secret."""
    idempotent: dict = field(default_factory=dict)
    """Correlation id of an acknowledged write with an Idempotency-Key → its headers."""
    unexpected: list = field(default_factory=list)
    """Error answers."""

    def of(self, action, *, acked=False):
        """(correlation id, target) of the requested or, if `acked`, only of the acknowledged writes of an action."""
        return [
            (correlation, target)
            for correlation, (kind, target) in self.requested.items()
            if kind == action and (not acked or correlation in self.acked)
        ]


@dataclass
class Load:
    """Three clients that write as fast as they are answered, whether the daemon runs or not."""

    ledger: Ledger
    dice: random.Random
    session: aiohttp.ClientSession
    url: str
    key: str
    open: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while clients may send the next write."""

    async def write(self, action, method, path, target=None, *, headers=None, **more):
        """The JSON body of a 2xx answer ({} for 204); None for an error answer or a lost connection."""
        await self.open.wait()
        correlation = f"{action}.{len(self.ledger.requested)}"
        self.ledger.requested[correlation] = (action, target)
        given = {"X-API-Key": self.key, "X-Request-Id": correlation} | (headers or {})
        try:
            async with self.session.request(method, self.url + path, headers=given, **more) as response:
                if response.status >= 300:
                    self.ledger.unexpected.append((correlation, response.status, await response.text()))
                    return None
                self.ledger.acked.add(correlation)
                if headers:
                    self.ledger.idempotent[correlation] = headers
                return await response.json() if response.status != 204 else {}
        except (aiohttp.ClientError, OSError):
            await asyncio.sleep(0.02)  # the daemon was killed, or does not listen yet
            return None

    async def toggle(self):
        for number in range(1_000_000):
            action = "onboarding.disable" if number % 2 else "onboarding.enable"
            await self.write(action, "POST", f"{AUTO}/{action.removeprefix('onboarding.')}")
            await asyncio.sleep(self.dice.uniform(0, 0.02 if number % 2 else 0.2))

    async def make_keys(self):
        for number in range(1_000_000):
            name = f"key-{number}"
            answer = await self.write(
                "api_key.create", "POST", "/api/v1/keys", name, json={"name": name, "scope": "admin"}
            )
            if answer:
                self.ledger.secrets[name] = answer["data"]["secret"]
                if self.dice.random() < 0.7:
                    await self.write("api_key.revoke", "DELETE", f"/api/v1/keys/{name}", name)
            await asyncio.sleep(self.dice.uniform(0, 0.05))

    async def reset(self):
        for number in range(1_000_000):
            once = {"Idempotency-Key": f"reset-{number}"}
            await self.write("onboarding.metrics_reset", "POST", f"{AUTO}/metrics/reset", headers=once)
            await asyncio.sleep(self.dice.uniform(0, 0.05))


@pytest.mark.timeout(300)
async def test_kills_lose_no_acknowledged_write(rig, tmp_path):
    seed = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(2**32))
    try:
        await _run_and_kill(rig, tmp_path, random.Random(seed), kills=repeats(5, slow=50))
    except BaseException as error:
        error.add_note(f"repeat with KILL_SEED={seed}")
        raise


async def _run_and_kill(rig, tmp_path, dice, *, kills):
    sections = {"http": {"listen": [f"127.0.0.1:{free_port()}"]}}
    ledger = Ledger()
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
        async with daemon(rig, tmp_path, **sections) as first:
            load = Load(ledger, dice, session, first.api.url, first.admin.key)
        cameras = iter(rig.fleet(kills * CAMERAS_PER_KILL).cameras)
        alive = await stack.enter_async_context(_ended_together())
        clients = await stack.enter_async_context(_ended_together())
        clients += [asyncio.create_task(client()) for client in (load.toggle, load.make_keys, load.reset)]
        appeared = []
        disk = _read_disk(rig.state_dir, tmp_path / "copy")
        moments = [MOMENTS[number % len(MOMENTS)] for number in range(kills)]
        dice.shuffle(moments)
        for moment in moments:
            new = list(itertools.islice(cameras, CAMERAS_PER_KILL))
            for camera in new:
                camera.start_delay = dice.uniform(0.2, 1)
                alive.append(asyncio.create_task(camera.run()))
                appeared.append(camera.mac)
            starting = moment == "starting"
            async with daemon(rig, tmp_path, ready=not starting, connected=False, **sections) as process:
                if not starting:
                    await _compare_answers(load, process, disk)
                load.open.set()
                if not starting:
                    await _wait_for_one_more_of_each(ledger)
                if moment == "onboarding":
                    await dice.choice(new).reported.wait()
                await asyncio.sleep(dice.uniform(0, {"starting": 0.4, "any": 0.3, "onboarding": 0.03}[moment]))
            # Leaving the block has killed the daemon. Let the clients read the answers that it sent before.
            load.open.clear()
            await asyncio.sleep(0.02)
            disk = _read_disk(rig.state_dir, tmp_path / "copy")
            _compare_disk(ledger, disk)

        for client in clients:
            client.cancel()
        load.open.set()
        async with daemon(rig, tmp_path, **sections) as process:
            await load.write("onboarding.enable", "POST", f"{AUTO}/enable")
            await _wait_until_paired(process, appeared)
            assert await process.stop() == 0
        disk = _read_disk(rig.state_dir, tmp_path / "copy")
        _compare_disk(ledger, disk)
        assert {row["mac"] for row in disk["cameras"]} == set(appeared)

    assert not list(rig.state_dir.glob("*damaged*")), "a kill must not look like damage"
    assert ledger.unexpected == []
    for action in LOAD:
        assert len(ledger.of(action, acked=True)) >= kills * 0.6, f"too little load: {action}"


async def _wait_for_one_more_of_each(ledger):
    """Wait until one more write of each kind is acknowledged."""
    before = {action: len(ledger.of(action, acked=True)) for action in LOAD}

    def acknowledged():
        return all(len(ledger.of(action, acked=True)) > before[action] for action in LOAD)

    await eventually(acknowledged, what="one more write of each kind is acknowledged")


async def _wait_until_paired(process, macs):
    async def paired():
        answer = (await process.api.get("/api/v1/espcam/paired")).data
        return {camera["mac_address"] for camera in answer["cameras"]} == set(macs)

    await eventually(paired, what="every camera that appeared is paired")


@contextlib.asynccontextmanager
async def _ended_together():
    """A list of tasks that are cancelled at the end; the first exception of any is raised."""
    tasks = []
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


TABLES = {
    "cameras": "SELECT * FROM cameras",
    "assignments": "SELECT * FROM assignments",
    "containers": "SELECT * FROM containers",
    "audit": "SELECT * FROM onboarding_audit ORDER BY id",
    "events": "SELECT * FROM events ORDER BY id",
    "keys": "SELECT * FROM api_keys",
    "actions": "SELECT * FROM operator_actions ORDER BY id",
    "state": "SELECT * FROM onboarding_state",
}


def _read_disk(state_dir, copy):
    """Every table, read from a copy of the files that SQLite finds intact."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for name in ("orchestrator.db", "orchestrator.db-wal"):
        if (state_dir / name).exists():
            shutil.copy(state_dir / name, copy / name)
    with contextlib.closing(sqlite3.connect(copy / "orchestrator.db")) as connection:
        connection.row_factory = sqlite3.Row
        assert connection.execute("PRAGMA integrity_check").fetchall()[0][0] == "ok"
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        return {name: connection.execute(sql).fetchall() for name, sql in TABLES.items()}


def _compare_disk(ledger, disk):
    _check_acknowledged(ledger, disk)
    _check_toggle(ledger, disk)
    _check_keys(ledger, disk)
    _check_cameras(disk)


def _check_acknowledged(ledger, disk):
    stored = Counter(row["correlation_id"] for row in disk["actions"])
    lost = [correlation for correlation in ledger.acked if not stored[correlation]]
    assert not lost, "acknowledged and not on disk"
    twice = [correlation for correlation, number in stored.items() if number > 1]
    assert not twice, "requested once and done twice"


def _check_toggle(ledger, disk):
    done = [row for row in disk["actions"] if row["action"] in TOGGLES]
    if not done:
        return
    assert disk["state"][0]["enabled"] == TOGGLES[done[-1]["action"]], "toggle and audit differ"
    order = list(ledger.requested)
    last_acked = max((order.index(name) for name in ledger.acked if name.rpartition(".")[0] in TOGGLES), default=-1)
    assert order.index(done[-1]["correlation_id"]) >= last_acked, "an older toggle replaced an acknowledged one"


def _check_keys(ledger, disk):
    names = {row["name"] for row in disk["keys"]} - {"admin"}

    def targets(action, acked):
        return {target for _, target in ledger.of(action, acked=acked)}

    certain = targets("api_key.create", True) - targets("api_key.revoke", False)
    possible = targets("api_key.create", False) - targets("api_key.revoke", True)
    assert certain <= names <= possible
    done = [(row["action"], row["target"]) for row in disk["actions"]]
    made = {target for action, target in done if action == "api_key.create"} - {"admin"}
    gone = {target for action, target in done if action == "api_key.revoke"}
    assert names == made - gone, "keys and audit differ"


def _check_cameras(disk):
    macs = [row["mac"] for row in disk["cameras"]]
    once = Counter(dict.fromkeys(macs, 1))
    for stage in ("verified", "registered", "paired"):
        rows = Counter(row["mac_address"] for row in disk["audit"] if row["stage"] == stage)
        assert rows == once, f"{stage}: each camera has one row, and each row its camera"
    assert Counter(row["mac"] for row in disk["assignments"]) == once
    assert Counter(row["mac"] for row in disk["events"] if row["type"] == "camera.onboarded") == once
    assert {row["mac_address"] for row in disk["audit"] if row["stage"] == "discovered"} >= set(macs)

    # Positions are given in order, so any number of cameras has exactly one set of places.
    places = Counter((row["container_id"], row["position"]) for row in disk["assignments"])
    names = ["auto-onboard", *(f"auto-onboard-{number}" for number in range(2, len(macs) + 2))]
    assert places == Counter((names[number // 4], number % 4 + 1) for number in range(len(macs)))


async def _compare_answers(load, process, disk):
    """Assert that the started daemon answers what the disk holds; the clients do not write yet."""
    keys = (await process.admin.get("/api/v1/keys")).data["keys"]
    assert {key["name"] for key in keys} == {row["name"] for row in disk["keys"]}
    for name in [row["name"] for row in disk["keys"] if row["name"] in load.ledger.secrets][-3:]:
        headers = {"X-API-Key": load.ledger.secrets[name]}
        assert (await process.api.get("/api/v1/keys", headers=headers)).status == 200, "an acknowledged key works"

    assert (await process.api.get(f"{AUTO}/status")).data["enabled"] == bool(disk["state"][0]["enabled"])

    paired = {
        camera["mac_address"]: camera for camera in (await process.api.get("/api/v1/espcam/paired")).data["cameras"]
    }
    for row in disk["assignments"]:
        camera = paired[row["mac"]]
        assert (camera["container_id"], camera["position"]) == (row["container_id"], row["position"])

    assert "recovery" not in (await process.api.get("/readyz")).json["checks"]
    if load.ledger.idempotent:
        correlation = list(load.ledger.idempotent)[-1]
        headers = load.ledger.idempotent[correlation] | {"X-Request-Id": f"repeat-of-{correlation}"}
        assert (await process.admin.post(f"{AUTO}/metrics/reset", headers=headers)).status == 200
        with contextlib.closing(sqlite3.connect(f"file:{process.state_dir}/orchestrator.db?mode=ro", uri=True)) as now:
            again = now.execute("SELECT count(*) FROM operator_actions WHERE correlation_id LIKE 'repeat-of-%'")
            assert again.fetchone() == (0,), "an acknowledged Idempotency-Key is remembered across a kill"
