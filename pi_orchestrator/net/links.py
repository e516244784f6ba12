"""Network interfaces as the kernel has them just now."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from itertools import chain

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

    def own(self) -> frozenset[IPv4Address]:
        """The addresses without their networks."""
        return frozenset(address.ip for address in self.addresses)

    def footing(self, subnet: IPv4Network) -> IPv4Interface | None:
        """The address from which hosts of a subnet can be asked: one in it, else one whose network it is a part of."""
        inside = (address for address in self.addresses if address.ip in subnet)
        around = (address for address in self.addresses if subnet.subnet_of(address.network))
        return next(chain(inside, around), None)

    def address_in(self, subnet: IPv4Network) -> IPv4Address | None:
        """The address from which hosts of a subnet are asked; None where it has none for that."""
        footing = self.footing(subnet)
        return footing.ip if footing else None


def is_host(address: IPv4Address, net: IPv4Network) -> bool:
    """Whether a host of this network can have the address."""
    ends = () if net.prefixlen > 30 else (net.network_address, net.broadcast_address)
    return address in net and address not in ends
