"""Network interfaces as the kernel has them just now."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Interface

from pi_orchestrator.domain.mac import Mac


@dataclass(frozen=True, slots=True)
class Link:
    """One interface; `up` where it is switched on and has a carrier, `asks` where ARP works on it."""

    name: str
    index: int
    mac: Mac | None
    up: bool
    asks: bool
    addresses: tuple[IPv4Interface, ...]
