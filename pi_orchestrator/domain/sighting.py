"""One source saw one device: the evidence that everything said about presence and addresses is made from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from pi_orchestrator.domain.mac import Mac


class Source(StrEnum):
    """Where evidence comes from; `record` is what was stored before a restart."""

    ARP = "arp"
    NEIGHBOUR = "neighbour"
    STATION = "station"
    LEASE = "lease"
    MDNS = "mdns"
    MQTT = "mqtt"
    PROBE = "probe"
    RECORD = "record"


TRUSTED = frozenset({Source.ARP, Source.NEIGHBOUR, Source.STATION, Source.MQTT, Source.PROBE, Source.RECORD})
"""Sources whose sign of life counts; a lease or a name says that a device was here once."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A device as one source saw it at `at` (monotonic s).

    `alive` where it shows that the device was there at that moment; a lease or a name does not. `binds` where the
    device answered for `ip` when it was asked; an address without that is hearsay.
    """

    mac: Mac
    source: Source
    at: float
    ip: IPv4Address | None = None
    alive: bool = True
    binds: bool = False
    host_name: str | None = None
    rssi_dbm: int | None = None
    detail: str = ""
