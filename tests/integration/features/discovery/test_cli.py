"""`devices` with a running daemon and devices of every kind."""

import json

import pytest

from tests.support import lan
from tests.support.process import command
from tests.support.waiting import eventually

CLAIMANT, OFFLINE_CAMERA, OTHER_CLAIMANT = "24:6F:28:EE:00:01", "24:6F:28:EE:00:02", "24:6F:28:EE:00:03"


@pytest.fixture
async def devices(tmp_path):
    """`devices("--json", code=0)`; the daemon knows a camera, an offline camera and two claimants of one address."""
    sections = {"discovery": {"probe": False}, "auto_onboard": {"mode": "off", "enabled": False}}
    async with lan.opened(tmp_path, cameras=1) as site, site.player() as player, site.daemon(**sections) as daemon:
        camera = site.cameras[0]
        await player.play({"10.77.0.200": [CLAIMANT, OTHER_CLAIMANT]})
        hostile = {"firmware_version": "1\x1b[2J\x9b2J", "device_id": "espcam-\x1b]0;x\x07"}
        await site.announce(camera.mac, camera.address, rssi=-54, **hostile)
        await site.announce(OFFLINE_CAMERA, "10.77.0.99")
        await site.announce(OFFLINE_CAMERA, "10.77.0.99", state="OFFLINE")

        async def all_found():
            found = {entry["mac_address"]: entry for entry in (await daemon.api.get("/api/v1/devices")).data["devices"]}
            if not {camera.mac, CLAIMANT, OTHER_CLAIMANT, OFFLINE_CAMERA} <= found.keys():
                return False
            settled = found[OFFLINE_CAMERA]["status"] == "offline"
            seen = settled and {entry["source"] for entry in found[camera.mac]["evidence"]} >= {"arp", "mqtt"}
            return seen and found[CLAIMANT]["conflict"]

        await eventually(all_found)

        async def run(*args, code=0):
            done = await site.command("devices", *args, "--config", tmp_path / "config.toml")
            assert done.code == code, done
            assert [line for line in (done.out + done.err).splitlines() if not line.isprintable()] == []
            if "--json" not in args:
                assert [line for line in done.out.splitlines() if len(line) > 80] == []
            return done

        run.camera = camera
        yield run


async def test_devices_are_listed_with_evidence_and_conflicts(devices):
    listed = await devices()
    rows = {line.split()[0]: line.split() for line in listed.out.splitlines()[1:] if "Esp" in line}
    assert listed.out.splitlines()[0].split() == ["MAC", "ADDRESS", "VENDOR", "SIGNAL", "SOURCES", "STATE"]
    assert rows.keys() == {devices.camera.mac, CLAIMANT, OTHER_CLAIMANT}
    mac, address, *_, signal, sources, state, kind = rows[devices.camera.mac]
    assert (address, signal, state, kind) == (devices.camera.address, "-54", "online", "camera")
    assert set(sources.split(",")) == {"arp", "mqtt"}
    assert rows[CLAIMANT][-1] == "online"
    conflict = f"Conflict: 10.77.0.200 is claimed by {CLAIMANT} and {OTHER_CLAIMANT}; it is assigned to no device."
    assert conflict in " ".join(listed.out.split())

    with_all = await devices("--all")
    offline = next(line.split() for line in with_all.out.splitlines() if line.startswith(OFFLINE_CAMERA))
    assert offline[-2:] == ["offline", "camera"]
    assert {entry["mac_address"] for entry in (await devices("--json")).json} == rows.keys()
    assert {entry["mac_address"] for entry in (await devices("--all", "--json")).json} == rows.keys() | {OFFLINE_CAMERA}


async def test_device_is_shown_with_evidence(devices):
    mac = devices.camera.mac
    card = await devices(mac.lower().replace(":", "-"))
    fields = {line.split()[0]: line.split()[1:] for line in card.out.splitlines() if line}
    assert fields["mac"] == [mac]
    assert fields["state"] == ["online", "camera"]
    assert fields["registered"] == ["no"]
    assert fields["signal"] == ["-54", "dBm"]
    assert fields["SOURCE"] == ["AGE", "ADDRESS", "DETAIL"]
    assert fields["arp"][:3:2] == [fields["arp"][0], devices.camera.address]
    assert fields["mqtt"][-2:] == ["-54", "dBm"]
    why = (await devices(mac, "--json")).json["why"]
    assert "published on MQTT" in why
    assert "published on MQTT" in " ".join(card.out.split("Why: ")[1].split())
    contested = await devices(CLAIMANT)
    assert f"Conflict: 10.77.0.200 is claimed by {CLAIMANT} and {OTHER_CLAIMANT}" in " ".join(contested.out.split())
    offline = await devices(OFFLINE_CAMERA)
    assert "Why: its MQTT session ended" in offline.out


async def test_unknown_or_invalid_mac_is_an_error(devices):
    missing = await devices("24:6F:28:00:00:99", code=1)
    assert missing.err == "error: device 24:6F:28:00:00:99 not found\n"
    assert "'not-a-mac' is not a MAC address" in (await devices("not-a-mac", code=1)).err


async def test_empty_network_is_reported(tmp_path):
    async with lan.opened(tmp_path, broker=False) as site, site.daemon(connected=False):
        config = tmp_path / "config.toml"
        assert (await site.command("devices", "--config", config)).out == "No device is present.\n"
        assert (await site.command("devices", "--all", "--config", config)).out == "No device has been seen yet.\n"
        assert json.loads((await site.command("devices", "--json", "--config", config)).out) == []


async def test_unreachable_daemon_exits_with_3():
    done = await command("devices", "--url", "http://127.0.0.1:1")
    assert (done.code, done.out) == (3, "")
