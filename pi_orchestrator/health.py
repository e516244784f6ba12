"""How each part is doing, in one place: the workers and edges report, readiness and doctor read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pi_orchestrator.clock import Clock


class State(StrEnum):
    """`off` is a choice, `degraded` works around a fault, `failed` does not work."""

    STARTING = "starting"
    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"
    OFF = "off"


@dataclass(slots=True)
class Component:
    """One part's state; `beat_at` is when it last showed life (monotonic s), `stale_after_s` how old that may be."""

    name: str
    essential: bool
    state: State
    reason: str
    since: float
    stale_after_s: float | None = None
    beat_at: float = 0.0
    restarts: int = 0


class Health:
    """The register of parts."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._components: dict[str, Component] = {}

    def add(self, name: str, *, essential: bool = False, stale_after_s: float | None = None) -> None:
        """Register a part; an essential one decides readiness. One that has said how it is stays so."""
        now = self._clock.monotonic()
        known = self._components.get(name)
        if known:
            known.essential, known.stale_after_s, known.beat_at = essential, stale_after_s, now
            return
        self._components[name] = Component(
            name, essential, State.STARTING, "", now, stale_after_s=stale_after_s, beat_at=now
        )

    def set(self, name: str, state: State, reason: str = "") -> None:
        """Report a part's state."""
        component = self._components[name]
        if component.state is not state:
            component.since = self._clock.monotonic()
        component.state = state
        component.reason = reason
        component.beat_at = self._clock.monotonic()

    def beat(self, name: str) -> None:
        """Show life."""
        self._components[name].beat_at = self._clock.monotonic()

    def count_restart(self, name: str) -> None:
        """A part was started again after a fault."""
        self._components[name].restarts += 1

    def components(self) -> list[Component]:
        """Every part, in the order of registration."""
        return list(self._components.values())

    def get(self, name: str) -> Component:
        """One part; KeyError if it is not registered."""
        return self._components[name]

    def stale(self) -> list[str]:
        """The parts whose last sign of life is too old: they hang."""
        now = self._clock.monotonic()
        return [
            c.name
            for c in self._components.values()
            if c.stale_after_s is not None and c.state is not State.OFF and now - c.beat_at > c.stale_after_s
        ]

    def ready(self) -> bool:
        """Whether every part that the daemon cannot work without works."""
        return all(c.state in (State.OK, State.DEGRADED) for c in self._components.values() if c.essential)
