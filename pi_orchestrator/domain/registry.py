"""The one table of devices, keyed by MAC, and who answers for which address.

Every source ends here. A device that is seen is admitted, its evidence kept, its state weighed. What contradicts
what is known is never guessed at: another MAC at a known address, or a known MAC at another address, makes the
addresses concerned `doubts`, the scanner asks them, and `verdict` says what the answers mean: moved, several
addresses, or a conflict, in which the address belongs to nobody until only one answers for it.

The table is bounded. Registered cameras are never forgotten; of the rest, those that only a forgeable frame speaks
for go first, the longest unseen before the others.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address

from pi_orchestrator.domain.mac import Mac, near_macs
from pi_orchestrator.domain.presence import NEVER, Device, Evidence, Presence, Windows
from pi_orchestrator.domain.sighting import Sighting, Source
from pi_orchestrator.domain.status import Status

MAX_ADDRESSES = 4
"""More addresses than this is no camera but something that answers for others."""
MAX_NAMES = 4
MAX_CHANGES = 4096
MAX_DOUBTS = 1024
MAX_CLAIMANTS = 8
ALTERNATIONS = 3
ALTERNATE_WITHIN_S = 300.0
ADDRESS_KEPT_S = 600.0
"""How long a second address is believed that no longer answers while the first one does."""
FORGET_AFTER_S = 86400.0
TIDY_S = 10.0
_STRONG = frozenset({Source.MQTT, Source.STATION, Source.PROBE, Source.RECORD})


class Kind(StrEnum):
    """What can happen to a device."""

    FOUND = "found"
    STATE = "state"
    MOVED = "moved"
    ADDRESSES = "multiple_addresses"
    CONFLICT = "conflict"
    CONFLICT_OVER = "conflict_resolved"
    PROXY = "answers_for_many"


@dataclass(frozen=True, slots=True)
class Change:
    """Something happened to a device, `registered` or not by then; which fields are set follows from the kind."""

    kind: Kind
    mac: Mac
    registered: bool = False
    before: Presence | None = None
    after: Presence | None = None
    ip: IPv4Address | None = None
    previous_ip: IPv4Address | None = None
    macs: tuple[Mac, ...] = ()
    ips: tuple[IPv4Address, ...] = ()


@dataclass(slots=True)
class _Claimants:
    """Who answered for one address and when; `contested` while more than one does, `swaps` who lost it when."""

    answered: dict[Mac, float] = field(default_factory=dict)
    contested: frozenset[Mac] = frozenset()
    swaps: list[tuple[float, frozenset[Mac]]] = field(default_factory=list)


class Registry:
    """The devices; `sight`, `hear`, `claim` and `verdict` fill it, `settle` lets silence speak."""

    def __init__(self, *, registered: Container[Mac], max_devices: int, windows: Windows) -> None:
        self._registered = registered
        self.max_devices = max_devices
        self.windows = windows
        self._devices: dict[Mac, Device] = {}
        self._weak: OrderedDict[Mac, None] = OrderedDict()
        self._strong: OrderedDict[Mac, None] = OrderedDict()
        self._macs_by_id: dict[str, Mac] = {}
        self._names: dict[Mac, list[str]] = {}
        self._claimants: dict[IPv4Address, _Claimants] = {}
        self._changes: deque[Change] = deque(maxlen=2 * MAX_CHANGES)
        self._proxies: set[Mac] = set()
        self._multihomed: dict[Mac, tuple[IPv4Address, ...]] = {}
        self._proved: dict[Mac, float] = {}
        self._tidied_at = NEVER
        self.on_doubt: Callable[[], None] | None = None
        self.doubts: OrderedDict[IPv4Address, None] = OrderedDict()
        self.counts: Counter[Kind] = Counter()
        self.evicted = 0
        self.revision = 0

    def __len__(self) -> int:
        return len(self._devices)

    def __iter__(self) -> Iterator[Device]:
        return iter(tuple(self._devices.values()))

    def get(self, mac: Mac) -> Device | None:
        """The device of a MAC."""
        return self._devices.get(mac)

    def find(self, name: str) -> Mac | None:
        """The MAC that a device id stands for, by what devices have said."""
        return self._macs_by_id.get(name)

    def near(self, mac: Mac) -> list[Mac]:
        """Known devices whose MAC is so near that both may belong to one ESP32."""
        return [other for other in near_macs(mac) if other in self._devices]

    # Who answers for an address.

    def claimants(self, address: IPv4Address, *, since: float = NEVER) -> frozenset[Mac]:
        """Everyone who has answered for an address since then; more than one while it is contested."""
        known = self._claimants.get(address)
        if known is None:
            return frozenset()
        return known.contested or frozenset(mac for mac, at in known.answered.items() if at >= since)

    def holder(self, address: IPv4Address) -> tuple[Mac, float] | None:
        """The one device that answers for an address, and when it last did; None where nobody or several do."""
        known = self._claimants.get(address)
        if known is None or known.contested or len(known.answered) != 1 or known.answered.keys() & self._proxies:
            return None
        return next(iter(known.answered.items()))

    def address_of(self, mac: Mac) -> IPv4Address | None:
        """The address at which a device can be trusted to be; None while it is contested."""
        device = self._devices.get(mac)
        if device is None or device.address is None:
            return None
        held = self.holder(device.address)
        return device.address if held and held[0] == mac else None

    def conflicts(self) -> dict[IPv4Address, frozenset[Mac]]:
        """The addresses that several devices answer for."""
        return {address: known.contested for address, known in self._claimants.items() if known.contested}

    def proved(self, *, since: float) -> set[Mac]:
        """The devices that were reported since then to answer for an address, however old the proof was by then."""
        return {mac for mac, at in self._proved.items() if at >= since}

    # What sources report.

    def hear(self, mac: Mac, status: Status, now: float) -> Device:
        """A live MQTT message of this device."""
        device = self._devices.get(mac) or self._admit(mac, strong=True)
        before, known = device.shown, device.alive_at is not None
        if device.hear(status, now):
            self._note_state(device, before)
        if device.address and device.leaving_at == now:
            self.doubt(device.address)  # its session ended; whether the device is still there can be asked
        if not known and device.alive_at is not None:
            self._note_found(device)
        self._touch(mac, strong=True)
        self.revision += 1
        return device

    def claim(self, mac: Mac, status: Status) -> Device:
        """A retained MQTT message in the name of this device."""
        device = self._devices.get(mac) or self._admit(mac, strong=False)
        before = device.shown
        if device.claim(status):
            self._note_state(device, before)
        self.revision += 1
        return device

    def sight(self, seen: Sighting, now: float) -> Device | None:
        """Evidence of any other source; None where it is too weak to admit a stranger."""
        device = self._devices.get(seen.mac)
        if device is None:
            if seen.source is Source.ARP and not seen.binds:
                # Anyone can send a frame in any name: a stranger has to answer a question first.
                if seen.ip:
                    self.doubt(seen.ip)
                return None
            device = self._admit(seen.mac, strong=seen.source in _STRONG)
        known = device.alive_at is not None
        device.see(seen)
        if seen.ip and seen.binds:
            self._bind(device, seen.ip, seen.at)
            self._proved[seen.mac] = now
        elif seen.ip and seen.alive and seen.ip not in device.addresses:
            self.doubt(seen.ip)
        self._settle(device, now)
        if not known and device.alive_at is not None:
            self._note_found(device)
        if seen.alive:
            self._touch(seen.mac, strong=seen.source in _STRONG)
        self.revision += 1
        return device

    def restore(self, mac: Mac, state: Presence, *, alive_at: float | None, now: float) -> None:
        """A camera that was in this state before a restart; it goes on from there where `alive_at` still counts."""
        device = self._devices.get(mac) or self._admit(mac, strong=True)
        if alive_at is None or state not in (Presence.ONLINE, Presence.IDLE):
            return
        device.evidence[Source.RECORD] = Evidence(Source.RECORD, alive_at, alive_at, alive_at)
        device.state = Presence.ONLINE
        device.settle(self.windows, now)
        if device.state is not state:
            self._note_state(device, state)

    def estrange(self, mac: Mac) -> None:
        """A camera is registered no more: from here on it can be forgotten like any stranger."""
        device = self._devices.get(mac)
        if device is None:
            return
        if device.evidence or device.claims:
            self._touch(mac, strong=not _STRONG.isdisjoint(device.evidence))
        else:
            self._forget(mac)  # nothing but the record spoke for it

    def learn_name(self, name: str, mac: Mac) -> None:
        """A device id stands for this MAC; a device that makes up new ids keeps its first few."""
        names = self._names.setdefault(mac, [])
        if name not in self._macs_by_id and len(names) < MAX_NAMES:
            names.append(name)
            self._macs_by_id[name] = mac

    def doubt(self, address: IPv4Address) -> None:
        """Somebody should ask who has this address."""
        if len(self.doubts) < MAX_DOUBTS:
            self.doubts[address] = None
        if self.on_doubt:
            self.on_doubt()

    def verdict(self, address: IPv4Address, answered: frozenset[Mac], now: float) -> None:
        """An address was asked just now, and these devices, whose answers were sighted, answered for it."""
        self.doubts.pop(address, None)
        known = self._claimants.get(address)
        if known is None:
            return
        answered = answered & known.answered.keys()
        # Who sleeps does not answer either: only one that has answered elsewhere, or was replaced, has left.
        gone = frozenset(
            mac
            for mac, at in known.answered.items()
            if mac not in answered and (answered or max(self._devices[mac].addresses.values()) > at)
        )
        was, known.contested = known.contested, frozenset()
        for mac in gone:
            self._unbind(self._devices[mac], address)
        if answered and gone:
            known.swaps = [*known.swaps[-ALTERNATIONS:], (now, frozenset(sorted(gone)[:MAX_CLAIMANTS]))]
        if answered:
            self._judge_contest(address, known, was, self._with_turns(known, answered, now))
        else:
            # Silence alone ends no conflict, as long as two are left in it.
            self._judge_contest(address, known, was, was - gone if known.answered else frozenset())
        for mac in tuple(known.answered):
            self._devices[mac].revision += 1  # whether its address is its own is part of what is told of it
            self._judge_addresses(self._devices[mac])

    def settle(self, now: float) -> None:
        """Let silence speak, and forget strangers that have been away for a day."""
        for device in self:
            self._settle(device, now)
        if now - self._tidied_at >= TIDY_S:
            self._tidied_at = now
            self._tidy(now)

    def drain(self) -> list[Change]:
        """What has happened since the last call, in order."""
        changes = list(self._changes)
        self._changes.clear()
        return changes

    # Inside.

    def _tidy(self, now: float) -> None:
        for device in self:
            if len(device.addresses) > 1:
                latest = max(device.addresses.values())
                for address in [one for one, at in device.addresses.items() if latest - at > ADDRESS_KEPT_S]:
                    self._unbind(device, address)
            if device.state is Presence.OFFLINE and device.mac not in self._registered:
                last = max((one.last_at for one in device.evidence.values()), default=device.silenced_at)
                if last != NEVER and now - last > FORGET_AFTER_S:
                    self._forget(device.mac)

    def _settle(self, device: Device, now: float) -> None:
        before = device.shown
        if device.settle(self.windows, now):
            self.revision += 1
            self._note_state(device, before)

    def _note_state(self, device: Device, before: Presence) -> None:
        registered = device.mac in self._registered
        self._note(Change(Kind.STATE, device.mac, before=before, after=device.shown, registered=registered))

    def _note_found(self, device: Device) -> None:
        if device.mac not in self._registered:
            self._note(Change(Kind.FOUND, device.mac, ip=device.address))

    def _note(self, change: Change) -> None:
        self.counts[change.kind] += 1
        # A flood of strangers must not drown what happens to cameras.
        if len(self._changes) < MAX_CHANGES or any(mac in self._registered for mac in (change.mac, *change.macs)):
            self._changes.append(change)

    def _bind(self, device: Device, address: IPv4Address, at: float) -> None:
        """The device has answered for this address."""
        if address not in device.addresses:
            if len(device.addresses) >= MAX_ADDRESSES:
                if device.mac not in self._proxies:
                    self._proxies.add(device.mac)
                    self._note(Change(Kind.PROXY, device.mac, ip=address, ips=tuple(device.addresses)))
                return
            for other in device.addresses:
                self.doubt(other)
        known = self._claimants.setdefault(address, _Claimants())
        if known.contested or any(mac != device.mac for mac in known.answered):
            self.doubt(address)
        device.addresses[address] = max(at, device.addresses.get(address, at))
        known.answered[device.mac] = device.addresses[address]
        if device.address is None:
            device.address = address
            device.revision += 1
            if device.left not in (None, address):
                self._note(Change(Kind.MOVED, device.mac, ip=address, previous_ip=device.left))

    def _unbind(self, device: Device, address: IPv4Address) -> None:
        self._release(device, address)
        if device.address == address:
            device.address = max(device.addresses, key=device.addresses.__getitem__, default=None)
            device.left = address
            device.revision += 1
            if device.address:
                self._note(Change(Kind.MOVED, device.mac, ip=device.address, previous_ip=address))
        if len(device.addresses) < MAX_ADDRESSES:
            self._proxies.discard(device.mac)
        if len(device.addresses) < 2:
            self._multihomed.pop(device.mac, None)

    def _release(self, device: Device, address: IPv4Address) -> None:
        """The device no longer answers for an address; a conflict in which one alone is left is over."""
        del device.addresses[address]
        known = self._claimants[address]
        del known.answered[device.mac]
        left = known.contested - {device.mac}
        if known.contested and (len(left) < 2 or not known.answered):
            mac = min(left or known.contested, key=self._cameras_first)
            self._note(Change(Kind.CONFLICT_OVER, mac, ip=address))
            left = frozenset()
        known.contested = left
        if not known.answered:
            del self._claimants[address]

    def _with_turns(self, known: _Claimants, answered: frozenset[Mac], now: float) -> frozenset[Mac]:
        """Who answered, and who takes turns with them: the kernel names one at a time."""
        recent = [macs for at, macs in known.swaps if now - at < ALTERNATE_WITHIN_S]
        return answered.union(*recent) if len(recent) >= ALTERNATIONS else answered

    def _judge_contest(
        self, address: IPv4Address, known: _Claimants, was: frozenset[Mac], claimants: frozenset[Mac]
    ) -> None:
        macs = tuple(sorted(claimants, key=self._cameras_first)[:MAX_CLAIMANTS])
        if len(macs) > 1:
            if not was:
                self._note(Change(Kind.CONFLICT, macs[0], ip=address, macs=macs))
            known.contested = frozenset(macs)
        elif was:
            self._note(Change(Kind.CONFLICT_OVER, min(claimants or was, key=self._cameras_first), ip=address))
        self.revision += 1

    def _cameras_first(self, mac: Mac) -> tuple[bool, Mac]:
        return mac not in self._registered, mac

    def _judge_addresses(self, device: Device) -> None:
        if len(device.addresses) < 2 or device.mac in self._proxies:
            self._multihomed.pop(device.mac, None)
            return
        addresses = tuple(sorted(device.addresses))
        unsure = any(address in self.doubts for address in addresses)
        if not unsure and self._multihomed.get(device.mac) != addresses:
            self._multihomed[device.mac] = addresses
            self._note(Change(Kind.ADDRESSES, device.mac, ips=addresses))

    def _admit(self, mac: Mac, *, strong: bool) -> Device:
        while len(self._devices) >= self.max_devices and self._evict():
            pass  # the limit may have been lowered
        device = self._devices[mac] = Device(mac=mac)
        self._touch(mac, strong=strong)
        return device

    def _touch(self, mac: Mac, *, strong: bool) -> None:
        if mac in self._registered:
            return
        if strong or mac in self._strong:
            self._weak.pop(mac, None)
            self._strong[mac] = None
            self._strong.move_to_end(mac)
        else:
            self._weak[mac] = None
            self._weak.move_to_end(mac)

    def _evict(self) -> bool:
        """Forget the stranger that is missed least; whether there was one."""
        for queue in (self._weak, self._strong):
            while queue:
                mac, _ = queue.popitem(last=False)
                if mac not in self._registered:
                    self._forget(mac)
                    self.evicted += 1
                    return True
        return False

    def _forget(self, mac: Mac) -> None:
        device = self._devices.pop(mac)
        for address in tuple(device.addresses):
            self._release(device, address)
        for name in self._names.pop(mac, ()):
            del self._macs_by_id[name]
        self._proxies.discard(mac)
        self._multihomed.pop(mac, None)
        self._proved.pop(mac, None)
        self._weak.pop(mac, None)
        self._strong.pop(mac, None)
        self.revision += 1
