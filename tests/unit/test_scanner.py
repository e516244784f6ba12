"""The scanner: which engine and why, what it waits for and how it goes on, what it asks and how often."""

import asyncio
import errno
import os
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from pi_orchestrator.domain.presence import Windows
from pi_orchestrator.domain.registry import Kind, Registry
from pi_orchestrator.domain.sighting import Sighting, Source
from pi_orchestrator.errors import NetworkError
from pi_orchestrator.health import Health, State
from pi_orchestrator.net.links import Link
from pi_orchestrator.settings import ApSettings, DiscoverySettings
from pi_orchestrator.workers import scanner as module
from pi_orchestrator.workers.scanner import (
    ASKED_AGAIN_AFTER_S,
    ASKED_AT_ONCE,
    ASKED_PER_S,
    LOOK_S,
    NAME,
    Scanner,
)
from tests.support.clock import FakeClock, settle
from tests.unit.test_registry import A, B, C, invented, ip

AT_ONCE_S = 0.2
OWN = ip(1)
NET = IPv4Network("192.168.10.0/24")


def link(*addresses, name="wlan0", index=3, mac=C, up=True, asks=True):
    return Link(name, index, mac, up, asks, tuple(IPv4Interface(one) for one in addresses or ("192.168.10.1/24",)))


def refusal(number):
    return OSError(number, os.strerror(number))


class Engine:
    """An engine without a network: it refuses as told, remembers what it was asked, and lets the test answer."""

    def __init__(self, name, on_sighting, clock):
        self.name, self._on_sighting, self._clock = name, on_sighting, clock
        self.refuses = self.sweep_fails = self.ask_fails = None
        self.opened = self.closed = 0
        self.open_now = False
        self.link = self.subnet = None
        self.swept = []
        self.asked = []
        self.here = {}
        self.asking = None
        self.most_at_once = self._at_once = 0

    async def open(self, on, subnet):
        await asyncio.sleep(0)
        assert not self.open_now, "what is open must be closed first"
        self.open_now = True
        if self.refuses:
            raise refusal(self.refuses)  # with something open already
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
            raise refusal(self.sweep_fails)
        progress(1.0)

    async def ask(self, address, *, timeout_s):
        assert self.open_now
        self.asked.append((address, timeout_s))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await (self.asking.wait() if self.asking else asyncio.sleep(0))
            if self.ask_fails:
                raise refusal(self.ask_fails)
            return self._answer(address)
        finally:
            self._at_once -= 1

    def _answer(self, address):
        answering = self.here.get(address, ())
        for mac in answering:
            self._on_sighting(Sighting(mac, Source.ARP, self._clock.monotonic(), address, binds=True))
        return frozenset(answering)


class Netlink:
    """The kernel as the test has it: one interface, or none."""

    def __init__(self, on):
        self.on = on
        self.asked = []

    async def link(self, name):
        self.asked.append(name)
        await asyncio.sleep(0)
        return self.on if self.on and self.on.name == name else None


class KernelEvents:
    """What the kernel would tell unasked."""

    def __init__(self, on_link):
        self.tell = on_link
        self.refuses = None
        self.opened = self.closed = 0

    def open(self):
        if self.refuses:
            raise refusal(self.refuses)
        self.opened += 1

    def close(self):
        self.closed += 1


class Pi:
    """A scanner with everything around it scripted."""

    def __init__(self, *, engine="auto", subnet=NET, on=None, allow_large=False):
        self.clock = FakeClock()
        self.registry = Registry(registered=set(), max_devices=2000, windows=Windows(120, 600, 60))
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
        """The engines that hold something open."""
        return [engine.name for engine in (self.arp, self.neighbour) if engine.open_now]

    @property
    def state(self):
        return self.health.get(NAME).state

    def running(self):
        """The scanner's loop, until the block ends."""
        return Running(self)


class Running:
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
    """A Pi whose scanner has found its footing."""
    pi = Pi()
    await pi.scanner.look()
    assert pi.scanner.engine == "arp"
    return pi


# Which engine, and why.


@pytest.mark.parametrize(
    "setting, refusals, engine, told",
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
async def test_the_engine_is_the_one_that_was_set_or_the_first_that_works_and_it_says_why(
    setting, refusals, engine, told
):
    pi = Pi(engine=setting)
    for name, number in refusals.items():
        getattr(pi, name).refuses = number
    await pi.scanner.look()
    assert pi.scanner.engine == engine
    assert pi.open == ([engine] if engine else [])
    assert pi.arp.opened + pi.neighbour.opened == len(pi.open)
    if engine:
        assert (pi.scanner.choice, pi.scanner.reason) == (told, "")
        assert (pi.state, pi.health.get(NAME).reason) == (State.OK, told)
    else:
        assert pi.scanner.reason == told
        assert (pi.state, pi.health.get(NAME).reason) == (State.DEGRADED, told)


async def test_switched_off_it_asks_nobody_not_even_the_kernel():
    pi = Pi(engine="off")
    async with pi.running():
        await pi.clock.advance(60)
    assert pi.scanner.off
    assert (pi.scanner.engine, pi.open, pi.netlink.asked, pi.events.opened) == (None, [], [], 0)
    assert "switched off" in pi.scanner.reason
    assert pi.state is State.OFF


async def test_an_engine_that_could_not_be_used_is_tried_again_at_the_next_look():
    pi = Pi(engine="arp")
    pi.arp.refuses = errno.EPERM
    await pi.scanner.look()
    pi.arp.refuses = None
    await pi.scanner.look()
    assert (pi.scanner.engine, pi.scanner.reason) == ("arp", "")


async def test_an_engine_gets_the_link_and_the_network(pi):
    assert (pi.arp.link, pi.arp.subnet, pi.scanner.network) == (link(), NET, NET)


# What it waits for.

TROUBLE = {
    "gone": (None, "there is no interface wlan0; waiting for it (ap.interface)"),
    "renamed": (link(name="wlan1"), "there is no interface wlan0; waiting for it (ap.interface)"),
    "down": (link(up=False), "wlan0 is down; waiting for it"),
    "no address": (Link("wlan0", 3, C, True, True, ()), "wlan0 has no address in 192.168.10.0/24; waiting for one"),
    "another network": (link("192.168.11.1/24"), "wlan0 has no address in 192.168.10.0/24; waiting for one"),
    "loopback": (link("192.168.10.1/24", asks=False, mac=None), "wlan0 is an interface on which nobody can be asked"),
}


@pytest.mark.parametrize("trouble", TROUBLE)
async def test_it_says_what_it_waits_for_and_goes_on_when_that_is_there(trouble):
    bad, reason = TROUBLE[trouble]
    pi = Pi()
    pi.netlink.on = bad
    await pi.scanner.look()
    assert pi.scanner.reason.startswith(reason)
    assert (pi.scanner.engine, pi.open, pi.state) == (None, [], State.DEGRADED)
    pi.netlink.on = link()
    await pi.scanner.look()
    assert (pi.scanner.engine, pi.scanner.reason, pi.state) == ("arp", "", State.OK)


@pytest.mark.parametrize("trouble", TROUBLE)
async def test_trouble_that_comes_and_goes_closes_and_opens_the_engine_once(pi, trouble):
    for round_ in range(1, 4):
        pi.netlink.on = TROUBLE[trouble][0]
        await pi.scanner.look()
        await pi.scanner.look()
        assert (pi.scanner.engine, pi.open, pi.arp.closed) == (None, [], round_)
        pi.netlink.on = link()
        await pi.scanner.look()
        await pi.scanner.look()
        assert (pi.scanner.engine, pi.open, pi.arp.opened) == ("arp", ["arp"], round_ + 1)


@pytest.mark.parametrize(
    "change", [{"index": 9}, {"mac": B}, {"addresses": (IPv4Interface("192.168.10.2/24"),)}, {"addresses": "two"}]
)
async def test_a_link_that_is_not_quite_the_same_is_opened_anew(pi, change):
    if change.get("addresses") == "two":
        change = {"addresses": (*link().addresses, IPv4Interface("10.0.0.1/8"))}
    pi.netlink.on = replace(link(), **change)
    await pi.scanner.look()
    assert (pi.arp.opened, pi.arp.closed, pi.arp.link) == (2, 1, pi.netlink.on)


async def test_many_looks_at_once_open_one_engine():
    pi = Pi()
    await asyncio.gather(*(pi.scanner.look() for _ in range(10)))
    assert (pi.arp.opened, pi.open) == (1, ["arp"])


async def test_closing_twice_closes_once(pi):
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
async def test_the_narrower_of_settings_and_interface_is_scanned(subnet, address, network):
    pi = Pi(subnet=IPv4Network(subnet), on=link(address))
    await pi.scanner.look()
    assert str(pi.scanner.network) == network


@pytest.mark.parametrize("allow", [False, True])
async def test_a_network_too_large_is_refused_with_a_way_out_unless_allowed(allow):
    pi = Pi(subnet=IPv4Network("10.1.0.0/21"), on=link("10.1.0.1/21"), allow_large=allow)
    await pi.scanner.look()
    assert (pi.scanner.engine, pi.open) == (("arp", ["arp"]) if allow else (None, []))
    if not allow:
        assert "larger than a /22" in pi.scanner.reason
        assert "discovery.allow_large_subnet" in pi.scanner.reason


# The loop.


@pytest.mark.parametrize("trouble", TROUBLE)
async def test_it_recovers_within_ten_seconds_though_the_kernel_told_nothing(trouble):
    pi = Pi()
    async with pi.running():
        pi.netlink.on = TROUBLE[trouble][0]
        await pi.clock.advance(LOOK_S + 0.1)
        assert (pi.scanner.engine, pi.open) == (None, [])
        await pi.clock.advance(100)
        pi.netlink.on = link()
        await pi.clock.advance(LOOK_S + 0.1)
        assert (pi.scanner.engine, pi.open) == ("arp", ["arp"])
    assert (pi.open, pi.arp.closed) == ([], pi.arp.opened)


async def test_when_the_kernel_tells_of_the_interface_it_looks_at_once():
    pi = Pi()
    async with pi.running():
        pi.netlink.on = link(up=False)
        pi.events.tell(3, False)
        await pi.clock.advance(AT_ONCE_S)
        assert pi.scanner.engine is None
        pi.netlink.on = link()
        pi.events.tell(3, True)
        await pi.clock.advance(AT_ONCE_S)
        assert pi.scanner.engine == "arp"
    assert (pi.events.opened, pi.events.closed) == (1, 1)


async def test_a_new_interface_is_noticed_at_once_whatever_its_index():
    pi = Pi()
    pi.netlink.on = None
    async with pi.running():
        pi.netlink.on = link(index=77)
        pi.events.tell(77, True)
        await pi.clock.advance(AT_ONCE_S)
        assert pi.scanner.engine == "arp"


async def test_what_the_kernel_tells_of_other_interfaces_is_no_reason_to_look():
    pi = Pi()
    async with pi.running():
        looks = len(pi.netlink.asked)
        for _ in range(20):
            pi.events.tell(2, True)
            await pi.clock.advance(AT_ONCE_S)
        assert len(pi.netlink.asked) == looks


async def test_without_the_kernels_word_it_still_looks_now_and_then():
    pi = Pi()
    pi.events.refuses = errno.EPERM
    async with pi.running():
        looks = len(pi.netlink.asked)
        await pi.clock.advance(10 * LOOK_S)
        assert 8 <= len(pi.netlink.asked) - looks <= 11
        assert pi.arp.opened == 1


async def test_the_loop_shows_that_it_lives_and_rests():
    pi = Pi()
    async with pi.running() as running:
        before = running.beats
        await pi.clock.advance(60)
        assert 10 <= running.beats - before <= 15


async def test_a_flood_of_sightings_does_not_keep_the_loop_turning():
    pi = Pi()
    async with pi.running() as running:
        before = running.beats
        for number in range(1000):
            pi.scanner.sighted(Sighting(invented(number), Source.ARP, pi.clock.monotonic(), ip(5)))
            await pi.clock.advance(0.001)
        assert running.beats - before <= 50
        assert len(pi.arp.asked) <= 2


# Sweeps.


async def test_a_sweep_asks_every_host_but_this_machine_itself(pi):
    pi.netlink.on = link("192.168.10.1/24", "192.168.10.200/24", "10.0.0.1/8")
    await pi.scanner.look()
    shares = []
    await pi.scanner.sweep(shares.append)
    ((targets, _),) = pi.arp.swept
    assert targets == [one for one in NET.hosts() if one not in (OWN, ip(200))]
    assert shares == [0.5, 1.0]


async def test_a_sweep_expects_those_who_answered_before_and_those_with_a_lease(pi):
    now = pi.clock.monotonic()
    pi.registry.sight(Sighting(A, Source.ARP, now, ip(5), binds=True), now)
    pi.registry.sight(Sighting(B, Source.LEASE, now, ip(6), alive=False), now)
    pi.registry.sight(Sighting(C, Source.LEASE, now, IPv4Address("10.0.0.9"), alive=False), now)
    pi.registry.sight(Sighting(A, Source.MDNS, now, ip(7), alive=False), now)
    await pi.scanner.sweep(lambda share: None)
    assert pi.arp.swept[0][1] == {ip(5), ip(6)}


async def test_what_a_sweep_finds_is_in_the_registry_and_doubts_are_settled_before_it_ends(pi):
    pi.arp.here = {ip(5): [A, B], ip(6): [C]}
    await pi.scanner.sweep(lambda share: None)
    assert pi.registry.address_of(C) == ip(6)
    assert pi.registry.conflicts() == {ip(5): {A, B}}
    assert not pi.registry.doubts


async def test_without_an_engine_a_sweep_says_what_is_missing():
    pi = Pi()
    pi.netlink.on = None
    await pi.scanner.look()
    with pytest.raises(NetworkError, match="nobody can be asked: there is no interface wlan0") as caught:
        await pi.scanner.sweep(lambda share: None)
    assert caught.value.retryable
    assert caught.value.retry_after_s == LOOK_S


@pytest.mark.parametrize("number", [errno.ENETDOWN, errno.ENODEV, errno.ENOTCONN, errno.EIO, errno.ETIMEDOUT])
async def test_a_sweep_that_loses_the_network_fails_as_that_and_the_scanner_looks_again(number):
    pi = Pi()
    async with pi.running():
        pi.arp.sweep_fails = number
        with pytest.raises(NetworkError, match="wlan0 went away during the scan") as caught:
            await pi.scanner.sweep(lambda share: None)
        assert os.strerror(number) in caught.value.message
        pi.arp.sweep_fails = None
        await pi.clock.advance(AT_ONCE_S)
        assert (pi.scanner.engine, pi.open) == ("arp", ["arp"])
        assert (pi.arp.opened, pi.arp.closed) == (2, 1)
        await pi.scanner.sweep(lambda share: None)


async def test_doubts_that_cannot_be_settled_in_time_do_not_hold_up_a_sweep(pi, monkeypatch):
    monkeypatch.setattr(module, "DOUBTS_WITHIN_S", 0.02)
    pi.arp.here = {ip(5): [A, B]}
    pi.arp.asking = asyncio.Event()
    async with asyncio.timeout(2):
        await pi.scanner.sweep(lambda share: None)


async def test_a_doubt_whose_question_was_cut_off_is_still_one(pi, monkeypatch):
    monkeypatch.setattr(module, "DOUBTS_WITHIN_S", 0.02)
    pi.arp.here = {ip(5): [A, B]}
    pi.arp.asking = asyncio.Event()
    await pi.scanner.sweep(lambda share: None)
    pi.arp.asking = None
    await pi.clock.advance(ASKED_AGAIN_AFTER_S)
    await pi.scanner.settle_doubts()
    assert pi.registry.conflicts() == {ip(5): {A, B}}


# Questions.


async def test_who_answers_for_an_address_can_be_asked(pi):
    pi.arp.here = {ip(5): [A, B]}
    assert await pi.scanner.ask(ip(5)) == {A, B}
    assert await pi.scanner.ask(ip(6)) == frozenset()


async def test_an_address_outside_the_network_is_asked_of_nobody(pi):
    for address in ("192.168.11.5", "127.0.0.1", "8.8.8.8"):
        assert await pi.scanner.ask(IPv4Address(address)) == frozenset()
    assert pi.arp.asked == []


async def test_without_an_engine_nobody_answers():
    pi = Pi()
    assert await pi.scanner.ask(ip(5)) == frozenset()


async def test_a_question_that_fails_is_answered_by_nobody_and_the_scanner_looks(pi):
    pi.arp.ask_fails = errno.ENETDOWN
    assert await pi.scanner.ask(ip(5)) == frozenset()
    assert pi.scanner._wake.is_set()


# Doubts.


async def test_a_doubt_is_asked_and_the_answers_judged(pi):
    pi.arp.here = {ip(5): [A, B]}
    pi.registry.doubt(ip(5))
    assert await pi.scanner.settle_doubts() is True
    assert pi.registry.conflicts() == {ip(5): {A, B}}
    assert not pi.registry.doubts
    assert await pi.scanner.settle_doubts() is False


async def test_a_sighting_that_raises_a_doubt_has_it_asked_at_once():
    pi = Pi()
    async with pi.running():
        now = pi.clock.monotonic()
        pi.scanner.sighted(Sighting(A, Source.ARP, now, ip(5), binds=True))
        pi.arp.here = {ip(6): [A]}
        pi.scanner.sighted(Sighting(A, Source.ARP, now + 1, ip(6), binds=True))
        await pi.clock.advance(AT_ONCE_S)
        assert [address for address, _ in pi.arp.asked] == [ip(5)]
        assert pi.registry.address_of(A) == ip(6)
        assert [change.kind for change in pi.registry.drain()][-1] is Kind.MOVED


async def test_one_address_is_not_asked_about_again_and_again(pi):
    for _ in range(50):
        pi.registry.doubt(ip(5))
        await pi.scanner.settle_doubts()
    assert len(pi.arp.asked) == 1
    assert list(pi.registry.doubts) == [ip(5)], "it stays one until it may be asked"
    await pi.clock.advance(ASKED_AGAIN_AFTER_S)
    await pi.scanner.settle_doubts()
    assert len(pi.arp.asked) == 2
    assert not pi.registry.doubts


async def test_a_doubt_that_had_to_wait_is_asked_by_the_loop_as_soon_as_it_may():
    pi = Pi()
    async with pi.running():
        for _ in range(2):
            pi.registry.doubt(ip(5))
            pi.scanner.wake()
            await pi.clock.advance(AT_ONCE_S)
        assert len(pi.arp.asked) == 1
        await pi.clock.advance(ASKED_AGAIN_AFTER_S + 1)
        assert len(pi.arp.asked) == 2


async def test_only_a_few_are_asked_at_once(pi):
    for number in range(50):
        pi.registry.doubt(ip(10 + number))
    await pi.scanner.settle_doubts()
    assert len(pi.arp.asked) == pi.arp.most_at_once == ASKED_AT_ONCE
    assert [address for address, _ in pi.arp.asked] == [ip(10 + number) for number in range(ASKED_AT_ONCE)]


async def test_however_many_doubts_somebody_raises_the_network_is_asked_at_a_bounded_rate():
    pi = Pi(subnet=IPv4Network("10.1.0.0/22"), on=link("10.1.0.1/22"))
    await pi.scanner.look()
    hosts = list(pi.scanner.network.hosts())[1:]

    async def flood():
        for address in hosts:
            pi.registry.doubt(address)
        while await pi.scanner.settle_doubts():
            pass

    await flood()
    assert len(pi.arp.asked) == 2 * ASKED_PER_S
    for second in range(1, 6):
        await pi.clock.advance(1)
        await flood()
        assert len(pi.arp.asked) == (2 + second) * ASKED_PER_S
    assert len(pi.scanner._asked) <= 5 * ASKED_PER_S


async def test_doubts_that_nobody_can_be_asked_about_are_dropped():
    pi = Pi()
    pi.registry.doubt(IPv4Address("10.9.9.9"))
    pi.registry.doubt(ip(5))
    await pi.scanner.look()
    pi.registry.doubt(IPv4Address("10.9.9.9"))
    assert await pi.scanner.settle_doubts() is True
    assert [address for address, _ in pi.arp.asked] == [ip(5)]
    assert not pi.registry.doubts
    pi.scanner.close()
    pi.registry.doubt(ip(5))
    assert await pi.scanner.settle_doubts() is False
    assert not pi.registry.doubts


async def test_a_question_that_could_not_be_asked_is_no_verdict(pi):
    now = pi.clock.monotonic()
    for later, address in enumerate((ip(5), ip(6))):
        pi.scanner.sighted(Sighting(A, Source.ARP, now + later, address, binds=True))
    pi.arp.ask_fails = errno.ENETDOWN
    await pi.scanner.settle_doubts()
    assert pi.registry.get(A).addresses.keys() == {ip(5), ip(6)}
    assert pi.registry.address_of(A) == ip(5)
