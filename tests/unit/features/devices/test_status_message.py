"""Status messages: fields and aliases of the contract, invalid input."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.features.devices.status_message import (
    Announced,
    Status,
    is_plain_birth,
    parse_status,
    plain_will,
    topic_id,
)

MAC = "24:6F:28:B0:F7:F1"
TOPIC = f"camera/status/{MAC}"


def status(topic=TOPIC, **fields):
    return parse_status(topic, json.dumps(fields).encode())


ALIASES = [
    ("device_id", "espcam-b0f7f1", ("device_id", "id"), "espcam-b0f7f1"),
    ("ip", "192.168.10.5", ("ip", "ip_address"), "192.168.10.5"),
    ("state", "REBOOTING", ("state", "status"), Announced.REBOOTING),
    ("timestamp", "2026-01-22T15:00:00Z", ("timestamp",), "2026-01-22T15:00:00Z"),
    ("rssi_dbm", -61, ("rssi_dbm", "wifi_rssi", "rssi"), -61),
    ("free_heap_bytes", 181_000, ("free_heap_bytes", "free_heap", "heap"), 181_000),
    ("uptime_s", 93_500, ("uptime_ms",), 93.5),
    ("uptime_s", 93.5, ("uptime", "uptime_seconds"), 93.5),
    ("firmware_version", "1.4.2", ("firmware_version", "firmware", "version"), "1.4.2"),
    ("camera_initialized", True, ("camera_initialized",), True),
    ("container_id", "box-1", ("container_id",), "box-1"),
    ("ssid", "DeliCasa", ("ssid",), "DeliCasa"),
    ("resolution", "UXGA", ("resolution",), "UXGA"),
    ("last_error", "no frame", ("last_error",), "no frame"),
    ("reason", "keepalive", ("reason",), "keepalive"),
]


@pytest.mark.parametrize(
    "field, sent, name, expected",
    [(field, sent, name, expected) for field, sent, names, expected in ALIASES for name in names],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_every_alias_is_parsed(field, sent, name, expected):
    assert getattr(status(**{name: sent}), field) == expected


@pytest.mark.parametrize("name", ["mac", "mac_address"])
@pytest.mark.parametrize("spelling", ["24:6F:28:B0:F7:F1", "24-6f-28-b0-f7-f1", "246F28B0F7F1", "246f.28b0.f7f1"])
def test_mac_field_accepts_any_name_and_spelling(name, spelling):
    assert status("camera/status/espcam-b0f7f1", **{name: spelling}).mac == MAC


def test_first_alias_with_value_wins():
    assert status(rssi_dbm=None, wifi_rssi=-50, rssi=-70).rssi_dbm == -50
    assert status(uptime_ms=1000, uptime=99).uptime_s == 1.0


def test_empty_object_counts_as_online():
    assert parse_status(TOPIC, b"{}") == Status(
        topic_id=MAC, mac=MAC, device_id=None, state=Announced.ONLINE, topic=TOPIC
    )


def test_unknown_fields_are_ignored():
    assert status(brightness=3, nested={"a": [1]}, position=2, message_count=7, secure_connection=False) == status()


@pytest.mark.parametrize(
    "sent, expected",
    [
        ("ONLINE", Announced.ONLINE),
        ("online", Announced.ONLINE),
        ("OFFLINE", Announced.OFFLINE),
        ("offline", Announced.OFFLINE),
        (" Offline\n", Announced.OFFLINE),
        ("REBOOTING", Announced.REBOOTING),
        ("rebooting", Announced.REBOOTING),
        ("something else", Announced.ONLINE),
        ("", Announced.ONLINE),
        (None, Announced.ONLINE),
        (0, Announced.ONLINE),
        (["OFFLINE"], Announced.ONLINE),
    ],
)
def test_unknown_state_counts_as_online(sent, expected):
    assert status(state=sent).state is expected


@pytest.mark.parametrize(
    "fields",
    [
        {"rssi_dbm": 31},
        {"rssi_dbm": -128},
        {"rssi_dbm": "-61"},
        {"rssi_dbm": True},
        {"rssi_dbm": 10**300},
        {"rssi_dbm": -(10**300)},
        {"free_heap_bytes": -1},
        {"free_heap_bytes": 2**33},
        {"free_heap_bytes": 10**400},
        {"uptime_ms": -1},
        {"uptime": 10**400},
        {"uptime": "long"},
        {"camera_initialized": "yes"},
        {"camera_initialized": 1},
        {"ip": 3232238085},
        {"ip": ["192.168.10.5"]},
        {"device_id": "espcam/b0f7f1"},
        {"device_id": "espcam+"},
        {"device_id": "é"},
        {"device_id": "x" * 65},
        {"device_id": "a b"},
        {"device_id": 17},
        {"device_id": "\ud800"},
        {"firmware_version": {"major": 1}},
        {"last_error": "\x00\x1b\r\n"},
        {"timestamp": 1737558000},
    ],
    ids=str,
)
def test_invalid_field_is_left_out(fields):
    assert status(**fields) == status()


def test_text_fields_are_cut_and_cleaned():
    found = status(last_error="\x1b[2Jfell\r\nINFO all is well\ud800" + "x" * 500, firmware_version="v" * 100)
    assert found.last_error.startswith("[2JfellINFO all is well")
    assert found.last_error.isprintable()
    assert len(found.last_error) <= 128
    assert found.firmware_version == "v" * 64


@pytest.mark.parametrize(
    "topic, expected",
    [
        (TOPIC, MAC),
        ("camera/status/246f28b0f7f1", "246f28b0f7f1"),
        ("camera/status/espcam-b0f7f1", "espcam-b0f7f1"),
        ("camera/status/a_B-9:", "a_B-9:"),
        ("camera/status/" + "x" * 64, "x" * 64),
        (f"delicasa/box-1/camera/{MAC}/status", MAC),
    ],
)
def test_topic_names_camera(topic, expected):
    assert topic_id(topic) == expected


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/",
        "camera",
        "camera/status",
        "camera/status/",
        "camera/status/a/b",
        "camera/status/" + "x" * 65,
        "camera/status/..",
        "camera/status/a.b",
        "camera/status/+",
        "camera/status/#",
        "camera/status/a b",
        "camera/status/a\x00",
        "camera/status/a\n",
        "camera/status/é",
        "camera/status/٣",
        "camera/status/<script>",
        "camera/status/' OR 1=1",
        "delicasa/box/camera/",
        "delicasa/box/camera//status",
        "delicasa/a b/camera/AA:BB:CC:DD:EE:F0/status",
        "delicasa/box/camera/a b/status",
        "delicasa/box/camera/a/b/status",
    ],
)
def test_topic_with_bad_id_is_refused(topic):
    with pytest.raises(FieldError, match="no camera id"):
        parse_status(topic, b"{}")


def test_delicasa_topic_is_equivalent():
    fields = {"mac": MAC, "ip": "192.168.10.5", "state": "ONLINE"}
    other = status(f"delicasa/box-1/camera/{MAC}/status", **fields)
    assert replace(other, topic=TOPIC) == status(**fields)


@pytest.mark.parametrize(
    "topic, fields, mac",
    [
        ("camera/status/espcam-b0f7f1", {}, None),
        ("camera/status/espcam-b0f7f1", {"mac": MAC}, MAC),
        ("camera/status/espcam-b0f7f1", {"device_id": "246f28b0f7f1"}, MAC),
        ("camera/status/espcam-b0f7f1", {"mac": "nonsense"}, None),
        ("camera/status/espcam-b0f7f1", {"mac": "FF:FF:FF:FF:FF:FF"}, None),
        ("camera/status/246f28b0f7f1", {}, MAC),
        ("camera/status/246f28b0f7f1", {"mac": "nonsense"}, MAC),
        ("camera/status/246f28b0f7f1", {"mac": "24-6f-28-b0-f7-f1", "device_id": MAC}, MAC),
    ],
)
def test_mac_is_taken_from_payload_device_id_or_topic(topic, fields, mac):
    assert status(topic, **fields).mac == mac


@pytest.mark.parametrize(
    "fields",
    [
        {"mac": "24:6F:28:B0:F8:F2"},
        {"mac_address": "24:6F:28:B0:F8:F2"},
        {"device_id": "246F28B0F8F2"},
    ],
)
def test_message_with_two_different_macs_is_refused(fields):
    with pytest.raises(FieldError, match="names two MAC addresses, 24:6F:28:B0:F7:F1 and 24:6F:28:B0:F8:F2"):
        status(**fields)


@pytest.mark.parametrize("device_id", ["246F28B0F7F2", "f1f7b0286f24", "F0:F7:B0:28:6F:24", "246F28000010"])
def test_device_id_that_spells_other_mac_is_only_a_name(device_id):
    parsed = status(mac=MAC, device_id=device_id)
    assert (parsed.mac, parsed.device_id, parsed.has_mac) == (MAC, device_id, True)


@pytest.mark.parametrize("topic_mac", ["246F28B0F7F2", "246F28B0F7EE", "f1f7b0286f24", "F1-F7-B0-28-6F-24"])
def test_near_or_reversed_topic_mac_is_only_a_name(topic_mac):
    parsed = status(f"camera/status/{topic_mac}", mac=MAC)
    assert (parsed.mac, parsed.topic_id) == (MAC, topic_mac)


def test_mac_in_topic_alone_identifies_camera():
    parsed = status(f"camera/status/{MAC}", device_id="esp32cam")
    assert (parsed.mac, parsed.has_mac) == (MAC, False)


@pytest.mark.parametrize(
    "payload, why",
    [
        (b'{"a": "' + b"x" * 16384 + b'"}', "over the limit of 16384"),
        (b'{"device_id": "\xff"}', "not UTF-8"),
        (b"online", "not JSON"),
        (b"", "not JSON"),
        (b'["ONLINE"]', "not a JSON object"),
        (b'{"rssi": NaN}', "NaN"),
        (b'{"rssi": -Infinity}', "Infinity"),
        (b'{"uptime": 1e999}', "not finite"),
        (b'{"uptime": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a":' * 9 + b"1" + b"}" * 9, "deeper than 8 levels"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_invalid_or_too_large_payload_is_refused(payload, why):
    with pytest.raises(FieldError, match=why):
        parse_status(TOPIC, payload)


@pytest.mark.parametrize("payload", [b"offline", b"Offline", b"OFFLINE\0", b"0", b' "offline"\r\n'], ids=repr)
def test_plain_will_is_offline(payload):
    will = plain_will(TOPIC, payload)
    assert (will.state, will.mac, will.topic) == (Announced.OFFLINE, MAC, TOPIC)
    assert plain_will("camera/status/espcam-1", payload).mac is None
    assert plain_will("camera/status/a b", payload) is None


@pytest.mark.parametrize(
    "payload", [b"online", b"1", b"", b"00", b"offline now", b"{}", b'{"state":"OFFLINE"}'], ids=repr
)
def test_other_payload_is_no_plain_will(payload):
    assert plain_will(TOPIC, payload) is None
    assert is_plain_birth(payload) == (payload in (b"online", b"1"))


def test_padded_status_is_read():
    assert parse_status(TOPIC, b'\xef\xbb\xbf {"uptime": 7}\r\n\0\0').uptime_s == 7


def test_payload_at_limit_is_accepted():
    payload = b'{"pad": "' + b"x" * (16 * 1024 - 11) + b'"}'
    assert len(payload) == 16 * 1024
    assert parse_status(TOPIC, payload).mac == MAC


NAMES = [name for _, _, names, _ in ALIASES for name in names] + ["mac", "mac_address", "unknown"]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from([MAC, "246f28b0f7f2", "ONLINE", "offline", "192.168.10.5", "\ud800", "1" * 200]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
TOPICS = st.text(max_size=80) | st.sampled_from([TOPIC, "camera/status/espcam-b0f7f1", "delicasa/x/camera/y/status"])


def parsed_or_refused(topic, payload):
    try:
        found = parse_status(topic, payload)
    except FieldError:
        return
    texts = [found.ip, found.timestamp, found.firmware_version, found.ssid, found.last_error, found.reason]
    assert all(text is None or text.isprintable() for text in texts)
    assert found.rssi_dbm is None or -127 <= found.rssi_dbm <= 0


@given(TOPICS, st.binary(max_size=300))
def test_any_bytes_give_status_or_field_error(topic, payload):
    parsed_or_refused(topic, payload)


@given(TOPICS, st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8))
def test_any_values_give_status_or_field_error(topic, fields):
    parsed_or_refused(topic, json.dumps(fields).encode())
