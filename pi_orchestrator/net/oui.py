"""Vendor of a MAC, from `oui.txt` next to this file; scripts/oui_table.py generates it and describes its format.

Memory: the text and an index of 8 bytes per prefix, 1.7 MiB together.
"""

from __future__ import annotations

import asyncio
import heapq
import io
import re
from array import array
from bisect import bisect_left
from pathlib import Path

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.mac import Mac, is_local
from pi_orchestrator.core.validation import clean_text

TABLE = Path(__file__).with_name("oui.txt")
MAX_NAME_CHARS = 40
MAX_TABLE_BYTES = 4 * 1024 * 1024
_HEADER = re.compile(rb"# (\d{1,9}) prefixes ")
_PREFIX_DIGITS = (9, 7, 6)
_MAX_CACHED = 2048
_RUN = 1024


class VendorLookup:
    """Vendor names by MAC; empty before `load` and if `load` failed, with the cause in `reason`."""

    def __init__(self) -> None:
        self._text, self._index = b"", array("Q")
        self._cache: dict[str, str | None] = {}
        self.reason: str | None = "vendor table not loaded yet"

    async def load(self) -> None:
        """Read the table in a thread; sets `reason` instead of raising."""
        try:
            self._text, self._index = await asyncio.to_thread(load_table)
        except (OSError, ValueError) as error:
            self.reason = f"the vendor table cannot be used: {error}"
        else:
            self.reason = None
        self._cache.clear()

    def is_espressif(self, mac: Mac) -> bool:
        """Whether the vendor makes ESP32 chips: the first word of its name is "Espressif", in any case."""
        return (self.name(mac) or "").casefold().split(" ")[0] == "espressif"

    def name(self, mac: Mac) -> str | None:
        """Vendor of the longest registered prefix of the MAC; None if unknown or if the MAC is locally administered."""
        if is_local(mac):
            return None
        digits = mac.replace(":", "")[: _PREFIX_DIGITS[0]]
        if digits not in self._cache:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            found = (self._find(_key(digits[:length])) for length in _PREFIX_DIGITS)
            self._cache[digits] = next((name for name in found if name), None)
        return self._cache[digits]

    def _find(self, key: int) -> str | None:
        position = bisect_left(self._index, key << 24)
        if position == len(self._index) or self._index[position] >> 24 != key:
            return None
        start = self._index[position] & 0xFFFFFF
        name = self._text[start : self._text.index(b"\t", start)]
        return clean_text(name.decode("utf-8", errors="replace"), max_chars=MAX_NAME_CHARS)


def _key(prefix: str) -> int:
    """A prefix of 6, 7 or 9 hex digits as a 40-bit number: padded to 9 digits, then its length as the tenth."""
    if len(prefix) not in _PREFIX_DIGITS or not prefix.isalnum():
        raise FieldError(f"{prefix[:40]!r} is not a MAC prefix of 24, 28 or 36 bits")
    return int(f"{prefix:0<9}{len(prefix)}", 16)


def load_table() -> tuple[bytes, array[int]]:
    """The table's text and its sorted index of `prefix key << 24 | offset of its line`; OSError, ValueError."""
    with TABLE.open("rb") as file:
        text = file.read(MAX_TABLE_BYTES + 1)
    header = _HEADER.match(text)
    if not header or len(text) > MAX_TABLE_BYTES:
        raise FieldError(f"{TABLE} has no header line, or is larger than {MAX_TABLE_BYTES} bytes")
    entries, offset = array("Q"), 0
    for line in io.BytesIO(text):
        prefixes = b"" if line.startswith(b"#") else line.partition(b"\t")[2]
        for prefix in prefixes.decode("ascii").split():
            entries.append(_key(prefix) << 24 | offset)
        offset += len(line)
    if len(entries) != int(header[1]):
        raise FieldError(f"{TABLE} has {len(entries)} prefixes, but its header says {int(header[1])}")
    # Sorted in runs, then merged: one sort would create an object per entry, and not all of that memory is freed.
    runs = [slice(start, start + _RUN) for start in range(0, len(entries), _RUN)]
    for run in runs:
        entries[run] = array("Q", sorted(entries[run]))
    view = memoryview(entries)
    return text, array("Q", heapq.merge(*(view[run] for run in runs)))
