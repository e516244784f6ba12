"""Status messages that could not be read: the reason for the last one of each topic.

A camera that sends only such messages is invisible otherwise. Topics of known devices have a table of their own, so
that a flood of invented topics does not displace them. Time is monotonic seconds, passed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pi_orchestrator.core.bounded_dict import BoundedDict
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.core.mac import Mac, try_mac
from pi_orchestrator.core.validation import clean_text

MAX_TOPICS = 64
"""Limit of the topics of known devices, and of those of unknown devices."""
KEPT_S = 86400.0
WARNING_INTERVAL_S = 60.0
MAX_TOPIC_CHARS = 160
MAX_SEARCHED_BYTES = 16 * 1024
_NOT_JSON = "not JSON: "
_MAC = re.compile(
    rb"\bmac(?:_address)?\W{1,6}([0-9A-Fa-f]{12}|[0-9A-Fa-f]{1,2}(?:[:_-][0-9A-Fa-f]{1,2}){5})\b", re.ASCII
)

log = get_logger(__name__)


@dataclass(slots=True)
class UnreadableTopic:
    """A topic whose last message could not be read.

    `mac`: the device known under the topic, if any; `named`: the MAC in the message, if any. `topic` and `reason` are
    safe to show.
    """

    topic: str
    reason: str
    mac: Mac | None
    named: Mac | None
    first_at: float
    last_at: float
    count: int = 1

    @property
    def text(self) -> str:
        """What is wrong, in words: `publishes on camera/status/x what is no JSON: unescaped quote at byte 31`."""
        if self.reason.startswith(_NOT_JSON):
            return f"publishes on {self.topic} what is no JSON: {self.reason.removeprefix(_NOT_JSON)}"
        return f"publishes on {self.topic} what cannot be read: {self.reason}"


class UnreadableMessages:
    """`add` stores why a topic's message could not be read; `clear` drops this once a message could be read."""

    def __init__(self, *, is_known: Callable[[Mac], bool]) -> None:
        self._is_known = is_known
        self._of_known: BoundedDict[str, UnreadableTopic] = BoundedDict(MAX_TOPICS)
        self._of_unknown: BoundedDict[str, UnreadableTopic] = BoundedDict(MAX_TOPICS)
        self._by_mac: dict[Mac, UnreadableTopic] = {}
        self._warned_at = float("-inf")

    def add(self, topic: str, payload: bytes, reason: str, *, mac: Mac | None, now: float, quiet: bool = False) -> None:
        """Store the reason; log a warning unless `quiet`, at most one per WARNING_INTERVAL_S for all topics."""
        shown = clean_text(topic, max_chars=MAX_TOPIC_CHARS) or "an unprintable topic"
        before = self._of_known.pop(shown, None) or self._of_unknown.pop(shown, None)
        entry = UnreadableTopic(
            topic=shown,
            reason=clean_text(reason, max_chars=200) or "unknown",
            mac=mac,
            named=named_mac(payload),
            first_at=before.first_at if before else now,
            last_at=now,
            count=before.count + 1 if before else 1,
        )
        table = self._of_known if mac is not None and self._is_known(mac) else self._of_unknown
        table[shown] = entry
        self._index()
        if not quiet and now - self._warned_at >= WARNING_INTERVAL_S:
            self._warned_at = now
            log.warning("status message cannot be read", topic=shown, reason=entry.reason, topics=len(self))

    def clear(self, topic: str, sender: Mac | None) -> None:
        """Drop the reason of a topic after a message of `sender` could be read; keep it if it is of another sender."""
        entry = self._of_known.get(topic) or self._of_unknown.get(topic)
        author = entry and (entry.mac or entry.named)
        if entry and (sender is None or author in (None, sender)):
            self._of_known.pop(topic, None)
            self._of_unknown.pop(topic, None)
            self._index()

    def __len__(self) -> int:
        return len(self._of_known) + len(self._of_unknown)

    def listed(self, now: float) -> list[UnreadableTopic]:
        """The topics of the last KEPT_S: those of known devices, then the others, each latest first."""
        entries = [*reversed(list(self._of_known.values())), *reversed(list(self._of_unknown.values()))]
        return [entry for entry in entries if now - entry.last_at < KEPT_S]

    def of(self, mac: Mac, now: float) -> str | None:
        """What the device of a MAC publishes that cannot be read; None if there is nothing."""
        entry = self._by_mac.get(mac)
        return entry.text if entry and now - entry.last_at < KEPT_S else None

    def about(self, mac: Mac, now: float) -> list[str]:
        """Unreadable messages from or about a device, else those of unknown senders: they may explain its absence."""
        listed = self.listed(now)
        own = [entry.text for entry in listed if mac in (entry.mac, entry.named)]
        unknown = [f"an unknown device {entry.text}" for entry in listed if not (entry.mac or entry.named)]
        return (own or unknown)[:3]

    def _index(self) -> None:
        entries = [*self._of_unknown.values(), *self._of_known.values()]
        self._by_mac = {entry.mac: entry for entry in entries if entry.mac}


def named_mac(payload: bytes) -> Mac | None:
    """The MAC that follows the name `mac` in a damaged message."""
    match = _MAC.search(payload[:MAX_SEARCHED_BYTES])
    return try_mac(match[1].decode()) if match else None
