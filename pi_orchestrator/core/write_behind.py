"""Items collected in memory, to be written to the database together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from pi_orchestrator.core.errors import StorageError

T = TypeVar("T")


class PendingWrites(Generic[T]):
    """At most `limit` items, in the order in which they were added; `dropped` counts those over the limit.

    Items of the lowest `rank` are dropped first, and of equal rank the oldest, or with `drop_newest` the newest.
    Without `limit_additions` only `restore` drops items, so nothing is lost while writes succeed; the caller must limit
    what it adds between two writes.
    """

    def __init__(
        self,
        limit: int,
        *,
        rank: Callable[[T], int] | None = None,
        drop_newest: bool = False,
        limit_additions: bool = True,
    ) -> None:
        self.limit = limit
        self.dropped = 0
        self._rank = rank
        self._drop_newest = drop_newest
        self._limit_additions = limit_additions
        self._items: list[T] = []

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T) -> None:
        """Add an item as the newest."""
        self._items.append(item)
        if self._limit_additions:
            self._drop_excess()

    def take(self) -> list[T]:
        """Remove and return every item, oldest first."""
        items, self._items = self._items, []
        return items

    def restore(self, items: list[T]) -> None:
        """Return items that could not be written; they are older than all that were added since they were taken."""
        self._items = [*items, *self._items]
        self._drop_excess()

    @contextmanager
    def taken(self) -> Iterator[list[T]]:
        """Take every item for a block that writes them; a StorageError of the block restores them.

        Other exceptions do not restore them. If the caller is cancelled, the database still writes them. After any
        other exception, a faulty item would make every later write fail.
        """
        items = self.take()
        try:
            yield items
        except StorageError:
            self.restore(items)
            raise

    def _drop_excess(self) -> None:
        excess = len(self._items) - self.limit
        if excess <= 0:
            return
        self.dropped += excess
        rank, sign = self._rank, -1 if self._drop_newest else 1
        order = sorted(
            range(len(self._items)), key=lambda index: (rank(self._items[index]) if rank else 0, sign * index)
        )
        self._items = [self._items[index] for index in sorted(order[excess:])]
