"""Passive sources: DHCP leases, stations of the access point, and mDNS; each is optional and reports its health.

They send no probes; the scanner probes the address of an mDNS name if no device is known to hold it. They report leased
addresses, associated stations with their signal, host names, and the SSID and the number of devices of the camera
network.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface

from pi_orchestrator.core.bounded_dict import BoundedDict
from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import StorageError
from pi_orchestrator.core.events import NetworkStatusChanged
from pi_orchestrator.core.health import Health, State
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.sighting import Sighting, Source
from pi_orchestrator.core.supervisor import Beat
from pi_orchestrator.features.devices.model import PRESENT_STATES
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.discovery.network_status import NetworkStatus
from pi_orchestrator.features.discovery.scanner import Scanner
from pi_orchestrator.net.dhcp.leases import LeaseFiles
from pi_orchestrator.net.mdns.service import Mdns, OnService, Service
from pi_orchestrator.net.oui import VendorLookup
from pi_orchestrator.net.wifi.ssid_reader import SsidReader
from pi_orchestrator.net.wifi.stations import StationReading, Stations
from pi_orchestrator.storage import event_store
from pi_orchestrator.storage.database import Database, Tx

PASS_S = 5.0
NO_LINK_PASS_S = 0.5
"""Interval while the scanner waits for its interface; short intervals cost little then: there is little to read."""
NO_RADIO_RETRY_S = 300.0
SSID_INTERVAL_S = 60.0
MAX_MDNS_NAMES = 512

log = get_logger(__name__)


class PassiveSourcesWorker:
    """Reads every enabled source; `network` is the state of the camera network as last read."""

    def __init__(
        self,
        *,
        interface: str,
        leases: LeaseFiles | None,
        stations: Stations | None,
        mdns: Callable[[OnService], Mdns] | None,
        ssid: SsidReader,
        vendors: VendorLookup,
        scanner: Scanner,
        registry: DeviceRegistry,
        clock: Clock,
        health: Health,
        database: Database,
    ) -> None:
        self._leases = leases
        self._stations = stations
        self._mdns = mdns(self.on_service) if mdns else None
        self._mdns_addresses: tuple[IPv4Interface, ...] = ()
        self._ssid_reader = ssid
        self._vendors = vendors
        self._scanner = scanner
        self._registry = registry
        self._clock = clock
        self._health = health
        self._database = database
        # mDNS names by address, until it is known which device holds the address.
        self._mdns_names: BoundedDict[IPv4Address, str] = BoundedDict(MAX_MDNS_NAMES)
        self._reading: StationReading | None = None
        self._next_radio_read_at = float("-inf")
        self._next_ssid_read_at = float("-inf")
        self._ssid = ""
        self._interface = interface
        self._published = NetworkStatus(interface)

    def on_service(self, service: Service) -> None:
        """Store the name and the address of an mDNS service for the next pass."""
        self._mdns_names[service.address] = service.name

    async def run(self, beat: Beat) -> None:
        """Read every PASS_S until cancelled."""
        try:
            await self._vendors.load()
            if self._vendors.reason:
                log.warning("vendor names unavailable", reason=self._vendors.reason)
            while True:
                beat()
                await self.run_pass()
                await self._clock.sleep(PASS_S if self._scanner.link or self._scanner.off else NO_LINK_PASS_S)
        finally:
            if self._mdns:
                await self._mdns.close()

    async def run_pass(self) -> None:
        """Read every source once."""
        await self._read_leases()
        await self._read_stations()
        await self._read_mdns()
        await self._check_network()

    async def _read_leases(self) -> None:
        if self._leases is None:
            return
        now = self._clock.monotonic()
        for lease in await self._leases.read() or ():
            self._registry.add_sighting(lease.sighting(now), now)
        reason = self._leases.reason
        self._health.set("leases", State.OFF if reason else State.OK, reason or "")

    async def _read_stations(self) -> None:
        if self._stations is None:
            return
        now, link = self._clock.monotonic(), self._scanner.link
        if link is None:
            self._reading = None
            return
        if now < self._next_radio_read_at:
            return
        reading = self._reading = await self._stations.read(link.index)
        if reading is None:
            self._next_radio_read_at = now + NO_RADIO_RETRY_S  # a wired interface does not become wireless
        else:
            for station in reading.stations:
                self._registry.add_sighting(station.sighting(reading.at), now)
        reason = self._stations.reason
        self._health.set("stations", State.OFF if reason else State.OK, reason or "")

    async def _read_mdns(self) -> None:
        if self._mdns is None:
            return
        link = self._scanner.link
        addresses = link.addresses if link and link.up and link.supports_arp else ()
        if addresses != self._mdns_addresses:
            self._mdns_addresses = addresses
            await (self._mdns.open(addresses=addresses) if addresses else self._mdns.close())
        self._health.set("mdns", State.OFF if self._mdns.reason else State.OK, self._mdns.reason or "")
        now = self._clock.monotonic()
        for address, name in list(self._mdns_names.items()):
            holder = self._registry.holder(address)
            if holder:
                del self._mdns_names[address]
                self._registry.add_sighting(
                    Sighting(holder[0], Source.MDNS, now, address, alive=False, host_name=name), now
                )
            elif self._scanner.network and address in self._scanner.network:
                self._registry.request_probe(address)
            else:
                del self._mdns_names[address]

    @property
    def network(self) -> NetworkStatus:
        """The current state of the camera network."""
        link = self._scanner.link
        connected = bool(link and link.up and link.addresses)
        reading = self._reading if connected else None
        present = len(reading.stations) if reading and reading.radio.is_access_point else self._count_present()
        return NetworkStatus(
            interface=self._interface,
            ssid=self._ssid,
            connected=connected,
            is_active=connected and (reading is None or reading.radio.is_access_point),
            connected_devices=present if connected else 0,
        )

    async def _check_network(self) -> None:
        now, radio = self._clock.monotonic(), self._reading.radio if self._reading else None
        if now >= self._next_ssid_read_at or (radio and radio.ssid and radio.ssid != self._ssid):
            self._next_ssid_read_at = now + SSID_INTERVAL_S
            found = await self._ssid_reader.read(radio=radio.ssid if radio else None)
            self._ssid = found.name if found else ""
        if self.network != self._published:
            await self._publish(self.network)

    def _count_present(self) -> int:
        """Number of present devices with an address; used if the access point cannot be queried."""
        return sum(device.shown in PRESENT_STATES and device.address is not None for device in self._registry)

    async def _publish(self, status: NetworkStatus) -> None:
        event = NetworkStatusChanged(
            ssid=status.ssid, is_active=status.is_active, connected_devices=status.connected_devices
        )

        async def job(tx: Tx) -> None:
            await event_store.append(tx, event)

        try:
            await self._database.write(job)
            self._published = status
        except StorageError as error:
            log.warning("network change not stored yet", reason=error.message, details=error.details)
