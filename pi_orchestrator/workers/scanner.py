"""The scanner: keeps one engine going on the camera network's interface, sweeps it, and settles doubts by asking.

An access point's interface comes late, goes down, is renamed, loses its address. The scanner looks again every few
seconds and whenever the kernel tells of a change, says in `reason` what it waits for, and goes on by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.bucket import TokenBucket
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.domain.scan import check_size
from pi_orchestrator.domain.sighting import Sighting, Source
from pi_orchestrator.errors import FieldError, NetworkError
from pi_orchestrator.health import Health, State
from pi_orchestrator.logs import get_logger
from pi_orchestrator.net.engine import Engine, OnProgress, OnSighting
from pi_orchestrator.net.kernel_events import KernelEvents, OnLink
from pi_orchestrator.net.links import Link
from pi_orchestrator.net.netlink import Netlink
from pi_orchestrator.settings import ApSettings, DiscoverySettings
from pi_orchestrator.supervisor import Beat

NAME = "scanner"
LOOK_S = 5.0
"""How often to look though the kernel told of no change: it may have been missed."""
ASK_S = 0.1
DOUBT_ASK_S = 0.25
"""A sleeping radio answers late: to settle a doubt it is given more time than to check what is believed."""
DOUBT_S = 0.5
BREATH_S = 0.05
"""A flood raises doubts faster than they may be asked: it must not keep the scanner turning."""
ASKED_AT_ONCE = 8
ASKED_PER_S = 40
ASKED_AGAIN_AFTER_S = 2.0
DOUBTS_WITHIN_S = 3.0

log = get_logger(__name__)

NewEngines = Callable[[OnSighting], Mapping[str, Engine]]
"""Makes the engines by name, the preferred first, each reporting to the callback."""
NewEvents = Callable[[OnLink], KernelEvents]
"""Makes the listener to the kernel's word on links and addresses."""


class Scanner:
    """`look` finds its footing, `sweep` and `ask` use it; `reason` says why it has none, `choice` why this engine."""

    def __init__(
        self,
        *,
        settings: DiscoverySettings,
        ap: ApSettings,
        clock: Clock,
        registry: Registry,
        netlink: Netlink,
        engines: NewEngines,
        kernel_events: NewEvents | None = None,
        health: Health | None = None,
    ) -> None:
        self._settings = settings
        self._ap = ap
        self._clock = clock
        self._registry = registry
        self._netlink = netlink
        self._engines = engines(self.sighted)
        self._kernel_events = kernel_events(self._link_changed) if kernel_events else None
        self._health = health
        self._engine: Engine | None = None
        self._looking = asyncio.Lock()
        self._wake = asyncio.Event()
        self._changed = False
        self._asked: dict[IPv4Address, float] = {}
        self._budget = TokenBucket(capacity=2 * ASKED_PER_S, rate=ASKED_PER_S, now=clock.monotonic())
        self.link: Link | None = None
        self.network: IPv4Network | None = None
        self.reason = "has not looked yet"
        self.choice = ""

    @property
    def engine(self) -> str | None:
        """The engine that works just now; None while `reason` says why there is none."""
        return self._engine.name if self._engine else None

    @property
    def watches(self) -> str:
        """The interface that it looks for cameras on."""
        return self._ap.interface

    @property
    def off(self) -> bool:
        """Whether it is switched off on purpose."""
        return self._settings.engine == "off"

    def sighted(self, seen: Sighting) -> None:
        """Take what an engine saw."""
        self._registry.sight(seen, self._clock.monotonic())

    def wake(self) -> None:
        """Something has changed that may concern the scanner."""
        self._wake.set()

    def close(self) -> None:
        """Stop listening."""
        if self._engine:
            self._engine.close()
        self._engine = None

    async def run(self, beat: Beat) -> None:
        """Keep the footing and settle doubts until cancelled."""
        looked_at = float("-inf")
        self._listen()
        self._registry.on_doubt = self.wake
        try:
            while True:
                beat()
                self._wake.clear()
                if self._changed or self._clock.monotonic() - looked_at >= LOOK_S or self._lost():
                    self._changed = False
                    await self.look()
                    looked_at = self._clock.monotonic()
                if not await self.settle_doubts():
                    await self._clock.sleep(BREATH_S)
                await self._clock.wait(self._wake, DOUBT_S if self._registry.doubts else LOOK_S)
        finally:
            self._registry.on_doubt = None
            self.close()
            if self._kernel_events:
                self._kernel_events.close()

    async def look(self) -> None:
        """Find the interface as it is now, and open or close the engine accordingly."""
        async with self._looking:
            if self.off:
                self._tell("switched off (discovery.engine)")
                return
            link = await self._netlink.link(self._ap.interface)
            if self._engine and link == self.link:
                return
            self.close()
            self.link = link
            try:
                network = self._footing(link)
            except FieldError as error:
                self._tell(str(error))
                return
            await self._open(link, network)

    async def sweep(self, progress: OnProgress) -> None:
        """Ask every address of the network; NetworkError when it cannot be asked."""
        engine, network = self._standing()
        own = {address.ip for address in self.link.addresses} if self.link else set()
        targets = [address for address in network.hosts() if address not in own]
        try:
            await engine.sweep(targets, expected=self._expected(network), progress=progress)
        except OSError as error:
            self.close()
            self.wake()
            raise NetworkError(f"{self._ap.interface} went away during the scan: {error.strerror or error}") from None
        try:
            async with asyncio.timeout(DOUBTS_WITHIN_S):
                while await self.settle_doubts():
                    pass
        except TimeoutError:
            log.debug("doubts left for later", addresses=len(self._registry.doubts))

    async def ask(self, address: IPv4Address, *, timeout_s: float = ASK_S) -> frozenset[Mac]:
        """Everyone who answers for an address right now; nobody where nothing can be asked."""
        if self._engine is None or self.network is None or address not in self.network:
            return frozenset()
        try:
            return await self._engine.ask(address, timeout_s=timeout_s)
        except OSError as error:
            log.debug("an address could not be asked", address=str(address), reason=str(error))
            self.wake()
            return frozenset()

    async def settle_doubts(self) -> bool:
        """Ask a few of the addresses about which sources disagree; whether any was asked."""
        now = self._clock.monotonic()
        due = []
        for address in tuple(self._registry.doubts):
            if self._engine is None or self.network is None or address not in self.network:
                del self._registry.doubts[address]
            elif now - self._asked.get(address, float("-inf")) >= ASKED_AGAIN_AFTER_S and self._budget.take(now):
                due.append(address)
            if len(due) >= ASKED_AT_ONCE:
                break
        await asyncio.gather(*(self._settle(address) for address in due))
        return bool(due)

    async def _settle(self, address: IPv4Address) -> None:
        if len(self._asked) > 4 * ASKED_PER_S:
            self._asked.clear()
        self._asked[address] = self._clock.monotonic()
        self._registry.doubts.pop(address, None)
        answered = None
        try:
            answered = await self._standing()[0].ask(address, timeout_s=DOUBT_ASK_S)
        except (OSError, NetworkError) as error:
            log.debug("a doubt could not be settled", address=str(address), reason=str(error))
            self.wake()
        finally:
            if answered is None:
                self._registry.doubt(address)  # that nobody could be asked says nothing of who is there
        if answered is not None:
            self._registry.verdict(address, answered, self._clock.monotonic())

    def _expected(self, network: IPv4Network) -> frozenset[IPv4Address]:
        """The addresses at which somebody should be."""
        known = (device.address for device in self._registry)
        leased = (lease.ip for device in self._registry if (lease := device.evidence.get(Source.LEASE)))
        return frozenset(address for address in (*known, *leased) if address and address in network)

    def _standing(self) -> tuple[Engine, IPv4Network]:
        if self._engine is None or self.network is None:
            raise NetworkError(f"nobody can be asked: {self.reason}", retry_after_s=LOOK_S)
        return self._engine, self.network

    def _listen(self) -> None:
        if self._kernel_events and not self.off:
            try:
                self._kernel_events.open()
            except OSError as error:
                log.warning("the kernel tells nothing of links; they are looked at now and then", reason=str(error))

    def _link_changed(self, index: int, works: bool) -> None:
        ours = self.link is None or index in (0, self.link.index)
        if ours or not works or self._engine is None:
            self._changed = True
            self._wake.set()

    def _lost(self) -> bool:
        return self._engine is None and not self.off

    def _footing(self, link: Link | None) -> IPv4Network:
        """The network to scan on this link; FieldError says what is missing."""
        name = self._ap.interface
        if link is None:
            raise FieldError(f"there is no interface {name}; waiting for it (ap.interface)")
        if not link.asks:
            raise FieldError(f"{name} is an interface on which nobody can be asked (loopback or point-to-point)")
        if not link.up:
            raise FieldError(f"{name} is down; waiting for it")
        footing = link.footing(self._ap.subnet)
        if footing is None:
            raise FieldError(f"{name} has no address in {self._ap.subnet}; waiting for one (ap.subnet)")
        network = _narrower(footing, self._ap.subnet)
        check_size(str(network), network.prefixlen, allow_large=self._settings.allow_large_subnet)
        return network

    async def _open(self, link: Link | None, network: IPv4Network) -> None:
        refusals = []
        for name, engine in self._engines.items():
            if link is None or self._settings.engine not in ("auto", name):
                continue
            try:
                await engine.open(link, network)
            except OSError as error:
                engine.close()
                refusals.append(f"{name}: {_why(name, error)}")
                continue
            self._engine, self.network = engine, network
            auto = self._settings.engine == "auto"
            self.choice = "; ".join([f"{name} ({'auto' if auto else 'discovery.engine'})", *refusals])
            self._tell("")
            log.info("scanner ready", engine=name, interface=link.name, network=str(network), why=self.choice)
            return
        self._tell(f"no engine works on {self._ap.interface}: {'; '.join(refusals)}")

    def _tell(self, reason: str) -> None:
        if reason and reason != self.reason:
            log.log(20 if self.off else 30, "scanner waits", reason=reason)
        self.reason = reason
        if self._health:
            state = State.OFF if self.off else State.DEGRADED if reason else State.OK
            self._health.set(NAME, state, reason or self.choice)


def _why(engine: str, error: OSError) -> str:
    if engine == "arp" and isinstance(error, PermissionError):
        return "not permitted (CAP_NET_RAW)"
    return error.strerror or str(error)


def _narrower(address: IPv4Interface, subnet: IPv4Network) -> IPv4Network:
    return address.network if address.network.prefixlen >= subnet.prefixlen else subnet
