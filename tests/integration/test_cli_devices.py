"""`devices`, beside a daemon on an access point with devices of every kind."""

import json

import pytest

from tests.support import lan
from tests.support.process import command
from tests.support.waiting import eventually

STRANGER, LEFT, TWIN = "24:6F:28:EE:00:01", "24:6F:28:EE:00:02", "24:6F:28:EE:00:03"


@pytest.fixture
async def devices(tmp_path):
    """`await devices("--json", code=0)` once the daemon knows two cameras, one of them offline, and two strangers."""
    quiet = {"discovery": {"probe": False}, "auto_onboard": {"mode": "off", "enabled": False}}
    async with lan.opened(tmp_path, cameras=1) as site, site.player() as player, site.daemon(**quiet) as daemon:
        camera = site.cameras[0]
        await player.play({"10.77.0.200": [STRANGER, TWIN]})
        hostile = {"firmware_version": "1\x1b[2J\x9b2J", "device_id": "espcam-\x1b]0;x\x07"}
        await site.announce(camera.mac, camera.address, rssi=-54, **hostile)
        await site.announce(LEFT, "10.77.0.99")
        await site.announce(LEFT, "10.77.0.99", state="OFFLINE")

        async def known():
            found = {one["mac_address"]: one for one in (await daemon.api.get("/api/v1/devices")).data["devices"]}
            settled = {camera.mac, STRANGER, TWIN, LEFT} <= found.keys() and found[LEFT]["status"] == "offline"
            seen = settled and {one["source"] for one in found[camera.mac]["evidence"]} >= {"arp", "mqtt"}
            return seen and found[STRANGER]["conflict"]

        await eventually(known)

        async def run(*args, code=0):
            done = await site.command("devices", *args, "--config", tmp_path / "config.toml")
            assert done.code == code, done
            assert [line for line in (done.out + done.err).splitlines() if not line.isprintable()] == []
            if "--json" not in args:
                assert [line for line in done.out.splitlines() if len(line) > 80] == []
            return done

        run.camera = camera
        yield run


async def test_devices_are_listed_with_their_evidence_and_conflicts_in_words(devices):
    here = await devices()
    rows = {line.split()[0]: line.split() for line in here.out.splitlines()[1:] if "Esp" in line}
    assert here.out.splitlines()[0].split() == ["MAC", "ADDRESS", "VENDOR", "SIGNAL", "SOURCES", "STATE"]
    assert rows.keys() == {devices.camera.mac, STRANGER, TWIN}
    mac, address, *_, signal, sources, state, kind = rows[devices.camera.mac]
    assert (address, signal, state, kind) == (devices.camera.address, "-54", "online", "camera")
    assert set(sources.split(",")) == {"arp", "mqtt"}
    assert rows[STRANGER][-1] == "online"
    said = f"Conflict: 10.77.0.200 is answered for by {STRANGER} and {TWIN}; it counts as nobody's."
    assert said in " ".join(here.out.split())

    everyone = await devices("--all")
    left = next(line.split() for line in everyone.out.splitlines() if line.startswith(LEFT))
    assert left[-2:] == ["offline", "camera"]
    assert {one["mac_address"] for one in (await devices("--json")).json} == rows.keys()
    assert {one["mac_address"] for one in (await devices("--all", "--json")).json} == rows.keys() | {LEFT}


async def test_one_device_is_shown_with_the_evidence_and_why(devices):
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
    assert "spoke on MQTT" in why
    assert "spoke on MQTT" in " ".join(card.out.split("Why: ")[1].split())
    contested = await devices(STRANGER)
    assert f"Conflict: 10.77.0.200 is answered for by {STRANGER} and {TWIN}" in " ".join(contested.out.split())
    offline = await devices(LEFT)
    assert "Why: its MQTT session ended" in offline.out


async def test_who_is_not_known_or_no_mac_is_an_error_with_its_reason(devices):
    missing = await devices("24:6F:28:00:00:99", code=1)
    assert missing.err == "error: there is no device 24:6F:28:00:00:99\n"
    assert "'nobody' is not a MAC address" in (await devices("nobody", code=1)).err


async def test_an_empty_network_is_told_as_one(tmp_path):
    async with lan.opened(tmp_path, broker=False) as site, site.daemon(connected=False):
        config = tmp_path / "config.toml"
        assert (await site.command("devices", "--config", config)).out == "Nobody is here.\n"
        assert (await site.command("devices", "--all", "--config", config)).out == "No device has been seen yet.\n"
        assert json.loads((await site.command("devices", "--json", "--config", config)).out) == []


async def test_without_a_daemon_the_code_is_3():
    done = await command("devices", "--url", "http://127.0.0.1:1")
    assert (done.code, done.out) == (3, "")
