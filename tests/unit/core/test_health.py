"""Health: states, heartbeats, and readiness."""

import pytest

from pi_orchestrator.core.health import Health, State


@pytest.fixture
def health(clock):
    return Health(clock=clock)


def test_new_component_is_starting(health, clock):
    health.add("mqtt")
    component = health.get("mqtt")
    assert (component.state, component.reason, component.since, component.restarts) == (
        State.STARTING,
        "",
        clock.monotonic(),
        0,
    )
    with pytest.raises(KeyError):
        health.get("unknown")


async def test_since_is_start_of_state(health, clock):
    health.add("mqtt")
    await clock.advance(5)
    health.set("mqtt", State.DEGRADED, "no broker")
    started_at = clock.monotonic()
    await clock.advance(5)
    health.set("mqtt", State.DEGRADED, "still no broker")
    assert health.get("mqtt").since == started_at
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
def test_only_essential_component_decides_readiness(health, state, ready):
    health.add("database", essential=True)
    health.add("mqtt")
    health.set("database", state)
    for other in State:
        health.set("mqtt", other)
        assert health.is_ready() is ready


async def test_component_with_old_heartbeat_is_stale(health, clock):
    health.add("presence", stale_after_s=60)
    health.add("mqtt", stale_after_s=None)
    await clock.advance(60)
    assert health.stale() == []
    await clock.advance(0.1)
    assert health.stale() == ["presence"]
    health.beat("presence")
    assert health.stale() == []


async def test_set_counts_as_heartbeat(health, clock):
    health.add("presence", stale_after_s=60)
    await clock.advance(59)
    health.set("presence", State.OK)
    await clock.advance(59)
    assert health.stale() == []


async def test_component_off_is_never_stale(health, clock):
    health.add("presence", stale_after_s=60)
    health.set("presence", State.OFF)
    await clock.advance(1000)
    assert health.stale() == []


def test_components_in_order_of_registration(health):
    for name in ("b", "a", "c"):
        health.add(name)
    health.count_restart("a")
    health.count_restart("a")
    assert [(component.name, component.restarts) for component in health.components()] == [("b", 0), ("a", 2), ("c", 0)]
