"""What keeps a scan from its interface, and what to do about it, in the words of a command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pi_orchestrator.net.links import Link
    from pi_orchestrator.settings import Settings
    from pi_orchestrator.workers.survey import Survey


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What is wrong with a `part` (interface, subnet or engine), and the remedy."""

    part: str
    what: str
    remedy: str


async def find_obstacle(survey: Survey) -> Obstacle | None:
    """Why the scanner, which has looked, cannot scan; None where it can. The order is that of its own checks."""
    scanner, settings = survey.scanner, survey.settings
    if scanner.engine:
        return None
    return (
        await interface_obstacle(survey, scanner.link)
        or (_address_obstacle(settings, scanner.link) if scanner.link else None)
        or _engine_obstacle(settings, scanner.reason)
    )


async def interface_obstacle(survey: Survey, link: Link | None) -> Obstacle | None:
    """What is wrong with the interface itself."""
    name = survey.settings.ap.interface
    if link is None:
        return Obstacle("interface", f"{name} is not there", await _choice(survey))
    if survey.scanner.off:
        return None if link.up else _down(name)
    if not link.asks:
        return Obstacle("interface", f"{name} has no ARP: nobody can be asked there", await _choice(survey))
    return None if link.up else _down(name)


def _down(name: str) -> Obstacle:
    return Obstacle("interface", f"{name} is down", f"start the access point, or: ip link set {name} up")


async def _choice(survey: Survey) -> str:
    names = sorted(link.name for link in await survey.netlink.links() if link.name != "lo")
    if not names:
        return "this machine has no network interface: plug one in, or load its driver"
    return f"set ap.interface to one of: {', '.join(names)}"


def _address_obstacle(settings: Settings, link: Link) -> Obstacle | None:
    from pi_orchestrator.domain.scan import SMALLEST_PREFIX, check_size
    from pi_orchestrator.errors import FieldError

    name, subnet = link.name, settings.ap.subnet
    footing = link.footing(subnet)
    if footing is None:
        others = f", but {', '.join(map(str, link.addresses))}" if link.addresses else ", nor any other"
        # Which address it should have only its owner knows: one made up here could be a camera's.
        remedy = "name the network that it is on (ap.subnet, or --subnet), or give it its address there"
        return Obstacle("interface", f"{name} has no address in {subnet}{others}", remedy)
    network = max(footing.network, subnet, key=lambda one: one.prefixlen)
    try:
        check_size(str(network), network.prefixlen, allow_large=settings.discovery.allow_large_subnet)
    except FieldError:
        what = f"{network} is larger than a /{SMALLEST_PREFIX}: {network.num_addresses:,} addresses take long"
        return Obstacle("subnet", what, "correct ap.subnet, or set discovery.allow_large_subnet")
    return None


def _engine_obstacle(settings: Settings, reason: str) -> Obstacle:
    remedy = "see what the kernel says of it: dmesg"
    if settings.discovery.engine == "arp":
        remedy = "run it with sudo, or set discovery.engine to auto: the kernel's neighbour table needs no privilege"
    return Obstacle("engine", reason, remedy)
