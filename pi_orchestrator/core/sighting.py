"""Sightings: reports of a device by one source, from which presence and addresses are derived."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from pi_orchestrator.core.mac import Mac


class Source(StrEnum):
    """Where evidence comes from; `record` is evidence stored before a restart."""

    ARP = "arp"
    NEIGHBOUR = "neighbour"
    STATION = "station"
    LEASE = "lease"
    MDNS = "mdns"
    MQTT = "mqtt"
    PROBE = "probe"
    RECORD = "record"


TRUSTED = frozenset({Source.ARP, Source.NEIGHBOUR, Source.STATION, Source.MQTT, Source.PROBE, Source.RECORD})
"""Sources that prove presence; a DHCP lease or an mDNS name only shows that the device was present once."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A device as one source saw it at `at` (monotonic s).

    `alive`: it shows that the device was present at that moment; a DHCP lease or an mDNS name does not. `binds`: the
    device answered a probe of `ip`; if False, the address is only a claim.
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
