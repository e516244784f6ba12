"""The bounded dictionary, compared with a plain list of entries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.core.bounded_dict import BoundedDict

KEYS = st.integers(0, 7)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS, st.integers(0, 6)),
        st.tuples(st.sampled_from(["touch", "get", "delete"]), KEYS, st.just(0)),
    ),
    max_size=60,
)


class ListModel:
    """A plain list of (key, value), oldest first, with the behaviour that is expected of BoundedDict."""

    def __init__(self, limit, size_of):
        self.limit, self.size_of = limit, size_of
        self.entries, self.dropped = [], []

    @property
    def total_size(self):
        return sum(self.size_of(value) for _, value in self.entries)

    def apply(self, verb, key, value):
        entry_of_key = next((entry for entry in self.entries if entry[0] == key), None)
        if verb == "set":
            self.entries = [entry for entry in self.entries if entry[0] != key] + [(key, value)]
            while self.total_size > self.limit:
                self.dropped.append(self.entries.pop(0))
        elif entry_of_key and verb != "get":
            self.entries.remove(entry_of_key)
            if verb == "touch":
                self.entries.append(entry_of_key)


def apply(bounded, verb, key, value):
    match verb:
        case "set":
            bounded[key] = value
        case "get":
            bounded.get(key)
        case "touch" if key in bounded:
            bounded.touch(key)
        case "delete":
            bounded.pop(key, None)


@given(limit=st.integers(0, 5), steps=STEPS)
def test_any_steps_keep_newest_entries(limit, steps):
    dropped = []
    bounded = BoundedDict(limit, on_drop=lambda key, value: dropped.append((key, value)))
    model = ListModel(limit, lambda _: 1)
    for step in steps:
        apply(bounded, *step)
        model.apply(*step)
        assert list(bounded.items()) == model.entries
        assert bounded.total_size == len(bounded)
        assert len(bounded) <= limit
    assert dropped == model.dropped


@given(limit=st.integers(0, 12), steps=STEPS)
def test_any_steps_keep_total_size_within_limit(limit, steps):
    dropped = []
    bounded = BoundedDict(limit, size_of=int, on_drop=lambda key, value: dropped.append((key, value)))
    model = ListModel(limit, int)
    for step in steps:
        apply(bounded, *step)
        model.apply(*step)
        assert list(bounded.items()) == model.entries
        assert bounded.total_size == model.total_size
        assert bounded.total_size <= limit
    assert dropped == model.dropped


def test_setdefault_existing_key_is_unchanged():
    bounded = BoundedDict(2)
    bounded.update(a=1, b=2)
    assert bounded.setdefault("a", 9) == 1
    bounded["c"] = 3
    assert dict(bounded) == {"b": 2, "c": 3}


def test_setdefault_new_key_drops_oldest():
    bounded = BoundedDict(1)
    bounded["a"] = []
    bounded.setdefault("b", []).append(1)
    assert dict(bounded) == {"b": [1]}


def test_delete_and_replace_skip_on_drop():
    dropped = []
    bounded = BoundedDict(2, on_drop=lambda *entry: dropped.append(entry))
    bounded["a"] = 1
    bounded["a"] = 2
    del bounded["a"]
    bounded.update(b=1, c=1)
    bounded.clear()
    assert (dropped, bounded.total_size) == ([], 0)


def test_on_drop_may_change_dictionary():
    bounded = BoundedDict(2, on_drop=lambda key, _: bounded.pop(key + 1, None))
    for number in range(3):
        bounded[number] = None
    assert list(bounded) == [2]


@pytest.mark.parametrize("use", [lambda bounded: bounded["x"], lambda bounded: bounded.touch("x")])
def test_missing_key_raises_key_error(use):
    with pytest.raises(KeyError):
        use(BoundedDict(1))


def test_value_over_limit_is_dropped():
    bounded = BoundedDict(3, size_of=len)
    bounded["a"] = b"12"
    bounded["b"] = b"1234"
    assert (dict(bounded), bounded.total_size) == ({}, 0)
