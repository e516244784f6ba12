"""Reads the lease files of the local DHCP servers, each only if it has changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.net.dhcp.lease_file import Lease, ParsedLeases, parse_leases
from pi_orchestrator.net.host.files import Version, describe_error, file_version, read_bounded

MAX_BYTES = 1024 * 1024
DEFAULT_PATHS = ("var/lib/misc/dnsmasq.leases", "var/lib/NetworkManager/dnsmasq-{interface}.leases")
"""The lease files of dnsmasq alone (also with RaspAP), and of a NetworkManager hotspot."""
_SAME_TICK_NS = 100_000_000
"""Longer than a tick of the file system clock: a write after this time changes the time stamp."""


@dataclass(frozen=True, slots=True)
class _ReadResult:
    """Result of the last read of a file; `version` is None if the file must be read again in any case."""

    parsed: ParsedLeases | None
    version: Version | None
    error: OSError | None = None


class LeaseFiles:
    """Leases of one interface's DHCP server. If no file can be read, there are no leases, and `reason` says why."""

    def __init__(
        self, *, interface: str, configured: Sequence[Path] = (), clock: Clock, root: Path = Path("/")
    ) -> None:
        defaults = tuple(root / path.format(interface=interface) for path in DEFAULT_PATHS)
        self._paths = tuple(configured) or defaults
        self._clock = clock
        self._files: dict[Path, _ReadResult] = {}
        self._last_leases: tuple[Lease, ...] | None = None

    @property
    def reason(self) -> str | None:
        """Why no lease file can be read; None while one can, and before the first `read`."""
        files = self._files
        if not files or any(file.parsed is not None for file in files.values()):
            return None
        errors = [
            describe_error(path, file.error)
            for path, file in files.items()
            if file.error is not None and not isinstance(file.error, FileNotFoundError)
        ]
        return "; ".join(errors) or f"no lease file found at {', '.join(map(str, self._paths))}"

    @property
    def skipped(self) -> int:
        """Number of skipped lines in all files (see `ParsedLeases`)."""
        return sum(file.parsed.skipped for file in self._files.values() if file.parsed is not None)

    async def read(self) -> tuple[Lease, ...] | None:
        """The leases that have not expired, or None if they are unchanged since the last call."""
        self._files = await asyncio.to_thread(_read_all, self._paths, self._files)
        leases = self._unexpired()
        if leases == self._last_leases:
            return None
        self._last_leases = leases
        return leases

    def _unexpired(self) -> tuple[Lease, ...]:
        """The leases that have not expired; without a trusted clock, all of them."""
        now = self._clock.wall().timestamp() if self._clock.trusted() else 0.0
        latest: dict[tuple[str, int], Lease] = {}
        for file in self._files.values():
            for lease in file.parsed.leases if file.parsed else ():
                key = (lease.mac, int(lease.ip))
                existing = latest.get(key)
                # The file of a stopped server may still exist: a device's lease of an address can be in both files, and
                # the one that expires later counts.
                if existing is None or (lease.expires or _NEVER) > (existing.expires or _NEVER):
                    latest[key] = lease
        return tuple(lease for lease in latest.values() if lease.expires is None or lease.expires > now)


_NEVER = 1 << 63


def _read_all(paths: Sequence[Path], previous: Mapping[Path, _ReadResult]) -> dict[Path, _ReadResult]:
    return {path: _read(path, previous.get(path)) for path in paths}


def _read(path: Path, previous: _ReadResult | None) -> _ReadResult:
    try:
        if previous is not None and previous.version is not None and previous.version == file_version(path):
            return previous
        content, version = read_bounded(path, max_bytes=MAX_BYTES)
    except OSError as error:
        return _ReadResult(parsed=None, version=None, error=error)
    # A second write within a tick of the file system clock keeps the time stamp: read such a new file once more.
    is_settled = abs(time.time_ns() - version.written_ns) > _SAME_TICK_NS
    return _ReadResult(parsed=parse_leases(content), version=version if is_settled else None)
