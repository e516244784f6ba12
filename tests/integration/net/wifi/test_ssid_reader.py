"""SSID of the access point from radio, settings, hostapd and NetworkManager."""

import os

import pytest

from pi_orchestrator.net.wifi.ssid_reader import Ssid, SsidReader
from tests.support.unprivileged import unprivileged

HOTSPOT = "[connection]\ninterface-name={interface}\n[wifi]\nmode=ap\nssid={ssid}\n[wifi-security]\npsk=very secret\n"


@pytest.fixture
def root(tmp_path):
    for folder in ("hostapd", "NetworkManager/system-connections"):
        (tmp_path / "etc" / folder).mkdir(parents=True)
    (tmp_path / "run/NetworkManager/system-connections").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def reader(root):
    return SsidReader(interface="wlan0", root=root)


def hostapd(root, name="hostapd.conf", *, interface="wlan0", ssid="by-hostapd"):
    path = root / "etc/hostapd" / name
    path.write_text(f"interface={interface}\nwpa_passphrase=very secret\nssid={ssid}\n")
    return path


def hotspot(root, name="Hotspot", *, interface="wlan0", ssid="by-nm", folder="etc"):
    path = root / folder / f"NetworkManager/system-connections/{name}.nmconnection"
    text = HOTSPOT.format(interface=interface, ssid=ssid)
    path.write_text(text if interface else text.replace("interface-name=\n", ""))
    return path


async def test_sources_are_used_in_fixed_order(root):
    hotspot(root)
    reader = SsidReader(interface="wlan0", root=root)
    assert await reader.read() == Ssid("by-nm", "networkmanager")
    hostapd(root)
    assert await reader.read() == Ssid("by-hostapd", "hostapd")
    configured = SsidReader(interface="wlan0", configured="by-settings", root=root)
    assert await configured.read() == Ssid("by-settings", "settings")
    assert await configured.read(radio="by-radio") == Ssid("by-radio", "radio")
    assert configured.reason is None


@pytest.mark.parametrize("name", ["hostapd.conf", "wlan0.conf", "hostapd-wlan0.conf"])
async def test_hostapd_file_is_found(root, reader, name):
    hostapd(root, name)
    assert await reader.read() == Ssid("by-hostapd", "hostapd")


async def test_other_interface_is_ignored(root, reader):
    hostapd(root, interface="wlan1")
    hotspot(root, interface="wlan1")
    assert await reader.read() is None
    assert reader.reason == "no SSID from the radio, ap.ssid, hostapd or NetworkManager"
    hotspot(root, "second", ssid="ours")
    assert await reader.read() == Ssid("ours", "networkmanager")
    assert reader.reason is None


@pytest.mark.parametrize("folder", ["etc", "run"])
async def test_networkmanager_folder_is_found(root, reader, folder):
    hotspot(root, folder=folder)
    assert await reader.read() == Ssid("by-nm", "networkmanager")


async def test_single_unbound_hotspot_is_used(root, reader):
    hotspot(root, "free", interface="", ssid="free")
    assert await reader.read() == Ssid("free", "networkmanager")
    hotspot(root, "other", interface="", ssid="other")
    assert await reader.read() is None
    hotspot(root, "bound", ssid="bound")
    assert await reader.read() == Ssid("bound", "networkmanager")


async def test_unreadable_files_are_the_reason(root, reader):
    paths = [hostapd(root), hotspot(root)]
    for path in paths:
        path.chmod(0)
    unprivileged()
    assert await reader.read() is None
    assert all(f"{path}: permission denied" in reader.reason for path in paths)
    assert "secret" not in reader.reason


async def test_unreadable_folder_is_ignored(root, reader):
    hotspot(root)
    folder = root / "etc/NetworkManager/system-connections"
    folder.chmod(0)
    unprivileged()
    assert await reader.read() is None
    folder.chmod(0o755)
    assert await reader.read() == Ssid("by-nm", "networkmanager")


async def test_missing_folders_are_the_reason(tmp_path):
    reader = SsidReader(interface="wlan0", root=tmp_path / "nothing")
    assert await reader.read() is None
    assert reader.reason is not None


async def test_special_and_huge_files_are_bounded(root, reader):
    (root / "etc/hostapd/hostapd.conf").symlink_to("/dev/zero")
    os.mkfifo(root / "etc/hostapd/wlan0.conf")
    big = hostapd(root, "hostapd-wlan0.conf")
    big.write_bytes(b"#" * 5_000_000 + b"\n" + big.read_bytes())
    connections = root / "etc/NetworkManager/system-connections"
    for number in range(200):
        (connections / f"{number:03}.nmconnection").write_bytes(b"\xff\x00[wifi\n" * 10)
    assert await reader.read() is None
    assert "not a regular file" in reader.reason


async def test_interface_name_is_no_path(root):
    hostapd(root, "hostapd.conf", interface="..", ssid="up")
    assert await SsidReader(interface="..", root=root).read() == Ssid("up", "hostapd")
    assert await SsidReader(interface="a\0b", root=root).read() is None
