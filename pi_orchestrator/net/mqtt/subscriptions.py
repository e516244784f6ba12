"""The topic filters of the daemon, and which of them are refused, not delivered, or left out for a time.

A message over the size limit ends the connection (`net.mqtt.client`). If it is retained, the broker sends it again
after every subscribe. So its filter is left out for a time, longer after each repeat; meanwhile the topics of that
filter that have brought messages before are subscribed one by one, without the topic of the large message.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from pi_orchestrator.core.bounded_dict import BoundedDict
from pi_orchestrator.core.validation import clean_text
from pi_orchestrator.net.mqtt.client import PacketTooLargeError

REFUSED_RETRY_S = 60.0
LEFT_OUT_S = 60.0
"""First time for which a filter is left out; doubled after each repeat, up to MAX_LEFT_OUT_S."""
MAX_LEFT_OUT_S = 3600.0
TOLERATED = 2
"""Number of large messages, not retained, after which a filter is still subscribed; one more, and it is left out."""
MAX_TOPICS = 256
"""Topics that are remembered for each filter."""
FORGET_S = 2 * MAX_LEFT_OUT_S
"""Time without a message after which a topic, or the count of large messages, is forgotten."""
MAX_TOPIC_CHARS = 200
"""Longer topics are not remembered."""


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a topic belongs to a filter (`+`, no `#`)."""
    patterns, parts = topic_filter.split("/"), topic.split("/")
    return len(parts) == len(patterns) and all(
        pattern in ("+", part) for pattern, part in zip(patterns, parts, strict=True)
    )


@dataclass(slots=True)
class _Filter:
    """State of one filter; times are monotonic seconds."""

    refusal: str | None = None
    is_undelivered: bool = False
    """Whether the broker has granted it without delivering its messages."""
    large: PacketTooLargeError | None = None
    count: int = 0
    counted_at: float = 0.0
    again_at: float | None = None
    """When to subscribe to the filter again; None: it is subscribed at every connect."""
    topics: BoundedDict[str, float] = field(default_factory=lambda: BoundedDict(MAX_TOPICS))
    """Topics with the times of their last messages, the oldest first."""
    large_topics: BoundedDict[str, None] = field(default_factory=lambda: BoundedDict(MAX_TOPICS))

    @property
    def is_left_out(self) -> bool:
        return self.again_at is not None and self.large is not None

    def known_topics(self) -> list[str]:
        return [topic for topic in self.topics if topic not in self.large_topics]


def acl_remedy(filters: Iterable[str], username: str | None, *, access: str = "read") -> str:
    """What to do if the broker's ACL refuses access: lines for the ACL, or a login if the daemon has none.

    Lines for anonymous clients would let every camera read what is meant for the daemon.
    """
    rules = ", ".join(f"topic {access} {name}" for name in filters)
    if username:
        return f"add to its ACL for user {username}: {rules}"
    return f"set mqtt.username and mqtt.password_file to a user whose ACL has: {rules}"


class Subscriptions:
    """The filters of the daemon, with their state."""

    def __init__(self, *, username: str | None) -> None:
        self._username = username
        self._filters: dict[str, _Filter] = {}
        self.publish_refusal: str | None = None
        """Why the broker refused the daemon's own status, None if it accepted it."""

    def add(self, topic_filter: str) -> None:
        """Add a filter."""
        self._filters[topic_filter] = _Filter()

    def wanted(self, now: float) -> list[str]:
        """What to subscribe to at a connect: filters, and the known topics of a filter that is left out."""
        found: list[str] = []
        for name, entry in self._filters.items():
            if entry.is_left_out and entry.again_at is not None and now < entry.again_at:
                found += entry.known_topics()
            else:
                found.append(name)
                entry.again_at = None
            entry.is_undelivered = False
        return found

    def due(self, now: float) -> list[str]:
        """Take the refused, undelivered and left out filters whose time is over: they must be subscribed again."""
        due = [name for name, entry in self._filters.items() if entry.again_at is not None and entry.again_at <= now]
        for name in due:
            self._filters[name].again_at = None
        return due

    def next_due(self) -> float:
        """When `due` returns filters next; infinite: never."""
        times = (entry.again_at for entry in self._filters.values() if entry.again_at is not None)
        return min(times, default=float("inf"))

    def add_answer(self, subscribed: Iterable[str], refused: dict[str, str], now: float) -> None:
        """Record the broker's answer to a subscribe: the refused filters, with reasons."""
        for name in subscribed:
            if entry := self._filters.get(name):
                entry.refusal = refused.get(name)
                entry.again_at = now + REFUSED_RETRY_S if entry.refusal else None

    def granted(self) -> list[str]:
        """The filters that are subscribed."""
        return [name for name, entry in self._filters.items() if entry.again_at is None]

    def add_undelivered(self, checked: Iterable[str], missing: Container[str], now: float) -> None:
        """Record which `checked` filters are `missing`: their messages do not arrive. They are tried again later."""
        for name in checked:
            entry = self._filters[name]
            entry.is_undelivered = name in missing
            if entry.is_undelivered:
                entry.again_at = now + REFUSED_RETRY_S

    def add_topic(self, topic_filter: str, topic: str, now: float) -> None:
        """Record that a topic of a filter has brought a message; new topics do not replace known ones in use."""
        self._filters[topic_filter].is_undelivered = False
        topics = self._filters[topic_filter].topics
        if topic not in topics:
            if len(topic) > MAX_TOPIC_CHARS:
                return
            if len(topics) >= MAX_TOPICS and topics[next(iter(topics))] > now - FORGET_S:
                return
        topics[topic] = now

    def add_too_large(self, error: PacketTooLargeError, now: float) -> None:
        """Record a message over the limit; its filter is left out for a time if that can help."""
        for name, entry in self._filters.items():
            if error.topic is None or not matches(name, error.topic):
                continue
            if now - entry.counted_at > FORGET_S:
                entry.count = 0
                entry.large_topics.clear()
            entry.count += 1
            entry.counted_at = now
            if len(error.topic) <= MAX_TOPIC_CHARS:
                entry.large_topics[error.topic] = None
            repeats = entry.count - 1 if error.retained else entry.count - 1 - TOLERATED
            if repeats >= 0:
                entry.large = error
                entry.again_at = now + min(LEFT_OUT_S * 2.0 ** min(repeats, 16), MAX_LEFT_OUT_S)

    def problem(self) -> str | None:
        """What is not received and what to do, for people; None if every filter is subscribed."""
        parts: list[str] = []
        refused = {name: entry.refusal for name, entry in self._filters.items() if entry.refusal}
        if refused:
            reasons = ", ".join(sorted({*refused.values()}))
            parts.append(f"the broker refuses subscriptions: {reasons}; {acl_remedy(refused, self._username)}")
        if silent := [name for name, entry in self._filters.items() if entry.is_undelivered]:
            remedy = acl_remedy(silent, self._username)
            parts.append(f"the broker grants subscriptions without delivering messages; {remedy}")
        if self.publish_refusal:
            parts.append(f"{self.publish_refusal}; {acl_remedy(['piorch/#'], self._username, access='write')}")
        for name, entry in self._filters.items():
            if entry.is_left_out and entry.large is not None:
                topic = clean_text(entry.large.topic) or "?"
                remove = f"mosquitto_pub -r -n -t '{topic}'"
                if topic != entry.large.topic:  # shown in part: remove the retained messages of the whole filter
                    remove = f"mosquitto_sub -W 60 -t '{name}' --remove-retained"
                parts.append(
                    f"{name} is left out for now, except {len(entry.known_topics())} known topics: {topic} has a"
                    f" message of {entry.large.size:,} bytes. Remove it ({remove}), and set max_packet_size in the"
                    " broker's settings"
                )
        return "; ".join(parts) or None
