"""The provisioning worker: a cancelled attempt releases the trial of the circuit breaker."""

import asyncio
from types import SimpleNamespace

import pytest

from pi_orchestrator.features.provisioning.circuits import Circuits
from pi_orchestrator.features.provisioning.worker import ProvisioningWorker
from tests.support.clock import FakeClock
from tests.support.waiting import eventually


@pytest.fixture
def clock():
    return FakeClock()


async def test_cancelled_trial_is_released(clock):
    circuits, started = Circuits(failures=1, reset_s=10, clock=clock), []

    async def deliver(session, device):
        started.append(device.mac)

    worker = ProvisioningWorker(
        interface="lo",
        concurrency=4,
        clock=clock,
        database=None,
        service=SimpleNamespace(precondition_error=lambda: None),
        provisioner=SimpleNamespace(run=deliver),
        intake=None,
        recorder=None,
        circuits=circuits,
        exposure=None,
    )
    circuits.network.record_failure(clock.monotonic())
    await clock.advance(11)
    session = SimpleNamespace(id="s-1")
    first, second = (SimpleNamespace(mac=mac) for mac in ("first", "second"))
    await worker._start_ready(session, [first, second])
    (trial,) = worker._running.values()
    trial.cancel()
    await asyncio.gather(trial, return_exceptions=True)
    assert (started, worker.under_way) == ([], 0)
    await worker._start_ready(session, [second])
    await eventually(lambda: started == ["second"])
    assert not worker.circuit_open
