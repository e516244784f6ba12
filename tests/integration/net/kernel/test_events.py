"""Kernel notifications on real interfaces: immediate, bounded in a flood, complete afterwards."""

import asyncio
import contextlib
import json
import socket
import time

import pytest

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.net.kernel import events as kernel_events
from pi_orchestrator.net.kernel.events import KernelEvents
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


def add_stale(site, hosts):
    """Add STALE neighbour entries, {address: MAC}."""
    site.pi.batch(f"neigh replace {address} lladdr {mac} dev ap0 nud stale" for address, mac in hosts.items())


@contextlib.contextmanager
def listening(site, **callbacks):
    with inside(site.pi):
        events = KernelEvents(clock=Clock(), **callbacks)
        events.open(interface_index(site))
        try:
            yield events
        finally:
            events.close()


async def test_table_is_dumped_after_flood(site, monkeypatch):
    """Over the budget, the events pause and start again with the whole table."""
    # A slow machine cannot exceed the real limit of 2,000.
    monkeypatch.setattr(kernel_events, "NOTIFICATIONS_PER_S", 200)
    entries, dumps = [], []
    with listening(site, on_neighbour=entries.append, on_dump=dumps.append) as events:
        before = descriptors()
        changes, began = 0, time.monotonic()
        while events._paused is None:
            site.pi.batch(
                f"neigh replace {HOST} lladdr {invented_mac(changes + number)} dev ap0 nud stale"
                for number in range(200)
            )
            changes += 200
            await asyncio.sleep(0.001)
            assert changes < 50_000
        add_stale(site, {HOST: A})
        await eventually(lambda: entries[-1].mac == A)
        # The budget is refilled while a slow machine creates its flood.
        assert len(entries) <= kernel_events.NOTIFICATIONS_PER_S * (1.5 + time.monotonic() - began)
        assert dumps[:2] == [True, False]
        add_stale(site, {HOST: B})
        await eventually(lambda: entries[-1].mac == B)
        assert len(descriptors()) == len(before)
        entries.clear()
        await events.dump()
        assert [entry.mac for entry in entries] == [B]
        events.close()
        with pytest.raises(OSError, match="no answer from the kernel"):
            await events.dump()


def interface_index(site):
    return int(json.loads(site.pi.ip("-j", "link", "show", "ap0"))[0]["ifindex"])


async def test_lost_notifications_are_recovered(site):
    entries, changes = [], []
    with listening(site, on_neighbour=entries.append, on_link=lambda *change: changes.append(change)) as events:
        events._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel's minimum is a few messages
        last = {f"10.77.0.{number}": invented_mac(number) for number in range(10, 55)}
        add_stale(site, last)
        await eventually(lambda: {str(entry.ip): entry.mac for entry in entries} == last)
        assert changes == [(0, True)] * len(changes)
        assert changes, "link notifications may have been lost too"


async def test_link_and_address_changes_are_reported(site):
    changes = []
    with listening(site, on_link=lambda *change: changes.append(change)):
        index = interface_index(site)
        site.down()
        await eventually(lambda: (index, False) in changes)
        changes.clear()
        site.up()
        await eventually(lambda: (index, True) in changes)
        changes.clear()
        site.remove_address()
        await eventually(lambda: (index, True) in changes)
        changes.clear()
        site.camera_ns.ip("link", "set", "lan0", "down")
        await eventually(lambda: (index, False) in changes)
        changes.clear()
        site.unplug()
        await eventually(lambda: (index, False) in changes)
