"""Pending writes: which items remain, and in which order."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.core.errors import StorageError
from pi_orchestrator.core.write_behind import PendingWrites

RANKS = st.lists(st.integers(0, 2), max_size=30)


def numbered(ranks):
    """Items (rank, number), so that items of equal rank differ."""
    return [(rank, number) for number, rank in enumerate(ranks)]


def expected(items, limit, *, drop_newest=False):
    """Items that remain: the lowest rank is dropped first; of equal ranks the oldest, or the newest (`drop_newest`)."""
    remaining = list(items)
    while len(remaining) > limit:
        lowest = [item for item in remaining if item[0] == min(rank for rank, _ in remaining)]
        remaining.remove(lowest[-1] if drop_newest else lowest[0])
    return remaining


@given(limit=st.integers(0, 8), taken=RANKS, added=RANKS, drop_newest=st.booleans())
def test_restore_drops_lowest_ranks(limit, taken, added, drop_newest):
    items = numbered([*taken, *added])
    pending = PendingWrites(limit, rank=lambda item: item[0], drop_newest=drop_newest, limit_additions=False)
    for item in items[: len(taken)]:
        pending.add(item)
    returned = pending.take()
    assert returned == items[: len(taken)]
    for item in items[len(taken) :]:
        pending.add(item)
    pending.restore(returned)
    assert list(pending) == expected(items, limit, drop_newest=drop_newest)
    assert pending.dropped == max(0, len(items) - limit)
    assert len(pending) == len(items) - pending.dropped


@given(limit=st.integers(0, 8), ranks=RANKS)
def test_each_addition_is_limited(limit, ranks):
    pending, model = PendingWrites(limit, rank=lambda item: item[0]), []
    for item in numbered(ranks):
        pending.add(item)
        model = expected([*model, item], limit)
        assert list(pending) == model
    assert pending.dropped == len(ranks) - len(model)


def test_unlimited_additions_are_all_taken():
    pending = PendingWrites(2, limit_additions=False)
    for number in range(10):
        pending.add(number)
    assert (pending.take(), pending.dropped) == (list(range(10)), 0)


def test_items_are_taken_once():
    pending = PendingWrites(5)
    pending.add("a")
    with pending.taken() as items:
        assert items == ["a"]
        assert len(pending) == 0
    assert pending.take() == []


def test_storage_error_restores_items_first():
    pending = PendingWrites(5)
    pending.add("a")
    with pytest.raises(StorageError), pending.taken():
        pending.add("b")
        raise StorageError("the disk is full")
    assert list(pending) == ["a", "b"]


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
def test_other_error_restores_nothing(error):
    pending = PendingWrites(5)
    pending.add("a")
    with pytest.raises(error), pending.taken():
        raise error
    assert list(pending) == []
