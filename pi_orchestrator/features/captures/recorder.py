"""Records which key requested a picture of which camera, and which pictures were taken.

A dashboard may request pictures all day; a write for each would wear out the SD card. So the first record is written
immediately, those of the next 30 s together, and a repeat within a minute is not recorded.
"""

from __future__ import annotations

from collections.abc import Hashable

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.core.bounded_dict import BoundedDict
from pi_orchestrator.core.clock import Clock, rfc3339
from pi_orchestrator.core.errors import StorageError
from pi_orchestrator.core.events import CameraCaptured
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.write_behind import PendingWrites
from pi_orchestrator.features.captures.model import Picture
from pi_orchestrator.storage import audit_log, event_store
from pi_orchestrator.storage.database import Database, Tx

REPEAT_AFTER_S = 60.0
FLUSH_INTERVAL_S = 30.0
MAX_TRACKED = 4096
MAX_PENDING = 1024

log = get_logger(__name__)


class CaptureRecorder:
    """`record_request` and `record_picture` add records, `flush` writes them."""

    def __init__(self, *, clock: Clock, database: Database) -> None:
        self._clock = clock
        self._database = database
        self._recorded_at: BoundedDict[Hashable, float] = BoundedDict(MAX_TRACKED)
        self._pending: PendingWrites[CameraCaptured | tuple[Actor, Mac, str]] = PendingWrites(MAX_PENDING)
        self._written_at = float("-inf")

    @property
    def dropped(self) -> int:
        """Number of records that were lost because too many were pending."""
        return self._pending.dropped

    async def record_request(self, actor: Actor, mac: Mac, outcome: str) -> None:
        """Record a request for a picture, and write the pending records if a write is due."""
        if self._is_new((actor.key_name, actor.peer, mac, outcome)):
            self._pending.add((actor, mac, outcome))
            await self.flush_if_due()

    def record_picture(self, mac: Mac, picture: Picture) -> None:
        """Record a picture; it is written with the next flush."""
        if self._is_new(mac):
            event = CameraCaptured(
                mac=mac,
                at=rfc3339(picture.taken_at),
                size=len(picture.jpeg),
                took_ms=picture.took_ms,
                source=picture.source,
            )
            self._pending.add(event)

    async def flush_if_due(self) -> None:
        """Write what is pending, at most once per `FLUSH_INTERVAL_S`."""
        if self._clock.monotonic() - self._written_at >= FLUSH_INTERVAL_S:
            await self.flush()

    async def flush(self) -> None:
        """Write what is pending; on StorageError it stays pending."""
        if not self._pending:
            return
        self._written_at = self._clock.monotonic()
        try:
            with self._pending.taken() as records:
                await self._database.write(lambda tx: _save(tx, records))
        except StorageError as error:
            log.warning("captures not recorded, will retry", reason=error.message, details=error.details)

    def _is_new(self, key: Hashable) -> bool:
        """Whether this key was not recorded within the last `REPEAT_AFTER_S`; marks it as recorded now."""
        now = self._clock.monotonic()
        if now - self._recorded_at.get(key, float("-inf")) < REPEAT_AFTER_S:
            return False
        self._recorded_at[key] = now
        return True


async def _save(tx: Tx, records: list[CameraCaptured | tuple[Actor, Mac, str]]) -> None:
    for record in records:
        if isinstance(record, CameraCaptured):
            await event_store.append(tx, record)
        else:
            actor, mac, outcome = record
            await audit_log.record(tx, actor, target=mac, outcome=outcome)
