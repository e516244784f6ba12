"""The network around: broker, gateway, WiFi and Tailscale, as they are and where they are not there."""

import asyncio

import pytest

from pi_orchestrator.net import wifi_scan
from tests.support import programs
from tests.support.waiting import eventually

NO_RADIO = "no wireless driver: this kernel has no nl80211"


@pytest.fixture
def scans_are_limited(monkeypatch):
    monkeypatch.undo()
    assert wifi_scan.EACH_S == 10


async def test_the_broker_is_told_with_a_latency_that_was_measured_and_without_a_secret(world):
    secrets = {"username": "the-user", "password": "a-secret"}
    async with world.daemon(mqtt=secrets) as running:
        (told, again) = [(await running.api.get("/api/v1/network/mqtt")).data for _ in range(2)]
        assert told == again, "nobody is asked twice in a moment"
        assert told.keys() == {"connected", "broker", "port", "clientId", "latency_ms"}
        assert (told["connected"], told["broker"]) == (True, world.broker.host)
        assert (told["port"], told["clientId"]) == (world.broker.port, "pi-orchestrator")
        assert 0 < told["latency_ms"] < 1000
        await world.broker.stop()
        await eventually(lambda: not running.services.mqtt.connected)
        gone = (await running.api.get("/api/dashboard/mqtt/status")).json
        assert gone == {**told, "connected": False, "latency_ms": 0.0}


async def test_a_broker_that_hangs_is_not_waited_for(world):
    async with world.daemon() as running:
        world.broker.freeze()
        try:
            async with asyncio.timeout(4):
                answers = await asyncio.gather(*(running.api.get("/api/v1/network/mqtt") for _ in range(20)))
        finally:
            world.broker.thaw()
        assert {answer.data["latency_ms"] for answer in answers} == {1000.0}


async def test_there_is_no_gateway_and_that_is_said(daemon):
    nothing = {"configured": False, "connected": False, "url": ""}
    assert (await daemon.api.get("/api/v1/network/bridge")).data == {"status": nothing}
    assert (await daemon.api.get("/api/dashboard/bridge/status")).json == {"status": nothing, "success": True}


async def test_the_network_that_was_joined_is_told_by_networkmanager(daemon):
    status = (await daemon.api.get("/api/v1/wifi/status")).data["status"]
    assert status == {
        "client_status": "connecting",  # there is no wlan1 here, and so no address
        "client_ssid": "Office",
        "client_signal": -58,
        "ap_status": "inactive",
        "connected_devices": 0,
    }


async def test_networks_around_are_told_by_networkmanager_strongest_first(daemon):
    told = (await daemon.api.get("/api/wifi/scan")).json
    assert told.keys() == {"count", "networks"}
    assert told["count"] == 3
    assert told["networks"][0] == {
        "ssid": "Office",
        "bssid": "3C:84:6A:11:22:30",
        "frequency": 2437,
        "signal": -58,
        "security": "WPA2/WPA3",
        "channel": 6,
        "quality": 70,
    }
    assert [network["signal"] for network in told["networks"]] == [-58, -73, -88]


async def test_a_scan_is_shared_and_the_next_one_has_to_wait(world, tmp_path, monkeypatch, scans_are_limited):
    runs = tmp_path / "runs"
    programs.install(monkeypatch, tmp_path / "more", nmcli=f'echo "$*" >>{runs}\nsleep 0.3\n{programs.NMCLI}')
    async with world.daemon(connected=False) as running:
        paths = ["/api/v1/wifi/scan", "/api/wifi/scan"] * 5
        answers = await asyncio.gather(*(running.api.get(path) for path in paths))
        assert {answer.status for answer in answers} == {200}
        assert len({str(answer.json.get("data", answer.json)) for answer in answers}) == 1
        assert sum("--rescan yes" in line for line in runs.read_text().splitlines()) == 1
        refused = await running.api.get("/api/wifi/scan")
        assert (refused.status, refused.json["code"]) == (429, "RATE_LIMITED")
        assert 1 <= int(refused.headers["Retry-After"]) <= 10
        assert refused.json["error"]["retry_after_seconds"] == int(refused.headers["Retry-After"])
        assert refused.headers["Link"] == '</api/v1/wifi/scan>; rel="successor-version"'


@pytest.mark.parametrize(
    "script, reason",
    [
        ("echo 'Error: NetworkManager is not running.' >&2; exit 8", "nmcli: NetworkManager is not running."),
        ("exit 3", "nmcli: ended with code 3"),
        ("echo wlan0:wifi:unavailable", "NetworkManager has no WiFi interface of use (wlan0 is unavailable)"),
        ("echo eth0:ethernet:connected", "NetworkManager has no WiFi interface of use (none)"),
        ("head -c 300000 /dev/zero", "nmcli wrote more than 256 KiB"),
    ],
)
async def test_where_nobody_can_look_the_reason_and_the_remedy_are_told(
    world, tmp_path, monkeypatch, scans_are_limited, script, reason
):
    programs.install(monkeypatch, tmp_path / "broken", nmcli=script)
    async with world.daemon(connected=False) as running:
        for _ in range(2):
            refused = await running.api.get("/api/v1/wifi/scan")
            assert (refused.status, refused.json["code"]) == (503, "NETWORK_ERROR")
            assert refused.json["error"]["message"].endswith(f"{NO_RADIO}; {reason}")
            assert "nmcli" in refused.json["error"]["details"]
            assert 1 <= int(refused.headers["Retry-After"]) <= 10
        status = (await running.api.get("/api/wifi/status")).json["status"]
        assert (status["client_status"], status["ap_status"]) == ("disconnected", "inactive")


async def test_without_any_of_these_programs_nothing_is_made_up(world, monkeypatch, scans_are_limited, tmp_path):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    async with world.daemon(connected=False) as running:
        refused = await running.api.get("/api/v1/wifi/scan")
        assert refused.json["error"]["message"].endswith(f"{NO_RADIO}; NetworkManager is not installed")
        for path in ("/api/v1/network/tailscale", "/api/dashboard/tailscale/status"):
            absent = await running.api.get(path)
            assert (absent.status, absent.json["code"]) == (404, "NOT_FOUND")


async def test_tailscale_is_told_without_what_could_log_somebody_in(daemon):
    told = await daemon.api.get("/api/dashboard/tailscale/status")
    assert told.json == {
        "backend_state": "Running",
        "tailscale_ip": "100.101.102.103",
        "hostname": "pi-kitchen",
        "peers": [
            {"id": "nOffice", "hostname": "office", "tailscale_ip": "100.101.102.104", "online": True},
            {"id": "nPhone", "hostname": "phone", "tailscale_ip": "", "online": False},
        ],
    }
    assert b"secret" not in told.body


@pytest.mark.parametrize(
    "script, reason",
    [
        ("echo 'failed to connect to local tailscaled' >&2; exit 1", "failed to connect to local tailscaled"),
        ("exit 7", "tailscale ended with code 7"),
        ("echo nonsense", "not JSON"),
        ("echo '{}'", "names no state"),
        ("echo '[]'", "not a JSON object"),
        ("head -c 2000000 /dev/zero", "wrote more than 1024 KiB"),
    ],
)
async def test_a_tailscale_that_makes_no_sense_is_an_error_with_its_reason(
    world, tmp_path, monkeypatch, script, reason
):
    programs.install(monkeypatch, tmp_path / "programs", tailscale=script)
    async with world.daemon(connected=False) as running:
        refused = await running.api.get("/api/v1/network/tailscale")
        assert (refused.status, refused.json["code"]) == (503, "NETWORK_ERROR")
        assert reason in refused.json["error"]["message"]


async def test_everything_at_once(daemon):
    told = (await daemon.api.get("/api/v1/network")).data
    assert told.keys() == {"interfaces", "wifi", "mqtt", "bridge"}
    loopback = next(one for one in told["interfaces"] if one["name"] == "lo")
    assert (loopback["up"], loopback["serves_cameras"]) == (True, True)
    assert "127.0.0.1/8" in loopback["addresses"]


async def test_paths_of_other_daemons_are_not_there_and_say_so_in_json(daemon):
    for path in ("door/status", "door/history", "inventory/latest", "evidence/pair", "bluetooth/devices"):
        for prefix in ("/api", "/api/v1", "/api/dashboard"):
            for method in ("GET", "POST"):
                absent = await daemon.api.call(method, f"{prefix}/{path}", headers={"Accept": "text/html"})
                assert (absent.status, absent.json["code"]) == (404, "NOT_FOUND")
