"""Checks of the interface, the subnet and the engine of a scan, with remedies for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pi_orchestrator.features.discovery.standalone import StandaloneScan
    from pi_orchestrator.net.kernel.links import Link
    from pi_orchestrator.settings import Settings


@dataclass(frozen=True, slots=True)
class ScanProblem:
    """A problem with `part`, which is `interface`, `subnet` or `engine`, and how to fix it."""

    part: str
    text: str
    remedy: str


async def find_problem(standalone: StandaloneScan) -> ScanProblem | None:
    """What prevents a scan, found in the order of the scanner's checks; None if nothing. Call `refresh_link` before."""
    scanner, settings = standalone.scanner, standalone.settings
    if scanner.engine:
        return None
    return (
        await interface_problem(standalone, scanner.link)
        or (_address_problem(settings, scanner.link) if scanner.link else None)
        or _engine_problem(settings, scanner.unavailable_reason)
    )


async def interface_problem(standalone: StandaloneScan, link: Link | None) -> ScanProblem | None:
    """What is wrong with the interface itself; None if nothing."""
    name = standalone.settings.ap.interface
    if link is None:
        return ScanProblem("interface", f"interface {name} not found", await _interface_remedy(standalone))
    if standalone.scanner.off:
        return None if link.up else _down_problem(name)
    if not link.supports_arp:
        return ScanProblem(
            "interface", f"{name} does not support ARP, so it cannot be scanned", await _interface_remedy(standalone)
        )
    return None if link.up else _down_problem(name)


def _down_problem(name: str) -> ScanProblem:
    return ScanProblem("interface", f"{name} is down", f"start the access point, or: ip link set {name} up")


async def _interface_remedy(standalone: StandaloneScan) -> str:
    names = sorted(link.name for link in await standalone.netlink.links() if link.name != "lo")
    if not names:
        return "this machine has no network interface: plug one in, or load its driver"
    return f"set ap.interface to one of: {', '.join(names)}"


def _address_problem(settings: Settings, link: Link) -> ScanProblem | None:
    from pi_orchestrator.core.errors import FieldError
    from pi_orchestrator.features.discovery.model import SHORTEST_PREFIX, check_size

    name, subnet = link.name, settings.ap.subnet
    local = link.interface_address(subnet)
    if local is None:
        others = f"; it has {', '.join(map(str, link.addresses))}" if link.addresses else "; it has none"
        # Suggest no address: it could be a camera's.
        remedy = "set ap.subnet (or --subnet) to the network of the interface, or give the interface an address in it"
        return ScanProblem("interface", f"{name} has no address in {subnet}{others}", remedy)
    network = max(local.network, subnet, key=lambda candidate: candidate.prefixlen)
    try:
        check_size(str(network), network.prefixlen, allow_large=settings.discovery.allow_large_subnet)
    except FieldError:
        text = f"{network} is larger than a /{SHORTEST_PREFIX}: scanning {network.num_addresses:,} addresses takes long"
        return ScanProblem("subnet", text, "correct ap.subnet, or set discovery.allow_large_subnet")
    return None


def _engine_problem(settings: Settings, reason: str) -> ScanProblem:
    remedy = "check the kernel log: dmesg"
    if settings.discovery.engine == "arp":
        remedy = "run this command with sudo, or set discovery.engine to auto: the engine neighbour needs no privilege"
    return ScanProblem("engine", reason, remedy)
