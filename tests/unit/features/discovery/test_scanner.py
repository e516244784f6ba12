"""The scanner: choice of engine, waiting for the interface, sweeps, probes and their rate."""

import asyncio
import errno
import os
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from pi_orchestrator.core.errors import NetworkError
from pi_orchestrator.core.health import Health, State
from pi_orchestrator.core.sighting import Sighting, Source
from pi_orchestrator.features.devices.changes import Kind
from pi_orchestrator.features.devices.model import Windows
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.discovery import scanner as module
from pi_orchestrator.features.discovery.scanner import (
    LINK_CHECK_S,
    MAX_CONCURRENT_PROBES,
    NAME,
    PROBES_PER_S,
    REPEAT_PROBE_AFTER_S,
    Scanner,
)
from pi_orchestrator.net.kernel.links import Link
from pi_orchestrator.settings import ApSettings, DiscoverySettings
from tests.support.clock import FakeClock, settle
from tests.support.waiting import HANG_S
from tests.unit.features.devices.test_registry import A, B, C, fake_mac, ip

AT_ONCE_S = 0.2
"""Time in which the loop has reacted to an event: it pauses for 0.05 s after a pass without requested probes."""
OWN = ip(1)
NET = IPv4Network("192.168.10.0/24")


def link(*addresses, name="wlan0", index=3, mac=C, up=True, supports_arp=True):
    return Link(
        name,
        index,
        mac,
        up,
        supports_arp,
        tuple(IPv4Interface(address) for address in addresses or ("192.168.10.1/24",)),
    )


def os_error(number):
    return OSError(number, os.strerror(number))


class Engine:
    """A fake engine: fails as configured, records probes, and returns scripted answers."""

    def __init__(self, name, on_sighting, clock):
        self.name, self._on_sighting, self._clock = name, on_sighting, clock
        self.refuses = self.sweep_fails = self.probe_fails = None
        self.opened = self.closed = 0
        self.open_now = False
        self.link = self.subnet = None
        self.swept = []
        self.probed = []
        self.answering = {}
        self.probe_gate = None
        self.max_concurrent = self._concurrent = 0

    async def open(self, on, subnet):
        await asyncio.sleep(0)
        assert not self.open_now, "an open engine must be closed first"
        self.open_now = True
        if self.refuses:
            raise os_error(self.refuses)  # resources are open already: they must be closed
        self.opened, self.link, self.subnet = self.opened + 1, on, subnet

    def close(self):
        self.closed += self.open_now
        self.open_now = False

    async def sweep(self, targets, *, expected, progress):
        assert self.open_now
        self.swept.append((list(targets), expected))
        progress(0.5)
        for address in targets:
            self._answer(address)
        await asyncio.sleep(0)
        if self.sweep_fails:
            raise os_error(self.sweep_fails)
        progress(1.0)

    async def probe(self, address, *, timeout_s):
        assert self.open_now
        self.probed.append((address, timeout_s))
        self._concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self._concurrent)
        try:
            await (self.probe_gate.wait() if self.probe_gate else asyncio.sleep(0))
            if self.probe_fails:
                raise os_error(self.probe_fails)
            return self._answer(address)
        finally:
            self._concurrent -= 1

    def _answer(self, address):
        answering = self.answering.get(address, ())
        for mac in answering:
            self._on_sighting(Sighting(mac, Source.ARP, self._clock.monotonic(), address, binds=True))
        return frozenset(answering)


class Netlink:
    """A kernel with one interface, or none."""

    def __init__(self, interface):
        self.interface = interface
        self.requested = []

    async def link(self, name):
        self.requested.append(name)
        await asyncio.sleep(0)
        return self.interface if self.interface and self.interface.name == name else None


class KernelEvents:
    """Kernel events, sent by the test."""

    def __init__(self, on_link):
        self.report = on_link
        self.refuses = None
        self.opened = self.closed = 0

    def open(self):
        if self.refuses:
            raise os_error(self.refuses)
        self.opened += 1

    def close(self):
        self.closed += 1


class Pi:
    """A scanner with scripted dependencies."""

    def __init__(self, *, engine="auto", subnet=NET, on=None, allow_large=False):
        self.clock = FakeClock()
        self.registry = DeviceRegistry(registered=set(), max_devices=2000, windows=Windows(120, 600, 60))
        self.netlink = Netlink(link() if on is None else on)
        self.health = Health(clock=self.clock)
        self.health.add(NAME)
        self.scanner = Scanner(
            settings=DiscoverySettings(engine=engine, allow_large_subnet=allow_large),
            ap=ApSettings(subnet=subnet),
            clock=self.clock,
            registry=self.registry,
            netlink=self.netlink,
            engines=self._engines,
            kernel_events=self._events,
            health=self.health,
        )

    def _engines(self, on_sighting):
        self.arp = Engine("arp", on_sighting, self.clock)
        self.neighbour = Engine("neighbour", on_sighting, self.clock)
        return {"arp": self.arp, "neighbour": self.neighbour}

    def _events(self, on_link):
        self.events = KernelEvents(on_link)
        return self.events

    @property
    def open(self):
        """The engines with open resources."""
        return [engine.name for engine in (self.arp, self.neighbour) if engine.open_now]

    @property
    def state(self):
        return self.health.get(NAME).state

    def running(self):
        """Run the scanner's loop for the block."""
        return Running(self)


class Running:
    """The scanner's loop, running during the block; `beats` counts its heartbeats."""

    def __init__(self, pi):
        self.pi = pi
        self.beats = 0

    async def __aenter__(self):
        self._task = asyncio.create_task(self.pi.scanner.run(self._beat))
        await settle()
        await self.pi.clock.advance(AT_ONCE_S)
        return self

    async def __aexit__(self, *error):
        assert not self._task.done() or self._task.exception() is None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _beat(self):
        self.beats += 1


@pytest.fixture
async def pi():
    """A Pi whose scanner has an open engine."""
    pi = Pi()
    await pi.scanner.refresh_link()
    assert pi.scanner.engine == "arp"
    return pi


# Choice of engine.


@pytest.mark.parametrize(
    "setting, refusals, engine, reason",
    [
        ("auto", {}, "arp", "arp (auto)"),
        ("auto", {"arp": errno.EPERM}, "neighbour", "neighbour (auto); arp: not permitted (CAP_NET_RAW)"),
        ("arp", {}, "arp", "arp (discovery.engine)"),
        ("neighbour", {}, "neighbour", "neighbour (discovery.engine)"),
        ("arp", {"arp": errno.EPERM}, None, "no engine works on wlan0: arp: not permitted (CAP_NET_RAW)"),
        (
            "auto",
            {"arp": errno.EPERM, "neighbour": errno.EIO},
            None,
            "no engine works on wlan0: arp: not permitted (CAP_NET_RAW); neighbour: Input/output error",
        ),
        ("neighbour", {"neighbour": errno.EIO}, None, "no engine works on wlan0: neighbour: Input/output error"),
    ],
)
async def test_engine_is_configured_or_first_working(setting, refusals, engine, reason):
    pi = Pi(engine=setting)
    for name, number in refusals.items():
        getattr(pi, name).refuses = number
    await pi.scanner.refresh_link()
    assert pi.scanner.engine == engine
    assert pi.open == ([engine] if engine else [])
    assert pi.arp.opened + pi.neighbour.opened == len(pi.open)
    if engine:
        assert (pi.scanner.choice_reason, pi.scanner.unavailable_reason) == (reason, "")
        assert (pi.state, pi.health.get(NAME).reason) == (State.OK, reason)
    else:
        assert pi.scanner.unavailable_reason == reason
        assert (pi.state, pi.health.get(NAME).reason) == (State.DEGRADED, reason)


async def test_disabled_scanner_sends_nothing():
    pi = Pi(engine="off")
    async with pi.running():
        await pi.clock.advance(60)
    assert pi.scanner.off
    assert (pi.scanner.engine, pi.open, pi.netlink.requested, pi.events.opened) == (None, [], [], 0)
    assert "switched off" in pi.scanner.unavailable_reason
    assert pi.state is State.OFF


async def test_failed_engine_is_retried_at_next_check():
    pi = Pi(engine="arp")
    pi.arp.refuses = errno.EPERM
    await pi.scanner.refresh_link()
    pi.arp.refuses = None
    await pi.scanner.refresh_link()
    assert (pi.scanner.engine, pi.scanner.unavailable_reason) == ("arp", "")


async def test_engine_gets_link_and_network(pi):
    assert (pi.arp.link, pi.arp.subnet, pi.scanner.network) == (link(), NET, NET)


# Waiting for the interface.

PROBLEMS = {
    "gone": (None, "interface wlan0 not found; waiting for it (ap.interface)"),
    "renamed": (link(name="wlan1"), "interface wlan0 not found; waiting for it (ap.interface)"),
    "down": (link(up=False), "wlan0 is down; waiting for it"),
    "no address": (Link("wlan0", 3, C, True, True, ()), "wlan0 has no address in 192.168.10.0/24; waiting for one"),
    "another network": (link("192.168.11.1/24"), "wlan0 has no address in 192.168.10.0/24; waiting for one"),
    "loopback": (link("192.168.10.1/24", supports_arp=False, mac=None), "wlan0 does not support ARP"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
async def test_scanner_reports_reason_and_recovers(problem):
    bad, reason = PROBLEMS[problem]
    pi = Pi()
    pi.netlink.interface = bad
    await pi.scanner.refresh_link()
    assert pi.scanner.unavailable_reason.startswith(reason)
    assert (pi.scanner.engine, pi.open, pi.state) == (None, [], State.DEGRADED)
    pi.netlink.interface = link()
    await pi.scanner.refresh_link()
    assert (pi.scanner.engine, pi.scanner.unavailable_reason, pi.state) == ("arp", "", State.OK)


@pytest.mark.parametrize("problem", PROBLEMS)
async def test_interface_outage_reopens_engine_once(pi, problem):
    for round_ in range(1, 4):
        pi.netlink.interface = PROBLEMS[problem][0]
        await pi.scanner.refresh_link()
        await pi.scanner.refresh_link()
        assert (pi.scanner.engine, pi.open, pi.arp.closed) == (None, [], round_)
        pi.netlink.interface = link()
        await pi.scanner.refresh_link()
        await pi.scanner.refresh_link()
        assert (pi.scanner.engine, pi.open, pi.arp.opened) == ("arp", ["arp"], round_ + 1)


@pytest.mark.parametrize(
    "change", [{"index": 9}, {"mac": B}, {"addresses": (IPv4Interface("192.168.10.2/24"),)}, {"addresses": "two"}]
)
async def test_changed_link_reopens_engine(pi, change):
    if change.get("addresses") == "two":
        change = {"addresses": (*link().addresses, IPv4Interface("10.0.0.1/8"))}
    pi.netlink.interface = replace(link(), **change)
    await pi.scanner.refresh_link()
    assert (pi.arp.opened, pi.arp.closed, pi.arp.link) == (2, 1, pi.netlink.interface)


async def test_concurrent_checks_open_one_engine():
    pi = Pi()
    await asyncio.gather(*(pi.scanner.refresh_link() for _ in range(10)))
    assert (pi.arp.opened, pi.open) == (1, ["arp"])


async def test_close_is_idempotent(pi):
    pi.scanner.close()
    pi.scanner.close()
    assert (pi.arp.closed, pi.scanner.engine) == (1, None)


@pytest.mark.parametrize(
    "subnet, address, network",
    [
        ("192.168.10.0/24", "192.168.10.65/26", "192.168.10.64/26"),
        ("192.168.10.0/24", "192.168.10.1/16", "192.168.10.0/24"),
        ("10.1.0.0/22", "10.1.0.1/22", "10.1.0.0/22"),
        ("10.1.0.0/16", "10.1.7.1/24", "10.1.7.0/24"),
    ],
)
async def test_narrower_of_subnet_and_interface_network_is_scanned(subnet, address, network):
    pi = Pi(subnet=IPv4Network(subnet), on=link(address))
    await pi.scanner.refresh_link()
    assert str(pi.scanner.network) == network


@pytest.mark.parametrize("allow", [False, True])
async def test_large_network_is_refused_unless_allowed(allow):
    pi = Pi(subnet=IPv4Network("10.1.0.0/21"), on=link("10.1.0.1/21"), allow_large=allow)
    await pi.scanner.refresh_link()
    assert (pi.scanner.engine, pi.open) == (("arp", ["arp"]) if allow else (None, []))
    if not allow:
        assert "larger than a /22" in pi.scanner.unavailable_reason
        assert "discovery.allow_large_subnet" in pi.scanner.unavailable_reason


# The loop.


@pytest.mark.parametrize("problem", PROBLEMS)
async def test_scanner_recovers_without_kernel_event(problem):
    pi = Pi()
    async with pi.running():
        pi.netlink.interface = PROBLEMS[problem][0]
        await pi.clock.advance(LINK_CHECK_S + 0.1)
        assert (pi.scanner.engine, pi.open) == (None, [])
        await pi.clock.advance(100)
        pi.netlink.interface = link()
        await pi.clock.advance(LINK_CHECK_S + 0.1)
        assert (pi.scanner.engine, pi.open) == ("arp", ["arp"])
    assert (pi.open, pi.arp.closed) == ([], pi.arp.opened)


async def test_kernel_event_triggers_check():
    pi = Pi()
    async with pi.running():
        pi.netlink.interface = link(up=False)
        pi.events.report(3, False)
        await pi.clock.advance(AT_ONCE_S)
        assert pi.scanner.engine is None
        pi.netlink.interface = link()
        pi.events.report(3, True)
        await pi.clock.advance(AT_ONCE_S)
        assert pi.scanner.engine == "arp"
    assert (pi.events.opened, pi.events.closed) == (1, 1)


async def test_new_interface_triggers_check():
    pi = Pi()
    pi.netlink.interface = None
    async with pi.running():
        pi.netlink.interface = link(index=77)
        pi.events.report(77, True)
        await pi.clock.advance(AT_ONCE_S)
        assert pi.scanner.engine == "arp"


async def test_event_of_other_interface_is_ignored():
    pi = Pi()
    async with pi.running():
        checks = len(pi.netlink.requested)
        for _ in range(20):
            pi.events.report(2, True)
            await pi.clock.advance(AT_ONCE_S)
        assert len(pi.netlink.requested) == checks


async def test_scanner_polls_without_kernel_events():
    pi = Pi()
    pi.events.refuses = errno.EPERM
    async with pi.running():
        checks = len(pi.netlink.requested)
        await pi.clock.advance(10 * LINK_CHECK_S)
        assert 8 <= len(pi.netlink.requested) - checks <= 11
        assert pi.arp.opened == 1


async def test_loop_beats_and_sleeps():
    pi = Pi()
    async with pi.running() as running:
        before = running.beats
        await pi.clock.advance(60)
        assert 10 <= running.beats - before <= 15


async def test_flood_of_sightings_does_not_spin_loop():
    pi = Pi()
    async with pi.running() as running:
        before = running.beats
        for number in range(1000):
            pi.scanner.on_sighting(Sighting(fake_mac(number), Source.ARP, pi.clock.monotonic(), ip(5)))
            await pi.clock.advance(0.001)
        assert running.beats - before <= 50
        assert len(pi.arp.probed) <= 2


# Sweeps.


async def test_sweep_probes_all_hosts_but_own_addresses(pi):
    pi.netlink.interface = link("192.168.10.1/24", "192.168.10.200/24", "10.0.0.1/8")
    await pi.scanner.refresh_link()
    shares = []
    await pi.scanner.sweep(shares.append)
    ((targets, _),) = pi.arp.swept
    assert targets == [address for address in NET.hosts() if address not in (OWN, ip(200))]
    assert shares == [0.5, 1.0]


async def test_sweep_expects_known_and_leased_addresses(pi):
    now = pi.clock.monotonic()
    pi.registry.add_sighting(Sighting(A, Source.ARP, now, ip(5), binds=True), now)
    pi.registry.add_sighting(Sighting(B, Source.LEASE, now, ip(6), alive=False), now)
    pi.registry.add_sighting(Sighting(C, Source.LEASE, now, IPv4Address("10.0.0.9"), alive=False), now)
    pi.registry.add_sighting(Sighting(A, Source.MDNS, now, ip(7), alive=False), now)
    await pi.scanner.sweep(lambda share: None)
    assert pi.arp.swept[0][1] == {ip(5), ip(6)}


async def test_sweep_fills_registry_and_runs_probes(pi):
    pi.arp.answering = {ip(5): [A, B], ip(6): [C]}
    await pi.scanner.sweep(lambda share: None)
    assert pi.registry.address_of(C) == ip(6)
    assert pi.registry.conflicts() == {ip(5): {A, B}}
    assert not pi.registry.probe_requests


async def test_sweep_without_engine_fails_with_reason():
    pi = Pi()
    pi.netlink.interface = None
    await pi.scanner.refresh_link()
    with pytest.raises(NetworkError, match="the camera network cannot be scanned: interface wlan0 not found") as caught:
        await pi.scanner.sweep(lambda share: None)
    assert caught.value.retryable
    assert caught.value.retry_after_s == LINK_CHECK_S


@pytest.mark.parametrize("number", [errno.ENETDOWN, errno.ENODEV, errno.ENOTCONN, errno.EIO, errno.ETIMEDOUT])
async def test_sweep_that_loses_network_triggers_check(number):
    pi = Pi()
    async with pi.running():
        pi.arp.sweep_fails = number
        with pytest.raises(NetworkError, match="wlan0 failed during the scan") as caught:
            await pi.scanner.sweep(lambda share: None)
        assert os.strerror(number) in caught.value.message
        pi.arp.sweep_fails = None
        await pi.clock.advance(AT_ONCE_S)
        assert (pi.scanner.engine, pi.open) == ("arp", ["arp"])
        assert (pi.arp.opened, pi.arp.closed) == (2, 1)
        await pi.scanner.sweep(lambda share: None)


async def test_slow_probes_do_not_delay_sweep(pi, monkeypatch):
    monkeypatch.setattr(module, "REQUESTED_PROBES_WITHIN_S", 0.02)
    pi.arp.answering = {ip(5): [A, B]}
    pi.arp.probe_gate = asyncio.Event()
    async with asyncio.timeout(HANG_S):
        await pi.scanner.sweep(lambda share: None)


async def test_cancelled_probe_is_still_requested(pi, monkeypatch):
    monkeypatch.setattr(module, "REQUESTED_PROBES_WITHIN_S", 0.02)
    pi.arp.answering = {ip(5): [A, B]}
    pi.arp.probe_gate = asyncio.Event()
    await pi.scanner.sweep(lambda share: None)
    pi.arp.probe_gate = None
    await pi.clock.advance(REPEAT_PROBE_AFTER_S)
    await pi.scanner.run_requested_probes()
    assert pi.registry.conflicts() == {ip(5): {A, B}}


# Probes.


async def test_address_can_be_probed(pi):
    pi.arp.answering = {ip(5): [A, B]}
    assert await pi.scanner.probe(ip(5)) == {A, B}
    assert await pi.scanner.probe(ip(6)) == frozenset()


async def test_address_outside_network_is_not_probed(pi):
    for address in ("192.168.11.5", "127.0.0.1", "8.8.8.8"):
        assert await pi.scanner.probe(IPv4Address(address)) == frozenset()
    assert pi.arp.probed == []


async def test_probe_without_engine_is_empty():
    pi = Pi()
    assert await pi.scanner.probe(ip(5)) == frozenset()


async def test_failed_probe_is_empty_and_triggers_check(pi):
    pi.arp.probe_fails = errno.ENETDOWN
    assert await pi.scanner.probe(ip(5)) == frozenset()
    assert pi.scanner._wake.is_set()


# Requested probes.


async def test_requested_probe_is_run_and_resolved(pi):
    pi.arp.answering = {ip(5): [A, B]}
    pi.registry.request_probe(ip(5))
    assert await pi.scanner.run_requested_probes() is True
    assert pi.registry.conflicts() == {ip(5): {A, B}}
    assert not pi.registry.probe_requests
    assert await pi.scanner.run_requested_probes() is False


async def test_sighting_triggers_requested_probe():
    pi = Pi()
    async with pi.running():
        now = pi.clock.monotonic()
        pi.scanner.on_sighting(Sighting(A, Source.ARP, now, ip(5), binds=True))
        pi.arp.answering = {ip(6): [A]}
        pi.scanner.on_sighting(Sighting(A, Source.ARP, now + 1, ip(6), binds=True))
        await pi.clock.advance(AT_ONCE_S)
        assert [address for address, _ in pi.arp.probed] == [ip(5)]
        assert pi.registry.address_of(A) == ip(6)
        assert [change.kind for change in pi.registry.drain()][-1] is Kind.MOVED


async def test_address_is_not_probed_repeatedly(pi):
    for _ in range(50):
        pi.registry.request_probe(ip(5))
        await pi.scanner.run_requested_probes()
    assert len(pi.arp.probed) == 1
    assert list(pi.registry.probe_requests) == [ip(5)], "it stays requested until it may be probed"
    await pi.clock.advance(REPEAT_PROBE_AFTER_S)
    await pi.scanner.run_requested_probes()
    assert len(pi.arp.probed) == 2
    assert not pi.registry.probe_requests


async def test_postponed_probe_runs_when_allowed():
    pi = Pi()
    async with pi.running():
        for _ in range(2):
            pi.registry.request_probe(ip(5))
            pi.scanner.wake()
            await pi.clock.advance(AT_ONCE_S)
        assert len(pi.arp.probed) == 1
        await pi.clock.advance(REPEAT_PROBE_AFTER_S + 1)
        assert len(pi.arp.probed) == 2


async def test_concurrent_requested_probes_are_limited(pi):
    for number in range(50):
        pi.registry.request_probe(ip(10 + number))
    await pi.scanner.run_requested_probes()
    assert len(pi.arp.probed) == pi.arp.max_concurrent == MAX_CONCURRENT_PROBES
    assert [address for address, _ in pi.arp.probed] == [ip(10 + number) for number in range(MAX_CONCURRENT_PROBES)]


async def test_requested_probes_are_rate_limited():
    pi = Pi(subnet=IPv4Network("10.1.0.0/22"), on=link("10.1.0.1/22"))
    await pi.scanner.refresh_link()
    hosts = list(pi.scanner.network.hosts())[1:]

    async def flood():
        for address in hosts:
            pi.registry.request_probe(address)
        while await pi.scanner.run_requested_probes():
            pass

    await flood()
    assert len(pi.arp.probed) == 2 * PROBES_PER_S
    for second in range(1, 6):
        await pi.clock.advance(1)
        await flood()
        assert len(pi.arp.probed) == (2 + second) * PROBES_PER_S
    assert len(pi.scanner._probed_at) <= 5 * PROBES_PER_S


async def test_impossible_probe_requests_are_dropped():
    pi = Pi()
    pi.registry.request_probe(IPv4Address("10.9.9.9"))
    pi.registry.request_probe(ip(5))
    await pi.scanner.refresh_link()
    pi.registry.request_probe(IPv4Address("10.9.9.9"))
    assert await pi.scanner.run_requested_probes() is True
    assert [address for address, _ in pi.arp.probed] == [ip(5)]
    assert not pi.registry.probe_requests
    pi.scanner.close()
    pi.registry.request_probe(ip(5))
    assert await pi.scanner.run_requested_probes() is False
    assert not pi.registry.probe_requests


async def test_unsent_probe_resolves_nothing(pi):
    now = pi.clock.monotonic()
    for later, address in enumerate((ip(5), ip(6))):
        pi.scanner.on_sighting(Sighting(A, Source.ARP, now + later, address, binds=True))
    pi.arp.probe_fails = errno.ENETDOWN
    await pi.scanner.run_requested_probes()
    assert pi.registry.get(A).addresses.keys() == {ip(5), ip(6)}
    assert pi.registry.address_of(A) == ip(5)
