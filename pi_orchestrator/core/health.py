"""The state of every component: workers and connections report it, readiness and `doctor` read it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pi_orchestrator.core.clock import Clock


class State(StrEnum):
    """`off`: disabled by configuration. `degraded`: works despite a fault. `failed`: does not work."""

    STARTING = "starting"
    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"
    OFF = "off"


@dataclass(slots=True)
class Component:
    """State of one component; `since`: when the state began, `beat_at`: the last heartbeat (both monotonic s).

    `stale_after_s`: age of the last heartbeat above which the component counts as hung; None: no check.
    """

    name: str
    essential: bool
    state: State
    reason: str
    since: float
    stale_after_s: float | None = None
    beat_at: float = 0.0
    restarts: int = 0


class Health:
    """The register of components."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._components: dict[str, Component] = {}

    def add(self, name: str, *, essential: bool = False, stale_after_s: float | None = None) -> None:
        """Register a component; essential ones decide readiness. If it is already registered, its state is kept."""
        now = self._clock.monotonic()
        existing = self._components.get(name)
        if existing:
            existing.essential, existing.stale_after_s, existing.beat_at = essential, stale_after_s, now
            return
        self._components[name] = Component(
            name, essential, State.STARTING, "", now, stale_after_s=stale_after_s, beat_at=now
        )

    def set(self, name: str, state: State, reason: str = "") -> None:
        """Report a component's state; counts as a heartbeat."""
        component = self._components[name]
        if component.state is not state:
            component.since = self._clock.monotonic()
        component.state = state
        component.reason = reason
        component.beat_at = self._clock.monotonic()

    def beat(self, name: str) -> None:
        """Record a heartbeat."""
        self._components[name].beat_at = self._clock.monotonic()

    def count_restart(self, name: str) -> None:
        """Count a restart after a fault."""
        self._components[name].restarts += 1

    def components(self) -> list[Component]:
        """Every component, in the order of registration."""
        return list(self._components.values())

    def get(self, name: str) -> Component:
        """One component; KeyError if it is not registered."""
        return self._components[name]

    def stale(self) -> list[str]:
        """Names of components whose last heartbeat is too old: they hang."""
        now = self._clock.monotonic()
        return [
            c.name
            for c in self._components.values()
            if c.stale_after_s is not None and c.state is not State.OFF and now - c.beat_at > c.stale_after_s
        ]

    def is_ready(self) -> bool:
        """Whether every essential component works."""
        return all(c.state in (State.OK, State.DEGRADED) for c in self._components.values() if c.essential)
