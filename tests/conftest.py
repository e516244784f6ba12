import pytest
from blockbuster import blockbuster_ctx

import pi_orchestrator
from tests.support.broker import Broker
from tests.support.clock import FakeClock
from tests.support.world import World


@pytest.fixture(autouse=True)
def no_blocking_calls():
    """A call of ours that blocks the event loop fails the test; what the tests themselves do is their business."""
    with blockbuster_ctx(scanned_modules=[pi_orchestrator]):
        yield


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
async def broker(tmp_path):
    broker = Broker(tmp_path)
    await broker.start()
    yield broker
    await broker.stop()


@pytest.fixture
async def world(tmp_path, broker):
    return World(state_dir=tmp_path / "state", broker=broker)
