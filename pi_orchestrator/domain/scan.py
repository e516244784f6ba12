"""One discovery run: asked for by somebody, with what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pi_orchestrator.errors import FieldError

SMALLEST_PREFIX = 22


class ScanState(StrEnum):
    """Where a run is; `interrupted` is one that was under way when the daemon ended."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Scan:
    """A run. `progress` 0 to 100; `new`, `moved` and `gone` are of the `found` devices against the run before."""

    id: str
    requested_by: str
    engine: str
    interface: str
    subnet: str
    started_at: datetime
    state: ScanState = ScanState.RUNNING
    progress: int = 0
    found: int = 0
    new: int = 0
    moved: int = 0
    gone: int = 0
    message: str | None = None
    duration_ms: int | None = None


def check_size(subnet: str, prefix: int, *, allow_large: bool) -> None:
    """FieldError for a network that is too large to be asked address by address."""
    if prefix < SMALLEST_PREFIX and not allow_large:
        raise FieldError(
            f"{subnet} is larger than a /{SMALLEST_PREFIX}: asking {2 ** (32 - prefix):,} addresses takes long; "
            "correct ap.subnet, or set discovery.allow_large_subnet"
        )
