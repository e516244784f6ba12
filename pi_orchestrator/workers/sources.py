"""The quiet sources: leases, the radio's stations and mDNS, each optional, each telling how it is.

None of them asks the network anything that costs. Together they say who was given an address, who is associated and
how strong, and what devices call themselves; and what the network is called and how many are on it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.network import NetworkStatus
from pi_orchestrator.domain.presence import HERE
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.domain.sighting import Sighting, Source
from pi_orchestrator.errors import StorageError
from pi_orchestrator.events import Logged
from pi_orchestrator.health import Health, State
from pi_orchestrator.logs import get_logger
from pi_orchestrator.net.leases import LeaseFiles
from pi_orchestrator.net.mdns import Mdns, OnService, Service
from pi_orchestrator.net.ssid import SsidReader
from pi_orchestrator.net.stations import Air, Stations
from pi_orchestrator.net.vendors import Vendors
from pi_orchestrator.storage import event_log
from pi_orchestrator.storage.database import Database, Tx
from pi_orchestrator.supervisor import Beat
from pi_orchestrator.workers.scanner import Scanner

PASS_S = 5.0
SOON_S = 0.5
"""While the scanner looks for its interface, most of the sources have nothing to read."""
NO_RADIO_AGAIN_S = 300.0
SSID_EACH_S = 60.0
MAX_HINTS = 512

log = get_logger(__name__)


class SourcesWorker:
    """Reads every source that is switched on; `network` is the state of the camera network as last seen."""

    def __init__(
        self,
        *,
        interface: str,
        leases: LeaseFiles | None,
        stations: Stations | None,
        mdns: Callable[[OnService], Mdns] | None,
        ssid: SsidReader,
        vendors: Vendors,
        scanner: Scanner,
        registry: Registry,
        clock: Clock,
        health: Health,
        database: Database,
    ) -> None:
        self._leases = leases
        self._stations = stations
        self._mdns = mdns(self.hinted) if mdns else None
        self._mdns_on: tuple[IPv4Interface, ...] = ()
        self._ssid = ssid
        self._vendors = vendors
        self._scanner = scanner
        self._registry = registry
        self._clock = clock
        self._health = health
        self._database = database
        self._hints: OrderedDict[IPv4Address, str] = OrderedDict()
        self._air: Air | None = None
        self._radio_due = float("-inf")
        self._ssid_due = float("-inf")
        self._name = ""
        self._interface = interface
        self._told = NetworkStatus(interface)

    def hinted(self, service: Service) -> None:
        """Somebody said by mDNS that a service of this name is at this address."""
        self._hints[service.address] = service.name
        self._hints.move_to_end(service.address)
        if len(self._hints) > MAX_HINTS:
            self._hints.popitem(last=False)

    async def run(self, beat: Beat) -> None:
        """A pass every few seconds until cancelled."""
        try:
            await self._vendors.load()
            if self._vendors.reason:
                log.warning("devices are shown without their manufacturers", reason=self._vendors.reason)
            while True:
                beat()
                await self.pass_once()
                await self._clock.sleep(PASS_S if self._scanner.link or self._scanner.off else SOON_S)
        finally:
            if self._mdns:
                await self._mdns.close()

    async def pass_once(self) -> None:
        """Read every source once."""
        await self._read_leases()
        await self._read_stations()
        await self._read_mdns()
        await self._look_at_network()

    async def _read_leases(self) -> None:
        if self._leases is None:
            return
        now = self._clock.monotonic()
        for lease in await self._leases.read() or ():
            self._registry.sight(lease.sighting(now), now)
        reason = self._leases.reason
        self._health.set("leases", State.OFF if reason else State.OK, reason or "")

    async def _read_stations(self) -> None:
        if self._stations is None:
            return
        now, link = self._clock.monotonic(), self._scanner.link
        if link is None or now < self._radio_due:
            self._air = self._air if link else None
            return
        self._air = await self._stations.read(link.index)
        if self._air is None:
            self._radio_due = now + NO_RADIO_AGAIN_S  # a cable does not become a radio
        for station in self._air.stations if self._air else ():
            self._registry.sight(station.sighting(self._air.at if self._air else now), now)
        reason = self._stations.reason
        self._health.set("stations", State.OFF if reason else State.OK, reason or "")

    async def _read_mdns(self) -> None:
        if self._mdns is None:
            return
        link = self._scanner.link
        addresses = link.addresses if link and link.up and link.asks else ()
        if addresses != self._mdns_on:
            self._mdns_on = addresses
            await (self._mdns.open(addresses=addresses) if addresses else self._mdns.close())
        self._health.set("mdns", State.OFF if self._mdns.reason else State.OK, self._mdns.reason or "")
        now = self._clock.monotonic()
        for address, name in list(self._hints.items()):
            held = self._registry.holder(address)
            if held:
                del self._hints[address]
                self._registry.sight(Sighting(held[0], Source.MDNS, now, address, alive=False, host_name=name), now)
            elif self._scanner.network and address in self._scanner.network:
                self._registry.doubt(address)
            else:
                del self._hints[address]

    @property
    def network(self) -> NetworkStatus:
        """The camera network as it is now."""
        link = self._scanner.link
        connected = bool(link and link.up and link.addresses)
        air = self._air if connected else None
        here = len(air.stations) if air and air.radio.serves else self._count_here()
        return NetworkStatus(
            interface=self._interface,
            ssid=self._name,
            connected=connected,
            is_active=connected and (air is None or air.radio.serves),
            connected_devices=here if connected else 0,
        )

    async def _look_at_network(self) -> None:
        now, radio = self._clock.monotonic(), self._air.radio if self._air else None
        if now >= self._ssid_due or (radio and radio.ssid and radio.ssid != self._name):
            self._ssid_due = now + SSID_EACH_S
            found = await self._ssid.read(radio=radio.ssid if radio else None)
            self._name = found.name if found else ""
        if self.network != self._told:
            await self._tell(self.network)

    def _count_here(self) -> int:
        """Without a radio to ask: who is here by any source that sees the network itself."""
        return sum(device.shown in HERE and device.address is not None for device in self._registry)

    async def _tell(self, status: NetworkStatus) -> None:
        payload = {
            "ssid": status.ssid,
            "is_active": status.is_active,
            "connected_devices": status.connected_devices,
        }

        async def job(tx: Tx) -> None:
            await event_log.append(tx, Logged("network.status_changed", payload))

        try:
            await self._database.write(job)
            self._told = status
        except StorageError as error:
            log.warning("network change not stored yet", reason=error.message, details=error.details)
