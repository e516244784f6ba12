"""The scanner: keeps one engine open on the camera network's interface, sweeps it, and runs requested probes.

The interface of an access point may appear late, go down, be renamed, or lose its address. The scanner checks it every
few seconds and after each kernel event, sets `unavailable_reason` to what it waits for, and continues automatically.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import FieldError, NetworkError
from pi_orchestrator.core.health import Health, State
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.core.sighting import Sighting, Source
from pi_orchestrator.core.supervisor import Beat
from pi_orchestrator.core.token_bucket import TokenBucket
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.discovery.model import check_size
from pi_orchestrator.net.kernel.events import KernelEvents, OnLink
from pi_orchestrator.net.kernel.links import Link
from pi_orchestrator.net.kernel.netlink import Netlink
from pi_orchestrator.net.scan_engine import Engine, OnProgress, OnSighting
from pi_orchestrator.settings import ApSettings, DiscoverySettings

NAME = "scanner"
LINK_CHECK_S = 5.0
"""Interval of interface checks without a kernel event, as an event may be lost."""
PROBE_TIMEOUT_S = 0.1
REQUESTED_PROBE_TIMEOUT_S = 0.25
"""Longer than PROBE_TIMEOUT_S, because a sleeping radio answers late."""
PENDING_PASS_S = 0.5
"""Longest wait between passes while probes are requested."""
MIN_PASS_S = 0.05
"""Pause after a pass that ran no probe, so that a flood of probe requests does not keep the loop busy."""
MAX_CONCURRENT_PROBES = 8
PROBES_PER_S = 40
REPEAT_PROBE_AFTER_S = 2.0
"""Minimum time between two requested probes of one address."""
REQUESTED_PROBES_WITHIN_S = 3.0
"""Time limit of the requested probes at the end of a sweep; the rest is run later."""

log = get_logger(__name__)

EngineFactory = Callable[[OnSighting], Mapping[str, Engine]]
"""Creates the engines by name, preferred first; each reports to the callback."""
KernelEventsFactory = Callable[[OnLink], KernelEvents]
"""Creates the listener for kernel events of links and addresses."""


class Scanner:
    """`refresh_link` opens an engine for `sweep` and `probe`; `unavailable_reason`: why none is open."""

    def __init__(
        self,
        *,
        settings: DiscoverySettings,
        ap: ApSettings,
        clock: Clock,
        registry: DeviceRegistry,
        netlink: Netlink,
        engines: EngineFactory,
        kernel_events: KernelEventsFactory | None = None,
        health: Health | None = None,
    ) -> None:
        self._settings = settings
        self._ap = ap
        self._clock = clock
        self._registry = registry
        self._netlink = netlink
        self._engines = engines(self.on_sighting)
        self._kernel_events = kernel_events(self._on_link_change) if kernel_events else None
        self._health = health
        self._engine: Engine | None = None
        self._link_lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._is_link_changed = False
        self._probed_at: dict[IPv4Address, float] = {}
        self._budget = TokenBucket(capacity=2 * PROBES_PER_S, rate=PROBES_PER_S, now=clock.monotonic())
        self.link: Link | None = None
        self.network: IPv4Network | None = None
        self.unavailable_reason = "the interface was not checked yet"
        self.choice_reason = ""

    @property
    def engine(self) -> str | None:
        """The name of the open engine; None if none is open (see `unavailable_reason`)."""
        return self._engine.name if self._engine else None

    @property
    def interface(self) -> str:
        """The name of the interface to scan, whether it exists or not."""
        return self._ap.interface

    @property
    def off(self) -> bool:
        """Whether scanning is disabled by the settings."""
        return self._settings.engine == "off"

    def on_sighting(self, sighting: Sighting) -> None:
        """Pass a sighting of an engine to the registry."""
        self._registry.add_sighting(sighting, self._clock.monotonic())

    def wake(self) -> None:
        """Run the next pass immediately."""
        self._wake.set()

    def close(self) -> None:
        """Close the engine."""
        if self._engine:
            self._engine.close()
        self._engine = None

    async def run(self, beat: Beat) -> None:
        """Keep an engine open and run requested probes until cancelled."""
        checked_at = float("-inf")
        self._open_kernel_events()
        self._registry.addresses.on_probe_request = self.wake
        try:
            while True:
                beat()
                self._wake.clear()
                if (
                    self._is_link_changed
                    or self._clock.monotonic() - checked_at >= LINK_CHECK_S
                    or self._has_no_engine()
                ):
                    self._is_link_changed = False
                    await self.refresh_link()
                    checked_at = self._clock.monotonic()
                if not await self.run_requested_probes():
                    await self._clock.sleep(MIN_PASS_S)
                await self._clock.wait(self._wake, PENDING_PASS_S if self._registry.probe_requests else LINK_CHECK_S)
        finally:
            self._registry.addresses.on_probe_request = None
            self.close()
            if self._kernel_events:
                self._kernel_events.close()

    async def refresh_link(self) -> None:
        """Check the interface, and open or close the engine accordingly."""
        async with self._link_lock:
            if self.off:
                self._set_reason("switched off (discovery.engine)")
                return
            link = await self._netlink.link(self._ap.interface)
            if self._engine and link == self.link:
                return
            self.close()
            self.link = link
            try:
                network = self._network_to_scan(link)
            except FieldError as error:
                self._set_reason(str(error))
                return
            await self.choose_engine(link, network)

    async def sweep(self, progress: OnProgress) -> None:
        """Probe every address of the network; NetworkError if it cannot be scanned."""
        engine, network = self._require_engine()
        own = {address.ip for address in self.link.addresses} if self.link else set()
        targets = [address for address in network.hosts() if address not in own]
        try:
            await engine.sweep(targets, expected=self._expected(network), progress=progress)
        except OSError as error:
            self.close()
            self.wake()
            raise NetworkError(f"{self._ap.interface} failed during the scan: {error.strerror or error}") from None
        try:
            async with asyncio.timeout(REQUESTED_PROBES_WITHIN_S):
                while await self.run_requested_probes():
                    pass
        except TimeoutError:
            log.debug("requested probes postponed", addresses=len(self._registry.probe_requests))

    async def probe(self, address: IPv4Address, *, timeout_s: float = PROBE_TIMEOUT_S) -> frozenset[Mac]:
        """The devices that answer for an address now; empty if it cannot be probed."""
        if self._engine is None or self.network is None or address not in self.network:
            return frozenset()
        try:
            return await self._engine.probe(address, timeout_s=timeout_s)
        except OSError as error:
            log.debug("probe failed", address=str(address), reason=str(error))
            self.wake()
            return frozenset()

    async def run_requested_probes(self) -> bool:
        """Run a few of the requested probes, within the rate limit; False if none was run."""
        now = self._clock.monotonic()
        addresses = []
        for address in tuple(self._registry.probe_requests):
            if self._engine is None or self.network is None or address not in self.network:
                del self._registry.probe_requests[address]
            elif now - self._probed_at.get(address, float("-inf")) >= REPEAT_PROBE_AFTER_S and self._budget.take(now):
                addresses.append(address)
            if len(addresses) >= MAX_CONCURRENT_PROBES:
                break
        await asyncio.gather(*(self._run_requested_probe(address) for address in addresses))
        return bool(addresses)

    async def _run_requested_probe(self, address: IPv4Address) -> None:
        if len(self._probed_at) > 4 * PROBES_PER_S:
            self._probed_at.clear()  # bounds the table; an address may then be probed again too early, once
        self._probed_at[address] = self._clock.monotonic()
        self._registry.probe_requests.pop(address, None)
        answered = None
        try:
            answered = await self._require_engine()[0].probe(address, timeout_s=REQUESTED_PROBE_TIMEOUT_S)
        except (OSError, NetworkError) as error:
            log.debug("requested probe failed", address=str(address), reason=str(error))
            self.wake()
        finally:
            if answered is None:
                self._registry.request_probe(address)  # a probe that could not be sent resolves nothing
        if answered is not None:
            self._registry.resolve_probe(address, answered, self._clock.monotonic())

    def _expected(self, network: IPv4Network) -> frozenset[IPv4Address]:
        """The addresses of known devices and of leases."""
        bound = (device.address for device in self._registry)
        leased = (lease.ip for device in self._registry if (lease := device.evidence.get(Source.LEASE)))
        return frozenset(address for address in (*bound, *leased) if address and address in network)

    def _require_engine(self) -> tuple[Engine, IPv4Network]:
        if self._engine is None or self.network is None:
            raise NetworkError(
                f"the camera network cannot be scanned: {self.unavailable_reason}", retry_after_s=LINK_CHECK_S
            )
        return self._engine, self.network

    def _open_kernel_events(self) -> None:
        if self._kernel_events and not self.off:
            try:
                self._kernel_events.open()
            except OSError as error:
                log.warning("kernel link events unavailable, polling instead", reason=str(error))

    def _on_link_change(self, index: int, is_usable: bool) -> None:
        # Index 0: notifications may have been lost.
        is_own_link = self.link is None or index in (0, self.link.index)
        if is_own_link or not is_usable or self._engine is None:
            self._is_link_changed = True
            self._wake.set()

    def _has_no_engine(self) -> bool:
        return self._engine is None and not self.off

    def _network_to_scan(self, link: Link | None) -> IPv4Network:
        """The network to scan on this link; FieldError if the link cannot be scanned."""
        name = self._ap.interface
        if link is None:
            raise FieldError(f"interface {name} not found; waiting for it (ap.interface)")
        if not link.supports_arp:
            raise FieldError(f"{name} does not support ARP (loopback or point-to-point), so it cannot be scanned")
        if not link.up:
            raise FieldError(f"{name} is down; waiting for it")
        local = link.interface_address(self._ap.subnet)
        if local is None:
            raise FieldError(f"{name} has no address in {self._ap.subnet}; waiting for one (ap.subnet)")
        network = _narrower(local, self._ap.subnet)
        check_size(str(network), network.prefixlen, allow_large=self._settings.allow_large_subnet)
        return network

    async def choose_engine(self, link: Link | None, network: IPv4Network) -> None:
        """Open the first engine that is allowed and works; set `choice_reason` or, if none, `unavailable_reason`."""
        errors = []
        for name, engine in self._engines.items():
            if link is None or self._settings.engine not in ("auto", name):
                continue
            try:
                await engine.open(link, network)
            except OSError as error:
                engine.close()
                errors.append(f"{name}: {_os_error_text(name, error)}")
                continue
            self._engine, self.network = engine, network
            auto = self._settings.engine == "auto"
            self.choice_reason = "; ".join([f"{name} ({'auto' if auto else 'discovery.engine'})", *errors])
            self._set_reason("")
            log.info("scanner ready", engine=name, interface=link.name, network=str(network), why=self.choice_reason)
            return
        self._set_reason(f"no engine works on {self._ap.interface}: {'; '.join(errors)}")

    def _set_reason(self, reason: str) -> None:
        if reason and reason != self.unavailable_reason:
            log.log(logging.INFO if self.off else logging.WARNING, "scanner waiting", reason=reason)
        self.unavailable_reason = reason
        if self._health:
            state = State.OFF if self.off else State.DEGRADED if reason else State.OK
            self._health.set(NAME, state, reason or self.choice_reason)


def _os_error_text(engine: str, error: OSError) -> str:
    if engine == "arp" and isinstance(error, PermissionError):
        return "not permitted (CAP_NET_RAW)"
    return error.strerror or str(error)


def _narrower(address: IPv4Interface, subnet: IPv4Network) -> IPv4Network:
    return address.network if address.network.prefixlen >= subnet.prefixlen else subnet
