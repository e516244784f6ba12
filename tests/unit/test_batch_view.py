"""The view of a batch: what fits a terminal, who comes first, how it ends; and the stream that it is told by."""

import threading

import pytest

from pi_orchestrator.cli.batch_view import (
    Batch,
    camera_line,
    change_line,
    document,
    duration,
    fingerprint,
    screen,
    summary,
    word,
)
from pi_orchestrator.cli.batch_watch import watch
from pi_orchestrator.cli.event_stream import Event, Frame, Lost, follow, frames, read
from pi_orchestrator.cli.events import one_line
from pi_orchestrator.errors import NotFoundError, OrchestratorError

HOSTILE = "evil\x1b[2J\x9b2J\x07\u202e\ud800\n\r\t"
SESSION = {"id": "7f9c24e5-1c1b-4a57-9c0e-3b7a0d7b5f10", "state": "active"}


def device(number, state="discovered", **more):
    usual = {
        "mac": f"24:6F:28:00:{number >> 8:02X}:{number & 255:02X}",
        "ip": f"192.168.{number >> 8}.{number & 255}",
        "state": state,
        "progress": 0,
        "rssi": -54,
        "retry_count": 0,
        "in_allowlist": True,
    }
    return usual | more


def failed(number, code="DEVICE_TIMEOUT", message="it did not answer", **more):
    return device(number, "failed", error_code=code, error_message=message, progress=30, **more)


SKIPPED = failed(99, "SKIPPED", "skipped by the operator")


def batch(*devices, macs=(), **session):
    made = Batch(macs=macs)
    made.take(SESSION | session, devices)
    return made


def text(lines):
    return "\n".join(lines)


# A camera.


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (device(1), "discovered"),
        (device(1, in_allowlist=False), "not listed"),
        (device(1, "provisioning"), "in line"),
        (device(1, "provisioning", progress=10), "provisioning"),
        (device(1, "provisioned", progress=50), "provisioned"),
        (device(1, "verifying", progress=60), "verifying"),
        (device(1, "verified", progress=100, in_allowlist=False), "verified"),
        (failed(1), "failed"),
        (SKIPPED, "skipped"),
        ({}, "None"),
    ],
)
def test_a_word_says_where_a_camera_stands(given, said):
    assert word(given) == said


def test_a_line_has_everything_at_the_width_of_a_terminal():
    line = camera_line(device(1, "verifying", progress=60, retry_count=2), width=80)
    assert line == "24:6F:28:00:00:01  192.168.0.1       -54  x2  verifying     [#######     ]  60 %"
    assert len(line) == 80


def test_a_line_for_forty_columns_keeps_who_where_and_how_far():
    assert camera_line(device(1, "verifying", progress=60), width=40) == "24:6F:28:00:00:01  verifying      60 %"
    assert camera_line(device(1, "verified", progress=100), width=40) == "24:6F:28:00:00:01  verified      100 %"
    assert camera_line(failed(1), width=40) == "24:6F:28:00:00:01  failed        DEVICE…"


def test_what_there_is_room_for_comes_with_the_width():
    one = failed(1, retry_count=3)
    shown = {width: camera_line(one, width=width) for width in range(40, 121)}
    assert all(len(line) <= width for width, line in shown.items())
    assert "192.168.0.1" not in shown[61]
    assert "192.168.0.1" in shown[62]
    assert "-54" not in shown[71]
    assert "-54  x3" in shown[72]
    assert shown[80].endswith("failed        it did not answer")


def test_a_reason_that_does_not_fit_is_its_code_and_the_whole_where_it_does():
    one = failed(1, "VERIFICATION_TIMEOUT", "it did not come back within 90 s")
    assert camera_line(one, width=80).endswith("failed        VERIFICATION_TIMEOUT")
    assert camera_line(one, width=100).endswith("failed        it did not come back within 90 s")
    assert camera_line(failed(1, None, None), width=80).endswith("no reason given")
    assert camera_line(failed(1, None, "x" * 99), width=80).endswith("xxx…")


def test_trouble_on_the_way_stands_behind_the_bar_where_there_is_room():
    one = device(1, "provisioning", progress=10, error_message="no connection: it will be tried again")
    assert camera_line(one, width=80).endswith("10 %")
    assert camera_line(one, width=100).endswith("10 %  no connection: it…")


@pytest.mark.parametrize("progress", [-5, 0, 1, 50, 99, 100, 1000, None, "x", 10**30])
def test_a_bar_is_as_long_as_it_is_whatever_the_progress(progress):
    line = camera_line(device(1, "verifying", progress=progress), width=80)
    bar = line[line.index("[") : line.index("]") + 1]
    assert len(bar) == 14
    assert len(line) == 80


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_hostile_words_cannot_drive_the_terminal(width):
    names = ("mac", "ip", "state", "rssi", "error_code", "error_message", "retry_count")
    hostile = [
        device(1) | dict.fromkeys(names, HOSTILE * 50),
        device(9) | {"error_code": ["x"]},
        failed(2, HOSTILE, HOSTILE, ip=HOSTILE),
        device(3, "verifying", progress=50, error_message=HOSTILE * 9),
        {},
        dict.fromkeys(names),
        dict.fromkeys(names, ["x"]) | {"progress": {}},
    ]
    made = batch(*hostile, state=HOSTILE, id=HOSTILE)
    lines = screen(made, width=width, height=50, elapsed_s=1, note=HOSTILE * 9)
    lines += [change_line(one, at="12:00:00", width=width) for one in hostile]
    assert [line for line in lines if len(line) > width] == []
    assert [line for line in lines if not line.isprintable()] == []


# All of them.


def test_a_screen_counts_and_keeps_the_order_in_which_they_came():
    made = batch(device(3, "verified", progress=100), failed(1), device(2, "provisioning"), SKIPPED | {"mac": "x"})
    head, *lines = screen(made, width=80, height=24, elapsed_s=83.2)
    assert head == "7f9c24e5 active  1 min 23 s  1 verified, 1 skipped, 1 in line, 1 failed"
    assert [line.split()[0] for line in lines] == [one["mac"] for one in made.devices]
    assert screen(batch(), width=80, height=24, elapsed_s=0.04) == ["7f9c24e5 active  0.0 s  no cameras"]


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("height", [2, 3, 5, 23, 201, 202, 500])
def test_two_hundred_cameras_fit_any_terminal_and_those_that_matter_come_first(width, height):
    devices = [device(number, "verified", progress=100) for number in range(150)]
    devices += [device(number, "provisioning") for number in range(150, 194)]
    devices += [failed(number) for number in range(194, 197)]
    devices += [device(number, "verifying", progress=60) for number in range(197, 200)]
    made = batch(*devices)
    lines = screen(made, width=width, height=height, elapsed_s=1)
    assert len(lines) <= height
    assert [line for line in lines if len(line) > width] == []
    if height >= 201:
        assert len(lines) == 201
        assert [line[:17] for line in lines[1:]] == [one["mac"] for one in devices]
    else:
        shown = lines[1:-1]
        assert len(shown) == height - 2
        assert lines[-1].startswith(f"… and {200 - len(shown)} more: 150 verified")
        first = [one["mac"] for one in (*devices[197:], *devices[194:197], *devices[150:194])]
        assert [line[:17] for line in shown] == first[: height - 2]


def test_a_note_has_a_line_of_its_own_and_takes_it_from_the_cameras():
    made = batch(*(device(number) for number in range(9)))
    lines = screen(made, width=80, height=5, elapsed_s=1, note="no connection")
    assert len(lines) == 5
    assert lines[-2:] == ["… and 7 more: 7 discovered", "no connection"]


# What is told.


def test_events_change_it_and_a_reading_replaces_it():
    made = batch(device(1), device(2))
    made.tell("device.state_changed", {"device": device(1, "verifying", progress=60)})
    made.tell("device.discovered", {"device": device(3)})
    made.tell("session.status", {"session": SESSION | {"state": "closing"}})
    made.tell("device.state_changed", {"mac": "nothing else"})
    made.tell("session.status", {"session": None})
    made.tell("network.status_changed", {})
    assert [word(one) for one in made.devices] == ["verifying", "discovered", "discovered"]
    assert made.session["state"] == "closing"
    made.take(SESSION, [device(2)])
    assert made.devices == [device(2)]


def test_of_some_cameras_nothing_else_is_seen():
    made = batch(device(1, "provisioning"), device(2, "provisioning"), macs=[device(1)["mac"]])
    assert made.under_way == 1
    made.tell("device.state_changed", {"device": failed(2)})
    made.tell("device.state_changed", {"device": device(1, "verified")})
    assert (made.is_over, made.exit_code, len(made.devices)) == (True, 0, 1)


@pytest.mark.parametrize(
    ("devices", "code"),
    [
        ([], 0),
        ([device(1, "verified")], 0),
        ([device(1, "verified"), SKIPPED], 0),
        ([device(1, "verified"), device(2, in_allowlist=False), device(3)], 0),
        ([device(1, "verified"), failed(2)], 1),
    ],
)
def test_it_is_over_when_none_is_under_way_and_only_failures_count(devices, code):
    made = batch(*devices)
    assert (made.is_over, made.exit_code) == (True, code)
    assert document(made, elapsed_s=1.26)["outcome"] == "done"


@pytest.mark.parametrize("state", ["provisioning", "provisioned", "verifying"])
def test_it_goes_on_while_one_is_under_way(state):
    assert not batch(device(1, "verified"), device(2, state)).is_over
    assert not batch(device(2, state), state="closing").is_over
    assert batch(device(2, state), state="paused").exit_code == 1


@pytest.mark.parametrize(
    ("session", "outcome", "words"),
    [
        ({"state": "paused"}, "paused", "The session is paused: nothing new is started. To go on: pi-orchestrator"),
        ({"state": "paused", "interrupted": True}, "interrupted", "A restart of the daemon has cut the session off."),
        ({"state": "closed", "ending": "expired"}, "expired", "The session has expired."),
        ({"state": "closed", "ending": "discarded"}, "discarded", "The session was discarded."),
        ({"state": "closed", "ending": "closed"}, "closed", "The session was closed."),
        ({"state": "closed"}, "closed", "The session was closed."),
    ],
)
def test_a_session_that_ends_meanwhile_ends_the_view(session, outcome, words):
    made = batch(device(1, "verifying"), **session)
    assert made.is_over
    lines = summary(made, elapsed_s=1)
    assert lines[0].startswith(words)
    assert "1 not finished" in text(lines)
    assert "To go on" in text(lines)
    assert (document(made, elapsed_s=1)["outcome"], document(made, elapsed_s=1)["not_finished"]) == (outcome, 1)


def test_a_summary_counts_and_gives_each_reason_with_its_remedy():
    lines = summary(
        batch(
            device(1, "verified"),
            device(2, "verified"),
            failed(3, "VERIFICATION_TIMEOUT", "it did not come back within 90 s"),
            failed(4, "WRONG_NETWORK", "it is back on 'Setup'"),
            failed(5, "VERIFICATION_TIMEOUT", "it came back elsewhere"),
            failed(6, "SOMETHING_NEW", "never heard of"),
            SKIPPED,
            device(8, in_allowlist=False),
        ),
        elapsed_s=83.2,
    )
    assert lines[:2] == [
        "2 verified, 4 failed, 1 skipped, in 1 min 23 s.",
        "1 not on the allowlist and left out. To add one: pi-orchestrator allowlist add MAC",
    ]
    assert lines[2].startswith("VERIFICATION_TIMEOUT: see that the target network is in reach of it")
    assert lines[3:5] == [
        "  24:6F:28:00:00:03: it did not come back within 90 s",
        "  24:6F:28:00:00:05: it came back elsewhere",
    ]
    assert lines[5].startswith("WRONG_NETWORK: is the password right?")
    assert lines[7] == "SOMETHING_NEW: see what it says; then: pi-orchestrator sessions retry MAC"
    assert len(lines) == 9


def test_a_document_says_the_same_in_numbers():
    told = document(batch(device(1, "verified"), failed(2), SKIPPED, device(4, in_allowlist=False)), elapsed_s=1.26)
    numbers = {name: told[name] for name in ("verified", "failed", "skipped", "not_in_allowlist", "seconds")}
    assert numbers == {"verified": 1, "failed": 1, "skipped": 1, "not_in_allowlist": 1, "seconds": 1.3}
    assert (told["session"], len(told["devices"])) == (SESSION, 4)


def test_a_change_is_worth_a_line_when_a_person_would_see_it():
    before = device(1, "provisioning", progress=10)
    assert fingerprint(before) == fingerprint(before | {"rssi": -70})
    for more in ({"progress": 30}, {"state": "failed"}, {"error_code": "X"}, {"retry_count": 1}):
        assert fingerprint(before) != fingerprint(before | more)
    assert change_line(before, at="12:00:00", width=80) == (
        "12:00:00  24:6F:28:00:00:01  192.168.0.1  provisioning 10 %"
    )
    assert change_line(failed(1), at="12:00:00", width=80).endswith("failed: it did not answer")
    assert change_line(device(1, "provisioning"), at="12:00:00", width=80).endswith("in line")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (7260, "2 h 1 min")],
)
def test_a_duration_is_said_as_people_say_it(seconds, said):
    assert duration(seconds) == said


# The stream.


def test_blocks_of_a_stream_become_frames():
    raw = (
        b"retry: 3000\nevent:a\ndata:{}\n\ndata:{}\n\nid:7\n\n"
        b"id:8\nevent: b\ndata: 1\ndata: 2\n\n: comment\n\nid:x\nevent:c\n\nid:9\nevent:cut\ndata:{}\n"
    )
    assert list(frames(raw.splitlines(keepends=True))) == [
        Frame("a", None, "{}"),
        Frame(None, None, "{}"),
        Frame(None, 7, None),
        Frame("b", 8, "1\n2"),
    ]


def test_only_a_named_frame_that_holds_an_object_is_an_event():
    good = '{"type":"a.b","timestamp":"2026-01-11T22:33:20Z","session_id":"s","payload":{"x":1}}'
    event = read(Frame("a.b", 7, good))
    assert (event.type, event.id, event.at[:4], event.session_id, event.payload) == ("a.b", 7, "2026", "s", {"x": 1})
    for name, data in ((None, good), ("a", None), ("a", "{"), ("a", "[]"), ("a", "1")):
        assert read(Frame(name, 7, data)) is None
    assert read(Frame("a", 7, '{"payload":null,"session_id":3}')).payload == {}


class Daemon:
    """`lines` plays one turn after another: the bytes of a stream, or an error at its end."""

    def __init__(self, *turns):
        self.turns, self.asked = list(turns), []

    def lines(self, path, **query):
        self.asked.append(query["last_event_id"])
        raw, error = self.turns.pop(0)
        yield from raw.splitlines(keepends=True)
        if error:
            raise error


AWAY = OrchestratorError("no daemon answers", code="UNREACHABLE")
REFUSED = NotFoundError("no such session", code="SESSION_NOT_FOUND")


def block(number):
    return f"id:{number}\nevent:x\ndata:{{}}\n\nid:{number}\ndata:{{}}\n\n".encode()


def test_a_stream_goes_on_from_the_last_id_after_it_was_lost_and_waits_longer_each_time():
    slept = []
    daemon = Daemon((block(1) + block(2), None), (b"", AWAY), (b"", AWAY), (block(3), None), (b"", REFUSED))
    stream = follow(daemon, "/events", after=0, sleep=slept.append)
    seen = [item.id if isinstance(item, Event) else item.reason for item in (next(stream) for _ in range(7))]
    with pytest.raises(NotFoundError):
        next(stream)
    assert daemon.asked == [0, 2, 2, 2, 3]
    assert seen == [
        *(1, 2, "the daemon has ended the stream"),
        *("no daemon answers", "no daemon answers"),
        *(3, "the daemon has ended the stream"),
    ]
    for given, low in zip(slept, (0.5, 1, 2, 0.5), strict=True):
        assert low <= given <= 2 * low


def test_a_bookmark_is_where_it_goes_on_from():
    daemon = Daemon((b"id:41\n\n", None), (b"", REFUSED))
    with pytest.raises(NotFoundError):
        list(follow(daemon, "/events", sleep=lambda _: None))
    assert daemon.asked == [None, 41]


def test_a_daemon_that_was_never_there_is_an_error_and_one_that_stays_away_becomes_one():
    with pytest.raises(OrchestratorError, match="no daemon"):
        list(follow(Daemon((b"", AWAY)), "/events", sleep=lambda _: None))
    away = Daemon((block(1), None), *[(b"", AWAY)] * 99)
    slept = []
    with pytest.raises(OrchestratorError, match="no daemon"):
        list(follow(away, "/events", patience_s=60, sleep=slept.append))
    assert 60 <= sum(slept) <= 90
    assert max(slept) <= 30


def test_too_many_listeners_are_waited_for():
    full = OrchestratorError("there are 256 streams already", code="RATE_LIMITED")
    daemon = Daemon((block(1), None), (b"", full), (block(2), None), (b"", REFUSED))
    stream = follow(daemon, "/events", sleep=lambda _: None)
    found = [next(stream) for _ in range(5)]
    assert [item.id if isinstance(item, Event) else item.reason for item in found] == [
        *(1, "the daemon has ended the stream", "there are 256 streams already"),
        *(2, "the daemon has ended the stream"),
    ]
    assert all(item.retry_in_s > 0 for item in found if isinstance(item, Lost))


class OneCamera:
    """A session whose camera is done between the first reading and the beginning of the stream."""

    def __init__(self):
        self.states = ["verifying", "verified"]
        self.over = threading.Event()

    def get(self, path):
        return {"devices": [device(1, self.states.pop(0))]} if path.endswith("/devices") else {"session": SESSION}

    def lines(self, path, **query):
        yield from (b"event:connection.established\n", b"data:{}\n", b"\n")
        self.over.wait(3)


def test_what_happened_before_the_stream_began_is_read_once_it_is_there(capsys):
    client = OneCamera()
    try:
        assert watch(client, SESSION["id"], as_json=True) == 0
    finally:
        client.over.set()
    told = capsys.readouterr()
    assert '"verified": 1' in told.out
    assert told.err == "", "it did not take the loss of the stream to find out"


# An event in a line.


def event(type_, payload, **more):
    usual = {"id": 1, "at": "2026-01-11T22:33:20.123456Z", "session_id": None, "document": {}}
    return Event(type=type_, payload=payload, **(usual | more))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            event("session.status", {"session": SESSION | {"verified_count": 1, "device_count": 3, "failed_count": 0}}),
            "01-11 22:33:20  session.status          7f9c24e5 active, 1 of 3 verified, 0 failed",
        ),
        (
            event("device.state_changed", {"mac": "M", "new_state": "failed", "progress": 30, "error": "why"}),
            "01-11 22:33:20  device.state_changed    M  failed 30 %: why",
        ),
        (
            event("device.moved", {"a": None, "b": "", "ips": ["1", 2], "deep": {}, "on": True, "mac": "M"}),
            "01-11 22:33:20  device.moved            M  ips=1,2  on=True",
        ),
        (event("session.status", {"session": None}), "01-11 22:33:20  session.status"),
        (event("x", {}, at=""), "  x"),
    ],
    ids=lambda value: value.type if isinstance(value, Event) else "",
)
def test_an_event_is_one_line(given, line):
    assert one_line(given, width=90) == line


@pytest.mark.parametrize("width", [40, 80])
def test_a_hostile_event_is_one_harmless_line(width):
    for payload in (
        {"mac": HOSTILE, HOSTILE: HOSTILE * 9},
        {"new_state": HOSTILE, "progress": HOSTILE, "error": HOSTILE},
    ):
        for type_ in (HOSTILE, "device.state_changed"):
            line = one_line(event(type_, payload, at=HOSTILE), width=width)
            assert line.isprintable()
            assert len(line) <= width
