"""DHCP leases from the files of whichever server runs here: read again only when one of them has changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.lease import Lease, LeaseText, parse_leases
from pi_orchestrator.net.files import Version, read_bounded, version_of, why

MAX_BYTES = 1024 * 1024
USUAL_PLACES = ("var/lib/misc/dnsmasq.leases", "var/lib/NetworkManager/dnsmasq-{interface}.leases")
"""dnsmasq's own, which RaspAP uses too, and that of a NetworkManager hotspot."""
_SAME_TICK_NS = 100_000_000


@dataclass(frozen=True, slots=True)
class _Read:
    """One file as it was read last; no version where it must be read again in any case."""

    text: LeaseText | None
    version: Version | None
    problem: OSError | None = None


class LeaseFiles:
    """Leases of one interface's DHCP server; without a readable file there are none and `reason` says why."""

    def __init__(
        self, *, interface: str, configured: Sequence[Path] = (), clock: Clock, root: Path = Path("/")
    ) -> None:
        usual = tuple(root / place.format(interface=interface) for place in USUAL_PLACES)
        self._paths = tuple(configured) or usual
        self._clock = clock
        self._files: dict[Path, _Read] = {}
        self._told: tuple[Lease, ...] | None = None

    @property
    def reason(self) -> str | None:
        """Why there is no lease to be had; None while a file can be read, and before the first look."""
        files = self._files
        if not files or any(file.text is not None for file in files.values()):
            return None
        refused = [
            why(path, file.problem)
            for path, file in files.items()
            if file.problem is not None and not isinstance(file.problem, FileNotFoundError)
        ]
        return "; ".join(refused) or f"no lease file found at {', '.join(map(str, self._paths))}"

    @property
    def skipped(self) -> int:
        """How many lines of the files were not understood."""
        return sum(file.text.skipped for file in self._files.values() if file.text is not None)

    async def read(self) -> tuple[Lease, ...] | None:
        """The leases that run now, or None where they are those of the last call."""
        self._files = await asyncio.to_thread(_look, self._paths, self._files)
        leases = self._running()
        if leases == self._told:
            return None
        self._told = leases
        return leases

    def _running(self) -> tuple[Lease, ...]:
        """What has not expired; a clock that is not sure of the date ends no lease."""
        now = self._clock.wall().timestamp() if self._clock.trusted() else 0.0
        latest: dict[tuple[str, int], Lease] = {}
        for file in self._files.values():
            for lease in file.text.leases if file.text else ():
                key = (lease.mac, int(lease.ip))
                known = latest.get(key)
                # The file of a server that no longer runs is still there: where two tell of one, the later end holds.
                if known is None or (lease.expires or _NEVER) > (known.expires or _NEVER):
                    latest[key] = lease
        return tuple(lease for lease in latest.values() if lease.expires is None or lease.expires > now)


_NEVER = 1 << 63


def _look(paths: Sequence[Path], before: Mapping[Path, _Read]) -> dict[Path, _Read]:
    return {path: _read(path, before.get(path)) for path in paths}


def _read(path: Path, before: _Read | None) -> _Read:
    try:
        if before is not None and before.version is not None and before.version == version_of(path):
            return before
        content, version = read_bounded(path, max_bytes=MAX_BYTES)
    except OSError as error:
        return _Read(text=None, version=None, problem=error)
    # A write within the same tick of the file system's clock changes no time: such a young file is read once more.
    settled = abs(time.time_ns() - version.written_ns) > _SAME_TICK_NS
    return _Read(text=parse_leases(content), version=version if settled else None)
