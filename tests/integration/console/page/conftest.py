"""One browser per test process; all fixtures share its event loop."""

import pytest_asyncio

from tests.support.broker import Broker
from tests.support.browser import opened
from tests.support.rig import Rig


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium():
    async with opened() as chromium:
        yield chromium


@pytest_asyncio.fixture(loop_scope="session")
async def broker(tmp_path):
    broker = Broker(tmp_path)
    await broker.start()
    yield broker
    await broker.kill()


@pytest_asyncio.fixture(loop_scope="session")
async def rig(tmp_path, broker):
    return Rig(state_dir=tmp_path / "state", broker=broker)
