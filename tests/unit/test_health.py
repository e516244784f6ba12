"""Health: who reports what, who hangs, and what readiness depends on."""

import pytest

from pi_orchestrator.health import Health, State


@pytest.fixture
def health(clock):
    return Health(clock=clock)


def test_a_new_part_is_starting(health, clock):
    health.add("mqtt")
    part = health.get("mqtt")
    assert (part.state, part.reason, part.since, part.restarts) == (State.STARTING, "", clock.monotonic(), 0)
    with pytest.raises(KeyError):
        health.get("unknown")


async def test_since_is_when_the_state_began(health, clock):
    health.add("mqtt")
    await clock.advance(5)
    health.set("mqtt", State.DEGRADED, "no broker")
    began = clock.monotonic()
    await clock.advance(5)
    health.set("mqtt", State.DEGRADED, "still no broker")
    assert health.get("mqtt").since == began
    assert health.get("mqtt").reason == "still no broker"
    health.set("mqtt", State.OK)
    assert (health.get("mqtt").since, health.get("mqtt").reason) == (clock.monotonic(), "")


@pytest.mark.parametrize(
    "state, ready",
    [
        (State.STARTING, False),
        (State.OK, True),
        (State.DEGRADED, True),
        (State.FAILED, False),
        (State.OFF, False),
    ],
)
def test_only_an_essential_part_decides_readiness(health, state, ready):
    health.add("database", essential=True)
    health.add("mqtt")
    health.set("database", state)
    for other in State:
        health.set("mqtt", other)
        assert health.ready() is ready


async def test_a_part_hangs_when_its_last_sign_of_life_is_too_old(health, clock):
    health.add("presence", stale_after_s=60)
    health.add("mqtt", stale_after_s=None)
    await clock.advance(60)
    assert health.stale() == []
    await clock.advance(0.1)
    assert health.stale() == ["presence"]
    health.beat("presence")
    assert health.stale() == []


async def test_reporting_a_state_is_a_sign_of_life(health, clock):
    health.add("presence", stale_after_s=60)
    await clock.advance(59)
    health.set("presence", State.OK)
    await clock.advance(59)
    assert health.stale() == []


async def test_a_part_that_is_off_cannot_hang(health, clock):
    health.add("presence", stale_after_s=60)
    health.set("presence", State.OFF)
    await clock.advance(1000)
    assert health.stale() == []


def test_parts_are_listed_in_order_of_registration_with_their_restarts(health):
    for name in ("b", "a", "c"):
        health.add(name)
    health.count_restart("a")
    health.count_restart("a")
    assert [(part.name, part.restarts) for part in health.components()] == [("b", 0), ("a", 2), ("c", 0)]
