"""Which device answers for which address: claimants, conflicts, moves, and the addresses to be probed.

Only a probe resolves a contradiction. A new MAC at a known address, or a known MAC at a new address, requests a probe
of the addresses concerned. `resolve_probe` applies the answers: the device moved, it has several addresses, or there
is a conflict. A contested address belongs to no device until only one answers for it.

Pure: time is monotonic seconds, passed in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.devices.changes import Change, ChangeLog, Kind
from pi_orchestrator.features.devices.model import NEVER, Device

MAX_ADDRESSES = 4
"""A device with more addresses than this is a proxy, not a camera."""
MAX_PROBE_REQUESTS = 1024
MAX_CLAIMANTS = 8
ALTERNATIONS = 3
ALTERNATE_WITHIN_S = 300.0
"""If an address changes its device ALTERNATIONS times within this time, that is a conflict, not a series of moves."""
ADDRESS_KEPT_S = 600.0
"""An address is dropped when its last answer is this much older than its device's latest answer."""


@dataclass(slots=True)
class _Claimants:
    """The devices that answer for one address.

    `answered`: MAC → time of its last answer. `contested`: the MACs in conflict. `swaps`: each time at which other
    devices took the address over, with the MACs that lost it.
    """

    answered: dict[Mac, float] = field(default_factory=dict)
    contested: frozenset[Mac] = frozenset()
    swaps: list[tuple[float, frozenset[Mac]]] = field(default_factory=list)


class AddressTable:
    """Addresses of the devices in `devices`, whose `address` and `addresses` it maintains."""

    def __init__(self, *, devices: Mapping[Mac, Device], registered: Container[Mac], changes: ChangeLog) -> None:
        self._devices = devices
        self._registered = registered
        self._changes = changes
        self._claimants: dict[IPv4Address, _Claimants] = {}
        self._proxies: set[Mac] = set()
        self._multihomed: dict[Mac, tuple[IPv4Address, ...]] = {}
        self._proved: dict[Mac, float] = {}
        self.probe_requests: OrderedDict[IPv4Address, None] = OrderedDict()
        self.on_probe_request: Callable[[], None] | None = None
        """Called after each request; set by the scanner while it runs."""

    # Queries.

    def claimants(self, address: IPv4Address, *, since: float = NEVER) -> frozenset[Mac]:
        """The devices that have answered for an address since `since`; while it is contested, all in the conflict."""
        entry = self._claimants.get(address)
        if entry is None:
            return frozenset()
        return entry.contested or frozenset(mac for mac, at in entry.answered.items() if at >= since)

    def holder(self, address: IPv4Address) -> tuple[Mac, float] | None:
        """The only device that answers for an address, and the time of its last answer; None if none or several do."""
        entry = self._claimants.get(address)
        if entry is None or entry.contested or len(entry.answered) != 1 or entry.answered.keys() & self._proxies:
            return None
        return next(iter(entry.answered.items()))

    def address_of(self, mac: Mac) -> IPv4Address | None:
        """The proven address of a device; None if there is none or it is contested."""
        device = self._devices.get(mac)
        if device is None or device.address is None:
            return None
        holder = self.holder(device.address)
        return device.address if holder and holder[0] == mac else None

    def conflicts(self) -> dict[IPv4Address, frozenset[Mac]]:
        """The contested addresses, each with the devices that answer for it."""
        return {address: entry.contested for address, entry in self._claimants.items() if entry.contested}

    def proven_since(self, since: float) -> set[Mac]:
        """Devices whose answer for an address was reported at or after `since` (monotonic); the answer may be older."""
        return {mac for mac, at in self._proved.items() if at >= since}

    # Probes.

    def request_probe(self, address: IPv4Address) -> None:
        """Request a probe of which device has this address; dropped if too many are pending."""
        if len(self.probe_requests) < MAX_PROBE_REQUESTS:
            self.probe_requests[address] = None
        if self.on_probe_request:
            self.on_probe_request()

    def resolve_probe(self, address: IPv4Address, answered: frozenset[Mac], now: float) -> bool:
        """Apply a finished probe: `answered` are the devices that answered, already sighted.

        Returns whether any device had claimed the address.
        """
        self.probe_requests.pop(address, None)
        entry = self._claimants.get(address)
        if entry is None:
            return False
        answered = answered & entry.answered.keys()
        # A sleeping camera does not answer: it has left only if it answered elsewhere or another device answers here.
        departed = frozenset(
            mac
            for mac, at in entry.answered.items()
            if mac not in answered and (answered or max(self._devices[mac].addresses.values()) > at)
        )
        before, entry.contested = entry.contested, frozenset()
        for mac in departed:
            self._unbind(self._devices[mac], address)
        if answered and departed:
            entry.swaps = [*entry.swaps[-ALTERNATIONS:], (now, frozenset(sorted(departed)[:MAX_CLAIMANTS]))]
        if answered:
            self._update_conflict(address, entry, before, _with_alternating(entry, answered, now))
        else:
            # Silence alone does not end a conflict while two devices are left in it.
            self._update_conflict(address, entry, before, before - departed if entry.answered else frozenset())
        for mac in tuple(entry.answered):
            self._devices[mac].revision += 1  # its published state includes whether its address is proven
            self._update_multihomed(self._devices[mac])
        return True

    # Changes.

    def bind(self, device: Device, address: IPv4Address, *, at: float, now: float) -> None:
        """Record that a device answered for an address at the time `at`, which was reported at the time `now`."""
        self._proved[device.mac] = now
        if address not in device.addresses:
            if len(device.addresses) >= MAX_ADDRESSES:
                if device.mac not in self._proxies:
                    self._proxies.add(device.mac)
                    self._changes.add(Change(Kind.PROXY, device.mac, ip=address, ips=tuple(device.addresses)))
                return
            for other in device.addresses:
                self.request_probe(other)
        entry = self._claimants.setdefault(address, _Claimants())
        if entry.contested or any(mac != device.mac for mac in entry.answered):
            self.request_probe(address)
        device.addresses[address] = max(at, device.addresses.get(address, at))
        entry.answered[device.mac] = device.addresses[address]
        if device.address is None:
            device.address = address
            device.revision += 1
            if device.previous_address not in (None, address):
                self._changes.add(Change(Kind.MOVED, device.mac, ip=address, previous_ip=device.previous_address))

    def drop_stale(self, device: Device) -> None:
        """Drop addresses that last answered long before the device's latest one did."""
        if len(device.addresses) > 1:
            latest = max(device.addresses.values())
            for address in [ip for ip, at in device.addresses.items() if latest - at > ADDRESS_KEPT_S]:
                self._unbind(device, address)

    def forget(self, device: Device) -> None:
        """Drop all data of a device that was removed from the registry."""
        for address in tuple(device.addresses):
            self._release(device, address)
        self._proxies.discard(device.mac)
        self._multihomed.pop(device.mac, None)
        self._proved.pop(device.mac, None)

    def _unbind(self, device: Device, address: IPv4Address) -> None:
        self._release(device, address)
        if device.address == address:
            device.address = max(device.addresses, key=device.addresses.__getitem__, default=None)
            device.previous_address = address
            device.revision += 1
            if device.address:
                self._changes.add(Change(Kind.MOVED, device.mac, ip=device.address, previous_ip=address))
        if len(device.addresses) < MAX_ADDRESSES:
            self._proxies.discard(device.mac)
        if len(device.addresses) < 2:
            self._multihomed.pop(device.mac, None)

    def _release(self, device: Device, address: IPv4Address) -> None:
        """Remove a device from an address; a conflict ends when one device is left."""
        del device.addresses[address]
        entry = self._claimants[address]
        del entry.answered[device.mac]
        remaining = entry.contested - {device.mac}
        if entry.contested and (len(remaining) < 2 or not entry.answered):
            mac = min(remaining or entry.contested, key=self._registered_first)
            self._changes.add(Change(Kind.CONFLICT_OVER, mac, ip=address))
            remaining = frozenset()
        entry.contested = remaining
        if not entry.answered:
            del self._claimants[address]

    def _update_conflict(
        self, address: IPv4Address, entry: _Claimants, before: frozenset[Mac], claimants: frozenset[Mac]
    ) -> None:
        macs = tuple(sorted(claimants, key=self._registered_first)[:MAX_CLAIMANTS])
        if len(macs) > 1:
            if not before:
                self._changes.add(Change(Kind.CONFLICT, macs[0], ip=address, macs=macs))
            entry.contested = frozenset(macs)
        elif before:
            mac = min(claimants or before, key=self._registered_first)
            self._changes.add(Change(Kind.CONFLICT_OVER, mac, ip=address))

    def _update_multihomed(self, device: Device) -> None:
        if len(device.addresses) < 2 or device.mac in self._proxies:
            self._multihomed.pop(device.mac, None)
            return
        addresses = tuple(sorted(device.addresses))
        is_pending = any(address in self.probe_requests for address in addresses)
        if not is_pending and self._multihomed.get(device.mac) != addresses:
            self._multihomed[device.mac] = addresses
            self._changes.add(Change(Kind.ADDRESSES, device.mac, ips=addresses))

    def _registered_first(self, mac: Mac) -> tuple[bool, Mac]:
        return mac not in self._registered, mac


def _with_alternating(entry: _Claimants, answered: frozenset[Mac], now: float) -> frozenset[Mac]:
    """The devices that answered, and those that alternate with them: the kernel reports only one at a time."""
    recent = [macs for at, macs in entry.swaps if now - at < ALTERNATE_WITHIN_S]
    return answered.union(*recent) if len(recent) >= ALTERNATIONS else answered
