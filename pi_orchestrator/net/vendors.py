"""Who made a device? A guess from the first half of its MAC, by the list of manufacturers that comes with scapy.

The list is 2.7 MB of text. What stays in memory is its names in compressed blocks, two thirds of a megabyte, and the
few prefixes of the maker of the cameras' chips. It is read as a stream from the module's source: importing the module
would leave 13 MiB behind, and whatever else imports scapy must not be needed to show a name.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pi_orchestrator.domain.mac import Mac, is_local
from pi_orchestrator.domain.strict_json import clean_text
from pi_orchestrator.errors import FieldError

MAX_NAME_CHARS = 40
MAX_LIST_BYTES = 16 * 1024 * 1024
_BLOCK = 256
_PREFIX_BITS = (36, 28, 24)
_REMEMBERED = 2048


@dataclass(slots=True)
class _Names:
    """Sorted entries `key<TAB>name` in compressed blocks; `firsts` are the keys with which the blocks begin."""

    firsts: array[int] = field(default_factory=lambda: array("Q"))
    blocks: list[bytes] = field(default_factory=list)
    espressif: frozenset[str] = frozenset()

    def find(self, key: int) -> str | None:
        """The name under a key."""
        at = bisect_right(self.firsts, key) - 1
        if at < 0:
            return None
        block = zlib.decompress(self.blocks[at])
        start = block.find(b"\n%014x\t" % key)
        if start < 0:
            return None
        start += 16
        return block[start : block.find(b"\n", start)].decode("utf-8")


class Vendors:
    """Names of manufacturers; nothing is known before `load`, nor where `reason` says why."""

    def __init__(self) -> None:
        self._names = _Names()
        self._asked: dict[str, str | None] = {}
        self.reason: str | None = "the list of manufacturers has not been read yet"

    async def load(self) -> None:
        """Read the list, in a thread; `reason` tells of a failure."""
        try:
            self._names = await asyncio.to_thread(_load)
        except (OSError, ValueError, zlib.error) as error:
            self.reason = f"no list of manufacturers: {error}"
        else:
            self.reason = None
        self._asked.clear()

    def is_espressif(self, mac: Mac) -> bool:
        """Whether the maker of ESP32 chips was given this MAC's prefix."""
        return mac[:8] in self._names.espressif

    def name(self, mac: Mac) -> str | None:
        """The manufacturer, shortened; None where it is unknown or the MAC was made up by the device itself."""
        if is_local(mac):
            return None
        prefix = mac[:13]
        if prefix not in self._asked:
            if len(self._asked) >= _REMEMBERED:
                self._asked.clear()
            self._asked[prefix] = self._find(int(mac.replace(":", ""), 16))
        return self._asked[prefix]

    def _find(self, number: int) -> str | None:
        for bits in _PREFIX_BITS:
            name = self._names.find(_key(number, bits))
            if name is not None:
                return name
        return None


def _key(number: int, bits: int) -> int:
    """A prefix as a number that sorts as the list does: its 48 bits, then its length."""
    return (number >> (48 - bits) << (48 - bits)) << 8 | bits


def _load() -> _Names:
    names = _Names()
    espressif: set[str] = set()
    block: list[tuple[int, str]] = []
    last = -1
    for line in _lines(_packed(_list_file())):
        entry = _parse(line)
        if entry is None:
            continue
        key, name = entry
        if key <= last:
            raise FieldError("it is not sorted")
        last = key
        if key & 0xFF == 24 and "espressif" in name.lower():
            digits = f"{key >> 32:06X}"
            espressif.add(f"{digits[:2]}:{digits[2:4]}:{digits[4:]}")
        block.append(entry)
        if len(block) == _BLOCK:
            _close_block(names, block)
    _close_block(names, block)
    if not names.blocks:
        raise FieldError("it is empty")
    names.espressif = frozenset(espressif)
    return names


def _close_block(names: _Names, block: list[tuple[int, str]]) -> None:
    if not block:
        return
    names.firsts.append(block[0][0])
    text = "".join(f"\n{key:014x}\t{name}" for key, name in block) + "\n"
    names.blocks.append(zlib.compress(text.encode("utf-8")))
    block.clear()


def _parse(line: bytes) -> tuple[int, str] | None:
    """`AA:BB:CC[:DD:E0/28]<TAB>short<TAB>long` → key and name; None for anything else."""
    parts = line.split(b"\t")
    if len(parts) != 3:
        return None
    digits, _, bits = parts[0].strip().partition(b"/")
    name = clean_text(parts[2].decode("utf-8", errors="replace"), max_chars=MAX_NAME_CHARS)
    try:
        number, length = int(digits.replace(b":", b"").ljust(12, b"0"), 16), int(bits or 24)
    except ValueError:
        return None
    return (_key(number, length), name) if name and length in _PREFIX_BITS and number < 1 << 48 else None


def _list_file() -> Path:
    spec = importlib.util.find_spec("scapy")
    if spec is None or not spec.submodule_search_locations:
        raise FieldError("scapy is not installed")
    return Path(spec.submodule_search_locations[0], "libs", "manuf.py")


def _packed(file: Path) -> Iterator[bytes]:
    """The compressed list out of the module's source, where it stands as base 85 between `_d(\"\"\"` and `\"\"\")`."""
    with file.open("rb") as source:
        inside = False
        rest = b""
        for line in source:
            text = line.strip()
            if not inside:
                inside = text.endswith(b'_d("""')
            elif text == b'""")':
                yield base64.b85decode(rest)
                return
            else:
                rest += text
                whole = len(rest) // 5 * 5
                yield base64.b85decode(rest[:whole])
                rest = rest[whole:]
    raise FieldError(f"{file} has another form than it used to")


def _lines(packed: Iterator[bytes]) -> Iterator[bytes]:
    """The list's lines, a piece at a time: large pieces of memory, once used, would not all be given back."""
    unzip = zlib.decompressobj(31)
    rest = b""
    total = 0
    for piece in packed:
        part = unzip.decompress(piece)
        total += len(part)
        if total > MAX_LIST_BYTES:
            raise FieldError("it is too large")
        *lines, rest = (rest + part).split(b"\n")
        yield from lines
    if not unzip.eof:
        raise FieldError("it ends too early")
    yield rest
