"""Interface failures: the scanner waits, reports the reason, and continues without leaks."""

import json
from pathlib import Path

import pytest

from tests.support import lan
from tests.support.discovery import SCAN, devices, run_scan, sources
from tests.support.waiting import eventually

BACK_WITHIN_S = 10
SCANS_ONLY = {"probe": False, "mdns": False}


def descriptors(daemon):
    return sum(1 for _ in Path(f"/proc/{daemon.pid}/fd").iterdir())


async def wait_until_reported(daemon, text):
    """Wait until the scanner is degraded for this reason; check that readiness and a refused scan show it."""

    async def reported_reason():
        state, reason = (await sources(daemon))["scanner"]
        return state == "degraded" and text in reason and reason

    reason = await eventually(reported_reason, within=BACK_WITHIN_S, what=f"the scanner reports {text!r}")
    ready = (await daemon.api.get("/readyz")).json
    assert ready["checks"]["scanner"] is False
    assert f"scanner: {reason}" in ready["errors"]
    refused = await daemon.api.post(SCAN)
    assert (refused.status, refused.json["code"], refused.json["error"]["retryable"]) == (503, "NETWORK_ERROR", True)
    assert text in refused.json["error"]["message"]
    assert "Retry-After" in refused.headers


async def scan_when_ready(daemon):
    """Wait until the scanner works, then check that a scan finds both cameras."""

    async def is_ok():
        return (await sources(daemon))["scanner"][0] == "ok"

    await eventually(is_ok, within=BACK_WITHIN_S, what="the scanner works again")
    scan = await run_scan(daemon)
    assert (scan["state"], scan["found"]) == ("done", 2)


@pytest.mark.parametrize("unprivileged", [False, True], ids=["arp", "neighbour"])
async def test_scanner_waits_for_interface_and_continues(tmp_path, unprivileged):
    async with (
        lan.opened(tmp_path, cameras=2, broker=False) as site,
        site.daemon(connected=False, unprivileged=unprivileged, discovery=SCANS_ONLY) as daemon,
    ):
        await scan_when_ready(daemon)
        before = descriptors(daemon)
        site.down()
        await wait_until_reported(daemon, "ap0 is down")
        site.up()
        await scan_when_ready(daemon)
        site.remove_address()
        await wait_until_reported(daemon, "no address in 10.77.0.0/24")
        site.set_address()
        await scan_when_ready(daemon)
        site.rename("wlan9")
        await wait_until_reported(daemon, "interface ap0 not found")
        site.rename("ap0")
        await scan_when_ready(daemon)
        site.unplug()
        await wait_until_reported(daemon, "interface ap0 not found")
        site.plug()
        await scan_when_ready(daemon)
        await eventually(lambda: descriptors(daemon) <= before, what="no descriptor is leaked")
        assert daemon.entries("worker failed") == []


async def test_missing_interface_at_start_is_awaited(tmp_path):
    async with lan.opened(tmp_path, cameras=2, broker=False) as site:
        site.unplug()
        async with site.daemon(connected=False, discovery=SCANS_ONLY) as daemon:
            await wait_until_reported(daemon, "interface ap0 not found")
            assert (await daemon.api.get("/health")).status == 200
            site.plug()
            await scan_when_ready(daemon)


async def test_flapping_interface_leaks_nothing_and_fails_scan(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=2, broker=False) as site,
        site.daemon(connected=False, discovery=SCANS_ONLY) as daemon,
    ):
        await scan_when_ready(daemon)
        before = descriptors(daemon)
        for _ in range(5):
            scan = (await daemon.api.post(SCAN)).data["scan"]
            site.down()

            async def ended_scan(scan=scan):
                current = (await daemon.api.get(f"{SCAN}/{scan['id']}")).data["scan"]
                return current["state"] != "running" and current

            ended = await eventually(ended_scan)
            assert ended["state"] in ("failed", "done")
            if ended["state"] == "failed":
                assert "failed during the scan" in ended["message"]
            site.up()
            await scan_when_ready(daemon)
        await eventually(lambda: descriptors(daemon) <= before)
        assert daemon.entries("scan failed unexpectedly") == []


async def test_large_network_is_refused_unless_allowed(tmp_path):
    async with lan.opened(tmp_path, cameras=2, network="10.77.0.0/21", broker=False) as site:
        async with site.daemon(connected=False, discovery=SCANS_ONLY) as daemon:
            await wait_until_reported(daemon, "10.77.0.0/21 is larger than a /22")
            await wait_until_reported(daemon, "discovery.allow_large_subnet")
            await daemon.stop()
        async with site.daemon(connected=False, discovery=SCANS_ONLY | {"allow_large_subnet": True}) as daemon:
            await scan_when_ready(daemon)


async def test_only_configured_interface_is_scanned(tmp_path):
    async with lan.opened(tmp_path, cameras=2, broker=False) as site:
        # A second interface in the same network, with another device on it.
        site.pi.ip("link", "add", "eth9", "type", "veth", "peer", "name", "far9")
        site.pi.ip("addr", "add", "10.77.0.2/24", "dev", "eth9")
        site.pi.ip("link", "set", "eth9", "up")
        site.pi.ip("link", "set", "far9", "up")
        for unprivileged in (False, True):
            before = _sent(site, "eth9")
            async with site.daemon(connected=False, unprivileged=unprivileged, discovery=SCANS_ONLY) as daemon:
                await scan_when_ready(daemon)
                assert {entry["ip_address"] for entry in (await devices(daemon)).values()} == {
                    camera.address for camera in site.cameras
                }
                await daemon.stop()
            assert _sent(site, "eth9") - before < 20, "a sweep is 253 frames"


def _sent(site, device):
    return json.loads(site.pi.ip("-s", "-j", "link", "show", device))[0]["stats64"]["tx"]["packets"]
