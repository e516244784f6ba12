"""The ring of log lines: what it keeps, how large it gets, and that nobody who speaks ever notices it."""

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

from pi_orchestrator.concealment import MASK
from pi_orchestrator.log_ring import DEEPEST, IDS_A_START, MOST_BYTES, MOST_LINES, STARTS, LineWanted, LogRing, line_of
from pi_orchestrator.logs import configure, get_logger, heard_by
from tests.unit.test_logs import CANARY, HOSTILE


def entry(**more):
    return {"event": "it rains", "level": "info", "timestamp": "2026-01-22T15:00:00Z", "component": "net.mqtt"} | more


def shown(ring):
    return [json.loads(line.json(line_id)) for line_id, line in ring.all()]


@pytest.fixture
def ring():
    return LogRing(start=3)


@pytest.fixture
def out():
    return io.StringIO()


def written(out):
    return [json.loads(line)["event"] for line in out.getvalue().splitlines()]


@pytest.fixture
def hearing(ring, out):
    """The ring, hearing a log that writes errors only."""
    configure(level="error", style="json", stream=out)
    with heard_by(ring.hear):
        yield ring


# What is kept.


def test_a_line_is_kept_as_the_contract_shows_it(ring):
    ring.hear(entry(mac="24:6F:28:B0:F7:F1", ms=16, ok=True, none=None, ratio=0.5, deep={"none": None, "some": 1}))
    assert shown(ring) == [
        {
            "id": 3 * IDS_A_START + 1,
            "timestamp": "2026-01-22T15:00:00Z",
            "level": "info",
            "component": "net.mqtt",
            "message": "it rains",
            "fields": {"mac": "24:6F:28:B0:F7:F1", "ms": 16, "ok": True, "ratio": 0.5, "deep": {"some": 1}},
        }
    ]


@pytest.mark.parametrize(
    "level, name",
    [("debug", "debug"), ("info", "info"), ("warning", "warn"), ("error", "error"), ("critical", "error"),
     ("exception", "error"), ("level 25", "info")],
)  # fmt: skip
def test_levels_have_the_names_of_the_contract(ring, level, name):
    ring.hear(entry(level=level))
    assert shown(ring)[0]["level"] == name


def test_ids_begin_anew_with_every_start_above_those_before_and_are_exact_in_javascript():
    first = LogRing(start=1)
    for _ in range(3):
        first.hear(entry())
    second = LogRing(start=2)
    assert second.newest > first.newest
    assert second.oldest == second.newest + 1
    assert LogRing(start=STARTS - 1).newest + IDS_A_START <= 2**53
    assert LogRing(start=STARTS).newest >= 0


def test_the_oldest_go_when_there_are_too_many(ring):
    for number in range(MOST_LINES + 10):
        ring.hear(entry(n=number))
    lines = shown(ring)
    assert len(lines) == MOST_LINES
    assert [line["fields"]["n"] for line in lines] == list(range(10, MOST_LINES + 10))
    assert [line["id"] for line in lines] == list(range(ring.oldest, ring.newest + 1))
    assert ring.oldest == 3 * IDS_A_START + 11


def test_the_oldest_go_when_they_are_too_large(ring):
    for number in range(1000):
        ring.hear(entry(n=number, text=["x" * 900] * 9))
    assert 200 < len(ring.all()) < 300
    assert sum(line.size for _, line in ring.all()) <= MOST_BYTES
    assert shown(ring)[-1]["fields"]["n"] == 999


class Unspeakable:
    def __str__(self):
        raise ValueError("no")


def nested(depth):
    return {"deeper": nested(depth - 1)} if depth else "bottom"


@pytest.mark.parametrize(
    "value, kept",
    [
        ("x" * 1500, "x" * 1000 + "… (500 more)"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (2**53, str(2**53)),
        (2**53 - 1, 2**53 - 1),
        (10**5000, "<int>"),
        (Unspeakable(), "<Unspeakable>"),
        (ValueError("it broke"), "it broke"),
        (("a", 1, {"b": {2}}), ["a", 1, {"b": [2]}]),
        (list(range(100)), list(range(32))),
        ({1: "one"}, {"1": "one"}),
        ("\ud800", "\ud800"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_plain_json_and_not_too_long(ring, value, kept):
    ring.hear(entry(x=value))
    assert shown(ring)[0]["fields"]["x"] == kept


def test_what_is_deep_is_told_as_text(ring):
    ring.hear(entry(x=nested(50)))
    at = shown(ring)[0]["fields"]["x"]
    for _ in range(DEEPEST):
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
def test_whatever_is_logged_a_line_is_one_line_of_json_and_bounded(fields):
    line = line_of(fields)
    text = line.json(7)
    assert text.isascii()
    assert b"\n" not in text
    assert b"\r" not in text
    assert json.loads(text)["id"] == 7
    assert line.size < 200_000


def test_a_line_of_a_hundred_thousand_values_is_small(ring):
    ring.hear(entry(event="m" * 10**6, **{f"f{n}": ["é" * 900] * 1000 for n in range(500)}))
    ((_, line),) = ring.all()
    assert line.size < 100_000


# Pages.


def test_what_comes_after_an_id(ring):
    base = ring.newest
    for number in range(10):
        ring.hear(entry(n=number))
    assert [number for number, _ in ring.after(base + 4, most=3)] == [base + 5, base + 6, base + 7]
    assert [number for number, _ in ring.after(0, most=2)] == [base + 1, base + 2], "what is gone is passed over"
    assert ring.after(base + 10, most=5) == []
    assert ring.after(base + 10**6, most=5) == []


def test_a_page_of_large_lines_is_short_and_never_empty(ring):
    for _ in range(5):
        ring.hear(entry(text=["x" * 900] * 9))
    size = ring.all()[0][1].size
    for room, count in ((10 * size, 5), (3 * size, 3), (3 * size - 1, 2), (1, 1)):
        assert len(ring.after(0, most=100, most_bytes=room)) == count


def test_the_last_of_a_kind(ring):
    base = ring.newest
    for number in range(10):
        ring.hear(entry(level="error" if number % 3 == 0 else "info"))
    errors = LineWanted(rank=40)
    assert ring.before_last(0, wanted=errors) == base + 10
    assert ring.before_last(2, wanted=errors) == base + 6
    assert ring.before_last(100, wanted=errors) == base


@pytest.mark.parametrize(
    "wanted, taken",
    [
        (LineWanted(), True),
        (LineWanted(rank=20), True),
        (LineWanted(rank=30), False),
        (LineWanted(source="net"), True),
        (LineWanted(source="net.mqtt"), True),
        (LineWanted(source="net.mq"), False),
        (LineWanted(source="ne"), False),
        (LineWanted(source="net.mqtt.x"), False),
    ],
)
def test_which_lines_are_wanted(wanted, taken):
    assert wanted.takes(line_of(entry())) is taken


# Hearing.


def test_both_logs_are_heard_from_information_on_whatever_is_written(hearing, out):
    log, library = get_logger("pi_orchestrator.net.mqtt"), logging.getLogger("library.part")
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("ours")
        getattr(library, name)("theirs")
    heard = [(line["level"], line["component"], line["message"]) for line in shown(hearing)]
    assert heard == [
        ("info", "net.mqtt", "ours"),
        ("warn", "net.mqtt", "ours"),
        ("warn", "library.part", "theirs"),
        ("error", "net.mqtt", "ours"),
        ("error", "library.part", "theirs"),
    ]
    assert written(out) == ["ours", "theirs"]


def test_details_are_heard_where_they_are_written(ring, out):
    configure(level="debug", style="json", stream=out)
    with heard_by(ring.hear):
        get_logger("x").debug("ours")
        logging.getLogger("library").info("theirs")
        logging.getLogger("library").debug("too much")
    get_logger("x").info("nobody listens any more")
    assert [line["message"] for line in shown(ring)] == ["ours", "theirs"]


def test_what_is_heard_is_safe_already(hearing):
    log = get_logger("x")
    log.warning("%s password=%s", HOSTILE, CANARY, api_key=CANARY, error=ValueError(f"token={CANARY}"))
    log.warning("key", text="it is piorch_0a1b2c3d_" + "k" * 43)
    logging.getLogger("library").error("url %s", f"mqtt://pi:{CANARY}@broker/{HOSTILE}")
    try:
        raise ValueError(f"{HOSTILE} secret={CANARY}")
    except ValueError:
        log.exception("it broke")
    text = json.dumps(shown(hearing))
    assert len(shown(hearing)) == 4
    assert CANARY not in text
    assert "k" * 20 not in text
    assert f"piorch_0a1b2c3d_{MASK}" in text
    for line in shown(hearing):
        for value in (line["message"], *line["fields"].values()):
            assert not [char for char in value if char != "\n" and not char.isprintable()]


def test_a_hearer_that_fails_is_noticed_by_nobody(hearing, out):
    def fail(event):
        raise ZeroDivisionError

    with heard_by(fail), hearing.told(lambda: 1 / 0):
        get_logger("x").error("ours")
        logging.getLogger("library").error("theirs")
    assert len(shown(hearing)) == 2
    assert written(out) == ["ours", "theirs"]


def test_lines_of_many_threads_are_all_there_once_and_told(hearing):
    told = []
    barrier = threading.Barrier(8)

    def speak(name):
        barrier.wait()
        for number in range(200):
            get_logger("thread").info("x", name=name, n=number)

    with hearing.told(lambda: told.append(1)):
        threads = [threading.Thread(target=speak, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = shown(hearing)
    assert [line["id"] for line in lines] == list(range(hearing.oldest, hearing.newest + 1))
    for name in range(8):
        assert [line["fields"]["n"] for line in lines if line["fields"]["name"] == name] == list(range(200))
    assert len(told) == 1600


def test_garbage_that_speaks_when_it_is_collected_in_the_middle_of_a_line_does_no_harm(ring):
    """The lock is held by this very thread then."""

    class Last:
        def __init__(self):
            self.me = self

        def __del__(self):
            ring.hear(entry(event="last words"))

    class Collecting(type(ring._lines)):
        def append(self, item):
            if sys._getframe(2).f_code.co_name != "__del__":  # else without end
                Last()
                gc.collect()
            super().append(item)

    ring._lines = Collecting()
    for _ in range(3):
        ring.hear(entry())
    lines = shown(ring)
    assert [line["id"] for line in lines] == list(range(ring.oldest, ring.newest + 1))
    assert [line["message"] for line in lines].count("it rains") == 3
    assert "last words" in [line["message"] for line in lines]


def test_a_storm_stays_within_bounds(ring):
    fields = {"mac": "24:6F:28:B0:F7:F1", "reason": "é" * 200}
    tracemalloc.start()
    try:
        for _ in range(4000):
            ring.hear(entry(**fields))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * MOST_BYTES, "what is counted is about what it costs"
    assert ring.newest - ring.oldest < MOST_LINES
