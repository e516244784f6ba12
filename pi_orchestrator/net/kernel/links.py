"""Network interfaces, as reported by the kernel."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from itertools import chain

from pi_orchestrator.core.mac import Mac


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface; `up`: enabled and with carrier."""

    name: str
    index: int
    mac: Mac | None
    up: bool
    supports_arp: bool
    addresses: tuple[IPv4Interface, ...]

    def own_addresses(self) -> frozenset[IPv4Address]:
        """The addresses of the interface, without prefix lengths."""
        return frozenset(address.ip for address in self.addresses)

    def interface_address(self, subnet: IPv4Network) -> IPv4Interface | None:
        """The address to probe a subnet from: one in the subnet, else one whose network contains it, else None."""
        inside = (address for address in self.addresses if address.ip in subnet)
        containing = (address for address in self.addresses if subnet.subnet_of(address.network))
        return next(chain(inside, containing), None)

    def address_in(self, subnet: IPv4Network) -> IPv4Address | None:
        """The IP of `interface_address`, or None."""
        found = self.interface_address(subnet)
        return found.ip if found else None


def is_host(address: IPv4Address, network: IPv4Network) -> bool:
    """Whether the address is in the network and neither its network nor its broadcast address."""
    reserved = () if network.prefixlen > 30 else (network.network_address, network.broadcast_address)
    return address in network and address not in reserved
