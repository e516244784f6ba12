"""Logs: secrets are masked, no value can start a line of its own, and this holds for library logs, too."""

import io
import json
import logging
import os

import pytest

from pi_orchestrator.core.logging import configure, get_logger, mask_text, redact_entry
from pi_orchestrator.core.redaction import MASK

CANARY = "canary-7f3a9c1e"


@pytest.fixture
def logged():
    """`logged(write)` configures logging, calls `write` with a logger, and returns the written text."""
    out = io.StringIO()

    def run(write, *, style="json", level="debug"):
        configure(level=level, style=style, stream=out)
        out.truncate(0)
        out.seek(0)
        write(get_logger("pi_orchestrator.net.mqtt"))
        return out.getvalue()

    return run


@pytest.mark.parametrize(
    "name",
    ["password", "mqtt_password", "Password", "secret", "session_secret", "token", "api_key", "apikey", "X-API-Key",
     "Authorization", "cookie", "Set-Cookie", "psk", "wifi_psk"],
)  # fmt: skip
@pytest.mark.parametrize("value", [CANARY, CANARY.encode(), [CANARY], {"deep": CANARY}, 12345])
def test_secret_field_is_masked(name, value):
    assert redact_entry(None, "info", {name: value}) == {name: MASK}


@pytest.mark.parametrize("value", [None, "", True, False])
def test_empty_secret_field_is_not_masked(value):
    assert redact_entry(None, "info", {"api_key": value}) == {"api_key": value}


def test_nested_secret_is_masked():
    event = {
        "settings": {"mqtt": {"password": CANARY, "port": 1883}, "list": [{"token": CANARY}, ("x", {"psk": CANARY})]}
    }
    redacted = redact_entry(None, "info", event)
    assert CANARY not in str(redacted)
    assert redacted["settings"]["mqtt"]["port"] == 1883


@pytest.mark.parametrize(
    "text, expected",
    [
        (f"GET /stream?api_key={CANARY}&types=a", "GET /stream?api_key=***&types=a"),
        (f"/x?API_KEY={CANARY}", "/x?API_KEY=***"),
        (f"/x?a=1&token={CANARY} HTTP/1.1", "/x?a=1&token=*** HTTP/1.1"),
        (f"mqtt_password={CANARY}", "mqtt_password=***"),
        (f"key={CANARY}", "key=***"),
        ("monkey=banana", "monkey=banana"),
        (f'{{"password": "{CANARY}", "ssid": "net"}}', '{"password": "***", "ssid": "net"}'),
        (f"{{'password': '{CANARY}'}}", "{'password': '***'}"),
        (f"mqtt://pi:{CANARY}@broker:1883/x", "mqtt://***@broker:1883/x"),
        ("http://192.168.10.5:80/status", "http://192.168.10.5:80/status"),
        ("auth.api_key: shorter than 8 characters", "auth.api_key: shorter than 8 characters"),
        ("it waits for a token", "it waits for a token"),
    ],
)
def test_secret_in_text_is_masked(text, expected):
    assert mask_text(text) == expected
    assert redact_entry(None, "info", {"url": text, "items": [text]}) == {"url": expected, "items": [expected]}


HOSTILE = "ok\r\n2026-01-01T00:00:00Z [info] all is well\x1b[2K\x1b]0;title\x07\x00\x7f\x85\u0090"


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize(
    "write",
    [
        lambda log: log.warning("seen", device_id=HOSTILE),
        lambda log: log.warning(HOSTILE),
        lambda log: log.warning("seen", fields={"a": [HOSTILE]}),
        lambda log: log.warning("seen", payload=HOSTILE.encode("utf-8", "replace")),
        lambda log: log.warning("seen %s", HOSTILE),
        lambda log: logging.getLogger("library").warning("from %s", HOSTILE),
    ],
    ids=["field", "event", "nested", "bytes", "argument", "library"],
)
def test_control_characters_are_escaped(logged, style, write):
    text = logged(write, style=style)
    assert text.endswith("\n")
    line = text[:-1]
    assert not [char for char in line if ord(char) < 32 or 127 <= ord(char) < 160]
    assert "all is well" in line, "the text is shown, escaped"


def fail():
    raise ValueError(f"camera said\r{HOSTILE} password={CANARY}")


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize("through_library", [False, True])
def test_traceback_is_redacted(logged, style, through_library):
    def write(log):
        try:
            fail()
        except ValueError:
            if through_library:
                logging.getLogger("library").exception("it broke")
            else:
                log.exception("it broke")

    text = logged(write, style=style)
    trace = json.loads(text)["exception"] if style == "json" else text
    assert "ValueError: camera said" in trace
    assert "in fail" in trace
    assert CANARY not in text
    assert not [char for char in trace if (ord(char) < 32 and char != "\n") or 127 <= ord(char) < 160]
    assert style == "console" or text.count("\n") == 1


def test_json_lines_are_valid(logged):
    lines = logged(lambda log: [log.info("one", mac="24:6F:28:B0:F7:F1", ünit=3), log.error("two")]).splitlines()
    first, second = map(json.loads, lines)
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "one",
        "level": "info",
        "component": "net.mqtt",
        "mac": "24:6F:28:B0:F7:F1",
        "ünit": 3,
    }
    assert second["level"] == "error"


def test_library_line_names_component(logged):
    line = json.loads(logged(lambda _: logging.getLogger("aiohttp.server").error("it broke")))
    assert (line["component"], line["level"], line["event"]) == ("aiohttp.server", "error", "it broke")


@pytest.mark.parametrize(
    "level, ours, theirs",
    [
        ("debug", "debug info warning error", "info warning error"),
        ("info", "info warning error", "warning error"),
        ("warning", "warning error", "warning error"),
        ("error", "error", "error"),
    ],
)
def test_level_is_lowest_written(logged, level, ours, theirs):
    def write(log):
        library = logging.getLogger("library")
        for name in ("debug", "info", "warning", "error"):
            getattr(log, name)("ours")
            getattr(library, name)("theirs")

    entries = [json.loads(line) for line in logged(write, level=level).splitlines()]
    assert " ".join(entry["level"] for entry in entries if entry["event"] == "ours") == ours
    assert " ".join(entry["level"] for entry in entries if entry["event"] == "theirs") == theirs


def test_journal_lines_start_with_priority(logged, monkeypatch):
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")

    def write(log):
        for name in ("debug", "info", "warning", "error", "critical"):
            getattr(log, name)("x")
        logging.getLogger("library").warning("x")

    assert [line[:4] for line in logged(write).splitlines()] == ["<7>{", "<6>{", "<4>{", "<3>{", "<2>{", "<4>{"]


def test_auto_style_without_terminal_is_json(logged):
    assert json.loads(logged(lambda log: log.info("x"), style="auto"))["event"] == "x"


@pytest.mark.parametrize("style", ["json", "console"])
def test_logging_to_closed_pipe_is_ignored(style):
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        configure(level="info", style=style, stream=stream)
        os.close(reading)
        for _ in range(3):
            get_logger("pi_orchestrator.app").info("x")
            logging.getLogger("library").warning("x")
