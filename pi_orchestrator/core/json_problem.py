"""Describes why a text is not JSON, and at which byte; the first byte is byte 1."""

from __future__ import annotations

from json import JSONDecodeError

_SPACE = " \t\r\n"


def json_problem(error: JSONDecodeError, *, skipped: int = 0) -> str:
    """A description such as `unescaped quote at byte 31`; `skipped`: number of bytes before the parsed text."""
    text, message, position = error.doc, error.msg, error.pos
    before = text[:position].rstrip(_SPACE)
    found = text[position : position + 1]
    if not text.strip(_SPACE):
        return "it is empty"
    if not text[position:].strip(_SPACE) or message.startswith("Unterminated string"):
        return f"it ends too early, after {_byte(text, len(text), skipped) - 1} bytes"
    if message.endswith("delimiter"):
        return _delimiter_problem(text, before, position, skipped, separator="colon" if "':'" in message else "comma")
    if message.startswith("Expecting value") and not before:
        fault = "no {"
    elif message.startswith("Illegal trailing comma") or (found in "}]" and before.endswith(",")):
        fault = "comma before the closing bracket"
    elif message.startswith("Expecting property name"):
        fault = "name without double quotes"
    elif message.startswith("Expecting value"):
        fault = "no valid value"
    elif message.startswith("Invalid control character"):
        fault = f"control character 0x{ord(found):02X} inside a text"
    elif message.startswith("Invalid \\"):
        fault = "invalid escape"
    elif message.startswith("Extra data"):
        fault = "more data after its end"
    else:
        fault = message[:80]
    return f"{fault} at byte {_byte(text, position, skipped)}"


def _delimiter_problem(text: str, before: str, position: int, skipped: int, *, separator: str) -> str:
    """Describe the fault where a comma or colon was expected; often it is an unescaped quote that ended a text."""
    is_adjacent = len(before) == position
    if not text[position].isprintable():
        return f"control character 0x{ord(text[position]):02X} at byte {_byte(text, position, skipped)}"
    if before.endswith('"') and text[position] not in "{[" and (is_adjacent or text[position] != '"'):
        return f"unescaped quote at byte {_byte(text, len(before) - 1, skipped)}"
    return f"{separator} missing at byte {_byte(text, position, skipped)}"


def _byte(text: str, position: int, skipped: int) -> int:
    return skipped + len(text[:position].encode(errors="surrogatepass")) + 1
