"""Who had pictures taken of which camera, on its way to the record.

A display on a wall asks for pictures all day: each would be a write, and together most of what the card ever has to
bear. So the first is written at once, what follows soon after goes together, and a repeat within the minute is none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from pi_orchestrator.clock import Clock, rfc3339
from pi_orchestrator.domain.capture import Picture
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.errors import StorageError
from pi_orchestrator.events import Logged
from pi_orchestrator.logs import get_logger
from pi_orchestrator.storage import actions, event_log
from pi_orchestrator.storage.actions import Actor
from pi_orchestrator.storage.database import Database, Tx

AGAIN_AFTER_S = 60.0
TOGETHER_S = 30.0
REMEMBERED = 4096
WAITING = 1024

log = get_logger(__name__)


class CaptureRecord:
    """`asked` and `captured` take note, `flush` writes."""

    def __init__(self, *, clock: Clock, database: Database) -> None:
        self._clock = clock
        self._database = database
        self._noted: OrderedDict[Hashable, float] = OrderedDict()
        self._waiting: list[Logged | tuple[Actor, Mac, str]] = []
        self._written_at = float("-inf")
        self.dropped = 0

    async def asked(self, actor: Actor, mac: Mac, outcome: str) -> None:
        """Somebody asked for a picture."""
        if self._is_news((actor.key_name, actor.peer, mac, outcome)):
            self._add((actor, mac, outcome))
            await self.flush_if_due()

    def captured(self, mac: Mac, picture: Picture) -> None:
        """A picture was taken."""
        if self._is_news(mac):
            payload = {
                "mac": mac,
                "at": rfc3339(picture.taken_at),
                "size": len(picture.jpeg),
                "took_ms": picture.took_ms,
                "source": picture.source,
            }
            self._add(Logged("camera.captured", payload, mac=mac))

    async def flush_if_due(self) -> None:
        """Write what waits, unless something was written a short while ago."""
        if self._clock.monotonic() - self._written_at >= TOGETHER_S:
            await self.flush()

    async def flush(self) -> None:
        """Write what waits."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        self._written_at = self._clock.monotonic()

        async def job(tx: Tx) -> None:
            for one in waiting:
                if isinstance(one, Logged):
                    await event_log.append(tx, one)
                else:
                    actor, mac, outcome = one
                    await actions.record(tx, actor, target=mac, outcome=outcome)

        try:
            await self._database.write(job)
        except StorageError as error:
            log.warning("pictures taken are not on record yet", reason=error.message, details=error.details)
            self._waiting = [*waiting, *self._waiting]

    def _add(self, one: Logged | tuple[Actor, Mac, str]) -> None:
        self._waiting.append(one)
        if len(self._waiting) > WAITING:
            del self._waiting[0]
            self.dropped += 1

    def _is_news(self, what: Hashable) -> bool:
        now = self._clock.monotonic()
        if now - self._noted.get(what, float("-inf")) < AGAIN_AFTER_S:
            return False
        self._noted[what] = now
        self._noted.move_to_end(what)
        if len(self._noted) > REMEMBERED:
            self._noted.popitem(last=False)
        return True
