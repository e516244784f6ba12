"""How a device answers, apart from its MAC: a device that has copied the MAC of a camera may answer differently.

This is a hint, not a proof: a device that has received the camera's answers can copy them too. The firmware version is
left out, because updates change it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from pi_orchestrator.core.validation import clean_text

MAX_CHARS = 512
_VERSION = re.compile(
    r"""
      (?:^|[\s/_(,;+-])                                                          # after a separator:
      (?:(?:firmware|fw|version|ver|v|revision|rev|r|release|rel|build|git|g)[\s._:/-]{0,2})?
      (?:\d | (?=[a-f]{0,40}\d)[0-9a-f]{6,40}(?![0-9a-z]))                       # a number, or a build id
    | (?:^|[\s/_(,;+-])(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\s{1,2}\d  # or a date
    | v?\d+\.\d                                                                # or 2.1 anywhere
    """,
    re.ASCII | re.IGNORECASE | re.VERBOSE,
)
"""Matches the first version, date or build id, but no number within a word, as in ESP32."""
_LABELS = {
    "server": "HTTP server",
    "headers": "HTTP headers",
    "topic": "MQTT topic",
    "device_id": "MQTT device id",
    "http_device_id": "HTTP device id",
}
_VARYING = frozenset(
    {
        *("age", "connection", "content-length", "date", "expires", "keep-alive", "last-modified", "te", "trailer"),
        *("transfer-encoding", "upgrade"),
    }
)
"""Headers about the connection, the time and the content: they do not depend on the firmware alone."""


@dataclass(frozen=True, slots=True)
class FingerprintChange:
    """A changed part of a fingerprint: its name, its value when the device was first seen, and its value now."""

    part: str
    first: str
    now: str

    @property
    def text(self) -> str:
        """The change as a text for people."""
        if self.part != "headers":
            return f"{_LABELS[self.part]} {self.first or 'none'!r}, now {self.now or 'none'!r}"
        before, after = set(self.first.split()), set(self.now.split())
        signed = [f"+{name}" for name in sorted(after - before)] + [f"-{name}" for name in sorted(before - after)]
        return f"{_LABELS[self.part]} {' '.join(signed)}"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Each part is None while it is unknown, and empty if the device does not send it.

    From the answer to `GET /status`: `server` (product name in the `Server` header), `headers` (names of its headers)
    and `http_device_id`. From the MQTT status: `topic` and `device_id`. A firmware may use a different id in each.
    """

    server: str | None = None
    headers: str | None = None
    topic: str | None = None
    device_id: str | None = None
    http_device_id: str | None = None

    def completed(self, other: Fingerprint) -> Fingerprint:
        """This fingerprint, with its unknown parts taken from another."""
        mine = {name: value for name, value in asdict(self).items() if value is not None}
        return Fingerprint(**(asdict(other) | mine))

    def changes(self, now: Fingerprint) -> tuple[FingerprintChange, ...]:
        """The parts that are known in both fingerprints and differ between this one and `now`."""
        pairs = ((part.name, getattr(self, part.name), getattr(now, part.name)) for part in fields(self))
        return tuple(
            FingerprintChange(part, first, value)
            for part, first, value in pairs
            if first is not None and value is not None and first != value
        )


UNKNOWN = Fingerprint()


def changes_id(changes: Iterable[FingerprintChange]) -> str:
    """Id of these changes, 16 hex digits; with it, an operator confirms the changes that were shown, not later ones."""
    parts = json.dumps([asdict(change) for change in changes])
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def server_name(header: str) -> str:
    """The product name in a `Server` header: what is before the first version, date or build id."""
    header = header[:MAX_CHARS]
    version = _VERSION.search(header)
    name = header[: version.start()] if version else header
    return clean_text(name.rstrip(" /_(,;+-"), max_chars=MAX_CHARS) or ""


def header_names(names: Iterable[str]) -> str:
    """The set of header names as text: lower case, sorted, without those that vary although the firmware does not."""
    found = sorted({name.lower() for name in names} - _VARYING)
    return clean_text(" ".join(found), max_chars=MAX_CHARS) or ""
