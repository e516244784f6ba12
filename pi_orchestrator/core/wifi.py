"""What a camera needs to join a network: the SSID, the password, and the broker on that network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, BeforeValidator, SecretStr, WithJsonSchema

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.validation import clean_text

MAX_SSID_BYTES = 32

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PRINTABLE = re.compile(r"[\x20-\x7e]*", re.ASCII)
_HEX_KEY = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)


def ssid_text(raw: bytes) -> str | None:
    """An SSID of 1 to 32 bytes as text that is safe to show; None if it is empty, hidden or invalid."""
    if not 1 <= len(raw) <= MAX_SSID_BYTES:
        return None
    return clean_text(raw.decode("utf-8", errors="replace"))


def parse_ssid(text: object) -> str:
    """Check an SSID: 1 to 32 bytes of UTF-8 without control characters; FieldError otherwise."""
    if not isinstance(text, str):
        raise FieldError("an SSID must be text")
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise FieldError("an SSID must be valid in UTF-8, without lone surrogates") from None
    if not 1 <= size <= MAX_SSID_BYTES:
        raise FieldError(f"an SSID has 1 to {MAX_SSID_BYTES} bytes in UTF-8, this one has {size}")
    if control := _CONTROL.search(text):
        raise FieldError(f"an SSID has no control characters, this one has U+{ord(control[0]):04X}")
    return text


def check_password(text: str) -> None:
    """Accept "" (open network), 8 to 63 printable characters, or 64 hex digits; FieldError without the password."""
    # Fixed texts: not even the length or one character of a password may reach a log.
    if text == "" or _HEX_KEY.fullmatch(text):
        return
    if not _PRINTABLE.fullmatch(text):
        raise FieldError("a WiFi password has only printable ASCII characters (0x20 to 0x7E)")
    if not 8 <= len(text) <= 63:
        raise FieldError("a WiFi password has 8 to 63 characters, is 64 hex digits, or is empty for an open network")


def is_same_ssid(reported: str | None, ssid: str) -> bool:
    """Whether the SSID that a camera reports (cleaned, as in `Status.ssid` and `CameraAnswer.ssid`) is this one."""
    return reported is not None and reported == clean_text(ssid, max_chars=MAX_SSID_BYTES)


class _SecretHolder:
    """Base of objects with a secret, which must not be serialised by accident."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(f"{type(self).__name__} contains a secret and cannot be pickled or copied")


@dataclass(frozen=True, slots=True)
class Credentials(_SecretHolder):
    """How to join a network; the password has passed `check_password` and is never printed."""

    ssid: str
    password: SecretStr


@dataclass(frozen=True, slots=True)
class MqttAccess(_SecretHolder):
    """Address, user name and password of the broker, for a camera on the target network."""

    host: str
    port: int
    username: str | None = None
    password: SecretStr | None = None


def _check_secret(password: SecretStr) -> SecretStr:
    check_password(password.get_secret_value())
    return password


SsidField = Annotated[
    str,
    BeforeValidator(parse_ssid),
    WithJsonSchema(
        {
            "type": "string",
            "description": f"SSID of a network: 1 to {MAX_SSID_BYTES} bytes in UTF-8, no control characters",
            "minLength": 1,
            "maxLength": MAX_SSID_BYTES,
            "pattern": r"^[^\x00-\x1f\x7f-\x9f]+$",
            "examples": ["DeliCasa"],
        }
    ),
]
"""A pydantic field that takes an SSID."""

PasswordField = Annotated[
    SecretStr,
    AfterValidator(_check_secret),
    WithJsonSchema(
        {
            "type": "string",
            "description": "8 to 63 printable ASCII characters, 64 hex digits, or empty for an open network",
            "format": "password",
            "pattern": r"^([\x20-\x7e]{8,63}|[0-9A-Fa-f]{64})?$",
            "writeOnly": True,
        }
    ),
]
"""A pydantic field that takes a WiFi password; its model hides inputs in errors (`hide_input_in_errors`)."""
