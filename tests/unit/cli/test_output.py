"""Text for terminals: width, and characters that must not be printed."""

import json

import pytest

from pi_orchestrator.cli.output import age, print_json, print_json_line, table, wrapped
from pi_orchestrator.features.cameras.cli_text import HEADERS as CAMERA_HEADERS
from pi_orchestrator.features.cameras.cli_text import card as camera_card
from pi_orchestrator.features.cameras.cli_text import row
from pi_orchestrator.features.discovery.cli_text import card, device_table, remarks
from pi_orchestrator.features.system.cli_logs import format_record

HOSTILE = "evil\x1b[2J\x9b2J\x07\u202e\ud800\U000e0001"


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def device(number, **fields):
    view = {
        "mac_address": f"24:6F:28:00:00:{number:02X}",
        "ip_address": f"192.168.100.{number}",
        "ip_addresses": [f"192.168.100.{number}"],
        "status": "online",
        "why": "answered ARP 2 s ago",
        "hostname": "",
        "vendor": "Espressif Inc.",
        "signal_strength": 0,
        "registered": False,
        "locally_administered": False,
        "near": [],
        "conflict": [],
        "notes": [],
        "evidence": [{"source": "arp", "proves_life": True, "age_seconds": 2.0, "detail": "answered"}],
    }
    return view | fields


def everything(**fields):
    """A device with the longest value of every field."""
    sources = ("arp", "neighbour", "station", "lease", "mdns", "mqtt", "probe", "record")
    evidence = [
        {"source": source, "proves_life": True, "age_seconds": 1.0, "ip_address": "192.168.100.200"}
        | {"detail": HOSTILE * 9, "host_name": HOSTILE}
        for source in sources
    ]
    return device(
        200,
        vendor=HOSTILE * 5,
        hostname=HOSTILE * 9,
        signal_strength=-100,
        status="rebooting",
        is_camera=True,
        evidence=evidence,
        **fields,
    )


@pytest.mark.parametrize("width", [40, 80, 99, 100, 200])
def test_device_table_lines_fit_and_are_printable(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    hostile = everything(conflict=["24:6F:28:00:00:01"], why=HOSTILE * 9, device_id=HOSTILE, firmware_version=HOSTILE)
    for text in (device_table([hostile, device(7)]), card(hostile), *remarks([hostile])):
        assert [line for line in text.split("\n") if len(line) > width or not line.isprintable()] == []


def test_widest_table_fits_80_columns():
    head, row, other = device_table([everything(), device(7)]).split("\n")
    assert head.split() == ["MAC", "ADDRESS", "VENDOR", "SIGNAL", "SOURCES", "STATE"]
    assert row.startswith("24:6F:28:00:00:C8  192.168.100.200  evil?…  -100    arp,neigh…  ")
    assert row.endswith("rebooting camera")
    assert other.split() == ["24:6F:28:00:00:07", "192.168.100.7", "Espre…", "-", "arp", "online"]


def test_names_are_shown_if_they_fit(monkeypatch):
    assert "NAME" not in device_table([device(1, hostname="a-name")])
    monkeypatch.setenv("COLUMNS", "100")
    assert device_table([device(1, hostname="a-name")]).split("\n")[1].endswith("  a-name")
    assert "NAME" not in device_table([device(1)])


def test_conflict_is_one_sentence_for_all_devices():
    first = device(1, conflict=["24:6F:28:00:00:02"])
    second = device(2, ip_address="192.168.100.1", conflict=["24:6F:28:00:00:01"])
    multihomed = device(3, ip_addresses=["192.168.100.3", "192.168.100.4"])
    assert [" ".join(text.split()) for text in remarks([first, second, multihomed, device(5)])] == [
        "Conflict: 192.168.100.1 is claimed by 24:6F:28:00:00:01 and 24:6F:28:00:00:02; it is assigned to no device.",
        "24:6F:28:00:00:03 has several addresses: 192.168.100.3, 192.168.100.4.",
    ]


@pytest.mark.parametrize(
    "seconds, text",
    [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (172_800, "2 d")],
)
def test_age_uses_the_largest_suitable_unit(seconds, text):
    assert age(seconds) == text


def test_columns_shrink_in_turn_then_last_is_cut():
    rows = [("a" * 30, "b" * 30, "c" * 30)]
    assert table(("A", "B", "C"), rows, width=94) == f"{'A':30}  {'B':30}  C\n{'a' * 30}  {'b' * 30}  {'c' * 30}"
    assert table(("A", "B", "C"), rows, width=84, shrink=(1, 0)).split("\n")[1] == (
        f"{'a' * 30}  {'b' * 19}…  {'c' * 30}"
    )
    assert table(("A", "B", "C"), rows, width=60, shrink=(1, 0)).split("\n")[1] == f"{'a' * 19}…  bbbbb…  {'c' * 30}"
    assert len(table(("A", "B", "C"), rows, width=40, shrink=(1, 0)).split("\n")[1]) == 40


def test_json_output_is_printable_and_decodes_to_the_value(capsys):
    value = {"name": HOSTILE, "ok": "grün → 你好"}
    print_json(value)
    print_json_line(value)
    document, line = capsys.readouterr().out.rsplit("\n", 2)[:2]
    assert json.loads(document) == json.loads(line) == value
    assert line.isprintable()
    assert document.replace("\n", "").isprintable()
    assert "grün → 你好" in document


def test_wrapped_text_keeps_its_indent():
    full = "  " + " ".join(["word"] * 15)
    assert wrapped("word " * 30 + "\x1b", indent="  ").split("\n") == [full, f"{full} ?"]


def test_table_cuts_long_text_or_wraps_it_with_flow():
    rows = [("deny", "fail", "it was replaced by another (by admin); pair it manually, or lift the exclusion")]
    cut = table(("RULE", "RESULT", "WHY"), rows, width=60)
    assert [len(line) <= 60 for line in cut.splitlines()] == [True, True]
    assert cut.endswith("…")
    whole = table(("RULE", "RESULT", "WHY"), rows, width=60, flow=True).splitlines()
    assert max(map(len, whole)) <= 60
    assert " ".join(line[14:].strip() for line in whole[1:]) == rows[0][2]
    assert all(line.startswith(" " * 14) for line in whole[2:]), "continuation lines are indented to their column"


def test_whole_words_keeps_long_words():
    path = "/" + "x" * 100
    assert wrapped(f"error: {path} cannot be written", whole_words=True).splitlines()[1] == path
    assert max(map(len, wrapped(path).splitlines())) == 80


def camera(**fields):
    health = {"wifi_rssi": -63, "uptime_seconds": 195, "free_heap": 115869, "last_capture": "2026-01-02T03:04:05.6Z"}
    view = {
        "device_id": "espcam-204f88",
        "name": "Hall left",
        "mac_address": "24:6F:28:20:4F:88",
        "ip_address": "192.168.100.11",
        "status": "rebooting",
        "container_id": "auto-onboard-2",
        "position": 3,
        "health": health,
    }
    return view | fields


@pytest.mark.parametrize("width", [40, 80, 200])
def test_camera_table_lines_fit_and_are_printable(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    hostile = camera(name=HOSTILE * 5, container_id="x" * 64, health={"last_error": HOSTILE * 9})
    for text in (table(CAMERA_HEADERS, [row(hostile), row(camera())]), camera_card(hostile, why=HOSTILE * 9)):
        assert max(map(len, text.splitlines())) <= width
        assert text.replace("\n", "").isprintable()
    if width == 80:
        assert "  1 hall" in table(CAMERA_HEADERS, [row(camera(name="n" * 64, container_id="hall", position=1))])


def test_camera_card_shows_its_details():
    assert table(CAMERA_HEADERS, [row(camera())]).splitlines()[1].split() == [
        *("Hall", "left", "24:6F:28:20:4F:88", "rebooting", "192.168.100.11", "-63", "3", "auto-onboard-2"),
    ]
    text = camera_card(camera(), why="published on MQTT 4 s ago")
    for line in ("position      3 auto-onboard-2", "last picture  2026-01-02 03:04:05 UTC", "running for   3 min"):
        assert line in text.splitlines()
    assert text.endswith("\n\nWhy: published on MQTT 4 s ago.")
    assert "Why" not in camera_card(camera(), why="")


def logged(**fields):
    return {"timestamp": "2026-01-02T03:04:05Z", "level": "info", "component": "net.mqtt", "message": "hello"} | {
        "fields": fields
    }


def test_long_log_line_continues_below():
    assert format_record(logged(host="127.0.0.1"), width=80) == [
        "01-02 03:04:05  INFO   net.mqtt              hello  host=127.0.0.1"
    ]
    head, below = format_record(logged(one="x" * 30, two="y" * 30, three="z" * 30), width=80)
    assert head.endswith("  hello")
    assert below.split() == ["one=" + "x" * 30, "two=" + "y" * 30, "three=" + "z" * 30]
    for width in (40, 80):
        text = "\n".join(format_record(logged(evil=HOSTILE * 900) | {"message": HOSTILE * 9}, width=width))
        assert len(text.splitlines()) <= 6
        assert text.replace("\n", "").isprintable()
