"""`network` with a daemon, on a machine with a fake nmcli."""

import pytest

from tests.support import programs
from tests.support.process import command, daemon, write_toml


@pytest.fixture
async def network(rig, tmp_path, monkeypatch):
    """`await network("--scan", code=0)` runs the command and checks its exit code and its lines."""
    hostile = programs.WIFI_LIST + r"wlan1: :1B5D303B7807:3C\:84\:6A\:11\:22\:60:2412 MHz:5:WEP" + "\n"
    script = programs.NMCLI.replace(programs.WIFI_LIST, hostile)
    programs.install(monkeypatch, tmp_path / "programs", nmcli=script)
    async with daemon(rig, tmp_path) as process:
        config = write_toml(tmp_path / "config.toml", rig.tree(http={"listen": [process.api.url[7:]]}))

        async def run(*args, code=0):
            done = await command("network", *args, "--config", config)
            assert done.code == code, done
            assert [line for line in done.out.splitlines() if not line.isprintable()] == []
            assert "--json" in args or [line for line in done.out.splitlines() if len(line) > 80] == []
            return done

        yield run


async def test_network_shows_all_connections(network, rig):
    lines = (await network()).out.splitlines()
    facts = {line[:12].strip(): line[12:].strip() for line in lines[lines.index("") + 1 :]}
    assert lines[0].split() == ["INTERFACE", "STATE", "MAC", "ADDRESSES"]
    assert any(line.split()[:3] == ["lo", "up,", "cameras"] for line in lines)
    assert facts["WiFi"] == "connecting: Office, -58 dBm"
    assert facts["access point"] == "inactive: 0 devices"
    assert facts["broker"].startswith(f"connected: 127.0.0.1:{rig.broker.port}, ")
    assert facts["broker"].endswith(" ms")
    assert facts["gateway"] == "not configured"
    data = (await network("--json")).json
    assert data.keys() == {"interfaces", "wifi", "mqtt", "bridge"}


async def test_scan_prints_table_and_repeat_is_refused(network):
    header, *rows = [line.split() for line in (await network("--scan")).out.splitlines()]
    assert header == ["NETWORK", "BSSID", "CHANNEL", "SIGNAL", "SECURITY"]
    assert rows[0] == ["Office", "3C:84:6A:11:22:30", "6", "-58", "dBm", "WPA2/WPA3"]
    assert [row[0] for row in rows] == ["Office", "Café", "(hidden)", "]0;x"]
    refused = await network("--scan", code=1)
    assert refused.err.startswith("error: the last WiFi scan is less than 10 s ago")
