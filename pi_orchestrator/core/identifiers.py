"""Identifiers chosen by operators and cameras: container ids and device ids."""

from __future__ import annotations

import re

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.mac import Mac, try_mac

_DEVICE_ID = re.compile(r"[A-Za-z0-9:_-]{1,64}", re.ASCII)
_CONTAINER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def parse_container_id(text: str) -> str:
    """A UUID or a plain name of up to 64 characters; FieldError otherwise."""
    if not _CONTAINER_ID.fullmatch(text):
        raise FieldError("a container id is 1 to 64 characters of A-Z a-z 0-9 . _ - and starts with a letter or digit")
    return text


def parse_device_id(value: object, mac: Mac | None) -> str | None:
    """A device id in the format of the firmware; None for anything else, and for a MAC other than `mac`."""
    if not isinstance(value, str) or not _DEVICE_ID.fullmatch(value):
        return None
    named_mac = try_mac(value) if mac else None
    return value if named_mac in (None, mac) else None
