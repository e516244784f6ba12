"""The log buffer: stored lines, limits, and that it never disturbs code that logs."""

import gc
import io
import json
import logging
import sys
import threading
import tracemalloc

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pi_orchestrator.core.log_buffer import (
    IDS_PER_START,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_LINES,
    MAX_STARTS,
    LineFilter,
    LogBuffer,
    encode_entry,
)
from pi_orchestrator.core.logging import configure, get_logger, log_listener
from pi_orchestrator.core.redaction import MASK
from tests.unit.core.test_logging import CANARY, HOSTILE


def entry(**changes):
    return {"event": "link up", "level": "info", "timestamp": "2026-01-22T15:00:00Z", "component": "net.mqtt"} | changes


def stored(ring):
    return [json.loads(line.json(line_id)) for line_id, line in ring.all()]


@pytest.fixture
def ring():
    return LogBuffer(start=3)


@pytest.fixture
def out():
    return io.StringIO()


def written(out):
    return [json.loads(line)["event"] for line in out.getvalue().splitlines()]


@pytest.fixture
def listening_ring(ring, out):
    """The buffer as a listener of a log that writes errors only."""
    configure(level="error", style="json", stream=out)
    with log_listener(ring.append):
        yield ring


# Stored lines.


def test_line_has_contract_format(ring):
    ring.append(entry(mac="24:6F:28:B0:F7:F1", ms=16, ok=True, none=None, ratio=0.5, deep={"none": None, "some": 1}))
    assert stored(ring) == [
        {
            "id": 3 * IDS_PER_START + 1,
            "timestamp": "2026-01-22T15:00:00Z",
            "level": "info",
            "component": "net.mqtt",
            "message": "link up",
            "fields": {"mac": "24:6F:28:B0:F7:F1", "ms": 16, "ok": True, "ratio": 0.5, "deep": {"some": 1}},
        }
    ]


@pytest.mark.parametrize(
    "level, name",
    [("debug", "debug"), ("info", "info"), ("warning", "warn"), ("error", "error"), ("critical", "error"),
     ("exception", "error"), ("level 25", "info")],
)  # fmt: skip
def test_levels_have_contract_names(ring, level, name):
    ring.append(entry(level=level))
    assert stored(ring)[0]["level"] == name


def test_ids_increase_over_starts_within_2_53():
    first = LogBuffer(start=1)
    for _ in range(3):
        first.append(entry())
    second = LogBuffer(start=2)
    assert second.newest > first.newest
    assert second.oldest == second.newest + 1
    assert LogBuffer(start=MAX_STARTS - 1).newest + IDS_PER_START <= 2**53
    assert LogBuffer(start=MAX_STARTS).newest >= 0


def test_oldest_dropped_over_line_limit(ring):
    for number in range(MAX_LINES + 10):
        ring.append(entry(n=number))
    lines = stored(ring)
    assert len(lines) == MAX_LINES
    assert [line["fields"]["n"] for line in lines] == list(range(10, MAX_LINES + 10))
    assert [line["id"] for line in lines] == list(range(ring.oldest, ring.newest + 1))
    assert ring.oldest == 3 * IDS_PER_START + 11


def test_oldest_dropped_over_byte_limit(ring):
    for number in range(1000):
        ring.append(entry(n=number, text=["x" * 900] * 9))
    assert 200 < len(ring.all()) < 300
    assert sum(line.size for _, line in ring.all()) <= MAX_BYTES
    assert stored(ring)[-1]["fields"]["n"] == 999


class NoText:
    def __str__(self):
        raise ValueError("no")


def nested(depth):
    return {"deeper": nested(depth - 1)} if depth else "bottom"


@pytest.mark.parametrize(
    "value, expected",
    [
        ("x" * 1500, "x" * 1000 + "… (500 more)"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (2**53, str(2**53)),
        (2**53 - 1, 2**53 - 1),
        (10**5000, "<int>"),
        (NoText(), "<NoText>"),
        (ValueError("it broke"), "it broke"),
        (("a", 1, {"b": {2}}), ["a", 1, {"b": [2]}]),
        (list(range(100)), list(range(32))),
        ({1: "x"}, {"1": "x"}),
        ("\ud800", "\ud800"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_bounded_plain_json(ring, value, expected):
    ring.append(entry(x=value))
    assert stored(ring)[0]["fields"]["x"] == expected


def test_deep_value_becomes_text(ring):
    ring.append(entry(x=nested(50)))
    at = stored(ring)[0]["fields"]["x"]
    for _ in range(MAX_DEPTH):
        at = at["deeper"]
    assert isinstance(at, str)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50) | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=40) | st.dictionaries(st.text(max_size=80) | st.integers(), inner, max_size=5)
    ),
    max_leaves=20,
)


@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.dictionaries(st.text(max_size=80), JSON, max_size=6))
def test_any_entry_is_one_bounded_json_line(fields):
    line = encode_entry(fields)
    text = line.json(7)
    assert text.isascii()
    assert b"\n" not in text
    assert b"\r" not in text
    assert json.loads(text)["id"] == 7
    assert line.size < 200_000


def test_huge_entry_becomes_small_line(ring):
    ring.append(entry(event="m" * 10**6, **{f"f{n}": ["é" * 900] * 1000 for n in range(500)}))
    ((_, line),) = ring.all()
    assert line.size < 100_000


# Pages.


def test_after_returns_lines_after_id(ring):
    base = ring.newest
    for number in range(10):
        ring.append(entry(n=number))
    assert [number for number, _ in ring.after(base + 4, max_lines=3)] == [base + 5, base + 6, base + 7]
    assert [number for number, _ in ring.after(0, max_lines=2)] == [base + 1, base + 2], "dropped lines are skipped"
    assert ring.after(base + 10, max_lines=5) == []
    assert ring.after(base + 10**6, max_lines=5) == []


def test_page_of_large_lines_is_never_empty(ring):
    for _ in range(5):
        ring.append(entry(text=["x" * 900] * 9))
    size = ring.all()[0][1].size
    for size_limit, count in ((10 * size, 5), (3 * size, 3), (3 * size - 1, 2), (1, 1)):
        assert len(ring.after(0, max_lines=100, max_bytes=size_limit)) == count


def test_before_last_counts_matching_lines(ring):
    base = ring.newest
    for number in range(10):
        ring.append(entry(level="error" if number % 3 == 0 else "info"))
    errors = LineFilter(rank=40)
    assert ring.before_last(0, line_filter=errors) == base + 10
    assert ring.before_last(2, line_filter=errors) == base + 6
    assert ring.before_last(100, line_filter=errors) == base


@pytest.mark.parametrize(
    "line_filter, is_match",
    [
        (LineFilter(), True),
        (LineFilter(rank=20), True),
        (LineFilter(rank=30), False),
        (LineFilter(source="net"), True),
        (LineFilter(source="net.mqtt"), True),
        (LineFilter(source="net.mq"), False),
        (LineFilter(source="ne"), False),
        (LineFilter(source="net.mqtt.x"), False),
    ],
)
def test_filter_by_rank_and_component(line_filter, is_match):
    assert line_filter.matches(encode_entry(entry())) is is_match


# Listeners.


def test_listener_receives_info_and_above(listening_ring, out):
    log, library = get_logger("pi_orchestrator.net.mqtt"), logging.getLogger("library.part")
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("ours")
        getattr(library, name)("theirs")
    received = [(line["level"], line["component"], line["message"]) for line in stored(listening_ring)]
    assert received == [
        ("info", "net.mqtt", "ours"),
        ("warn", "net.mqtt", "ours"),
        ("warn", "library.part", "theirs"),
        ("error", "net.mqtt", "ours"),
        ("error", "library.part", "theirs"),
    ]
    assert written(out) == ["ours", "theirs"]


def test_listener_receives_debug_if_written(ring, out):
    configure(level="debug", style="json", stream=out)
    with log_listener(ring.append):
        get_logger("x").debug("ours")
        logging.getLogger("library").info("theirs")
        logging.getLogger("library").debug("too much")
    get_logger("x").info("no listener any more")
    assert [line["message"] for line in stored(ring)] == ["ours", "theirs"]


def test_listener_receives_redacted_entries(listening_ring):
    log = get_logger("x")
    log.warning("%s password=%s", HOSTILE, CANARY, api_key=CANARY, error=ValueError(f"token={CANARY}"))
    log.warning("key", text="it is piorch_0a1b2c3d_" + "k" * 43)
    logging.getLogger("library").error("url %s", f"mqtt://pi:{CANARY}@broker/{HOSTILE}")
    try:
        raise ValueError(f"{HOSTILE} secret={CANARY}")
    except ValueError:
        log.exception("it broke")
    text = json.dumps(stored(listening_ring))
    assert len(stored(listening_ring)) == 4
    assert CANARY not in text
    assert "k" * 20 not in text
    assert f"piorch_0a1b2c3d_{MASK}" in text
    for line in stored(listening_ring):
        for value in (line["message"], *line["fields"].values()):
            assert not [char for char in value if char != "\n" and not char.isprintable()]


def test_failing_listener_is_ignored(listening_ring, out):
    def fail(event):
        raise ZeroDivisionError

    with log_listener(fail), listening_ring.listening(lambda: 1 / 0):
        get_logger("x").error("ours")
        logging.getLogger("library").error("theirs")
    assert len(stored(listening_ring)) == 2
    assert written(out) == ["ours", "theirs"]


def test_lines_of_threads_are_stored_once(listening_ring):
    calls = []
    barrier = threading.Barrier(8)

    def log_lines(name):
        barrier.wait()
        for number in range(200):
            get_logger("thread").info("x", name=name, n=number)

    with listening_ring.listening(lambda: calls.append(1)):
        threads = [threading.Thread(target=log_lines, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = stored(listening_ring)
    assert [line["id"] for line in lines] == list(range(listening_ring.oldest, listening_ring.newest + 1))
    for name in range(8):
        assert [line["fields"]["n"] for line in lines if line["fields"]["name"] == name] == list(range(200))
    assert len(calls) == 1600


def test_logging_during_gc_is_safe(ring):
    """A collection can start while this thread holds the buffer's lock; a `__del__` that logs must not deadlock."""

    class LogsWhenDeleted:
        def __init__(self):
            self.me = self

        def __del__(self):
            ring.append(entry(event="logged by __del__"))

    class Collecting(type(ring._lines)):
        def append(self, item):
            if sys._getframe(2).f_code.co_name != "__del__":  # else endless recursion
                LogsWhenDeleted()
                gc.collect()
            super().append(item)

    ring._lines = Collecting()
    for _ in range(3):
        ring.append(entry())
    lines = stored(ring)
    assert [line["id"] for line in lines] == list(range(ring.oldest, ring.newest + 1))
    assert [line["message"] for line in lines].count("link up") == 3
    assert "logged by __del__" in [line["message"] for line in lines]


def test_flood_stays_within_memory_limit(ring):
    fields = {"mac": "24:6F:28:B0:F7:F1", "reason": "é" * 200}
    tracemalloc.start()
    try:
        for _ in range(4000):
            ring.append(entry(**fields))
        allocated, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert allocated < 2 * MAX_BYTES, "counted sizes are close to real ones"
    assert ring.newest - ring.oldest < MAX_LINES
