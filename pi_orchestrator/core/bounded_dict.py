"""A dictionary with a limit: the least recently set or touched entry is dropped first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedDict(MutableMapping[K, V]):
    """At most `limit` entries, in the order in which they were last set or touched; reading does not change the order.

    With `size_of`, `limit` is the sum of the sizes of all values; the size of a stored value must not change.
    `on_drop` is called for each entry that the limit drops, after its removal; not for a deleted or replaced entry.
    """

    __slots__ = ("_entries", "_on_drop", "_size_of", "limit", "total_size")

    def __init__(
        self,
        limit: int,
        *,
        size_of: Callable[[V], int] | None = None,
        on_drop: Callable[[K, V], None] | None = None,
    ) -> None:
        self.limit = limit
        self.total_size = 0
        """The number of entries; with `size_of`, the sum of their sizes."""
        self._size_of = size_of
        self._on_drop = on_drop
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __getitem__(self, key: K) -> V:
        return self._entries[key]

    def __setitem__(self, key: K, value: V) -> None:
        """Set an entry as the newest, then drop the oldest entries until the limit holds, if necessary this one too."""
        size = self._entry_size(value)
        if key in self._entries:
            self.total_size -= self._entry_size(self._entries[key])
        self._entries[key] = value
        self._entries.move_to_end(key)
        self.total_size += size
        while self.total_size > self.limit:
            oldest, dropped = self._entries.popitem(last=False)
            self.total_size -= self._entry_size(dropped)
            if self._on_drop:
                self._on_drop(oldest, dropped)

    def __delitem__(self, key: K) -> None:
        self.total_size -= self._entry_size(self._entries.pop(key))

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.limit}, {dict(self._entries)!r})"

    def touch(self, key: K) -> None:
        """Make an entry the newest without changing it; KeyError if it is missing."""
        self._entries.move_to_end(key)

    def _entry_size(self, value: V) -> int:
        return self._size_of(value) if self._size_of else 1
