"""A scan of the camera network, with its result."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pi_orchestrator.core.errors import FieldError

SHORTEST_PREFIX = 22
"""A network with a shorter prefix is scanned only if discovery.allow_large_subnet is set."""


class ScanState(StrEnum):
    """State of a scan; `interrupted`: the daemon ended during the scan."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Scan:
    """A scan; `progress` in percent.

    `requested_by`: `periodic`; for a scan on demand the name of the API key, or `operator` for a request without a key.
    `found`: devices that answered during the scan; `new`: those of them that were unknown at the end of the previous
    scan. `moved`, `gone`: address changes, and devices that are no longer present, since the end of the previous scan.
    """

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
    """FieldError if the network is too large to be scanned address by address."""
    if prefix < SHORTEST_PREFIX and not allow_large:
        raise FieldError(
            f"{subnet} is larger than a /{SHORTEST_PREFIX}: scanning {2 ** (32 - prefix):,} addresses takes long; "
            "correct ap.subnet, or set discovery.allow_large_subnet"
        )
