"""How a device answers: what counts as a change, and what does not."""

from ipaddress import IPv4Address

import pytest

from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.devices.fingerprint import (
    MAX_CHARS,
    UNKNOWN,
    Fingerprint,
    FingerprintChange,
    header_names,
    server_name,
)
from pi_orchestrator.features.devices.model import Device
from pi_orchestrator.features.devices.status_message import parse_status

SEEN = Fingerprint("esp-idf", "content-type x-lens", "camera/status/a", "a")


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("esp-idf/5.1", "esp-idf"),
        ("Python/3.11 aiohttp/3.14.5", "Python aiohttp"),
        ("ESP32 v2.4.1-rc1", "ESP32"),
        ("", ""),
        ("a\r\n\x1b[2Jb" + "c" * 9999, None),
    ],
)
def test_server_name_has_no_version(header, name):
    found = server_name(header)
    assert found == name or name is None
    assert len(found) <= MAX_CHARS
    assert found.isprintable()


def test_header_names_are_a_bounded_set():
    assert header_names(["X-Lens", "content-type", "Connection", "x-lens"]) == "content-type x-lens"
    assert len(header_names([f"X-Pad-{number}" for number in range(10_000)])) <= MAX_CHARS


@pytest.mark.parametrize(
    ("now", "texts"),
    [
        (SEEN, []),
        (UNKNOWN, []),
        (Fingerprint(server="nginx"), ["HTTP server 'esp-idf', now 'nginx'"]),
        (Fingerprint(server=""), ["HTTP server 'esp-idf', now 'none'"]),
        (Fingerprint(headers="content-type etag"), ["HTTP headers +etag -x-lens"]),
        (Fingerprint(topic="camera/status/b"), ["MQTT topic 'camera/status/a', now 'camera/status/b'"]),
        (Fingerprint(device_id="b"), ["device id 'a', now 'b'"]),
    ],
)
def test_changes_name_known_parts_that_differ(now, texts):
    assert [change.text for change in SEEN.changes(now)] == texts


def test_unknown_part_is_no_change_when_it_becomes_known():
    first = Fingerprint(topic="camera/status/a")
    assert first.changes(SEEN) == ()
    assert first.completed(SEEN) == SEEN
    assert Fingerprint(server="nginx").completed(SEEN).changes(SEEN) == (
        FingerprintChange("server", "nginx", "esp-idf"),
    )


def test_device_id_of_mqtt_precedes_that_of_http():
    device = Device(Mac("24:6F:28:00:00:10"), address=IPv4Address("10.0.0.9"))
    device.http_fingerprint = Fingerprint(server="esp-idf", headers="x-lens", device_id="by-http")
    assert device.fingerprint == device.http_fingerprint
    topic = "camera/status/24:6F:28:00:00:10"
    device.apply_live_status(parse_status(topic, b'{"device_id": "by-mqtt", "firmware_version": "9"}'), 1.0)
    assert device.fingerprint == Fingerprint("esp-idf", "x-lens", topic, "by-mqtt")
