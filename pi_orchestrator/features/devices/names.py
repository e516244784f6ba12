"""Which MAC publishes on which status topic, and under which device id; known from live MQTT messages only.

A MAC keeps the topic that it established, in one spelling, until its MQTT session ends or it is silent, or until the
camera names the id of another topic by HTTP (`confirm`). A message of the same MAC on a second topic is counted and
not applied; while both topics have an id of this camera, no command must be sent. Two MACs under one id are a conflict;
while they share a topic, a command reaches both, so no command must be sent.

Bounded: a few names and topics per device of the registry. Pure: time is monotonic seconds, passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Container

from pi_orchestrator.core.mac import Mac, try_mac
from pi_orchestrator.features.devices.changes import Change, ChangeLog, Kind
from pi_orchestrator.features.devices.name_checks import CheckQueue, ReportLimit
from pi_orchestrator.features.devices.publishers import IdConflict, Publisher, Rival, topic_key
from pi_orchestrator.features.devices.status_message import Announced, Status

MAX_SHARERS = 8
"""Limit of the MACs that are stored for one name."""
MAX_RIVALS = 4
"""Limit of the second topics that are stored for one MAC."""


class NameTable:
    """The publishers by MAC and by name. `receive` decides for every live message whether it is to be applied."""

    def __init__(self, *, changes: ChangeLog, registered: Container[Mac]) -> None:
        self._changes = changes
        self._registered = registered
        self._publishers: dict[Mac, Publisher] = {}
        # The MACs that use a name; often only one.
        self._sharers: dict[str, dict[Mac, None]] = {}
        # Names with several MACs and MACs with several topics: the conflict as it was reported, None until then.
        self._shared: dict[str, IdConflict | None] = {}
        self._contested: dict[Mac, IdConflict | None] = {}
        self._reports = ReportLimit()
        self._checks = CheckQueue()
        self.on_conflict: Callable[[], None] | None = None
        """Called when a conflict is found; set by the sender of commands."""
        self.may_be_shared: Callable[[Mac, str], bool] = lambda _mac, _name: False
        """Whether another registered camera, which has not published yet, may use this name of this MAC.

        Set by `cameras/topic_check.py`.
        """
        self.revision = 0

    # Queries.

    def topic_of(self, mac: Mac) -> str | None:
        """The established status topic of a MAC."""
        publisher = self._publishers.get(mac)
        return publisher.topic if publisher else None

    def topic_to_record(self, mac: Mac) -> str | None:
        """The status topic of a MAC if the record may have it; None while it is not certainly the camera's own."""
        publisher = self._publishers.get(mac)
        return publisher.topic if publisher and publisher.may_be_recorded else None

    def publishers_on(self, topic: str, topic_id: str) -> list[Mac]:
        """The MACs that publish on a status topic."""
        key, name = topic_key(topic, topic_id)
        return [mac for mac in self._sharers.get(name, ()) if self._publishers[mac].key == key]

    def sole_user(self, name: str) -> Mac | None:
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

    def command_block_reason(self, mac: Mac) -> str | None:
        """Why an MQTT command to this MAC must not be sent, as it could reach another camera; None if it may be sent.

        One of three: other MACs publish on the same topic; the MAC publishes on two topics and it is not known which
        is the camera's own; a registered camera has not confirmed that its topic is its own and no other camera's.
        """
        publisher = self._publishers.get(mac)
        if publisher is None:
            return None
        if publisher.name in self._shared:
            listeners = self._listeners(publisher)
            if len(listeners) > 1 or mac not in self._sharers[publisher.name]:
                return self._id_conflict(publisher.name).reason
        if publisher.is_sole_publisher or (publisher.is_known and not self._may_be_shared(publisher)):
            return None
        if mac in self._contested and not publisher.is_known:
            return self._topic_conflict(mac).reason
        return f"the camera has not confirmed its topic {publisher.topic} yet" if publisher.is_registered else None

    def _listeners(self, publisher: Publisher) -> list[Mac]:
        """The MACs that may get a command on the topic of a publisher.

        On a topic with the MAC of a registered camera, unregistered MACs do not count: any client can invent them.
        """
        is_own = publisher.name == publisher.mac and publisher.mac in self._registered
        return [
            other
            for other in self._sharers[publisher.name]
            if self._publishers[other].topic == publisher.topic
            and (other == publisher.mac or not is_own or other in self._registered)
        ]

    def _may_be_shared(self, publisher: Publisher) -> bool:
        return (
            publisher.is_registered
            and publisher.name != publisher.mac
            and self.may_be_shared(publisher.mac, publisher.name)
        )

    # Messages.

    def receive(
        self,
        mac: Mac,
        status: Status,
        now: float,
        *,
        silent_after_s: float,
        recorded_id: str | None = None,
        recorded_topic: str | None = None,
    ) -> bool:
        """Store the topic and ids of a live message; True if it came on the MAC's own topic and is to be applied.

        `recorded_id` and `recorded_topic` are the device id and the established topic of the MAC in the record.
        """
        publisher = self._publishers.get(mac)
        if not status.topic:
            return True
        if status.state is Announced.OFFLINE:
            return self._receive_will(mac, publisher, status, now)
        recorded_id = (try_mac(recorded_id) or recorded_id) if recorded_id is not None else None
        if publisher is not None:
            publisher.apply_record(recorded_id, recorded_topic)
        if publisher is None or status.topic != publisher.topic:
            key, name = topic_key(status.topic, status.topic_id)
            if publisher is not None and not publisher.may_change(
                status.topic, name, now=now, silent_after_s=silent_after_s
            ):
                self._add_rival(mac, publisher, status, now)
                return False
            old, publisher = publisher, self._establish(mac, status.topic, key, name, now)
            publisher.apply_record(recorded_id, recorded_topic)
            if publisher.topic == publisher.recorded_topic:
                publisher.settle()
            if old and old.is_open(now, silent_after_s):
                self._keep_as_rival(publisher, old, now)
        publisher.last_at = now
        is_certain = publisher.is_confirmed or publisher.is_sole_publisher
        if publisher.is_registered and (publisher.differs_from_record or not is_certain):
            self._checks.request(publisher, now)
        publisher.ended_at = now if status.state is Announced.REBOOTING else None
        if publisher.settled is None and (publisher.is_known or publisher.is_sole_publisher):
            publisher.settle()
        if not publisher.is_current or status.device_id not in (None, publisher.device_id):
            self._use_names(mac, publisher, status.device_id or publisher.device_id, now, silent_after_s)
        return True

    def _establish(self, mac: Mac, topic: str, key: str, name: str, now: float) -> Publisher:
        old = self._publishers.get(mac)
        publisher = Publisher(mac, topic, key, name, now, now)
        if old:
            self._forget_names(mac)
            publisher.rivals = {other: rival for other, rival in old.rivals.items() if other != topic}
            publisher.checked_at, publisher.settled = old.checked_at, old.settled_before(name)
            publisher.confirmed_id, publisher.is_id_new = old.confirmed_id, old.is_id_new
            publisher.apply_record(old.recorded_id, old.recorded_topic)
        self._publishers[mac] = publisher
        self._update_contested(mac, now)
        self.revision += 1
        return publisher

    def _keep_as_rival(self, publisher: Publisher, old: Publisher, now: float) -> None:
        """Keep a topic that was replaced while it was in use, if it has an id of the camera."""
        publisher.rivals[old.topic] = Rival(old.topic, old.name, last_at=old.last_at)
        if not publisher.has_equal_rival:
            del publisher.rivals[old.topic]
        self._update_contested(publisher.mac, now)
        if publisher.rivals and self.on_conflict:
            self.on_conflict()

    def end_session(self, mac: Mac, now: float) -> None:
        """Record that the MQTT session of a MAC has ended; its next message may establish another topic."""
        if publisher := self._publishers.get(mac):
            publisher.ended_at = now

    def confirm(self, mac: Mac, device_id: str | None, now: float) -> bool:
        """Store the device id that the camera has sent by HTTP from its proven address; True if its topic changed."""
        publisher = self._publishers.get(mac)
        if publisher is None:
            return False
        device_id = (try_mac(device_id) or device_id) if device_id else None
        is_changed = device_id != publisher.confirmed_id
        publisher.apply_answer(device_id, now)
        if device_id is None:
            return False  # the firmware sends no device id, or a MAC as device id
        if publisher.settled is None and publisher.is_known:
            publisher.settle()
        if publisher.name == device_id and publisher.settled and publisher.settled[1] not in (device_id, mac):
            publisher.settle()  # the settled topic has an id that the camera no longer has
        if publisher.is_confirmed or (publisher.is_on_settled_topic and publisher.settled and not is_changed):
            return False
        rivals = [rival for rival in publisher.rivals.values() if rival.topic_id == device_id]
        rival = next((rival for rival in rivals if rival.topic.startswith("camera/")), rivals[0] if rivals else None)
        if rival is None:
            return False
        key, name = topic_key(rival.topic, rival.topic_id)
        changed = self._establish(mac, rival.topic, key, name, now)
        if not changed.has_equal_rival:
            changed.settle()
        # A reported conflict named what has turned out to be the camera's own topic as that of the other client.
        if (reported := self._contested.get(mac)) is not None:
            self._report(Kind.ID_CONFLICT_OVER, reported)
            self._contested[mac] = None
        self._update_contested(mac, now)
        return True

    def take_checks(self, now: float, limit: int) -> list[Mac]:
        """MACs whose device id is to be read by HTTP, to find which topic is theirs; at most `limit`."""
        taken: list[Mac] = []
        while len(taken) < limit and (mac := self._checks.pop()):
            publisher = self._publishers.get(mac)
            if publisher and (publisher.rivals or publisher.differs_from_record or not publisher.is_confirmed):
                publisher.checked_at = now
                taken.append(mac)
        return taken

    def expire(self, now: float, *, silent_after_s: float) -> None:
        """End the conflicts in which at most one publisher is left."""
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
            self._checks.drop(mac)
            self._reports.drop(mac)
            if (reported := self._contested.pop(mac, None)) is not None:
                self._report(Kind.ID_CONFLICT_OVER, reported)

    # Names.

    def _receive_will(self, mac: Mac, publisher: Publisher | None, status: Status, now: float) -> bool:
        """Whether a last will is to be applied; one on a second topic ends only the use of that topic."""
        if publisher is None or status.topic == publisher.topic:
            return True
        if rival := publisher.rivals.get(status.topic):
            if not publisher.is_equal(rival):  # an equal one is dropped only when silent: any client can send a will
                del publisher.rivals[status.topic]
                self._update_contested(mac, now)
            return False
        # A will on a topic with another id ends a session that is not the camera's.
        return topic_key(status.topic, status.topic_id)[0] == publisher.key

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

    def _add_rival(self, mac: Mac, publisher: Publisher, status: Status, now: float) -> None:
        rival = publisher.rivals.get(status.topic)
        if rival is None:
            while len(publisher.rivals) >= MAX_RIVALS:
                del publisher.rivals[publisher.least_rival]
            rival = publisher.rivals[status.topic] = Rival(status.topic, topic_key(status.topic, status.topic_id)[1])
            self.revision += 1
        publisher.answers_since = None
        publisher.since = now  # it has to be alone again before it is the sole publisher
        rival.messages += 1
        rival.last_at, rival.ip = now, status.ip
        self._checks.request(publisher, now)
        if mac not in self._contested:
            self._update_contested(mac, now)
            if self.on_conflict:
                self.on_conflict()

    # Conflicts and their events.

    def _id_conflict(self, name: str) -> IdConflict:
        macs = sorted(self._sharers[name], key=lambda mac: (mac not in self._registered, mac))
        topics = [self._publishers[mac].topic for mac in macs]
        topic = next((topic for topic in topics if topics.count(topic) > 1), None)
        return IdConflict(name, topic, tuple(macs))

    def _topic_conflict(self, mac: Mac) -> IdConflict:
        rival = next(iter(self._publishers[mac].rivals.values()))
        return IdConflict(rival.topic_id, rival.topic, (mac,))

    def _update_shared(self, name: str, now: float | None) -> None:
        """Start or end the conflict about a name, and report it; if `now` is None, report only an end."""
        if len(self._sharers.get(name, ())) < 2:
            if name in self._shared:
                self.revision += 1
                if (reported := self._shared.pop(name)) is not None:
                    self._report(Kind.ID_CONFLICT_OVER, reported)
            return
        if name not in self._shared:
            self._shared[name] = None
            self.revision += 1
        if self._shared[name] is None and now is not None and self._may_report_shared(name, now):
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
        camera = mac if mac in self._registered else None
        if self._contested[mac] is None and self._reports.may_report(mac, now, camera=camera):
            self._contested[mac] = self._topic_conflict(mac)
            self._report(Kind.ID_CONFLICT, self._topic_conflict(mac))

    def _may_report_shared(self, name: str, now: float) -> bool:
        camera = next((mac for mac in sorted(self._sharers[name]) if mac in self._registered), None)
        return self._reports.may_report(name, now, camera=camera)

    def _report(self, kind: Kind, conflict: IdConflict) -> None:
        self._changes.add(
            Change(kind, conflict.macs[0], macs=conflict.macs, device_id=conflict.id, topic=conflict.topic)
        )
