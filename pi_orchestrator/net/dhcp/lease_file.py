"""Parser for the lease file of dnsmasq, which NetworkManager and RaspAP use, too."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.ipv4 import parse_ipv4
from pi_orchestrator.core.mac import Mac, parse_mac
from pi_orchestrator.core.sighting import Sighting, Source
from pi_orchestrator.core.validation import clean_text

MAX_LEASES = 4096
MAX_NAME_CHARS = 255
_MIN_TIMESTAMP = 315_532_800
"""1980. A smaller number is a lease duration, as written by a dnsmasq that is built for machines without a clock."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease; `expires` is Unix time, None if the date is unknown or the lease never expires."""

    mac: Mac
    ip: IPv4Address
    host_name: str | None = None
    expires: int | None = None

    def sighting(self, at: float) -> Sighting:
        """The lease as evidence: not alive, no binding, because the device may have left."""
        return Sighting(
            mac=self.mac,
            source=Source.LEASE,
            at=at,
            ip=self.ip,
            alive=False,
            binds=False,
            host_name=self.host_name,
        )


@dataclass(frozen=True, slots=True)
class ParsedLeases:
    """Content of a lease file; `skipped` counts lines that are invalid, incomplete or beyond `MAX_LEASES`."""

    leases: tuple[Lease, ...]
    skipped: int


def parse_leases(content: bytes) -> ParsedLeases:
    """Parse lines of `expiry mac ip name clientid`; never raises. IPv6 lines are ignored and not counted as skipped."""
    leases: list[Lease] = []
    skipped = 0
    lines = content.split(b"\n")
    if lines and lines[-1]:
        skipped += 1  # incomplete: the server is writing, or the file is longer than the read limit
    for line in lines[:-1]:
        if len(leases) >= MAX_LEASES:
            skipped += 1
            continue
        try:
            lease = _parse_line(line)
        except (FieldError, ValueError):
            skipped += 1
        else:
            if lease is not None:
                leases.append(lease)
    return ParsedLeases(tuple(leases), skipped)


def _parse_line(line: bytes) -> Lease | None:
    """One line; None if it is valid but not an IPv4 lease; FieldError or ValueError if invalid."""
    fields = line.decode("utf-8").rstrip("\r").split(" ")
    if fields == [""] or (fields[0] == "duid" and len(fields) == 2):
        return None
    if len(fields) not in (4, 5) or not fields[0].isascii() or not fields[0].isdigit() or len(fields[0]) > 20:
        raise FieldError("not a lease")
    expiry, mac, ip, name = fields[:4]
    if ":" in ip:
        return None
    return Lease(mac=parse_mac(mac), ip=parse_ipv4(ip), host_name=_host_name(name), expires=_expires(int(expiry)))


def _expires(number: int) -> int | None:
    return number if number >= _MIN_TIMESTAMP else None


def _host_name(field: str) -> str | None:
    if field == "*":
        return None
    name = clean_text(field, max_chars=MAX_NAME_CHARS)
    if name != field:
        raise FieldError("not a host name")
    return name
