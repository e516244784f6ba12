"""Addresses that a camera may have: hosts of the camera network, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from ipaddress import IPv4Address, IPv4Network

from pi_orchestrator.core.errors import FieldError


def parse_ipv4(text: str) -> IPv4Address:
    """Parse a dotted quad; FieldError for anything else (a name, IPv6, a short or octal form)."""
    try:
        return IPv4Address(text)
    except ValueError:
        raise FieldError(f"{text[:45]!r} is not an IPv4 address") from None


def check_camera_address(
    text: str,
    *,
    ap_subnet: IPv4Network,
    allowed: Sequence[IPv4Network],
    own: Collection[IPv4Address],
    allow_loopback: bool = False,
) -> IPv4Address:
    """Parse an address that a camera may have; FieldError if it cannot be one. `own`: addresses of this machine."""
    address = parse_ipv4(text)
    if address.is_loopback and not allow_loopback:
        raise FieldError(f"{address} is a loopback address")
    if address.is_multicast or address.is_link_local or address.is_unspecified or address.is_reserved:
        raise FieldError(f"{address} is not a host address (multicast, link-local or reserved)")
    if address not in ap_subnet:
        raise FieldError(f"{address} is outside the camera network {ap_subnet}")
    if not any(address in network for network in allowed):
        raise FieldError(f"{address} is outside subnet_allowlist ({', '.join(map(str, allowed)) or 'empty'})")
    if ap_subnet.prefixlen < 31 and address in (ap_subnet.network_address, ap_subnet.broadcast_address):
        raise FieldError(f"{address} is the network or broadcast address of {ap_subnet}")
    if address in own:
        raise FieldError(f"{address} belongs to this machine")
    return address
