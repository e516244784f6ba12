"""Text view of a batch: width, order of cameras, when the batch is over; and the event stream that updates it."""

import threading

import pytest

from pi_orchestrator.cli.event_stream import Disconnected, Event, Frame, follow, parse_event, parse_frames
from pi_orchestrator.core.errors import NotFoundError, OrchestratorError
from pi_orchestrator.features.events.cli import one_line
from pi_orchestrator.features.provisioning.cli_view import (
    WatchedSession,
    camera_line,
    change_line,
    document,
    duration,
    printed_fields,
    screen,
    state_label,
    summary,
)
from pi_orchestrator.features.provisioning.cli_watch import watch

HOSTILE = "evil\x1b[2J\x9b2J\x07\u202e\ud800\n\r\t"
SESSION = {"id": "7f9c24e5-1c1b-4a57-9c0e-3b7a0d7b5f10", "state": "active"}


def device(number, state="discovered", **fields):
    defaults = {
        "mac": f"24:6F:28:00:{number >> 8:02X}:{number & 255:02X}",
        "ip": f"192.168.{number >> 8}.{number & 255}",
        "state": state,
        "progress": 0,
        "rssi": -54,
        "retry_count": 0,
        "in_allowlist": True,
    }
    return defaults | fields


def failed(number, code="DEVICE_TIMEOUT", message="it did not answer", **more):
    return device(number, "failed", error_code=code, error_message=message, progress=30, **more)


SKIPPED = failed(99, "SKIPPED", "skipped by the operator")


def batch(*devices, macs=(), **session):
    result = WatchedSession(macs=macs)
    result.replace(SESSION | session, devices)
    return result


def text(lines):
    return "\n".join(lines)


# Camera lines.


@pytest.mark.parametrize(
    ("camera", "label"),
    [
        (device(1), "discovered"),
        (device(1, in_allowlist=False), "not listed"),
        (device(1, "provisioning"), "queued"),
        (device(1, "provisioning", progress=10), "provisioning"),
        (device(1, "provisioned", progress=50), "provisioned"),
        (device(1, "verifying", progress=60), "verifying"),
        (device(1, "verified", progress=100, in_allowlist=False), "verified"),
        (failed(1), "failed"),
        (SKIPPED, "skipped"),
        ({}, "None"),
    ],
)
def test_state_label_of_every_state(camera, label):
    assert state_label(camera) == label


def test_camera_line_at_80_columns():
    line = camera_line(device(1, "verifying", progress=60, retry_count=2), width=80)
    assert line == "24:6F:28:00:00:01  192.168.0.1       -54  x2  verifying     [#######     ]  60 %"
    assert len(line) == 80


def test_camera_line_at_40_columns():
    assert camera_line(device(1, "verifying", progress=60), width=40) == "24:6F:28:00:00:01  verifying      60 %"
    assert camera_line(device(1, "verified", progress=100), width=40) == "24:6F:28:00:00:01  verified      100 %"
    assert camera_line(failed(1), width=40) == "24:6F:28:00:00:01  failed        DEVICE…"


def test_camera_line_gains_cells_with_width():
    camera = failed(1, retry_count=3)
    shown = {width: camera_line(camera, width=width) for width in range(40, 121)}
    assert all(len(line) <= width for width, line in shown.items())
    assert "192.168.0.1" not in shown[61]
    assert "192.168.0.1" in shown[62]
    assert "-54" not in shown[71]
    assert "-54  x3" in shown[72]
    assert shown[80].endswith("failed        it did not answer")


def test_long_error_is_replaced_by_its_code():
    camera = failed(1, "VERIFICATION_TIMEOUT", "it did not return within 90 s")
    assert camera_line(camera, width=80).endswith("failed        VERIFICATION_TIMEOUT")
    assert camera_line(camera, width=100).endswith("failed        it did not return within 90 s")
    assert camera_line(failed(1, None, None), width=80).endswith("no reason given")
    assert camera_line(failed(1, None, "x" * 99), width=80).endswith("xxx…")


def test_error_follows_the_bar_if_it_fits():
    camera = device(1, "provisioning", progress=10, error_message="no connection: it will be tried again")
    assert camera_line(camera, width=80).endswith("10 %")
    assert camera_line(camera, width=100).endswith("10 %  no connection: it…")


@pytest.mark.parametrize("progress", [-5, 0, 1, 50, 99, 100, 1000, None, "x", 10**30])
def test_bar_has_constant_length(progress):
    line = camera_line(device(1, "verifying", progress=progress), width=80)
    bar = line[line.index("[") : line.index("]") + 1]
    assert len(bar) == 14
    assert len(line) == 80


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_hostile_text_is_made_printable(width):
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
    shown_batch = batch(*hostile, state=HOSTILE, id=HOSTILE)
    lines = screen(shown_batch, width=width, height=50, elapsed_s=1, note=HOSTILE * 9)
    lines += [change_line(camera, at="12:00:00", width=width) for camera in hostile]
    assert [line for line in lines if len(line) > width] == []
    assert [line for line in lines if not line.isprintable()] == []


# The screen.


def test_screen_counts_and_keeps_join_order():
    shown_batch = batch(
        device(3, "verified", progress=100), failed(1), device(2, "provisioning"), SKIPPED | {"mac": "x"}
    )
    head, *lines = screen(shown_batch, width=80, height=24, elapsed_s=83.2)
    assert head == "7f9c24e5 active  1 min 23 s  1 verified, 1 skipped, 1 queued, 1 failed"
    assert [line.split()[0] for line in lines] == [camera["mac"] for camera in shown_batch.devices]
    assert screen(batch(), width=80, height=24, elapsed_s=0.04) == ["7f9c24e5 active  0.0 s  no cameras"]


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("height", [2, 3, 5, 23, 201, 202, 500])
def test_screen_fits_any_terminal(width, height):
    devices = [device(number, "verified", progress=100) for number in range(150)]
    devices += [device(number, "provisioning") for number in range(150, 194)]
    devices += [failed(number) for number in range(194, 197)]
    devices += [device(number, "verifying", progress=60) for number in range(197, 200)]
    shown_batch = batch(*devices)
    lines = screen(shown_batch, width=width, height=height, elapsed_s=1)
    assert len(lines) <= height
    assert [line for line in lines if len(line) > width] == []
    if height >= 201:
        assert len(lines) == 201
        assert [line[:17] for line in lines[1:]] == [camera["mac"] for camera in devices]
    else:
        shown = lines[1:-1]
        assert len(shown) == height - 2
        assert lines[-1].startswith(f"… and {200 - len(shown)} more: 150 verified")
        first = [camera["mac"] for camera in (*devices[197:], *devices[194:197], *devices[150:194])]
        assert [line[:17] for line in shown] == first[: height - 2]


def test_note_takes_a_line_from_the_cameras():
    shown_batch = batch(*(device(number) for number in range(9)))
    lines = screen(shown_batch, width=80, height=5, elapsed_s=1, note="no connection")
    assert len(lines) == 5
    assert lines[-2:] == ["… and 7 more: 7 discovered", "no connection"]


# State and outcome.


def test_update_applies_event_and_replace_overwrites_devices():
    shown_batch = batch(device(1), device(2))
    shown_batch.update("device.state_changed", {"device": device(1, "verifying", progress=60)})
    shown_batch.update("device.discovered", {"device": device(3)})
    shown_batch.update("session.status", {"session": SESSION | {"state": "closing"}})
    shown_batch.update("device.state_changed", {"mac": "nothing else"})
    shown_batch.update("session.status", {"session": None})
    shown_batch.update("network.status_changed", {})
    assert [state_label(camera) for camera in shown_batch.devices] == ["verifying", "discovered", "discovered"]
    assert shown_batch.session["state"] == "closing"
    shown_batch.replace(SESSION, [device(2)])
    assert shown_batch.devices == [device(2)]


def test_selected_macs_hide_other_cameras():
    shown_batch = batch(device(1, "provisioning"), device(2, "provisioning"), macs=[device(1)["mac"]])
    assert shown_batch.under_way == 1
    shown_batch.update("device.state_changed", {"device": failed(2)})
    shown_batch.update("device.state_changed", {"device": device(1, "verified")})
    assert (shown_batch.is_over, shown_batch.exit_code, len(shown_batch.devices)) == (True, 0, 1)


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
def test_batch_without_work_is_over(devices, code):
    shown_batch = batch(*devices)
    assert (shown_batch.is_over, shown_batch.exit_code) == (True, code)
    assert document(shown_batch, elapsed_s=1.26)["outcome"] == "done"


@pytest.mark.parametrize("state", ["provisioning", "provisioned", "verifying"])
def test_batch_with_work_is_not_over(state):
    assert not batch(device(1, "verified"), device(2, state)).is_over
    assert not batch(device(2, state), state="closing").is_over
    assert batch(device(2, state), state="paused").exit_code == 1


@pytest.mark.parametrize(
    ("session", "outcome", "words"),
    [
        ({"state": "paused"}, "paused", "The session is paused: nothing new is started. To continue: pi-orchestrator"),
        ({"state": "paused", "interrupted": True}, "interrupted", "A restart of the daemon interrupted the session."),
        ({"state": "closed", "ending": "expired"}, "expired", "The session has expired."),
        ({"state": "closed", "ending": "discarded"}, "discarded", "The session was discarded."),
        ({"state": "closed", "ending": "closed"}, "closed", "The session was closed."),
        ({"state": "closed"}, "closed", "The session was closed."),
    ],
)
def test_stopped_session_ends_the_batch(session, outcome, words):
    shown_batch = batch(device(1, "verifying"), **session)
    assert shown_batch.is_over
    lines = summary(shown_batch, elapsed_s=1)
    assert lines[0].startswith(words)
    assert "1 not finished" in text(lines)
    assert "To continue" in text(lines)
    assert (document(shown_batch, elapsed_s=1)["outcome"], document(shown_batch, elapsed_s=1)["not_finished"]) == (
        outcome,
        1,
    )


def test_summary_has_counts_and_advice():
    lines = summary(
        batch(
            device(1, "verified"),
            device(2, "verified"),
            failed(3, "VERIFICATION_TIMEOUT", "it did not return within 90 s"),
            failed(4, "WRONG_NETWORK", "it is back on 'Setup'"),
            failed(5, "VERIFICATION_TIMEOUT", "it came back elsewhere"),
            failed(6, "SOMETHING_NEW", "unknown failure"),
            SKIPPED,
            device(8, in_allowlist=False),
        ),
        elapsed_s=83.2,
    )
    assert lines[:2] == [
        "2 verified, 4 failed, 1 skipped, in 1 min 23 s.",
        "1 not provisioned: not on the allowlist. To add one: pi-orchestrator allowlist add MAC",
    ]
    assert lines[2].startswith("VERIFICATION_TIMEOUT: check that it can reach the target network")
    assert lines[3:5] == [
        "  24:6F:28:00:00:03: it did not return within 90 s",
        "  24:6F:28:00:00:05: it came back elsewhere",
    ]
    assert lines[5].startswith("WRONG_NETWORK: check the password")
    assert lines[7] == "SOMETHING_NEW: see the messages below; then: pi-orchestrator sessions retry MAC"
    assert len(lines) == 9


def test_document_has_the_same_counts():
    result = document(batch(device(1, "verified"), failed(2), SKIPPED, device(4, in_allowlist=False)), elapsed_s=1.26)
    numbers = {name: result[name] for name in ("verified", "failed", "skipped", "not_in_allowlist", "seconds")}
    assert numbers == {"verified": 1, "failed": 1, "skipped": 1, "not_in_allowlist": 1, "seconds": 1.3}
    assert (result["session"], len(result["devices"])) == (SESSION, 4)


def test_fingerprint_changes_with_shown_fields():
    before = device(1, "provisioning", progress=10)
    assert printed_fields(before) == printed_fields(before | {"rssi": -70})
    for more in ({"progress": 30}, {"state": "failed"}, {"error_code": "X"}, {"retry_count": 1}):
        assert printed_fields(before) != printed_fields(before | more)
    assert change_line(before, at="12:00:00", width=80) == (
        "12:00:00  24:6F:28:00:00:01  192.168.0.1  provisioning 10 %"
    )
    assert change_line(failed(1), at="12:00:00", width=80).endswith("failed: it did not answer")
    assert change_line(device(1, "provisioning"), at="12:00:00", width=80).endswith("queued")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (7260, "2 h 1 min")],
)
def test_duration_is_readable(seconds, expected):
    assert duration(seconds) == expected


# The event stream.


def test_stream_blocks_become_frames():
    raw = (
        b"retry: 3000\nevent:a\ndata:{}\n\ndata:{}\n\nid:7\n\n"
        b"id:8\nevent: b\ndata: 1\ndata: 2\n\n: comment\n\nid:x\nevent:c\n\nid:9\nevent:cut\ndata:{}\n"
    )
    assert list(parse_frames(raw.splitlines(keepends=True))) == [
        Frame("a", None, "{}"),
        Frame(None, None, "{}"),
        Frame(None, 7, None),
        Frame("b", 8, "1\n2"),
    ]


def test_event_needs_a_name_and_an_object():
    good = '{"type":"a.b","timestamp":"2026-01-11T22:33:20Z","session_id":"s","payload":{"x":1}}'
    event = parse_event(Frame("a.b", 7, good))
    assert (event.type, event.id, event.at[:4], event.session_id, event.payload) == ("a.b", 7, "2026", "s", {"x": 1})
    for name, data in ((None, good), ("a", None), ("a", "{"), ("a", "[]"), ("a", "1")):
        assert parse_event(Frame(name, 7, data)) is None
    assert parse_event(Frame("a", 7, '{"payload":null,"session_id":3}')).payload == {}


class Daemon:
    """Fake daemon: each call of `lines` plays the next turn, the bytes of a stream and an optional error."""

    def __init__(self, *turns):
        self.turns, self.requested_ids = list(turns), []

    def lines(self, path, **query):
        self.requested_ids.append(query["last_event_id"])
        raw, error = self.turns.pop(0)
        yield from raw.splitlines(keepends=True)
        if error:
            raise error


UNREACHABLE = OrchestratorError("no daemon answers", code="UNREACHABLE")
REFUSED = NotFoundError("no such session", code="SESSION_NOT_FOUND")


def block(number):
    return f"id:{number}\nevent:x\ndata:{{}}\n\nid:{number}\ndata:{{}}\n\n".encode()


def test_lost_stream_resumes_with_backoff():
    slept = []
    daemon = Daemon(
        (block(1) + block(2), None), (b"", UNREACHABLE), (b"", UNREACHABLE), (block(3), None), (b"", REFUSED)
    )
    stream = follow(daemon, "/events", after=0, sleep=slept.append)
    seen = [item.id if isinstance(item, Event) else item.reason for item in (next(stream) for _ in range(7))]
    with pytest.raises(NotFoundError):
        next(stream)
    assert daemon.requested_ids == [0, 2, 2, 2, 3]
    assert seen == [
        *(1, 2, "the daemon closed the stream"),
        *("no daemon answers", "no daemon answers"),
        *(3, "the daemon closed the stream"),
    ]
    for delay, low in zip(slept, (0.5, 1, 2, 0.5), strict=True):
        assert low <= delay <= 2 * low


def test_lost_stream_resumes_after_id_without_event():
    daemon = Daemon((b"id:41\n\n", None), (b"", REFUSED))
    with pytest.raises(NotFoundError):
        list(follow(daemon, "/events", sleep=lambda _: None))
    assert daemon.requested_ids == [None, 41]


def test_unreachable_daemon_is_an_error():
    with pytest.raises(OrchestratorError, match="no daemon"):
        list(follow(Daemon((b"", UNREACHABLE)), "/events", sleep=lambda _: None))
    unreachable = Daemon((block(1), None), *[(b"", UNREACHABLE)] * 99)
    slept = []
    with pytest.raises(OrchestratorError, match="no daemon"):
        list(follow(unreachable, "/events", retry_limit_s=60, sleep=slept.append))
    assert 60 <= sum(slept) <= 90
    assert max(slept) <= 30


@pytest.mark.parametrize(
    ("first", "answered"),
    [((b"", None), False), ((b"", UNREACHABLE), True)],
    ids=["closes the stream", "does not answer"],
)
def test_restart_before_first_frame_is_retried(first, answered):
    daemon = Daemon(first, (b"", UNREACHABLE), (block(3), None), (b"", REFUSED))
    stream = follow(daemon, "/events", after=2, answered=answered, sleep=lambda _: None)
    assert [type(next(stream)) for _ in range(3)] == [Disconnected, Disconnected, Event]
    assert daemon.requested_ids == [2, 2, 2]


def test_rate_limited_stream_is_retried():
    full = OrchestratorError("the limit of 256 streams is reached", code="RATE_LIMITED")
    daemon = Daemon((block(1), None), (b"", full), (block(2), None), (b"", REFUSED))
    stream = follow(daemon, "/events", sleep=lambda _: None)
    found = [next(stream) for _ in range(5)]
    assert [item.id if isinstance(item, Event) else item.reason for item in found] == [
        *(1, "the daemon closed the stream", "the limit of 256 streams is reached"),
        *(2, "the daemon closed the stream"),
    ]
    assert all(item.retry_in_s > 0 for item in found if isinstance(item, Disconnected))


class SingleCamera:
    """A session whose camera is verified between the first read and the start of the stream."""

    def __init__(self):
        self.states = ["verifying", "verified"]
        self.over = threading.Event()

    def get(self, path):
        return {"devices": [device(1, self.states.pop(0))]} if path.endswith("/devices") else {"session": SESSION}

    def lines(self, path, **query):
        yield from (b"event:connection.established\n", b"data:{}\n", b"\n")
        self.over.wait(3)


def test_state_is_read_on_stream_start(capsys):
    client = SingleCamera()
    try:
        assert watch(client, SESSION["id"], as_json=True) == 0
    finally:
        client.over.set()
    output = capsys.readouterr()
    assert '"verified": 1' in output.out
    assert output.err == "", "the stream was not lost"


# Events as lines.


def event(type_, payload, **fields):
    defaults = {"id": 1, "at": "2026-01-11T22:33:20.123456Z", "session_id": None, "document": {}}
    return Event(type=type_, payload=payload, **(defaults | fields))


@pytest.mark.parametrize(
    ("shown", "line"),
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
def test_event_is_one_line(shown, line):
    assert one_line(shown, width=90) == line


@pytest.mark.parametrize("width", [40, 80])
def test_hostile_event_is_one_printable_line(width):
    for payload in (
        {"mac": HOSTILE, HOSTILE: HOSTILE * 9},
        {"new_state": HOSTILE, "progress": HOSTILE, "error": HOSTILE},
    ):
        for type_ in (HOSTILE, "device.state_changed"):
            line = one_line(event(type_, payload, at=HOSTILE), width=width)
            assert line.isprintable()
            assert len(line) <= width
