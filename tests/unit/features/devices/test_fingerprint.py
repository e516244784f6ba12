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

SEEN = Fingerprint("esp-idf", "content-type x-lens", "camera/status/a", "a", "cam")


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("esp-idf/5.1", "esp-idf"),
        ("esp-idf-v4.4", "esp-idf"),
        ("Python/3.11 aiohttp/3.14.5", "Python"),
        ("ESP32CAM-2.1.0", "ESP32CAM"),
        ("ESP32-S3", "ESP32-S3"),
        ("Cam (2.1.0)", "Cam"),
        ("DeliCam/V2.1", "DeliCam"),
        ("DeliCam_v2.1", "DeliCam"),
        ("DeliCam/fw2.1", "DeliCam"),
        ("DeliCam2.1", "DeliCam"),
        ("DeliCam firmware 2", "DeliCam"),
        ("lwIP/2.1 build 20240101", "lwIP"),
        ("Cam v2.1.0-3-gabc123", "Cam"),
        ("Cam/abc123f", "Cam"),
        ("Cam-gabc123f-dirty", "Cam"),
        ("Cam build abc123f", "Cam"),
        ("Cam Jan 12 2025", "Cam"),
        ("Cam/facade", "Cam/facade"),
        ("2.1.0", ""),
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
    assert header_names(["X-Lens", "content-type", "x-lens"]) == "content-type x-lens"
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
        (Fingerprint(device_id="b"), ["MQTT device id 'a', now 'b'"]),
        (Fingerprint(http_device_id="b"), ["HTTP device id 'cam', now 'b'"]),
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


@pytest.mark.parametrize(
    "name", ["Date", "Content-Length", "Connection", "Keep-Alive", "Transfer-Encoding", "Last-Modified", "Expires"]
)
def test_header_that_varies_with_same_firmware_is_no_change(name):
    assert header_names(["X-Lens", name]) == header_names(["X-Lens"])


@pytest.mark.timeout(10)
def test_long_server_header_is_parsed_in_time():
    for part in (" ", "/", "v", "a", "1", "build ", "-g"):
        assert len(server_name(part * 100_000)) <= MAX_CHARS


def test_device_ids_of_mqtt_and_http_are_compared_with_their_own_kind():
    device = Device(Mac("24:6F:28:00:00:10"), address=IPv4Address("10.0.0.9"))
    device.http_fingerprint = Fingerprint(server="esp-idf", headers="x-lens", http_device_id="by-http")
    first = device.fingerprint
    assert device.fingerprint == device.http_fingerprint
    topic = "camera/status/24:6F:28:00:00:10"
    device.apply_live_status(parse_status(topic, b'{"device_id": "by-mqtt", "firmware_version": "9"}'), 1.0)
    assert device.fingerprint == Fingerprint("esp-idf", "x-lens", topic, "by-mqtt", "by-http")
    assert first.changes(device.fingerprint) == ()
