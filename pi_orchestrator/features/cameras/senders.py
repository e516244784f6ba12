"""Which MAC a status message belongs to, if it has no `mac` field or cannot be read."""

from __future__ import annotations

from pi_orchestrator.core.clock import Clock
from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.ipv4 import parse_ipv4
from pi_orchestrator.core.mac import Mac, try_mac
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.devices.model import Presence
from pi_orchestrator.features.devices.registry import DeviceRegistry
from pi_orchestrator.features.devices.status_message import Status, topic_id
from pi_orchestrator.features.devices.unreadable import named_mac


class Senders:
    """Attributes messages by the publishers of their topic; a MAC that any client can invent displaces no camera."""

    def __init__(self, *, clock: Clock, cache: CameraCache, registry: DeviceRegistry) -> None:
        self._clock = clock
        self._cache = cache
        self._registry = registry

    def is_ambiguous(self, status: Status) -> bool:
        """Whether cameras share the topic of a message without `mac`, or its id if no camera publishes there."""
        names = self._registry.names
        publishers = self._publishers(status.topic, status.topic_id)
        return len(publishers) > 1 or (not publishers and bool(names.sharers(status.topic_id)))

    def sender(self, status: Status) -> Mac | None:
        """The MAC that a message belongs to; None if it is not known yet."""
        if status.has_mac:
            return status.mac
        publisher = next(iter(self._publishers(status.topic, status.topic_id)), None)
        if status.mac:
            # A last will often has no `mac`; the topic may spell another MAC than the one of its publisher.
            return publisher if publisher and self._registry.get(status.mac) is None else status.mac
        known = publisher or self._known(status.topic_id)
        return self._holder_elsewhere(known, status) or known if known else None

    def of_unreadable(self, topic: str, payload: bytes) -> Mac | None:
        """The camera that published a message that cannot be read; None if it is not known or names another MAC."""
        try:
            name = topic_id(topic)
        except FieldError:
            return None
        named, publishers = named_mac(payload), self._publishers(topic, name)
        if named in self._registry.names.publishers_on(topic, name):
            return named
        if len(publishers) > 1:
            return None
        mac = publishers[0] if publishers else try_mac(name) or self._known(name)
        return mac if named in (None, mac) else None

    def _known(self, name: str) -> Mac | None:
        return self._cache.find(name) or self._registry.find(name)

    def _publishers(self, topic: str, name: str) -> list[Mac]:
        """The MACs that publish on a topic, without those that only a message shows, if a registered camera is left.

        Instead of such MACs alone, it is the silent camera that has this id in the record.
        """
        publishers = self._registry.names.publishers_on(topic, name)
        if not publishers:
            return []
        recorded = self._cache.find(name)
        now = self._clock.monotonic()
        shown = [mac for mac in publishers if mac in self._cache or self._registry.is_proven(mac, now)]
        if not shown and recorded and self._registry.names.topic_of(recorded) in (None, topic):
            return [recorded]
        return shown if any(mac in self._cache for mac in shown) else publishers

    def _holder_elsewhere(self, known: Mac, status: Status) -> Mac | None:
        """The other camera that published on the topic of `known`: it answers for the address in the message.

        Both must have proved different addresses: a camera that has moved is no other camera.
        """
        try:
            holder = self._registry.holder(parse_ipv4(status.ip)) if status.ip else None
        except FieldError:
            return None
        if holder is None or holder[0] == known or self._registry.address_of(known) is None:
            return None
        other = self._registry.get(holder[0])
        return other.mac if other and other.state is Presence.ONLINE else None
