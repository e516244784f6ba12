"""The kernel's events on real interfaces: told as they happen, bounded in a storm, and whole again after it."""

import asyncio
import contextlib
import json
import socket
import time

import pytest

from pi_orchestrator.clock import Clock
from pi_orchestrator.net import kernel_events
from pi_orchestrator.net.kernel_events import KernelEvents
from tests.support import lan
from tests.support.arp_player import invented_mac
from tests.support.engines import descriptors, inside
from tests.support.waiting import eventually

A, B = "24:6F:28:AA:00:01", "24:6F:28:BB:00:02"
HOST = "10.77.0.50"


@pytest.fixture
async def site(tmp_path):
    async with lan.opened(tmp_path, network="10.77.0.0/26", broker=False) as site:
        yield site


def remember(site, hosts):
    """The kernel has known these {address: MAC}, some time ago."""
    site.pi.batch(f"neigh replace {address} lladdr {mac} dev ap0 nud stale" for address, mac in hosts.items())


@contextlib.contextmanager
def listening(site, **told):
    with inside(site.pi):
        events = KernelEvents(clock=Clock(), **told)
        events.open(_index(site))
        try:
            yield events
        finally:
            events.close()


async def test_the_table_is_told_anew_after_a_storm_that_was_not_listened_to(site):
    """More than the budget allows: the events rest, and begin again with the whole table."""
    told, dumps = [], []
    with listening(site, on_neighbour=told.append, on_dump=dumps.append) as events:
        before = descriptors()
        changes, began = 0, time.monotonic()
        while events._resting is None:
            site.pi.batch(
                f"neigh replace {HOST} lladdr {invented_mac(changes + number)} dev ap0 nud stale"
                for number in range(200)
            )
            changes += 200
            await asyncio.sleep(0.001)
            assert changes < 50_000
        remember(site, {HOST: A})
        await eventually(lambda: told[-1].mac == A)
        # What was spent is earned anew while a slow machine makes its storm.
        assert len(told) <= kernel_events.PER_SECOND * (1.5 + time.monotonic() - began)
        assert dumps[:2] == [True, False]
        remember(site, {HOST: B})
        await eventually(lambda: told[-1].mac == B)
        assert len(descriptors()) == len(before)
        told.clear()
        await events.dump()
        assert [entry.mac for entry in told] == [B]
        events.close()
        with pytest.raises(OSError, match="does not tell"):
            await events.dump()


def _index(site):
    return int(json.loads(site.pi.ip("-j", "link", "show", "ap0"))[0]["ifindex"])


async def test_what_the_kernel_threw_away_is_told_again(site):
    told, changes = [], []
    with listening(site, on_neighbour=told.append, on_link=lambda *change: changes.append(change)) as events:
        events._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel makes it a few messages
        last = {f"10.77.0.{number}": invented_mac(number) for number in range(10, 55)}
        remember(site, last)
        await eventually(lambda: {str(entry.ip): entry.mac for entry in told} == last)
        assert changes == [(0, True)] * len(changes)
        assert changes, "of links something may have been missed as well"


async def test_links_and_addresses_that_change_are_told(site):
    changes = []
    with listening(site, on_link=lambda *change: changes.append(change)):
        index = _index(site)
        site.down()
        await eventually(lambda: (index, False) in changes)
        changes.clear()
        site.up()
        await eventually(lambda: (index, True) in changes)
        changes.clear()
        site.remove_address()
        await eventually(lambda: (index, True) in changes)
        changes.clear()
        site.beyond.ip("link", "set", "lan0", "down")
        await eventually(lambda: (index, False) in changes)
        changes.clear()
        site.unplug()
        await eventually(lambda: (index, False) in changes)
