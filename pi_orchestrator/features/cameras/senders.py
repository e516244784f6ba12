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
    """Finds the sender of a message by the publishers on its topic; an invented MAC displaces no registered camera."""

    def __init__(self, *, clock: Clock, cache: CameraCache, registry: DeviceRegistry) -> None:
        self._clock = clock
        self._cache = cache
        self._registry = registry

    def is_ambiguous(self, status: Status) -> bool:
        """Whether several cameras may have sent a message without `mac` field.

        They publish on its topic or, if no camera does, share the id in the topic.
        """
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
        known = publisher or self._known_mac(status.topic_id)
        return self._holder_elsewhere(known, status) or known if known else None

    def of_unreadable(self, topic: str, payload: bytes) -> Mac | None:
        """The camera that published an unreadable message; None if unknown, or if the message names another MAC."""
        try:
            name = topic_id(topic)
        except FieldError:
            return None
        named, publishers = named_mac(payload), self._publishers(topic, name)
        if named in self._registry.names.publishers_on(topic, name):
            return named
        if len(publishers) > 1:
            return None
        mac = publishers[0] if publishers else try_mac(name) or self._known_mac(name)
        return mac if named in (None, mac) else None

    def _known_mac(self, name: str) -> Mac | None:
        return self._cache.mac_of(name) or self._registry.mac_of(name)

    def _publishers(self, topic: str, name: str) -> list[Mac]:
        """The MACs that publish on a topic.

        If a registered camera is among them, MACs known from messages alone are left out. If all are known from
        messages alone, the result is the camera with this id in the record, unless that publishes on another topic.
        """
        publishers = self._registry.names.publishers_on(topic, name)
        if not publishers:
            return []
        recorded = self._cache.mac_of(name)
        now = self._clock.monotonic()
        shown = [mac for mac in publishers if mac in self._cache or self._registry.is_proven(mac, now)]
        if not shown and recorded and self._registry.names.topic_of(recorded) in (None, topic):
            return [recorded]
        return shown if any(mac in self._cache for mac in shown) else publishers

    def _holder_elsewhere(self, known: Mac, status: Status) -> Mac | None:
        """The camera other than `known` that sent the message: the one that answers for the address in it.

        None unless both have a proven address: otherwise `known` itself may have moved to that address.
        """
        try:
            holder = self._registry.holder(parse_ipv4(status.ip)) if status.ip else None
        except FieldError:
            return None
        if holder is None or holder[0] == known or self._registry.address_of(known) is None:
            return None
        other = self._registry.get(holder[0])
        return other.mac if other and other.state is Presence.ONLINE else None
