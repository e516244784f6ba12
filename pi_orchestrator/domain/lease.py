"""What a DHCP server has promised to whom: the lease file of dnsmasq, which NetworkManager and RaspAP run too."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from pi_orchestrator.domain.address import parse_ipv4
from pi_orchestrator.domain.mac import Mac, parse_mac
from pi_orchestrator.domain.sighting import Sighting, Source
from pi_orchestrator.domain.strict_json import clean_text
from pi_orchestrator.errors import FieldError

MAX_LEASES = 4096
MAX_NAME_CHARS = 255
_FIRST_DATE = 315_532_800
"""1980: a smaller number is no date. A dnsmasq built for machines without a clock writes how long a lease lasts."""


@dataclass(frozen=True, slots=True)
class Lease:
    """An address that was given to a MAC; `expires` is Unix time, None where no date is known or it never ends."""

    mac: Mac
    ip: IPv4Address
    host_name: str | None = None
    expires: int | None = None

    def sighting(self, at: float) -> Sighting:
        """The lease as evidence: a device of this name was here once, at an address that it may have left."""
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
class LeaseText:
    """What a lease file says; `skipped` lines were not what a DHCP server writes, or too many."""

    leases: tuple[Lease, ...]
    skipped: int


def parse_leases(content: bytes) -> LeaseText:
    """`expiry mac ip name clientid` per line → leases; never raises. Lines about IPv6 belong there and do not count."""
    leases: list[Lease] = []
    skipped = 0
    lines = content.split(b"\n")
    if lines and lines[-1]:
        skipped += 1  # cut off in the middle: the server is writing, or the file is longer than what was read
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
    return LeaseText(tuple(leases), skipped)


def _parse_line(line: bytes) -> Lease | None:
    """One line; None where it is right but no IPv4 lease of an Ethernet device."""
    words = line.decode("utf-8").rstrip("\r").split(" ")
    if words == [""] or (words[0] == "duid" and len(words) == 2):
        return None
    if len(words) not in (4, 5) or not words[0].isascii() or not words[0].isdigit() or len(words[0]) > 20:
        raise FieldError("not a lease")
    expiry, mac, ip, name = words[:4]
    if ":" in ip:
        return None
    return Lease(mac=parse_mac(mac), ip=parse_ipv4(ip), host_name=_host_name(name), expires=_expires(int(expiry)))


def _expires(number: int) -> int | None:
    return number if number >= _FIRST_DATE else None


def _host_name(word: str) -> str | None:
    if word == "*":
        return None
    name = clean_text(word, max_chars=MAX_NAME_CHARS)
    if name != word:
        raise FieldError("not a host name")
    return name
