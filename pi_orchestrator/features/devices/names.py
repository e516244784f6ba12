"""Which MAC speaks on which status topic, and under which device id; known from live MQTT messages only.

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
from pi_orchestrator.features.devices.speakers import IdConflict, Rival, Speaker, topic_key
from pi_orchestrator.features.devices.status_message import Announced, Status

MAX_SHARERS = 8
"""MACs that are stored for one name."""
MAX_RIVALS = 4
"""Second topics that are stored for one MAC."""
MAX_QUESTIONS = 256
REPEAT_S = 60.0
"""Minimum time between two events that report the same conflict."""
ASK_INTERVAL_S = 30.0
"""Minimum time between two questions to one camera."""


class NameTable:
    """The speakers by MAC and by name. `hear` takes every live message and decides whether it is applied."""

    def __init__(self, *, changes: ChangeLog, registered: Container[Mac]) -> None:
        self._changes = changes
        self._registered = registered
        self._speakers: dict[Mac, Speaker] = {}
        self._sharers: dict[str, dict[Mac, None]] = {}
        self._shared: dict[str, IdConflict | None] = {}
        self._disputed: dict[Mac, IdConflict | None] = {}
        self._reported_at: BoundedDict[str, float] = BoundedDict(MAX_QUESTIONS)
        self._questions: OrderedDict[Mac, None] = OrderedDict()
        self.on_conflict: Callable[[], None] | None = None
        """Called when a conflict is found; set by the sender of commands."""
        self.revision = 0

    # Queries.

    def topic_of(self, mac: Mac) -> str | None:
        """The established status topic of a MAC."""
        speaker = self._speakers.get(mac)
        return speaker.topic if speaker else None

    def speakers_on(self, topic: str, topic_id: str) -> list[Mac]:
        """The MACs that speak on a status topic."""
        key, name = topic_key(topic, topic_id)
        return [mac for mac in self._sharers.get(name, ()) if self._speakers[mac].key == key]

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
        return self.sharers(name) if name in self._shared and self._conflict(name).topic else ()

    def uses(self, mac: Mac, name: str) -> bool:
        """Whether a MAC uses a name now."""
        speaker = self._speakers.get(mac)
        return speaker is not None and (try_mac(name) or name) in speaker.names

    def speaks_as(self, mac: Mac, name: str) -> bool:
        """Whether a name is the id in the topic of a MAC."""
        speaker = self._speakers.get(mac)
        return speaker is not None and speaker.name == name

    def rivals(self, mac: Mac) -> list[Rival]:
        """The second topics of a MAC."""
        speaker = self._speakers.get(mac)
        return list(speaker.rivals.values()) if speaker else []

    def conflicts(self) -> list[IdConflict]:
        """All present conflicts."""
        disputes = [self._dispute(mac) for mac in self._disputed]
        return [*(self._conflict(name) for name in self._shared), *disputes]

    def conflicts_of(self, mac: Mac) -> list[IdConflict]:
        """The present conflicts of one MAC."""
        speaker = self._speakers.get(mac)
        if speaker is None:
            return []
        found = [self._conflict(name) for name in speaker.names if name in self._shared]
        return [*found, self._dispute(mac)] if mac in self._disputed else found

    def blocks_commands(self, mac: Mac) -> str | None:
        """Why a command by MQTT could reach another camera; None if it could not.

        Other MACs speak on the same topic, the MAC speaks on two and nothing shows which one is the camera's, or a
        registered camera speaks on one that nothing shows to be its own.
        """
        speaker = self._speakers.get(mac)
        if speaker is None:
            return None
        if speaker.name in self._shared:
            conflict = self._conflict(speaker.name)
            listeners = [other for other in self._sharers[speaker.name] if self._speakers[other].key == speaker.key]
            if len(listeners) > 1 or mac not in self._sharers[speaker.name]:
                return conflict.reason
        if speaker.is_known or speaker.is_undisputed:
            return None
        if mac in self._disputed:
            return self._dispute(mac).reason
        return f"the camera has not confirmed its topic {speaker.topic} yet" if speaker.is_registered else None

    # Messages.

    def hear(
        self, mac: Mac, status: Status, now: float, *, silent_after_s: float, recorded_id: str | None = None
    ) -> bool:
        """Take a live message of a MAC; whether it is applied: it came on the MAC's own topic.

        `recorded_id` is the device id of the MAC in the record.
        """
        speaker = self._speakers.get(mac)
        if not status.topic:
            return True
        if status.state is Announced.OFFLINE:
            return self._hear_will(mac, speaker, status, now)
        if speaker is None or status.topic != speaker.topic:
            key, name = topic_key(status.topic, status.topic_id)
            if (
                speaker is not None
                and key != speaker.key
                and not speaker.may_change(
                    is_recorded=_is_same(name, recorded_id), now=now, silent_after_s=silent_after_s
                )
            ):
                self._add_rival(mac, speaker, status, key, now)
                return False
            if speaker is None or key != speaker.key:
                speaker = self._establish(mac, status.topic, key, name, now)
        speaker.last_at, speaker.is_registered = now, recorded_id is not None
        speaker.recorded = _is_same(speaker.name, recorded_id)
        if speaker.is_registered and not speaker.is_known:
            self._ask(mac, speaker, now)
        speaker.ended_at = now if status.state is Announced.REBOOTING else None
        if not speaker.is_current or status.device_id not in (None, speaker.device_id):
            self._use_names(mac, speaker, status.device_id or speaker.device_id, now, silent_after_s)
        return True

    def _establish(self, mac: Mac, topic: str, key: str, name: str, now: float) -> Speaker:
        old = self._speakers.get(mac)
        speaker = Speaker(mac, topic, key, name, now, now)
        if old:
            self._forget_names(mac)
            speaker.rivals = {other: rival for other, rival in old.rivals.items() if other != key}
            speaker.asked_at = old.asked_at
        self._speakers[mac] = speaker
        self._update_disputed(mac, now)
        self.revision += 1
        return speaker

    def end_session(self, mac: Mac, now: float) -> None:
        """The MQTT session of a MAC has ended: it may come back with another topic."""
        if speaker := self._speakers.get(mac):
            speaker.ended_at = now

    def confirm(self, mac: Mac, device_id: str | None, now: float) -> bool:
        """The camera has named its device id by HTTP, at an address that it has proved; whether its topic changed."""
        speaker = self._speakers.get(mac)
        if speaker is None:
            return False
        if device_id is None:
            speaker.confirmed = speaker.confirmed or not speaker.rivals  # its firmware names none, or one that is a MAC
            return False
        device_id = try_mac(device_id) or device_id
        if speaker.name in (device_id, mac):
            speaker.confirmed = True
            return False
        by_name = {rival.topic_id: rival for rival in speaker.rivals.values()}
        rival = by_name.get(device_id) or (None if speaker.recorded else by_name.get(mac))
        if rival is None:
            return False
        key, name = topic_key(rival.topic, rival.topic_id)
        changed = self._establish(mac, rival.topic, key, name, now)
        changed.rivals[speaker.key] = Rival(speaker.topic, speaker.name, last_at=speaker.last_at)
        changed.confirmed = True
        if (reported := self._disputed.get(mac)) is not None:  # it named the camera's own topic
            self._report(Kind.ID_CONFLICT_OVER, reported)
            self._disputed[mac] = None
        self._update_disputed(mac, now)
        return True

    def take_questions(self, now: float, limit: int) -> list[Mac]:
        """MACs to be asked by HTTP which topic is theirs; at most `limit`."""
        taken: list[Mac] = []
        while self._questions and len(taken) < limit:
            mac, _ = self._questions.popitem(last=False)
            speaker = self._speakers.get(mac)
            if speaker and (speaker.rivals or not speaker.is_known):
                speaker.asked_at = now
                taken.append(mac)
        return taken

    def expire(self, now: float, *, silent_after_s: float) -> None:
        """End the conflicts of which one speaker is left."""
        for name in list(self._shared):
            self._drop_departed(name, now, silent_after_s)
            self._update_shared(name, now)
        for mac in list(self._disputed):
            speaker = self._speakers[mac]
            speaker.rivals = {
                key: rival for key, rival in speaker.rivals.items() if now - rival.last_at < silent_after_s
            }
            self._update_disputed(mac, now)

    def forget(self, mac: Mac) -> None:
        """Drop all data of a device that was removed from the registry."""
        self._forget_names(mac)
        if self._speakers.pop(mac, None):
            self._questions.pop(mac, None)
            if (reported := self._disputed.pop(mac, None)) is not None:
                self._report(Kind.ID_CONFLICT_OVER, reported)

    # Names.

    def _hear_will(self, mac: Mac, speaker: Speaker | None, status: Status, now: float) -> bool:
        if speaker is None or status.topic == speaker.topic:
            return True
        key, _ = topic_key(status.topic, status.topic_id)
        if key == speaker.key:
            return True
        if speaker.rivals.pop(key, None) is not None:
            self._update_disputed(mac, now)
        return False  # the end of a session that is not the camera's

    def _use_names(self, mac: Mac, speaker: Speaker, device_id: str | None, now: float, silent_after_s: float) -> None:
        names = {speaker.name, (try_mac(device_id) or device_id) if device_id else speaker.name}
        for name in set(speaker.names) - names:
            self._release(mac, name)
            self._update_shared(name, now)
        speaker.device_id, speaker.is_current, speaker.names = device_id, True, tuple(sorted(names))
        for name in speaker.names:
            sharers = self._sharers.setdefault(name, {})
            if mac in sharers:
                continue
            if sharers:
                self._drop_departed(name, now, silent_after_s)
                sharers = self._sharers.setdefault(name, {})
            if len(sharers) >= MAX_SHARERS:
                speaker.is_current = False  # its next message tries again
                continue
            sharers[mac] = None
            self._update_shared(name, now)
            if name in self._shared and self.on_conflict:
                self.on_conflict()

    def _drop_departed(self, name: str, now: float, silent_after_s: float) -> None:
        for mac in [mac for mac in self._sharers[name] if self._speakers[mac].has_left(now, silent_after_s)]:
            self._speakers[mac].is_current = False  # it takes its names again with its next message
            self._release(mac, name)

    def _release(self, mac: Mac, name: str) -> None:
        sharers = self._sharers.get(name, {})
        sharers.pop(mac, None)
        if not sharers:
            self._sharers.pop(name, None)

    def _forget_names(self, mac: Mac) -> None:
        speaker = self._speakers.get(mac)
        for name in speaker.names if speaker else ():
            self._release(mac, name)
            self._update_shared(name, None)

    def _add_rival(self, mac: Mac, speaker: Speaker, status: Status, key: str, now: float) -> None:
        rival = speaker.rivals.get(key)
        if rival is None:
            while len(speaker.rivals) >= MAX_RIVALS:
                del speaker.rivals[next(iter(speaker.rivals))]
            rival = speaker.rivals[key] = Rival(status.topic, topic_key(status.topic, status.topic_id)[1])
            self.revision += 1
        rival.messages += 1
        rival.last_at, rival.ip = now, status.ip
        self._ask(mac, speaker, now)
        if mac not in self._disputed:
            self._update_disputed(mac, now)
            if self.on_conflict:
                self.on_conflict()

    def _ask(self, mac: Mac, speaker: Speaker, now: float) -> None:
        """Queue a question; registered cameras first, because any client can invent MACs."""
        if now - speaker.asked_at < ASK_INTERVAL_S or mac in self._questions:
            return
        if len(self._questions) >= MAX_QUESTIONS:
            self._questions.popitem()
        self._questions[mac] = None
        self._questions.move_to_end(mac, last=not speaker.is_registered)

    # Conflicts and their events. The value in `_shared` and `_disputed` is the conflict as reported, None before.

    def _conflict(self, name: str) -> IdConflict:
        macs = sorted(self._sharers[name], key=lambda mac: (mac not in self._registered, mac))
        keys = [self._speakers[mac].key for mac in macs]
        topic = next((self._speakers[mac].topic for mac in macs if keys.count(self._speakers[mac].key) > 1), None)
        return IdConflict(name, topic, tuple(macs))

    def _dispute(self, mac: Mac) -> IdConflict:
        rival = next(iter(self._speakers[mac].rivals.values()))
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
            self._shared[name] = self._conflict(name)
            self._report(Kind.ID_CONFLICT, self._conflict(name))

    def _update_disputed(self, mac: Mac, now: float) -> None:
        if not self._speakers[mac].rivals:
            if mac in self._disputed:
                self.revision += 1
                if (reported := self._disputed.pop(mac)) is not None:
                    self._report(Kind.ID_CONFLICT_OVER, reported)
            return
        if mac not in self._disputed:
            self._disputed[mac] = None
            self.revision += 1
        if self._disputed[mac] is None and self._may_report(mac, now):
            self._disputed[mac] = self._dispute(mac)
            self._report(Kind.ID_CONFLICT, self._dispute(mac))

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
