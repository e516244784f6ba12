"""Which MAC publishes on which status topic, and under which device id; known from live MQTT messages only.

A MAC keeps the topic that it established until its MQTT session ends or it is silent, or until the camera itself names
the other one by HTTP (`confirm`). A message of the same MAC on a second topic is counted and not applied. Two MACs
under one id are a conflict; while they share a topic, a command reaches both, so no command must be sent.

Bounded: a few names and topics per device of the registry. Pure: time is monotonic seconds, passed in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container

from pi_orchestrator.core.bounded_dict import BoundedDict
from pi_orchestrator.core.mac import Mac, try_mac
from pi_orchestrator.features.devices.changes import Change, ChangeLog, Kind
from pi_orchestrator.features.devices.publishers import IdConflict, Publisher, Rival, topic_key
from pi_orchestrator.features.devices.status_message import Announced, Status

MAX_SHARERS = 8
"""MACs that are stored for one name."""
MAX_RIVALS = 4
"""Second topics that are stored for one MAC."""
MAX_CHECKS = 256
REPEAT_S = 60.0
"""Minimum time between two events that report the same conflict."""
CHECK_INTERVAL_S = 30.0
"""Minimum time between two checks of one camera."""


class NameTable:
    """The publishers by MAC and by name. `receive` decides of every live message whether it is applied."""

    def __init__(self, *, changes: ChangeLog, registered: Container[Mac]) -> None:
        self._changes = changes
        self._registered = registered
        self._publishers: dict[Mac, Publisher] = {}
        self._sharers: dict[str, dict[Mac, None]] = {}
        self._shared: dict[str, IdConflict | None] = {}
        self._contested: dict[Mac, IdConflict | None] = {}
        self._reported_at: BoundedDict[str, float] = BoundedDict(MAX_CHECKS)
        self._checks: OrderedDict[Mac, None] = OrderedDict()
        self.on_conflict: Callable[[], None] | None = None
        """Called when a conflict is found; set by the sender of commands."""
        self.revision = 0

    # Queries.

    def topic_of(self, mac: Mac) -> str | None:
        """The established status topic of a MAC."""
        publisher = self._publishers.get(mac)
        return publisher.topic if publisher else None

    def publishers_on(self, topic: str, topic_id: str) -> list[Mac]:
        """The MACs that publish on a status topic."""
        key, name = topic_key(topic, topic_id)
        return [mac for mac in self._sharers.get(name, ()) if self._publishers[mac].key == key]

    def find(self, name: str) -> Mac | None:
        """The only MAC that uses a name; None if none or several do."""
        macs = self._sharers.get(try_mac(name) or name, {})
        return next(iter(macs)) if len(macs) == 1 else None

    def sharers(self, name: str) -> tuple[Mac, ...]:
        """The MACs that share a name; empty if at most one uses it."""
        name = try_mac(name) or name
        return tuple(sorted(self._sharers[name])) if name in self._shared else ()

    def topic_sharers(self, name: str) -> tuple[Mac, ...]:
        """The MACs that use a name, if some of them share a topic; empty otherwise."""
        return self.sharers(name) if name in self._shared and self._id_conflict(name).topic else ()

    def uses(self, mac: Mac, name: str) -> bool:
        """Whether a MAC uses a name now."""
        publisher = self._publishers.get(mac)
        return publisher is not None and (try_mac(name) or name) in publisher.names

    def publishes_as(self, mac: Mac, name: str) -> bool:
        """Whether a name is the id in the topic of a MAC."""
        publisher = self._publishers.get(mac)
        return publisher is not None and publisher.name == name

    def rivals(self, mac: Mac) -> list[Rival]:
        """The second topics of a MAC."""
        publisher = self._publishers.get(mac)
        return list(publisher.rivals.values()) if publisher else []

    def conflicts(self) -> list[IdConflict]:
        """All present conflicts."""
        topic_conflicts = [self._topic_conflict(mac) for mac in self._contested]
        return [*(self._id_conflict(name) for name in self._shared), *topic_conflicts]

    def conflicts_of(self, mac: Mac) -> list[IdConflict]:
        """The present conflicts of one MAC."""
        publisher = self._publishers.get(mac)
        if publisher is None:
            return []
        found = [self._id_conflict(name) for name in publisher.names if name in self._shared]
        return [*found, self._topic_conflict(mac)] if mac in self._contested else found

    def blocks_commands(self, mac: Mac) -> str | None:
        """Why a command by MQTT could reach another camera; None if it could not.

        Other MACs publish on the same topic, the MAC publishes on two and nothing shows which one is the camera's, or a
        registered camera publishes on one that nothing shows to be its own.
        """
        publisher = self._publishers.get(mac)
        if publisher is None:
            return None
        if publisher.name in self._shared:
            conflict = self._id_conflict(publisher.name)
            listeners = [
                other for other in self._sharers[publisher.name] if self._publishers[other].key == publisher.key
            ]
            if len(listeners) > 1 or mac not in self._sharers[publisher.name]:
                return conflict.reason
        if publisher.is_known or publisher.is_sole_publisher:
            return None
        if mac in self._contested:
            return self._topic_conflict(mac).reason
        return f"the camera has not confirmed its topic {publisher.topic} yet" if publisher.is_registered else None

    # Messages.

    def receive(
        self, mac: Mac, status: Status, now: float, *, silent_after_s: float, recorded_id: str | None = None
    ) -> bool:
        """Take a live message of a MAC; whether it is applied: it came on the MAC's own topic.

        `recorded_id` is the device id of the MAC in the record.
        """
        publisher = self._publishers.get(mac)
        if not status.topic:
            return True
        if status.state is Announced.OFFLINE:
            return self._receive_will(mac, publisher, status, now)
        if publisher is None or status.topic != publisher.topic:
            key, name = topic_key(status.topic, status.topic_id)
            if (
                publisher is not None
                and key != publisher.key
                and not publisher.may_change(
                    is_recorded=_is_same(name, recorded_id), now=now, silent_after_s=silent_after_s
                )
            ):
                self._add_rival(mac, publisher, status, key, now)
                return False
            if publisher is None or key != publisher.key:
                publisher = self._establish(mac, status.topic, key, name, now)
        publisher.last_at, publisher.is_registered = now, recorded_id is not None
        publisher.recorded = _is_same(publisher.name, recorded_id)
        if publisher.is_registered and not publisher.is_known:
            self._request_check(mac, publisher, now)
        publisher.ended_at = now if status.state is Announced.REBOOTING else None
        if not publisher.is_current or status.device_id not in (None, publisher.device_id):
            self._use_names(mac, publisher, status.device_id or publisher.device_id, now, silent_after_s)
        return True

    def _establish(self, mac: Mac, topic: str, key: str, name: str, now: float) -> Publisher:
        old = self._publishers.get(mac)
        publisher = Publisher(mac, topic, key, name, now, now)
        if old:
            self._forget_names(mac)
            publisher.rivals = {other: rival for other, rival in old.rivals.items() if other != key}
            publisher.checked_at = old.checked_at
        self._publishers[mac] = publisher
        self._update_contested(mac, now)
        self.revision += 1
        return publisher

    def end_session(self, mac: Mac, now: float) -> None:
        """The MQTT session of a MAC has ended: it may come back with another topic."""
        if publisher := self._publishers.get(mac):
            publisher.ended_at = now

    def confirm(self, mac: Mac, device_id: str | None, now: float) -> bool:
        """The camera has named its device id by HTTP, at an address that it has proved; whether its topic changed."""
        publisher = self._publishers.get(mac)
        if publisher is None:
            return False
        if device_id is None:
            publisher.confirmed = (
                publisher.confirmed or not publisher.rivals
            )  # its firmware names none, or one that is a MAC
            return False
        device_id = try_mac(device_id) or device_id
        if publisher.name in (device_id, mac):
            publisher.confirmed = True
            return False
        by_name = {rival.topic_id: rival for rival in publisher.rivals.values()}
        rival = by_name.get(device_id) or (None if publisher.recorded else by_name.get(mac))
        if rival is None:
            return False
        key, name = topic_key(rival.topic, rival.topic_id)
        changed = self._establish(mac, rival.topic, key, name, now)
        changed.rivals[publisher.key] = Rival(publisher.topic, publisher.name, last_at=publisher.last_at)
        changed.confirmed = True
        if (reported := self._contested.get(mac)) is not None:  # it named the camera's own topic
            self._report(Kind.ID_CONFLICT_OVER, reported)
            self._contested[mac] = None
        self._update_contested(mac, now)
        return True

    def take_checks(self, now: float, limit: int) -> list[Mac]:
        """MACs whose device id is to be read by HTTP, to find which topic is theirs; at most `limit`."""
        taken: list[Mac] = []
        while self._checks and len(taken) < limit:
            mac, _ = self._checks.popitem(last=False)
            publisher = self._publishers.get(mac)
            if publisher and (publisher.rivals or not publisher.is_known):
                publisher.checked_at = now
                taken.append(mac)
        return taken

    def expire(self, now: float, *, silent_after_s: float) -> None:
        """End the conflicts of which one publisher is left."""
        for name in list(self._shared):
            self._drop_departed(name, now, silent_after_s)
            self._update_shared(name, now)
        for mac in list(self._contested):
            publisher = self._publishers[mac]
            publisher.rivals = {
                key: rival for key, rival in publisher.rivals.items() if now - rival.last_at < silent_after_s
            }
            self._update_contested(mac, now)

    def forget(self, mac: Mac) -> None:
        """Drop all data of a device that was removed from the registry."""
        self._forget_names(mac)
        if self._publishers.pop(mac, None):
            self._checks.pop(mac, None)
            if (reported := self._contested.pop(mac, None)) is not None:
                self._report(Kind.ID_CONFLICT_OVER, reported)

    # Names.

    def _receive_will(self, mac: Mac, publisher: Publisher | None, status: Status, now: float) -> bool:
        if publisher is None or status.topic == publisher.topic:
            return True
        key, _ = topic_key(status.topic, status.topic_id)
        if key == publisher.key:
            return True
        if publisher.rivals.pop(key, None) is not None:
            self._update_contested(mac, now)
        return False  # the end of a session that is not the camera's

    def _use_names(
        self, mac: Mac, publisher: Publisher, device_id: str | None, now: float, silent_after_s: float
    ) -> None:
        names = {publisher.name, (try_mac(device_id) or device_id) if device_id else publisher.name}
        for name in set(publisher.names) - names:
            self._release(mac, name)
            self._update_shared(name, now)
        publisher.device_id, publisher.is_current, publisher.names = device_id, True, tuple(sorted(names))
        for name in publisher.names:
            sharers = self._sharers.setdefault(name, {})
            if mac in sharers:
                continue
            if sharers:
                self._drop_departed(name, now, silent_after_s)
                sharers = self._sharers.setdefault(name, {})
            if len(sharers) >= MAX_SHARERS:
                publisher.is_current = False  # its next message tries again
                continue
            sharers[mac] = None
            self._update_shared(name, now)
            if name in self._shared and self.on_conflict:
                self.on_conflict()

    def _drop_departed(self, name: str, now: float, silent_after_s: float) -> None:
        for mac in [mac for mac in self._sharers[name] if self._publishers[mac].has_left(now, silent_after_s)]:
            self._publishers[mac].is_current = False  # it takes its names again with its next message
            self._release(mac, name)

    def _release(self, mac: Mac, name: str) -> None:
        sharers = self._sharers.get(name, {})
        sharers.pop(mac, None)
        if not sharers:
            self._sharers.pop(name, None)

    def _forget_names(self, mac: Mac) -> None:
        publisher = self._publishers.get(mac)
        for name in publisher.names if publisher else ():
            self._release(mac, name)
            self._update_shared(name, None)

    def _add_rival(self, mac: Mac, publisher: Publisher, status: Status, key: str, now: float) -> None:
        rival = publisher.rivals.get(key)
        if rival is None:
            while len(publisher.rivals) >= MAX_RIVALS:
                del publisher.rivals[next(iter(publisher.rivals))]
            rival = publisher.rivals[key] = Rival(status.topic, topic_key(status.topic, status.topic_id)[1])
            self.revision += 1
        rival.messages += 1
        rival.last_at, rival.ip = now, status.ip
        self._request_check(mac, publisher, now)
        if mac not in self._contested:
            self._update_contested(mac, now)
            if self.on_conflict:
                self.on_conflict()

    def _request_check(self, mac: Mac, publisher: Publisher, now: float) -> None:
        """Queue a check by HTTP; registered cameras first, because any client can invent MACs."""
        if now - publisher.checked_at < CHECK_INTERVAL_S or mac in self._checks:
            return
        if len(self._checks) >= MAX_CHECKS:
            self._checks.popitem()
        self._checks[mac] = None
        self._checks.move_to_end(mac, last=not publisher.is_registered)

    # Conflicts and their events. The value in `_shared` and `_contested` is the conflict as reported, None before.

    def _id_conflict(self, name: str) -> IdConflict:
        macs = sorted(self._sharers[name], key=lambda mac: (mac not in self._registered, mac))
        keys = [self._publishers[mac].key for mac in macs]
        topic = next((self._publishers[mac].topic for mac in macs if keys.count(self._publishers[mac].key) > 1), None)
        return IdConflict(name, topic, tuple(macs))

    def _topic_conflict(self, mac: Mac) -> IdConflict:
        rival = next(iter(self._publishers[mac].rivals.values()))
        return IdConflict(rival.topic_id, rival.topic, (mac,))

    def _update_shared(self, name: str, now: float | None) -> None:
        """Enter or end the conflict of a name, and report it; `now` None: report no new conflict."""
        if len(self._sharers.get(name, ())) < 2:
            if name in self._shared:
                self.revision += 1
                if (reported := self._shared.pop(name)) is not None:
                    self._report(Kind.ID_CONFLICT_OVER, reported)
            return
        if name not in self._shared:
            self._shared[name] = None
            self.revision += 1
        if self._shared[name] is None and now is not None and self._may_report(name, now):
            self._shared[name] = self._id_conflict(name)
            self._report(Kind.ID_CONFLICT, self._id_conflict(name))

    def _update_contested(self, mac: Mac, now: float) -> None:
        if not self._publishers[mac].rivals:
            if mac in self._contested:
                self.revision += 1
                if (reported := self._contested.pop(mac)) is not None:
                    self._report(Kind.ID_CONFLICT_OVER, reported)
            return
        if mac not in self._contested:
            self._contested[mac] = None
            self.revision += 1
        if self._contested[mac] is None and self._may_report(mac, now):
            self._contested[mac] = self._topic_conflict(mac)
            self._report(Kind.ID_CONFLICT, self._topic_conflict(mac))

    def _may_report(self, name: str, now: float) -> bool:
        if now - self._reported_at.get(name, float("-inf")) < REPEAT_S:
            return False
        self._reported_at[name] = now
        return True

    def _report(self, kind: Kind, conflict: IdConflict) -> None:
        self._changes.add(
            Change(kind, conflict.macs[0], macs=conflict.macs, device_id=conflict.id, topic=conflict.topic)
        )


def _is_same(name: str, recorded_id: str | None) -> bool:
    return recorded_id is not None and name == (try_mac(recorded_id) or recorded_id)
