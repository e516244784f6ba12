"""A MAC that publishes on a status topic, and what it shares with others: the data of `names.py`."""

from __future__ import annotations

from dataclasses import dataclass, field

from pi_orchestrator.core.mac import Mac, try_mac

SOLE_PUBLISHER_S = 120.0
"""Two of the longest intervals between status messages."""
SETTLED_S = 10.0
"""A camera uses its names until its session ended this long ago: those with one client id reconnect all the time."""


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
    """Messages of a MAC on a topic that is not its own: number, claimed address and time of the last one."""

    topic: str
    topic_id: str
    messages: int = 0
    last_at: float = 0.0
    ip: str | None = None


@dataclass(slots=True)
class Publisher:
    """The established topic of a MAC, and the names that it uses.

    `key`: the topic, with a MAC in it in canonical form. `name`: the id in the topic, likewise. `is_registered`: it is
    in the record, with `recorded_id`. `confirmed_id`: the id that the camera has named by HTTP. `home`: the topic that
    was the camera's without doubt, and the id in it. `is_current`: its names are stored. `since`: when it established
    the topic.
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
    home: tuple[str, str] | None = None
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
        return self.is_confirmed and self.is_at_home and not self.has_equal_rival

    @property
    def is_at_home(self) -> bool:
        """Whether no other topic was the camera's before."""
        return self.home is None or self.home[0] == self.topic

    @property
    def has_equal_rival(self) -> bool:
        """Whether a second topic has an id of this camera, or was the camera's."""
        return any(map(self.is_equal, self.rivals.values()))

    @property
    def least_rival(self) -> str:
        """The topic of the rival to be dropped first: the oldest without an id of this camera, if there is one."""
        return next(
            (rival.topic for rival in self.rivals.values() if not self.is_equal(rival)), next(iter(self.rivals))
        )

    def is_equal(self, rival: Rival) -> bool:
        """Whether a second topic has an id of this camera, or was the camera's."""
        return bool(self._rank(rival.topic_id)) or (self.home is not None and rival.topic == self.home[0])

    @property
    def is_sole_publisher(self) -> bool:
        """Whether it has published alone so long that any other client of this MAC would have published."""
        return not self.rivals and self.last_at - self.since >= SOLE_PUBLISHER_S

    def settle(self) -> None:
        """Take the topic as the camera's."""
        self.home = (self.topic, self.name)

    def home_before(self, name: str) -> tuple[str, str] | None:
        """The topic that stays the camera's when another one with `name` is established: the first with an own id."""
        is_own = name == self.name or self._rank(self.name)
        return self.home or ((self.topic, self.name) if is_own else None)

    def has_left(self, now: float, silent_after_s: float) -> bool:
        """Whether it no longer uses its names: it ended its session, or is silent."""
        has_ended = self.ended_at is not None and now - self.ended_at >= SETTLED_S
        return has_ended or now - self.last_at >= silent_after_s

    def is_open(self, now: float, silent_after_s: float) -> bool:
        """Whether its session has not ended."""
        return self.ended_at is None and now - self.last_at < silent_after_s

    def may_change(self, topic: str, name: str, *, now: float, silent_after_s: float) -> bool:
        """Whether a message on another topic establishes it.

        It does if the session has ended, if that topic was the camera's, or if its id is better known.
        """
        if not self.is_open(now, silent_after_s):
            return True
        if self.home and topic == self.home[0] and (self._rank(name) or not self._rank(self.name)):
            return True
        if self.home and self.is_at_home and self.confirmed_id:
            return False  # it was alone there, and the camera has named its id since: nothing better is to be learned
        return self._rank(name) > (2 if self.is_confirmed else self._rank(self.name))

    def _rank(self, name: str) -> int:
        """2: its MAC, 1: its id by HTTP, else in the record; 0: neither."""
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
