"""Clients disconnect at random moments and the daemon is killed: every event arrives once.

Clients resume as browsers do (`Last-Event-ID`) or as pages that open a new stream (`last_event_id`). What each of
them received is compared with the table of events: the same rows, no gap, none twice, in order.
"""

import asyncio
import contextlib
import json
import os
import random
from dataclasses import dataclass, field

import aiohttp
import pytest

from tests.support.broker import free_port
from tests.support.process import daemon
from tests.support.rig import Api
from tests.support.sampling import repeats
from tests.support.sse import EVENTS, opened
from tests.support.waiting import eventually

READERS = 6
AUTO = "/api/v1/onboarding/auto"
ONE_TYPE = "onboarding.enabled"


@dataclass
class Reader:
    """A client that reconnects whenever it was disconnected, and disconnects at random.

    `types` is its filter, `after` the id of the last event that it has received, `cuts` the number of disconnections.
    """

    api: Api
    dice: random.Random
    types: str | None
    after: str = "0"
    seen: list = field(default_factory=list)
    cuts: int = 0

    async def run(self):
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError, EOFError, TimeoutError):
                async with asyncio.timeout(self.dice.choice((0.02, 0.2, 1, 30))):
                    await self._read(self.dice.choice((1, 10, 300, 10**6)))
            self.cuts += 1
            await asyncio.sleep(self.dice.uniform(0, 0.1))

    async def _read(self, frames):
        position = (
            {"headers": {"Last-Event-ID": self.after}} if self.dice.random() < 0.5 else {"last_event_id": self.after}
        )
        async with opened(self.api, EVENTS, established=False, types=self.types, **position) as stream:
            first = await stream.frame()
            assert first.name == "connection.established"
            assert "snapshot" not in first.payload
            for _ in range(frames):
                frame = await stream.frame(within=30)
                if frame.name is None:
                    assert frame.id in (None, self.after), "an unnamed copy has the id of its event"
                elif frame.id is not None:
                    self.seen.append((int(frame.id), frame.type, frame.data["timestamp"], frame.payload))
                    self.after = frame.id


@dataclass
class Toggler:
    """A client that toggles as fast as it is answered, whether the daemon runs or not; each toggle is an event."""

    api: Api
    dice: random.Random
    acknowledged: int = 0
    is_done: bool = False

    async def run(self):
        while not self.is_done:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                answer = await self.api.post(f"{AUTO}/{self.dice.choice(('enable', 'disable'))}")
                self.acknowledged += answer.status == 200
            await asyncio.sleep(self.dice.uniform(0, 0.01))


@pytest.mark.timeout(300)
async def test_readers_get_every_event_once_across_kills(rig, tmp_path):
    seed = int(os.environ.get("REPLAY_SEED") or random.SystemRandom().randrange(2**32))
    try:
        await _run_and_kill(rig, tmp_path, random.Random(seed), kills=repeats(4, slow=20))
    except BaseException as error:
        error.add_note(f"repeat with REPLAY_SEED={seed}")
        raise


async def _run_and_kill(rig, tmp_path, dice, *, kills):
    sections = {"http": {"listen": [f"127.0.0.1:{free_port()}"]}}
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        async with daemon(rig, tmp_path, **sections) as first:
            api = Api(session, first.api.url, first.admin.key)
        readers = [Reader(api, random.Random(dice.random()), (None, None, ONE_TYPE)[n % 3]) for n in range(READERS)]
        togglers = [Toggler(api, random.Random(dice.random())) for _ in range(3)]
        reading = [asyncio.create_task(reader.run()) for reader in readers]
        toggling = [asyncio.create_task(toggler.run()) for toggler in togglers]
        try:
            for _ in range(kills):
                async with daemon(rig, tmp_path, connected=False, **sections):
                    await _progress(readers, togglers, events=dice.randint(30, 90), cuts=2 * READERS)
                # Leaving the block has killed the daemon.
            async with daemon(rig, tmp_path, connected=False, **sections) as process:
                await _progress(readers, togglers, events=30, cuts=1)
                for toggler in togglers:
                    toggler.is_done = True
                await asyncio.gather(*toggling)
                await _all_received(rig, readers, reading)
                assert await process.stop() == 0
        finally:
            for task in (*toggling, *reading):
                task.cancel()
            results = await asyncio.gather(*toggling, *reading, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
    _compare(rig, readers, kills)


async def _progress(readers, togglers, *, events, cuts):
    """Wait until this many more events are acknowledged and readers were disconnected this many more times."""

    def counts():
        return sum(toggler.acknowledged for toggler in togglers), sum(reader.cuts for reader in readers)

    events_before, cuts_before = counts()

    def enough():
        events_now, cuts_now = counts()
        return events_now - events_before >= events and cuts_now - cuts_before >= cuts

    await eventually(enough, within=60, what=f"{events} more events and {cuts} more cuts")


def _stored(rig, types=None):
    rows = rig.rows("SELECT id, type, at, payload FROM events ORDER BY id")
    return [(number, type_, at, json.loads(payload)) for number, type_, at, payload in rows if types in (None, type_)]


async def _all_received(rig, readers, reading):
    newest = {types: _stored(rig, types)[-1][0] for types in (None, ONE_TYPE)}

    def all_are_current():
        assert not any(task.done() for task in reading)
        return all(reader.after == str(newest[reader.types]) for reader in readers)

    await eventually(all_are_current, what="every reader has the newest event")


def _compare(rig, readers, kills):
    for reader in readers:
        assert reader.seen == _stored(rig, reader.types)
    ids = [number for number, *_ in _stored(rig)]
    assert ids == list(range(1, len(ids) + 1))
    assert len(ids) >= 30 * kills, "too few events to miss any"
    assert sum(reader.cuts for reader in readers) >= 2 * READERS * kills
