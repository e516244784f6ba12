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
    in the record, `recorded`: with this id. `confirmed`: the camera has named the id by HTTP. `is_current`: its names
    are stored. `since`: when it established the topic.
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
    recorded: bool = False
    confirmed: bool = False
    is_current: bool = False
    names: tuple[str, ...] = ()
    rivals: dict[str, Rival] = field(default_factory=dict)
    checked_at: float = float("-inf")

    @property
    def is_known(self) -> bool:
        """Whether something else than its messages shows that the topic is the camera's."""
        return self.recorded or self.confirmed or self.name == self.mac

    @property
    def is_sole_publisher(self) -> bool:
        """Whether it has published alone so long that any other client of this MAC would have published."""
        return not self.rivals and self.last_at - self.since >= SOLE_PUBLISHER_S

    def has_left(self, now: float, silent_after_s: float) -> bool:
        """Whether it no longer uses its names: it ended its session, or is silent."""
        has_ended = self.ended_at is not None and now - self.ended_at >= SETTLED_S
        return has_ended or now - self.last_at >= silent_after_s

    def may_change(self, *, is_recorded: bool, now: float, silent_after_s: float) -> bool:
        """Whether a message on another topic establishes it: the old one has ended, or the new one is recorded."""
        if self.ended_at is not None or now - self.last_at >= silent_after_s:
            return True
        return is_recorded and not self.is_known


def topic_key(topic: str, topic_id: str) -> tuple[str, str]:
    """A status topic and its id; a MAC in canonical form, because one camera may spell it in several ways."""
    mac = try_mac(topic_id)
    if mac is None:
        return topic, topic_id
    parts = topic.split("/")
    parts[3 if parts[0] == "delicasa" else 2] = mac
    return "/".join(parts), mac
