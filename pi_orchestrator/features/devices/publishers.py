"""A MAC that publishes on a status topic, and what it shares with others: the data of `names.py`."""

from __future__ import annotations

from dataclasses import dataclass, field

from pi_orchestrator.core.mac import Mac, try_mac

SOLE_PUBLISHER_S = 120.0
"""A MAC that has used only one topic for this time is its sole publisher: twice the longest status interval."""
NAMES_KEPT_S = 10.0
"""A camera keeps its names for this time after its session has ended.

Cameras with the same MQTT client id disconnect each other again and again; their conflict must not end each time.
"""


@dataclass(frozen=True, slots=True)
class IdConflict:
    """Several MACs under one id; `topic`: the status topic that they share, None if they share only the id.

    With one MAC, another client publishes as this camera: `id` and `topic` are those of the other client.
    """

    id: str
    topic: str | None
    macs: tuple[Mac, ...]

    @property
    def reason(self) -> str:
        """What is wrong, and what to do."""
        if len(self.macs) == 1:
            return f"another client publishes as this camera on {self.topic}: find and stop it"
        number = "two" if len(self.macs) == 2 else str(len(self.macs))
        return f"{number} cameras share the id {self.id}: flash different ids"


@dataclass(slots=True)
class Rival:
    """A second topic on which messages of a MAC arrive: their number, and time and claimed address of the last one."""

    topic: str
    topic_id: str
    messages: int = 0
    last_at: float = 0.0
    ip: str | None = None


@dataclass(slots=True)
class Publisher:
    """The established topic of a MAC, and its `names`: the id in the topic and the device id.

    `key`: the topic, with a MAC in it in canonical form. `name`: the id in the topic, likewise. `is_registered`: the
    MAC is in the record, with `recorded_id` as device id. `confirmed_id`: the device id that the camera has sent by
    HTTP. `is_id_new`: it is another one than in the record. `settled`: the topic last known to be the camera's own, and
    the id in it. `recorded_topic`: the one in the record; it counts until another one is settled, and not if
    `is_id_new`. `is_current`: the name table has all `names`. `since`: when the MAC established the topic, or last
    published on another one. `answers_since`: when the camera first answered by HTTP after that.
    """

    mac: Mac

    topic: str
    key: str
    name: str
    last_at: float
    since: float
    device_id: str | None = None
    ended_at: float | None = None
    is_registered: bool = False
    recorded_id: str | None = None
    confirmed_id: str | None = None
    settled: tuple[str, str] | None = None
    recorded_topic: str | None = None
    is_id_new: bool = False
    answers_since: float | None = None
    is_current: bool = False
    names: tuple[str, ...] = ()
    rivals: dict[str, Rival] = field(default_factory=dict)
    checked_at: float = float("-inf")

    @property
    def is_confirmed(self) -> bool:
        """Whether the id in its topic is its MAC, or the one that the camera has named by HTTP."""
        return self.name in (self.mac, self.confirmed_id)

    @property
    def is_known(self) -> bool:
        """Whether this very topic is the camera's: its id is confirmed, and no other topic competes."""
        return self.is_confirmed and self.is_on_settled_topic and not self.has_equal_rival

    @property
    def is_on_settled_topic(self) -> bool:
        """Whether no other topic was the camera's own before."""
        return self._own_topic in (None, self.topic)

    @property
    def _own_topic(self) -> str | None:
        return self.settled[0] if self.settled else self.recorded_topic

    @property
    def differs_from_record(self) -> bool:
        """Whether the record has another topic."""
        return self.recorded_topic not in (None, self.topic)

    @property
    def may_be_recorded(self) -> bool:
        """Whether the topic is the camera's own with enough certainty to replace the one in the record.

        Another client may publish alone while the camera is off. So a camera that answers by HTTP must have left the
        recorded topic unused for SOLE_PUBLISHER_S.
        """
        if not self.settled or self.settled[0] != self.topic:
            return False
        if not self.differs_from_record:
            return True
        is_on = self.answers_since is not None and self.last_at - self.answers_since >= SOLE_PUBLISHER_S
        return is_on and self.is_sole_publisher

    @property
    def has_equal_rival(self) -> bool:
        """Whether any second topic may be the camera's own (`is_equal`)."""
        return any(map(self.is_equal, self.rivals.values()))

    @property
    def least_rival(self) -> str:
        """The topic of the rival to be dropped first: the oldest without an id of this camera, if there is one."""
        return next(
            (rival.topic for rival in self.rivals.values() if not self.is_equal(rival)), next(iter(self.rivals))
        )

    def is_equal(self, rival: Rival) -> bool:
        """Whether a second topic may be the camera's own: it has an id of this camera, or is the settled topic."""
        return bool(self._rank(rival.topic_id)) or rival.topic == self._own_topic

    @property
    def is_sole_publisher(self) -> bool:
        """Whether only this topic was used for so long that another client with this MAC would have published, too."""
        return not self.rivals and self.last_at - self.since >= SOLE_PUBLISHER_S

    def apply_record(self, device_id: str | None, topic: str | None) -> None:
        """Store what the record has for this MAC: its device id (None: not registered) and topic."""
        self.is_registered, self.recorded_id = device_id is not None, device_id
        self.recorded_topic = None if self.is_id_new else topic

    def apply_answer(self, device_id: str | None, now: float) -> None:
        """Store an answer by HTTP, with the device id that it names, if any."""
        if self.answers_since is None:
            self.answers_since = now
        if device_id is None:
            return
        self.confirmed_id = device_id
        self.is_id_new = self.recorded_id is not None and device_id != self.recorded_id
        if self.is_id_new:
            if self.settled and self.settled[0] == self.recorded_topic and self.settled[1] not in (self.mac, device_id):
                self.settled = None  # the topic in the record has the earlier id
            self.recorded_topic = None

    def settle(self) -> None:
        """Record that the present topic is the camera's own."""
        self.settled = (self.topic, self.name)

    def settled_before(self, name: str) -> tuple[str, str] | None:
        """The settled topic and its id when a topic with the id `name` replaces the present one.

        If none was settled, it is the present topic, provided that its id is `name` or one of this camera.
        """
        is_own = name == self.name or self._rank(self.name)
        return self.settled or ((self.topic, self.name) if is_own else None)

    def has_left(self, now: float, silent_after_s: float) -> bool:
        """Whether the camera no longer uses its names: its session ended NAMES_KEPT_S ago, or it is silent."""
        has_ended = self.ended_at is not None and now - self.ended_at >= NAMES_KEPT_S
        return has_ended or now - self.last_at >= silent_after_s

    def is_open(self, now: float, silent_after_s: float) -> bool:
        """Whether the session has neither ended nor become silent."""
        return self.ended_at is None and now - self.last_at < silent_after_s

    def may_change(self, topic: str, name: str, *, now: float, silent_after_s: float) -> bool:
        """Whether a message on another topic establishes that topic; `name` is the id in it.

        It does if the session is no longer open, if that topic is settled or recorded, or if its id ranks higher.
        """
        if not self.is_open(now, silent_after_s):
            return True
        is_own = topic == self.recorded_topic or (self.settled is not None and topic == self.settled[0])
        if is_own and (self._rank(name) or not self._rank(self.name)):
            return True
        if self.settled and self.is_on_settled_topic and self.confirmed_id:
            return False  # the topic is settled, and HTTP has confirmed an id: a message proves nothing better
        return self._rank(name) > (2 if self.is_confirmed else self._rank(self.name))

    def _rank(self, name: str) -> int:
        """How well a name is known to be the camera's.

        2: its MAC. 1: the id confirmed by HTTP or, until there is one, the recorded id. 0: any other name.
        """
        if name == self.mac:
            return 2
        return int(name == (self.confirmed_id or self.recorded_id))


def topic_key(topic: str, topic_id: str) -> tuple[str, str]:
    """A status topic and its id; a MAC in canonical form, because one camera may spell it in several ways."""
    mac = try_mac(topic_id)
    if mac is None:
        return topic, topic_id
    parts = topic.split("/")
    parts[3 if parts[0] == "delicasa" else 2] = mac
    return "/".join(parts), mac
