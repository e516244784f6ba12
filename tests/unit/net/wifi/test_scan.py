"""WiFi scan and WiFi client, with a simulated kernel and a simulated nmcli."""

import asyncio
import errno
from ipaddress import IPv4Interface

import pytest

from pi_orchestrator.core.errors import NetworkError, RateLimitedError
from pi_orchestrator.net.kernel.links import Link
from pi_orchestrator.net.wifi import networkmanager, nl80211, radio
from pi_orchestrator.net.wifi.client import ClientState, WifiClient
from pi_orchestrator.net.wifi.networkmanager import NetworkManager
from pi_orchestrator.net.wifi.radio import Wireless
from pi_orchestrator.net.wifi.scan import WifiScan
from tests.support import programs
from tests.support.wireless import MAC, OTHER, Kernel, bss, interface, station

AP = interface()
FREE = interface("station", ssid=None, index=4, name="wlan1")
JOINED = interface("station", ssid=b"Office", index=4, name="wlan1")
LISTED_BY_BOTH = "3C:84:6A:11:22:30"
"""A BSSID that programs.WIFI_LIST, the output of nmcli, also has."""


class FakeNetlink:
    """A Netlink in which only wlan1 has an address."""

    def __init__(self, *addresses):
        self.addresses = tuple(IPv4Interface(address) for address in addresses)

    async def link(self, name):
        return Link(name, 4, None, True, True, self.addresses) if name == "wlan1" else None


@pytest.fixture
async def make_wifi(clock, monkeypatch, tmp_path):
    """`make_wifi(kernel, nmcli=script)` → (scan, client); without a script nmcli is not installed."""
    kernels = []
    monkeypatch.setattr(radio, "ANSWER_TIMEOUT_S", 0.3)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")

    def make(kernel, *, nmcli=None, addresses=("10.0.0.23/24",)):
        kernels.append(kernel)
        if nmcli is not None:
            programs.install(monkeypatch, tmp_path / "bin", nmcli=nmcli)
        parts = {"clock": clock, "wireless": Wireless(new_socket=kernel.new_socket), "manager": NetworkManager()}
        return WifiScan(**parts), WifiClient(netlink=FakeNetlink(*addresses), **parts)

    yield make
    for kernel in kernels:
        kernel.close()


async def failure_of(scan):
    with pytest.raises(NetworkError) as caught:
        await scan.networks()
    assert caught.value.retry_after_s >= 1
    assert "nmcli" in caught.value.details
    return caught.value.message.removeprefix("WiFi scan not possible: ")


async def test_scan_prefers_kernel_results(make_wifi):
    kernel = Kernel(
        interface=[AP, FREE], scan_results=[bss(LISTED_BY_BOTH, name=b"Office", MBM=-6300), bss(OTHER, name=b"New")]
    )
    scan, _ = make_wifi(kernel, nmcli=programs.NMCLI)
    found = await scan.networks()
    by_bssid = {network.bssid: (network.ssid, network.signal_dbm, network.security) for network in found}
    assert len(by_bssid) == 4
    assert by_bssid[LISTED_BY_BOTH] == ("Office", -63, "WEP"), "from the kernel"
    assert by_bssid[OTHER][0] == "New", "only from the kernel"
    assert by_bssid["3C:84:6A:11:22:40"] == ("Café :\\", -73, "Open"), "only from NetworkManager"
    assert [network.signal_dbm for network in found] == [-58, -63, -73, -88], "strongest first"


async def test_scan_without_networkmanager_uses_recent_kernel_results(make_wifi):
    old = bss(MAC, name=b"gone", seen_ms=30_001)
    kernel = Kernel(interface=[AP, FREE], scan_results=[bss(seen_ms=30_000), old])
    assert [network.bssid for network in await make_wifi(kernel)[0].networks()] == [OTHER]
    joined = Kernel(interface=[JOINED], scan_results=[bss(seen_ms=90_000, joined=True)])
    assert [network.bssid for network in await make_wifi(joined)[0].networks()] == [OTHER]
    only_old = Kernel(interface=[AP, FREE], scan_results=[old])
    assert await failure_of(make_wifi(only_old)[0]) == "NetworkManager is not installed"


async def test_scan_that_is_not_permitted_uses_listed_networks(make_wifi):
    rejecting = """case "$*" in *"rescan yes") echo 'Error: not authorized' >&2; exit 1 ;; esac"""
    scan, _ = make_wifi(Kernel(family=False), nmcli=f"{rejecting}\n{programs.NMCLI}")
    assert len(await scan.networks()) == 3
    no_networks = f'{rejecting}\ncase "$*" in *status) echo wlan1:wifi:disconnected ;; esac'
    scan, _ = make_wifi(Kernel(family=False), nmcli=no_networks)
    assert (await failure_of(scan)).endswith("; nmcli: not authorized")


async def test_scan_without_networks_is_empty(make_wifi):
    no_networks = 'case "$*" in *status) echo wlan1:wifi:disconnected ;; esac'
    assert await make_wifi(Kernel(interface=[FREE]), nmcli=no_networks)[0].networks() == []


async def test_access_point_does_not_scan(make_wifi):
    kernel = Kernel(interface=[AP], scan_results=[bss()])
    scan, _ = make_wifi(kernel, nmcli="exit 1")
    assert await failure_of(scan) == "every WiFi interface of this machine is an access point"
    assert [command for command, _, _ in kernel.requests] == [nl80211.GET_INTERFACE]


async def test_scan_failure_is_cached(make_wifi, clock, tmp_path):
    runs = tmp_path / "runs"
    scan, _ = make_wifi(Kernel(family=False), nmcli=f"echo >>{runs}; exit 9")
    reasons = {await failure_of(scan) for _ in range(3)}
    assert reasons == {"no wireless driver: this kernel has no nl80211; nmcli: exited with code 9"}
    assert len(runs.read_text()) == 1
    await clock.advance(10)
    await failure_of(scan)
    assert len(runs.read_text()) == 2


async def test_scan_rate_is_limited(make_wifi, clock, tmp_path):
    scan, _ = make_wifi(Kernel(family=False), nmcli=programs.NMCLI)
    first, second = await asyncio.gather(scan.networks(), scan.networks())
    assert first == second
    await clock.advance(9.5)
    with pytest.raises(RateLimitedError) as caught:
        await scan.networks()
    assert caught.value.retry_after_s == pytest.approx(0.5)
    await clock.advance(0.5)
    assert await scan.networks() == first


@pytest.mark.parametrize(
    "script, reason",
    [
        ("sleep 60", "nmcli did not answer within 0.3 s"),
        ("exec yes", "nmcli wrote more than 256 KiB"),
        ("head -c 1000 /dev/urandom", "NetworkManager has no usable WiFi interface (none)"),
        ("printf 'wlan1:wifi:unmanaged\\nwlan2:wifi:unavailable\\n'", "wlan1 is unmanaged, wlan2 is unavailable"),
        ("printf 'Error: bad\\033[2J\\n' >&2; exit 1", "nmcli: bad[2J"),
    ],
)
async def test_unusable_networkmanager_is_named_in_error(make_wifi, monkeypatch, script, reason):
    if "sleep" in script:
        monkeypatch.setattr(networkmanager, "ANSWER_TIMEOUT_S", 0.3)
    scan, client = make_wifi(Kernel(family=False), nmcli=script)
    assert reason in await failure_of(scan)
    assert await client.read() == ClientState("disconnected")


# WiFi client.


async def test_client_state_of_kernel_takes_precedence(make_wifi, clock, tmp_path):
    kernel = Kernel(interface=[AP, JOINED], stations=[station(OTHER, SIGNAL=-61)])
    _, client = make_wifi(kernel, nmcli=f"touch {tmp_path}/nmcli-ran")
    assert await client.read() == ClientState("connected", "Office", "10.0.0.23", -61)
    assert not (tmp_path / "nmcli-ran").exists()
    request_count = len(kernel.requests)
    await client.read()
    assert len(kernel.requests) == request_count, "the status is cached"
    await clock.advance(5)
    await client.read()
    assert len(kernel.requests) == 2 * request_count


async def test_client_without_address_is_connecting(make_wifi):
    _, client = make_wifi(Kernel(interface=[JOINED], stations=[station(OTHER)]), addresses=())
    assert await client.read() == ClientState("connecting", "Office", None, None)


async def test_client_without_network_is_disconnected(make_wifi):
    _, client = make_wifi(Kernel(interface=[AP, FREE]), nmcli=programs.NMCLI)
    assert await client.read() == ClientState("disconnected")


@pytest.mark.parametrize(
    "state, found",
    [
        ("connected", ClientState("connected", "Office", "10.0.0.23", -58)),
        ("connected (externally)", ClientState("connected", "Office", "10.0.0.23", -58)),
        ("connecting (getting IP configuration)", ClientState("connecting")),
        ("disconnected", ClientState("disconnected")),
        ("unavailable", ClientState("disconnected")),
    ],
)
async def test_client_falls_back_to_networkmanager(make_wifi, state, found):
    script = programs.NMCLI.replace("wlan1:wifi:connected", f"wlan1:wifi:{state}")
    assert await make_wifi(Kernel(family=False), nmcli=script)[1].read() == found


async def test_client_without_sources_is_disconnected_or_error(make_wifi):
    assert await make_wifi(Kernel(family=False))[1].read() == ClientState("disconnected")
    assert await make_wifi(Kernel(interface=errno.EPERM))[1].read() == ClientState("error")
    assert (await make_wifi(Kernel(interface=errno.EPERM), nmcli=programs.NMCLI)[1].read()).status == "connected"
