"""Snapshots: the state that a stream begins with if it cannot replay the missed events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pi_orchestrator.core.events import StoredEvent

TakeSnapshot = Callable[[str | None], Awaitable[list[StoredEvent]]]


class Snapshots:
    """The snapshots of all features, in the order of `sources`, which `app/build.py` sets."""

    def __init__(self) -> None:
        self.sources: tuple[TakeSnapshot, ...] = ()

    async def take(self, session_id: str | None) -> list[StoredEvent]:
        """The current state as events, of one session if an id is given."""
        return [event for take in self.sources for event in await take(session_id)]
