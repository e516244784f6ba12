"""Looking for WiFi networks, and which one was joined: by a stand-in kernel and a stand-in nmcli."""

import asyncio
import errno
from ipaddress import IPv4Interface

import pytest

from pi_orchestrator.errors import NetworkError, RateLimitedError
from pi_orchestrator.net import networkmanager, wireless
from pi_orchestrator.net.links import Link
from pi_orchestrator.net.networkmanager import NetworkManager
from pi_orchestrator.net.wifi_client import Client, WifiClient
from pi_orchestrator.net.wifi_scan import WifiScan
from pi_orchestrator.net.wireless import Wireless
from tests.support import programs
from tests.support.wireless import MAC, OTHER, Kernel, bss, interface, station

AP = interface()
FREE = interface("station", ssid=None, index=4, name="wlan1")
JOINED = interface("station", ssid=b"Office", index=4, name="wlan1")
LISTED_TOO = "3C:84:6A:11:22:30"  # by programs.LISTED


class Links:
    """The one interface that has an address."""

    def __init__(self, *addresses):
        self.addresses = tuple(IPv4Interface(address) for address in addresses)

    async def link(self, name):
        return Link(name, 4, None, True, True, self.addresses) if name == "wlan1" else None


@pytest.fixture
async def around(clock, monkeypatch, tmp_path):
    """`around(kernel, nmcli=script)` → a scan and a client; without a script there is no nmcli."""
    kernels = []
    monkeypatch.setattr(wireless, "ANSWER_WITHIN_S", 0.3)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")

    def make(kernel, *, nmcli=None, addresses=("10.0.0.23/24",)):
        kernels.append(kernel)
        if nmcli is not None:
            programs.install(monkeypatch, tmp_path / "bin", nmcli=nmcli)
        make.log = tmp_path / "log"
        parts = {"clock": clock, "wireless": Wireless(new_socket=kernel.new_socket), "manager": NetworkManager()}
        return WifiScan(**parts), WifiClient(netlink=Links(*addresses), **parts)

    yield make
    for kernel in kernels:
        kernel.close()


async def why(scan):
    with pytest.raises(NetworkError) as caught:
        await scan.networks()
    assert caught.value.retry_after_s >= 1
    assert "nmcli" in caught.value.details
    return caught.value.message.removeprefix("WiFi networks cannot be looked for: ")


async def test_what_the_kernel_measured_stands_before_what_networkmanager_tells(around):
    kernel = Kernel(interface=[AP, FREE], heard=[bss(LISTED_TOO, name=b"Office", MBM=-6300), bss(OTHER, name=b"New")])
    scan, _ = around(kernel, nmcli=programs.NMCLI)
    found = await scan.networks()
    told = {network.bssid: (network.ssid, network.signal_dbm, network.security) for network in found}
    assert len(told) == 4
    assert told[LISTED_TOO] == ("Office", -63, "WEP"), "by the kernel"
    assert told[OTHER][0] == "New", "by the kernel alone"
    assert told["3C:84:6A:11:22:40"] == ("Café :\\", -73, "Open"), "by NetworkManager alone"
    assert [network.signal_dbm for network in found] == [-58, -63, -73, -88], "strongest first"


async def test_without_networkmanager_only_what_was_heard_lately_counts(around):
    old = bss(MAC, name=b"gone", seen_ms=30_001)
    kernel = Kernel(interface=[AP, FREE], heard=[bss(seen_ms=30_000), old])
    assert [network.bssid for network in await around(kernel)[0].networks()] == [OTHER]
    joined = Kernel(interface=[JOINED], heard=[bss(seen_ms=90_000, joined=True)])
    assert [network.bssid for network in await around(joined)[0].networks()] == [OTHER]
    silent = Kernel(interface=[AP, FREE], heard=[old])
    assert await why(around(silent)[0]) == "NetworkManager is not installed"


async def test_a_networkmanager_that_may_not_look_still_tells_what_it_heard_by_itself(around):
    refusal = """case "$*" in *"rescan yes") echo 'Error: not authorized' >&2; exit 1 ;; esac"""
    scan, _ = around(Kernel(family=False), nmcli=f"{refusal}\n{programs.NMCLI}")
    assert len(await scan.networks()) == 3
    nothing = f'{refusal}\ncase "$*" in *status) echo wlan1:wifi:disconnected ;; esac'
    scan, _ = around(Kernel(family=False), nmcli=nothing)
    assert (await why(scan)).endswith("; nmcli: not authorized")


async def test_an_empty_neighbourhood_is_an_answer_where_somebody_looked(around):
    nothing = 'case "$*" in *status) echo wlan1:wifi:disconnected ;; esac'
    assert await around(Kernel(interface=[FREE]), nmcli=nothing)[0].networks() == []


async def test_a_radio_that_serves_the_cameras_is_not_made_to_look_elsewhere(around):
    kernel = Kernel(interface=[AP], heard=[bss()])
    scan, _ = around(kernel, nmcli="exit 1")
    assert await why(scan) == "each radio of this machine serves an access point"
    assert [command for command, _, _ in kernel.asked] == [5]


async def test_a_failure_is_remembered_as_long_as_an_answer_would_be(around, clock, tmp_path):
    runs = tmp_path / "runs"
    scan, _ = around(Kernel(family=False), nmcli=f"echo >>{runs}; exit 9")
    reasons = {await why(scan) for _ in range(3)}
    assert reasons == {"no wireless driver: this kernel has no nl80211; nmcli: ended with code 9"}
    assert len(runs.read_text()) == 1
    await clock.advance(10)
    await why(scan)
    assert len(runs.read_text()) == 2


async def test_at_most_one_scan_in_ten_seconds_counted_from_its_beginning(around, clock, tmp_path):
    scan, _ = around(Kernel(family=False), nmcli=programs.NMCLI)
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
        ("head -c 1000 /dev/urandom", "NetworkManager has no WiFi interface of use (none)"),
        ("printf 'wlan1:wifi:unmanaged\\nwlan2:wifi:unavailable\\n'", "wlan1 is unmanaged, wlan2 is unavailable"),
        ("printf 'Error: bad\\033[2J\\n' >&2; exit 1", "nmcli: bad[2J"),
    ],
)
async def test_a_networkmanager_that_is_of_no_use_is_a_reason(around, monkeypatch, script, reason):
    if "sleep" in script:
        monkeypatch.setattr(networkmanager, "ANSWER_WITHIN_S", 0.3)
    scan, client = around(Kernel(family=False), nmcli=script)
    assert reason in await why(scan)
    assert await client.read() == Client("disconnected")


# The network that was joined.


async def test_the_kernel_tells_what_was_joined_without_asking_anybody_else(around, clock, tmp_path):
    kernel = Kernel(interface=[AP, JOINED], stations=[station(OTHER, SIGNAL=-61)])
    _, client = around(kernel, nmcli=f"touch {tmp_path}/asked")
    assert await client.read() == Client("connected", "Office", "10.0.0.23", -61)
    assert not (tmp_path / "asked").exists()
    asked = len(kernel.asked)
    await client.read()
    assert len(kernel.asked) == asked, "and not at every look"
    await clock.advance(5)
    await client.read()
    assert len(kernel.asked) == 2 * asked


async def test_a_network_that_gave_no_address_yet_is_not_connected(around):
    _, client = around(Kernel(interface=[JOINED], stations=[station(OTHER)]), addresses=())
    assert await client.read() == Client("connecting", "Office", None, None)


async def test_a_radio_that_serves_or_is_free_has_joined_nothing(around):
    _, client = around(Kernel(interface=[AP, FREE]), nmcli=programs.NMCLI)
    assert await client.read() == Client("disconnected")


@pytest.mark.parametrize(
    "state, found",
    [
        ("connected", Client("connected", "Office", "10.0.0.23", -58)),
        ("connected (externally)", Client("connected", "Office", "10.0.0.23", -58)),
        ("connecting (getting IP configuration)", Client("connecting")),
        ("disconnected", Client("disconnected")),
        ("unavailable", Client("disconnected")),
    ],
)
async def test_where_the_kernel_knows_of_no_radio_networkmanager_is_asked(around, state, found):
    script = programs.NMCLI.replace("wlan1:wifi:connected", f"wlan1:wifi:{state}")
    assert await around(Kernel(family=False), nmcli=script)[1].read() == found


async def test_it_is_an_error_only_where_nobody_can_tell(around):
    assert await around(Kernel(family=False))[1].read() == Client("disconnected")
    assert await around(Kernel(interface=errno.EPERM))[1].read() == Client("error")
    assert (await around(Kernel(interface=errno.EPERM), nmcli=programs.NMCLI)[1].read()).status == "connected"
