"""The best known address of a device, by one rule for all features."""

from __future__ import annotations

from ipaddress import IPv4Network

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.ipv4 import parse_ipv4
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.devices.registry import DeviceRegistry


def best_address(
    registry: DeviceRegistry,
    mac: Mac,
    *,
    recorded: str | None = None,
    live_only: bool = False,
    within: IPv4Network | None = None,
    not_held_by_other: bool = False,
) -> str | None:
    """The address of a device, dotted; None if it has no address.

    First the address that it has proved to hold and that no other device answers for, then the one that it claims,
    then the `recorded` one. Conditions for the claimed address: `live_only`: a live message was received; `within`: it
    is inside this network; `not_held_by_other`: no other device answers for it. An address that is not proved must be
    verified before anything is sent to it.
    """
    proven = registry.address_of(mac)
    if proven:
        return str(proven)
    device = registry.get(mac)
    claimed = device.claims.ip if device and device.claims else None
    is_usable = device is not None and (device.last_message_at is not None or not live_only)
    is_in_scope = claimed and (within is None or _is_in(claimed, within))
    if is_usable and is_in_scope and not (not_held_by_other and claimed and _is_held_by_other(registry, mac, claimed)):
        return claimed
    return recorded


def _is_in(claimed: str, network: IPv4Network) -> bool:
    try:
        return parse_ipv4(claimed) in network
    except FieldError:
        return False


def _is_held_by_other(registry: DeviceRegistry, mac: Mac, claimed: str) -> bool:
    try:
        return bool(registry.claimants(parse_ipv4(claimed)) - {mac})
    except FieldError:
        return False
