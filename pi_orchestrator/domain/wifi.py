"""What a camera is told to join a network: the name, the password, and the broker that it finds there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, BeforeValidator, SecretStr, WithJsonSchema

from pi_orchestrator.domain.ssid import MAX_SSID_BYTES
from pi_orchestrator.domain.strict_json import clean_text
from pi_orchestrator.errors import FieldError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PRINTABLE = re.compile(r"[\x20-\x7e]*", re.ASCII)
_HEX_KEY = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)


def parse_ssid(text: object) -> str:
    """A network's name as it is: 1 to 32 bytes of UTF-8 without control characters; FieldError otherwise."""
    if not isinstance(text, str):
        raise FieldError("an SSID is text")
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise FieldError("an SSID is text that UTF-8 can write down, without lone surrogates") from None
    if not 1 <= size <= MAX_SSID_BYTES:
        raise FieldError(f"an SSID has 1 to {MAX_SSID_BYTES} bytes in UTF-8, this one {size}")
    if control := _CONTROL.search(text):
        raise FieldError(f"an SSID has no control characters, this one U+{ord(control[0]):04X}")
    return text


def check_password(text: str) -> None:
    """Empty for an open network, a passphrase of 8 to 63 characters or 64 hex digits; FieldError, never with it."""
    # What is wrong is said in fixed words: not even a length or a single character of it may reach a log.
    if text == "" or _HEX_KEY.fullmatch(text):
        return
    if not _PRINTABLE.fullmatch(text):
        raise FieldError("a WiFi password holds printable ASCII characters alone (0x20 to 0x7E)")
    if not 8 <= len(text) <= 63:
        raise FieldError("a WiFi password has 8 to 63 characters, is 64 hex digits, or is empty for an open network")


def names_network(told: str | None, ssid: str) -> bool:
    """Whether a camera's word for its network, cleaned as `Status.ssid` and `CameraAnswer.ssid` are, means this one."""
    return told is not None and told == clean_text(ssid, max_chars=MAX_SSID_BYTES)


class _Guarded:
    """What holds a secret and must not be written down whole by accident."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds a secret and is neither pickled nor copied")


@dataclass(frozen=True, slots=True)
class Credentials(_Guarded):
    """How to join a network; the password has passed `check_password` and shows in nothing that is printed."""

    ssid: str
    password: SecretStr


@dataclass(frozen=True, slots=True)
class MqttAccess(_Guarded):
    """The broker as a camera on that network reaches it."""

    host: str
    port: int
    username: str | None = None
    password: SecretStr | None = None


def _checked(password: SecretStr) -> SecretStr:
    check_password(password.get_secret_value())
    return password


SsidField = Annotated[
    str,
    BeforeValidator(parse_ssid),
    WithJsonSchema(
        {
            "type": "string",
            "description": f"a network's name: 1 to {MAX_SSID_BYTES} bytes in UTF-8, no control characters",
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
    AfterValidator(_checked),
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
