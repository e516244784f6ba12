"""Fault specs, addresses, MACs and spellings of the simulated fleet: all pure."""

import argparse
import subprocess
import sys
from ipaddress import IPv4Address

import pytest

from pi_orchestrator.cli import sandbox as command
from pi_orchestrator.domain.mac import Mac, is_near, parse_mac
from pi_orchestrator.errors import FieldError
from pi_orchestrator.sandbox.camera import SimulatedCamera
from pi_orchestrator.sandbox.faults import Fault, bend_status, other_mac, parse_faults
from pi_orchestrator.sandbox.fleet import Fleet, make_addresses, make_macs
from pi_orchestrator.sandbox.options import CameraOptions, IdStyle, MacStyle, TopicStyle

MAC = Mac("24:6F:28:B0:F7:F1")


def camera(**options) -> SimulatedCamera:
    return SimulatedCamera(
        mac=MAC,
        address=IPv4Address("127.77.0.10"),
        options=CameraOptions(broker_host="127.0.0.1", **options),
    )


def test_specs_fill_the_end_of_the_fleet_in_their_order():
    assert parse_faults(["slow:2", "ghost"], count=5) == [None, None, Fault.SLOW, Fault.SLOW, Fault.GHOST]
    assert parse_faults([], count=2) == [None, None]
    assert parse_faults(["slow:0"], count=1) == [None]


def test_every_fault_has_a_name_and_a_meaning():
    assert parse_faults(list(Fault), count=len(Fault)) == list(Fault)
    assert all(fault.meaning and "\n" not in fault.meaning for fault in Fault)
    assert len({fault.meaning for fault in Fault}) == len(Fault)


def test_an_unknown_fault_lists_the_known_ones():
    with pytest.raises(FieldError) as caught:
        parse_faults(["slwo:2"], count=5)
    assert all(fault.value in str(caught.value) for fault in Fault)


@pytest.mark.parametrize("spec", ["", ":", "slow:", "slow:-1", "slow:x", "slow:2:3", "SLOW", "slow:٢", " slow"])
def test_a_broken_spec_is_refused(spec):
    with pytest.raises(FieldError):
        parse_faults([spec], count=9)


def test_more_faults_than_cameras_are_refused_without_making_them():
    with pytest.raises(FieldError, match="more faults than cameras"):
        parse_faults(["slow:2", "close:2"], count=3)
    with pytest.raises(FieldError, match="more faults than cameras"):
        parse_faults(["slow:999999"], count=3)


def test_a_huge_count_does_not_parse():
    with pytest.raises(FieldError):
        parse_faults(["slow:99999999999"], count=3)


def test_the_wrong_mac_is_a_device_and_not_a_near_one():
    assert parse_mac(other_mac(MAC)) == other_mac(MAC) != MAC
    assert not is_near(MAC, other_mac(MAC))
    assert other_mac(other_mac(MAC)) == MAC


def test_only_the_faults_of_the_body_bend_it():
    body = {"mac": MAC, "uptime": 1}
    bent = {fault for fault in Fault if bend_status(fault, body, mac=MAC) != body}
    assert bent == {Fault.WRONG_MAC, Fault.NO_MAC}
    assert "framesize" in bend_status(Fault.NO_MAC, body, mac=MAC)
    assert "mac" not in bend_status(Fault.NO_MAC, body, mac=MAC)


def test_those_that_move_have_a_second_address_after_all_the_first_ones():
    options = CameraOptions(broker_host="127.0.0.1")
    fleet = Fleet(count=5, options=options, network="127.77.0.0/24", faults=["provision-moved:2", "slow"])
    assert [str(camera.address)[-2:] for camera in fleet.cameras] == ["10", "11", "12", "13", "14"]
    second = [camera.second_address and str(camera.second_address) for camera in fleet.cameras]
    assert second == [None, None, "127.77.0.15", "127.77.0.16", None]


def test_a_camera_that_moves_needs_an_address_to_go_to():
    with pytest.raises(FieldError, match="second address"):
        camera_with(Fault.PROVISION_MOVED)
    with pytest.raises(FieldError, match="room for 245 cameras, not for 246"):
        Fleet(
            count=245,
            options=CameraOptions(broker_host="127.0.0.1"),
            network="127.77.0.0/24",
            faults=["provision-moved"],
        )


def camera_with(fault):
    options = CameraOptions(broker_host="127.0.0.1")
    return SimulatedCamera(mac=MAC, address=IPv4Address("127.77.0.10"), options=options, fault=fault)


def test_options_do_not_show_the_password_that_they_know():
    assert "canary" not in repr(CameraOptions(broker_host="127.0.0.1", wifi_password="canary-4711"))


def test_macs_are_repeatable_espressif_and_apart():
    macs = make_macs(250, seed=7)
    assert macs == make_macs(250, seed=7) != make_macs(250, seed=8)
    assert make_macs(10, seed=7) == macs[:10]
    assert len(set(macs)) == 250
    assert all(mac.startswith("24:6F:28:") and parse_mac(mac) == mac for mac in macs)
    numbers = sorted(int(mac.replace(":", ""), 16) for mac in macs)
    assert min(b - a for a, b in zip(numbers, numbers[1:], strict=False)) > 3


def test_addresses_count_up_and_skip_what_looks_like_a_network_or_a_broadcast():
    addresses = make_addresses("127.77.0.0/16", 300)
    assert addresses[0] == IPv4Address("127.77.0.10")
    assert addresses[244:247] == [IPv4Address(f"127.77.{a}") for a in ("0.254", "1.1", "1.2")]
    assert len(make_addresses("192.168.10.0/24", 245)) == 245


@pytest.mark.parametrize("network", ["192.168.10.0/24", "127.0.0.1", "nonsense", "127.77.0.1/16", "::1/64"])
def test_a_network_that_is_none_or_too_small_is_refused(network):
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
def test_a_style_spells_topic_and_payload(style, spelling):
    cam = camera(mac_style=MacStyle(style))
    assert cam.topic("status") == f"camera/status/{spelling}"
    assert cam.status()["mac"] == cam.http_status()["mac"] == spelling
    assert parse_mac(spelling) == MAC


def test_mixed_takes_every_spelling_in_turn():
    assert len({MacStyle.MIXED.spell(MAC, turn) for turn in range(8)}) == 4


def test_topics_by_id_and_topic_style():
    cam = camera(id_style=IdStyle.DEVICE_ID)
    assert cam.device_id == "espcam-b0f7f1"
    assert cam.topic("command") == "camera/command/espcam-b0f7f1"
    assert cam.topic("response/r1") == "camera/response/r1"
    newer = camera(topic_style=TopicStyle.DELICASA, container_id="c1")
    assert newer.topic("status") == f"delicasa/c1/camera/{MAC}/status"
    assert newer.topic("response/r1") == f"delicasa/c1/camera/{MAC}/response/r1"


def parse(*words):
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return parser.parse_args(["sandbox", "cameras", *words])


def test_the_command_knows_the_styles():
    assert tuple(MacStyle) == command.MAC_STYLES
    assert tuple(IdStyle) == command.ID_STYLES
    assert tuple(TopicStyle) == command.TOPIC_STYLES


@pytest.mark.parametrize(
    "words",
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
def test_bad_arguments_end_with_code_2(words, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(*words)
    assert caught.value.code == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--fault", "nope"],
        ["--count", "300", "--network", "127.1.1.0/24"],
        ["--ssid", "x" * 33],
        ["--ssid", ""],
        ["--ssid", "a\nb"],
    ],
)
def test_arguments_that_only_the_fleet_can_judge_end_with_code_2_too(words, capsys):
    args = parse(*words)
    assert args.func(args) == 2
    assert "sandbox:" in capsys.readouterr().err


def test_the_parser_loads_neither_aiohttp_nor_mqtt():
    code = (
        "import argparse, sys; from pi_orchestrator.cli.sandbox import add_parser;"
        "add_parser(argparse.ArgumentParser().add_subparsers());"
        "sys.exit(bool({'aiohttp', 'aiomqtt', 'PIL', 'asyncio'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
