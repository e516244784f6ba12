"""The network API: broker, gateway, WiFi and Tailscale, available and missing."""

import asyncio

import pytest

from pi_orchestrator.net.wifi import scan as wifi_scan
from tests.support import programs
from tests.support.waiting import HANG_S, eventually

pytestmark = pytest.mark.usefixtures("documented_answers")

NO_RADIO = "no wireless driver: this kernel has no nl80211"


@pytest.fixture
def scans_are_limited(monkeypatch):
    """Undo `documented_answers`, with which every request may scan for WiFi networks again at once."""
    monkeypatch.undo()
    assert wifi_scan.MIN_INTERVAL_S == 10


async def test_broker_status_has_latency_and_no_secret(rig):
    secrets = {"username": "the-user", "password": "a-secret"}
    async with rig.daemon(mqtt=secrets) as running:
        (first, second) = [(await running.api.get("/api/v1/network/mqtt")).data for _ in range(2)]
        assert first == second, "the measurement is reused"
        assert first.keys() == {"connected", "broker", "port", "clientId", "latency_ms"}
        assert (first["connected"], first["broker"]) == (True, rig.broker.host)
        assert (first["port"], first["clientId"]) == (rig.broker.port, "pi-orchestrator")
        assert 0 < first["latency_ms"] < 1000
        await rig.broker.stop()
        await eventually(lambda: not running.app.resources.mqtt.connected)
        disconnected = (await running.api.get("/api/dashboard/mqtt/status")).json
        assert disconnected == {**first, "connected": False, "latency_ms": 0.0}


async def test_hanging_broker_does_not_delay_answer(rig):
    async with rig.daemon() as running:
        rig.broker.freeze()
        try:
            async with asyncio.timeout(HANG_S):
                answers = await asyncio.gather(*(running.api.get("/api/v1/network/mqtt") for _ in range(20)))
        finally:
            rig.broker.thaw()
        assert {answer.data["latency_ms"] for answer in answers} == {1000.0}


async def test_gateway_is_reported_as_not_configured(daemon):
    bridge = {"configured": False, "connected": False, "url": ""}
    assert (await daemon.api.get("/api/v1/network/bridge")).data == {"status": bridge}
    assert (await daemon.api.get("/api/dashboard/bridge/status")).json == {"status": bridge, "success": True}


async def test_joined_network_is_read_from_networkmanager(daemon):
    status = (await daemon.api.get("/api/v1/wifi/status")).data["status"]
    assert status == {
        "client_status": "connecting",  # this machine has no wlan1, so there is no address
        "client_ssid": "Office",
        "client_signal": -58,
        "ap_status": "inactive",
        "connected_devices": 0,
    }


async def test_scan_lists_networks_strongest_first(daemon):
    data = (await daemon.api.get("/api/wifi/scan")).json
    assert data.keys() == {"count", "networks"}
    assert data["count"] == 3
    assert data["networks"][0] == {
        "ssid": "Office",
        "bssid": "3C:84:6A:11:22:30",
        "frequency": 2437,
        "signal": -58,
        "security": "WPA2/WPA3",
        "channel": 6,
        "quality": 70,
    }
    assert [network["signal"] for network in data["networks"]] == [-58, -73, -88]


async def test_concurrent_scans_are_shared_and_next_is_limited(rig, tmp_path, monkeypatch, scans_are_limited):
    runs = tmp_path / "runs"
    programs.install(monkeypatch, tmp_path / "more", nmcli=f'echo "$*" >>{runs}\nsleep 0.3\n{programs.NMCLI}')
    async with rig.daemon(connected=False) as running:
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
        ("exit 3", "nmcli: exited with code 3"),
        ("echo wlan0:wifi:unavailable", "NetworkManager has no usable WiFi interface (wlan0 is unavailable)"),
        ("echo eth0:ethernet:connected", "NetworkManager has no usable WiFi interface (none)"),
        ("head -c 300000 /dev/zero", "nmcli wrote more than 256 KiB"),
    ],
)
async def test_failed_scan_reports_reason_and_remedy(rig, tmp_path, monkeypatch, scans_are_limited, script, reason):
    programs.install(monkeypatch, tmp_path / "broken", nmcli=script)
    async with rig.daemon(connected=False) as running:
        for _ in range(2):
            refused = await running.api.get("/api/v1/wifi/scan")
            assert (refused.status, refused.json["code"]) == (503, "NETWORK_ERROR")
            assert refused.json["error"]["message"].endswith(f"{NO_RADIO}; {reason}")
            assert "nmcli" in refused.json["error"]["details"]
            assert 1 <= int(refused.headers["Retry-After"]) <= 10
        status = (await running.api.get("/api/wifi/status")).json["status"]
        assert (status["client_status"], status["ap_status"]) == ("disconnected", "inactive")


async def test_missing_programs_are_reported(rig, monkeypatch, scans_are_limited, tmp_path):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    async with rig.daemon(connected=False) as running:
        refused = await running.api.get("/api/v1/wifi/scan")
        assert refused.json["error"]["message"].endswith(f"{NO_RADIO}; NetworkManager is not installed")
        for path in ("/api/v1/network/tailscale", "/api/dashboard/tailscale/status"):
            absent = await running.api.get(path)
            assert (absent.status, absent.json["code"]) == (404, "NOT_FOUND")


async def test_tailscale_status_has_no_secret(daemon):
    data = await daemon.api.get("/api/dashboard/tailscale/status")
    assert data.json == {
        "backend_state": "Running",
        "tailscale_ip": "100.101.102.103",
        "hostname": "pi-kitchen",
        "peers": [
            {"id": "nOffice", "hostname": "office", "tailscale_ip": "100.101.102.104", "online": True},
            {"id": "nPhone", "hostname": "phone", "tailscale_ip": "", "online": False},
        ],
    }
    assert b"secret" not in data.body


@pytest.mark.parametrize(
    "script, reason",
    [
        ("echo 'failed to connect to local tailscaled' >&2; exit 1", "failed to connect to local tailscaled"),
        ("exit 7", "tailscale exited with code 7"),
        ("echo nonsense", "not JSON"),
        ("echo '{}'", "no BackendState"),
        ("echo '[]'", "not a JSON object"),
        ("head -c 2000000 /dev/zero", "wrote more than 1024 KiB"),
    ],
)
async def test_invalid_tailscale_output_is_an_error(rig, tmp_path, monkeypatch, script, reason):
    programs.install(monkeypatch, tmp_path / "programs", tailscale=script)
    async with rig.daemon(connected=False) as running:
        refused = await running.api.get("/api/v1/network/tailscale")
        assert (refused.status, refused.json["code"]) == (503, "NETWORK_ERROR")
        assert reason in refused.json["error"]["message"]


async def test_network_returns_all_parts(daemon):
    data = (await daemon.api.get("/api/v1/network")).data
    assert data.keys() == {"interfaces", "wifi", "mqtt", "bridge"}
    loopback = next(link for link in data["interfaces"] if link["name"] == "lo")
    assert (loopback["up"], loopback["serves_cameras"]) == (True, True)
    assert "127.0.0.1/8" in loopback["addresses"]


async def test_paths_of_other_daemons_return_json_404(daemon):
    for path in ("door/status", "door/history", "inventory/latest", "evidence/pair", "bluetooth/devices"):
        for prefix in ("/api", "/api/v1", "/api/dashboard"):
            for method in ("GET", "POST"):
                absent = await daemon.api.call(method, f"{prefix}/{path}", headers={"Accept": "text/html"})
                assert (absent.status, absent.json["code"]) == (404, "NOT_FOUND")
