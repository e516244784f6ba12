"""Fault specs, addresses, MACs, spellings and command-line arguments of the simulated fleet; no network."""

import argparse
import itertools
import subprocess
import sys
from ipaddress import IPv4Address

import pytest

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.mac import Mac, may_be_same_chip, parse_mac
from pi_orchestrator.sandbox import cli
from pi_orchestrator.sandbox.camera import SimulatedCamera
from pi_orchestrator.sandbox.faults import Fault, other_mac, parse_faults, status_with_fault
from pi_orchestrator.sandbox.fleet import Fleet, make_addresses, make_macs
from pi_orchestrator.sandbox.options import CameraOptions, IdStyle, MacStyle, TopicStyle

MAC = Mac("24:6F:28:B0:F7:F1")


def camera(*, fault=None, **options):
    return SimulatedCamera(
        mac=MAC,
        address=IPv4Address("127.77.0.10"),
        options=CameraOptions(broker_host="127.0.0.1", **options),
        fault=fault,
    )


def test_parse_faults_fills_end_of_fleet():
    assert parse_faults(["slow:2", "ghost"], count=5) == [None, None, Fault.SLOW, Fault.SLOW, Fault.GHOST]
    assert parse_faults([], count=2) == [None, None]
    assert parse_faults(["slow:0"], count=1) == [None]


def test_fault_has_name_and_meaning():
    assert parse_faults(list(Fault), count=len(Fault)) == list(Fault)
    assert all(fault.meaning and "\n" not in fault.meaning for fault in Fault)
    assert len({fault.meaning for fault in Fault}) == len(Fault)


def test_unknown_fault_lists_all_faults():
    with pytest.raises(FieldError) as caught:
        parse_faults(["slwo:2"], count=5)
    assert all(fault.value in str(caught.value) for fault in Fault)


@pytest.mark.parametrize("spec", ["", ":", "slow:", "slow:-1", "slow:x", "slow:2:3", "SLOW", "slow:٢", " slow"])
def test_invalid_fault_spec_is_refused(spec):
    with pytest.raises(FieldError):
        parse_faults([spec], count=9)


def test_faults_over_count_are_refused():
    with pytest.raises(FieldError, match="more faults than cameras"):
        parse_faults(["slow:2", "close:2"], count=3)
    with pytest.raises(FieldError, match="more faults than cameras"):
        parse_faults(["slow:999999"], count=3)


def test_huge_fault_count_is_refused():
    with pytest.raises(FieldError):
        parse_faults(["slow:99999999999"], count=3)


def test_other_mac_is_valid_and_of_another_chip():
    assert parse_mac(other_mac(MAC)) == other_mac(MAC)
    assert other_mac(MAC) != MAC
    assert not may_be_same_chip(MAC, other_mac(MAC))
    assert other_mac(other_mac(MAC)) == MAC


def test_short_mac_in_topic_and_payload():
    cam = camera(fault=Fault.MAC_SHORT)
    cam.mac = cam.published_mac = "24:6F:28:08:00:04"
    assert cam.topic("command") == "camera/command/24:6F:28:8:0:4"
    assert cam.status()["mac"] == cam.http_status()["mac"] == "24:6F:28:8:0:4"


def test_short_macs_have_a_leading_zero_and_differ():
    options = CameraOptions(broker_host="127.0.0.1")
    fleet = Fleet(count=200, options=options, network="127.77.0.0/24", faults=["mac-short:150"])
    macs = [cam.mac for cam in fleet.cameras]
    assert macs[:50] == make_macs(200, seed=1)[:50]
    assert len(set(macs)) == 200
    assert all(mac[9] == "0" and parse_mac(mac) == mac for mac in macs[50:])


def test_shared_id_is_same_for_every_camera():
    simulated = camera(fault=Fault.SHARED_ID)
    assert (simulated.device_id, simulated.topic("status"), simulated.topic("command")) == (
        "esp32cam",
        "camera/status/esp32cam",
        "camera/command/esp32cam",
    )
    assert simulated.status()["mac"] == MAC


def test_reversed_id_spells_own_mac():
    simulated = camera(fault=Fault.ID_REVERSED)
    assert (simulated.device_id, simulated.topic("status")) == ("f1f7b0286f24", "camera/status/f1f7b0286f24")


def test_takeover_publishes_as_first_healthy_camera():
    fleet = Fleet(
        count=2, options=CameraOptions(broker_host="127.0.0.1"), network="127.77.0.0/16", faults=["topic-takeover"]
    )
    victim, attacker = fleet.cameras
    assert attacker.status()["mac"] == victim.mac
    assert attacker.http_status()["mac"] == attacker.mac
    assert attacker.topic("status") != victim.topic("status")


def test_takeover_needs_healthy_camera():
    with pytest.raises(FieldError, match="needs a camera without a fault"):
        Fleet(count=1, options=CameraOptions(broker_host="127.0.0.1"), faults=["topic-takeover"])


def test_status_changed_by_mac_faults_only():
    body = {"mac": MAC, "uptime": 1}
    changing = {fault for fault in Fault if status_with_fault(fault, body, mac=MAC) != body}
    assert changing == {Fault.WRONG_MAC, Fault.NO_MAC}
    assert "framesize" in status_with_fault(Fault.NO_MAC, body, mac=MAC)
    assert "mac" not in status_with_fault(Fault.NO_MAC, body, mac=MAC)


def test_second_addresses_come_after_all_first_addresses():
    options = CameraOptions(broker_host="127.0.0.1")
    fleet = Fleet(count=5, options=options, network="127.77.0.0/24", faults=["provision-moved:2", "slow"])
    assert [str(camera.address)[-2:] for camera in fleet.cameras] == ["10", "11", "12", "13", "14"]
    second = [camera.second_address and str(camera.second_address) for camera in fleet.cameras]
    assert second == [None, None, "127.77.0.15", "127.77.0.16", None]


def test_moving_camera_needs_second_address():
    with pytest.raises(FieldError, match="second address"):
        camera(fault=Fault.PROVISION_MOVED)
    with pytest.raises(FieldError, match="addresses for 245 cameras, but 246 are needed"):
        Fleet(
            count=245,
            options=CameraOptions(broker_host="127.0.0.1"),
            network="127.77.0.0/24",
            faults=["provision-moved"],
        )


def test_options_repr_hides_password():
    assert "canary" not in repr(CameraOptions(broker_host="127.0.0.1", wifi_password="canary-4711"))


def test_macs_are_repeatable_and_never_of_same_chip():
    macs = make_macs(250, seed=7)
    assert make_macs(250, seed=7) == macs
    assert make_macs(250, seed=8) != macs
    assert make_macs(10, seed=7) == macs[:10]
    assert len(set(macs)) == 250
    assert all(mac.startswith("24:6F:28:") and parse_mac(mac) == mac for mac in macs)
    numbers = sorted(int(mac.replace(":", ""), 16) for mac in macs)
    assert min(b - a for a, b in itertools.pairwise(numbers)) > 3, "an ESP32 has four consecutive MACs"


def test_addresses_skip_those_ending_in_0_or_255():
    addresses = make_addresses("127.77.0.0/16", 300)
    assert addresses[0] == IPv4Address("127.77.0.10")
    assert addresses[244:247] == [IPv4Address(f"127.77.{a}") for a in ("0.254", "1.1", "1.2")]
    assert len(make_addresses("192.168.10.0/24", 245)) == 245


@pytest.mark.parametrize("network", ["192.168.10.0/24", "127.0.0.1", "nonsense", "127.77.0.1/16", "::1/64"])
def test_invalid_or_too_small_network_is_refused(network):
    with pytest.raises(FieldError):
        make_addresses(network, 246)


@pytest.mark.parametrize(
    "style,spelling",
    [
        ("colon", "24:6F:28:B0:F7:F1"),
        ("dash", "24-6F-28-B0-F7-F1"),
        ("bare", "246F28B0F7F1"),
        ("lower", MAC.lower()),
    ],
)
def test_mac_style_in_topic_and_payload(style, spelling):
    cam = camera(mac_style=MacStyle(style))
    assert cam.topic("status") == f"camera/status/{spelling}"
    assert cam.status()["mac"] == cam.http_status()["mac"] == spelling
    assert parse_mac(spelling) == MAC


def test_mixed_style_uses_every_spelling():
    assert len({MacStyle.MIXED.spell(MAC, turn) for turn in range(8)}) == 4


def test_topic_follows_both_styles():
    cam = camera(id_style=IdStyle.DEVICE_ID)
    assert cam.device_id == "espcam-b0f7f1"
    assert cam.topic("command") == "camera/command/espcam-b0f7f1"
    assert cam.topic("response/r1") == "camera/response/r1"
    newer = camera(topic_style=TopicStyle.DELICASA, container_id="c1")
    assert newer.topic("status") == f"delicasa/c1/camera/{MAC}/status"
    assert newer.topic("response/r1") == f"delicasa/c1/camera/{MAC}/response/r1"


def parse(*arguments):
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())
    return parser.parse_args(["sandbox", "cameras", *arguments])


def test_cli_choices_match_enums():
    assert tuple(MacStyle) == cli.MAC_STYLES
    assert tuple(IdStyle) == cli.ID_STYLES
    assert tuple(TopicStyle) == cli.TOPIC_STYLES


@pytest.mark.parametrize(
    "arguments",
    [
        ["--count", "0"],
        ["--count", "many"],
        ["--broker", "localhost"],
        ["--broker", ":1883"],
        ["--broker", "localhost:99999"],
        ["--interval", "0"],
        ["--interval", "nan"],
        ["--rejoin", "0"],
        ["--duration", "-1"],
        ["--mac-style", "loud"],
    ],
)
def test_invalid_argument_exits_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(*arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--fault", "nope"],
        ["--count", "300", "--network", "127.1.1.0/24"],
        ["--ssid", "x" * 33],
        ["--ssid", ""],
        ["--ssid", "a\nb"],
    ],
)
def test_argument_refused_by_fleet_exits_2(arguments, capsys):
    args = parse(*arguments)
    assert args.func(args) == 2
    assert "sandbox:" in capsys.readouterr().err


def test_parser_loads_no_heavy_module():
    code = (
        "import argparse, sys; from pi_orchestrator.sandbox.cli import add_parser;"
        "add_parser(argparse.ArgumentParser().add_subparsers());"
        "sys.exit(bool({'aiohttp', 'aiomqtt', 'PIL', 'asyncio'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
