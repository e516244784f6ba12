"""R12: clients that are cut off at random moments, and a daemon that is killed in the middle: each event comes once.

Clients go on as browsers do (`Last-Event-ID`) or as pages do that open a new stream (`last_event_id`). What each of
them saw is held against the table of events: the same rows, without a gap, without a double, in order.
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
from tests.support.sse import EVENTS, opened
from tests.support.waiting import eventually
from tests.support.world import Api

KILLS = 6
READERS = 6
AUTO = "/api/v1/onboarding/auto"
SOME = "onboarding.enabled"


@dataclass
class Reader:
    """A client that comes back whenever it was cut off, and cuts itself off when it likes."""

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
        go_on = (
            {"headers": {"Last-Event-ID": self.after}} if self.dice.random() < 0.5 else {"last_event_id": self.after}
        )
        async with opened(self.api, EVENTS, established=False, types=self.types, **go_on) as stream:
            first = await stream.frame()
            assert first.name == "connection.established"
            assert "snapshot" not in first.payload
            for _ in range(frames):
                frame = await stream.frame(within=30)
                if frame.name is None:
                    assert frame.id in (None, self.after), "a copy of something else"
                elif frame.id is not None:
                    self.seen.append((int(frame.id), frame.type, frame.data["timestamp"], frame.payload))
                    self.after = frame.id


async def _make_events(api, dice, enough):
    """Toggle as fast as it is answered, whether the daemon is there or not; each toggle is an event."""
    while not enough.is_set():
        with contextlib.suppress(aiohttp.ClientError, OSError):
            await api.post(f"{AUTO}/{dice.choice(('enable', 'disable'))}")
        await asyncio.sleep(dice.uniform(0, 0.01))


@pytest.mark.timeout(120)
async def test_every_reader_gets_every_event_once_across_cuts_and_kills(world, tmp_path):
    seed = int(os.environ.get("REPLAY_SEED") or random.SystemRandom().randrange(2**32))
    try:
        await _storm(world, tmp_path, random.Random(seed))
    except BaseException as error:
        error.add_note(f"to see it again: REPLAY_SEED={seed}")
        raise


async def _storm(world, tmp_path, dice):
    how = {"http": {"listen": [f"127.0.0.1:{free_port()}"]}}
    enough = asyncio.Event()
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        async with daemon(world, tmp_path, **how) as first:
            api = Api(session, first.api.url, first.admin.key)
        readers = [Reader(api, random.Random(dice.random()), (None, None, SOME)[n % 3]) for n in range(READERS)]
        reading = [asyncio.create_task(reader.run()) for reader in readers]
        making = [asyncio.create_task(_make_events(api, random.Random(dice.random()), enough)) for _ in range(3)]
        try:
            for _ in range(KILLS):
                async with daemon(world, tmp_path, connected=False, **how):
                    await asyncio.sleep(dice.uniform(0.1, 0.8))
                # Leaving the block has killed it.
            async with daemon(world, tmp_path, connected=False, **how) as process:
                await asyncio.sleep(0.3)
                enough.set()
                await asyncio.gather(*making)
                await _everybody_has_everything(world, readers, reading)
                assert await process.stop() == 0
        finally:
            for task in (*making, *reading):
                task.cancel()
            results = await asyncio.gather(*making, *reading, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
    _compare(world, readers)


def _stored(world, types=None):
    rows = world.rows("SELECT id, type, at, payload FROM events ORDER BY id")
    return [(number, type_, at, json.loads(told)) for number, type_, at, told in rows if types in (None, type_)]


async def _everybody_has_everything(world, readers, reading):
    newest = {types: _stored(world, types)[-1][0] for types in (None, SOME)}

    def all_there():
        assert not any(task.done() for task in reading)
        return all(reader.after == str(newest[reader.types]) for reader in readers)

    await eventually(all_there, within=40, what="every reader has got to the newest event")


def _compare(world, readers):
    for reader in readers:
        assert reader.seen == _stored(world, reader.types)
    ids = [number for number, *_ in _stored(world)]
    assert ids == list(range(1, len(ids) + 1))
    assert len(ids) > 200, "there was too little to miss"
    assert sum(reader.cuts for reader in readers) > 10 * READERS
