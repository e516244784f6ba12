"""A scan of the camera network, with its result."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pi_orchestrator.core.errors import FieldError

SMALLEST_PREFIX = 22
"""Prefix of the largest network that is scanned unless discovery.allow_large_subnet is set."""


class ScanState(StrEnum):
    """State of a scan; `interrupted`: the daemon ended during the scan."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Scan:
    """A scan. `progress` 0 to 100; `new`, `moved` and `gone` are relative to the previous scan.

    `requested_by` is `periodic`, the name of an API key, or `operator` if none was used.
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
    if prefix < SMALLEST_PREFIX and not allow_large:
        raise FieldError(
            f"{subnet} is larger than a /{SMALLEST_PREFIX}: scanning {2 ** (32 - prefix):,} addresses takes long; "
            "correct ap.subnet, or set discovery.allow_large_subnet"
        )
