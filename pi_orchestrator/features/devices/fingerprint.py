"""How a device answers, apart from its MAC: a device that has copied the MAC of a camera may answer differently.

This is a hint, not a proof: a device that has received the camera's answers can copy them too. A firmware version is
not a part, because updates change it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from pi_orchestrator.core.validation import clean_text

MAX_CHARS = 512
_VERSION = re.compile(r"[/ ]v?\d\S*", re.ASCII)
_LABELS = {"server": "HTTP server", "headers": "HTTP headers", "topic": "MQTT topic", "device_id": "device id"}
_OF_CONNECTION = frozenset({"connection", "keep-alive"})
"""Headers about the connection: they do not depend on the firmware alone."""


@dataclass(frozen=True, slots=True)
class FingerprintChange:
    """A part of a fingerprint: its name, its value when the device was first seen, and now."""

    part: str
    first: str
    now: str

    @property
    def text(self) -> str:
        """The change for people."""
        if self.part != "headers":
            return f"{_LABELS[self.part]} {self.first or 'none'!r}, now {self.now or 'none'!r}"
        before, after = set(self.first.split()), set(self.now.split())
        signed = [f"+{name}" for name in sorted(after - before)] + [f"-{name}" for name in sorted(before - after)]
        return f"{_LABELS[self.part]} {' '.join(signed)}"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Each part is None while it is unknown, and empty if the device does not send it.

    `server` and `headers`: the product names in the `Server` header of `GET /status`, and the names of all its headers.
    `topic`: of its MQTT status. `device_id`: as announced by MQTT, else in `/status`.
    """

    server: str | None = None
    headers: str | None = None
    topic: str | None = None
    device_id: str | None = None

    def completed(self, other: Fingerprint) -> Fingerprint:
        """This fingerprint, with its unknown parts taken from another."""
        mine = {name: value for name, value in asdict(self).items() if value is not None}
        return Fingerprint(**(asdict(other) | mine))

    def changes(self, now: Fingerprint) -> tuple[FingerprintChange, ...]:
        """The known parts that differ `now`."""
        pairs = ((part.name, getattr(self, part.name), getattr(now, part.name)) for part in fields(self))
        return tuple(
            FingerprintChange(part, first, value)
            for part, first, value in pairs
            if first is not None and value is not None and first != value
        )


UNKNOWN = Fingerprint()


def server_name(header: str) -> str:
    """The product names in a `Server` header, without versions."""
    return clean_text(_VERSION.sub("", header), max_chars=MAX_CHARS) or ""


def header_names(names: Iterable[str]) -> str:
    """The set of header names as text: lower case, sorted."""
    found = sorted({name.lower() for name in names} - _OF_CONNECTION)
    return clean_text(" ".join(found), max_chars=MAX_CHARS) or ""
