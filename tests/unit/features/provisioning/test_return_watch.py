"""Evidence of a camera's return, from status messages, addresses and times."""

from ipaddress import IPv4Address, IPv4Network

import pytest

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.devices.model import Device
from pi_orchestrator.features.devices.status_message import Announced, Status
from pi_orchestrator.features.provisioning.return_watch import (
    RECONNECT_S,
    SETTLED_S,
    ListeningTime,
    check_target_address,
    confirms_return,
    report_since,
)
from pi_orchestrator.features.provisioning.session_device import Sent

MAC = Mac("24:6F:28:B0:F7:F1")
BOOT, HOME_IP, TARGET_IP, TARGET = "boot-1", "192.168.10.21", "192.168.20.9", "Target-Net"
SENT = Sent(HOME_IP, BOOT, 100.0)


def report(*, received_at=101.0, sent=SENT, address=None, connected_at=0.0, **fields):
    message = Status(str(MAC), MAC, None, Announced.ONLINE, **fields)
    seen = Device(MAC, last_status=message, last_message_at=received_at, mqtt_session_since=connected_at)
    return report_since(sent, seen, address, boot_id=BOOT)


def test_message_before_send_is_no_evidence():
    assert report(received_at=100.0, ssid=TARGET, ip=TARGET_IP) is None


def test_missing_message_is_no_evidence():
    assert report_since(SENT, Device(MAC), IPv4Address(TARGET_IP), boot_id=BOOT) is None


def test_any_message_after_reboot_is_evidence():
    before = report(received_at=5.0, sent=Sent(HOME_IP, "boot-0", 100.0), ssid=TARGET, ip=TARGET_IP)
    assert before.return_address(TARGET) == TARGET_IP


@pytest.mark.parametrize(
    "fields, address, expected",
    [
        ({"ssid": TARGET, "ip": TARGET_IP}, None, TARGET_IP),
        ({"ssid": TARGET, "ip": HOME_IP}, None, HOME_IP),
        ({"ssid": TARGET}, IPv4Address(TARGET_IP), TARGET_IP),
        ({"ssid": TARGET}, None, None),
        ({"ssid": "Home-AP", "ip": TARGET_IP}, None, None),
        ({"ip": TARGET_IP}, None, TARGET_IP),
        ({"ip": HOME_IP}, None, None),
    ],
    ids=[
        "named",
        "named-same-address",
        "observed",
        "no-address",
        "other-network",
        "unnamed-moved",
        "unnamed-not-moved",
    ],
)
def test_return_address_needs_evidence(fields, address, expected):
    assert report(address=address, **fields).return_address(TARGET) == expected


@pytest.mark.parametrize(
    "change, expected",
    [
        ({}, "Home-AP"),
        ({"uptime_s": None}, None),
        ({"uptime_s": 60.0}, None),
        ({"connected_at": 130.0 - SETTLED_S + 0.1}, None),
        ({"ssid": TARGET}, None),
        ({"ssid": None, "ip": HOME_IP}, None),
    ],
    ids=["rebooted", "uptime-unknown", "not-rebooted", "not-settled", "target", "unnamed"],
)
def test_wrong_network_is_reported_only_after_reboot(change, expected):
    fields = {"received_at": 130.0, "uptime_s": 10.0, "connected_at": 120.0, "ssid": "Home-AP", "ip": HOME_IP} | change
    assert report(**fields).wrong_network(TARGET, 130.0) == expected


@pytest.mark.parametrize(
    "ssid, has_moved, has_reported, expected",
    [
        (TARGET, False, False, True),
        ("Home-AP", True, True, False),
        (None, True, False, True),
        (None, False, True, True),
        (None, False, False, False),
    ],
)
def test_answer_confirms_return(ssid, has_moved, has_reported, expected):
    assert confirms_return(ssid, TARGET, has_moved=has_moved, has_reported=has_reported) is expected


def test_address_outside_target_networks_is_refused():
    networks = (IPv4Network("192.168.10.0/24"), IPv4Network("192.168.20.0/24"))
    check_target_address(TARGET_IP, networks, own=frozenset(), allow_loopback=False)
    with pytest.raises(FieldError, match="target_subnets"):
        check_target_address("192.168.30.1", networks, own=frozenset(), allow_loopback=False)
    with pytest.raises(FieldError):
        check_target_address(TARGET_IP, networks, own=frozenset({IPv4Address(TARGET_IP)}), allow_loopback=False)


def test_listening_time_stops_without_broker():
    """Of the 10 s, 4 s pass before the broker is disconnected; the rest counts from 60 s on, after the reconnect."""
    listening = ListeningTime(10.0, 0.0)
    listening.advance(4.0, is_connected=True)
    listening.advance(50.0, is_connected=False)
    listening.advance(50.0 + RECONNECT_S - 0.1, is_connected=True)
    assert listening.left_s > 0
    listening.advance(60.0, is_connected=True)
    listening.advance(65.0, is_connected=True)
    assert listening.left_s > 0
    listening.advance(66.0, is_connected=True)
    assert listening.left_s <= 0
