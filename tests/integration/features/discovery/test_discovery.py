"""The whole daemon on an access point's network: devices found by each engine, and their reported state.

The network is real (two namespaces, cameras on interfaces of their own, see tests/support/lan.py), and so are
mosquitto, the kernel's tables and the daemon, which runs as a process at the Pi's end.
"""

import asyncio
import signal

import pytest

from tests.support import lan, process
from tests.support.discovery import SCAN, device, devices, events, has_status, run_scan, sources
from tests.support.waiting import eventually

THREE_ROUNDS = process.patched("""
from functools import partial
from pi_orchestrator.features.discovery import standalone
standalone.ArpEngine = partial(standalone.ArpEngine, rounds=3)
""")


@pytest.mark.parametrize("unprivileged", [False, True], ids=["arp", "neighbour"])
@pytest.mark.parametrize("count, network", [(60, "10.77.0.0/24"), (250, "10.77.0.0/23")])
async def test_every_engine_finds_all_devices(tmp_path, count, network, unprivileged):
    async with (
        lan.opened(tmp_path, cameras=count, network=network, broker=False) as site,
        site.daemon(unprivileged=unprivileged, connected=False, discovery={"probe": False}) as daemon,
    ):
        scan = await run_scan(daemon, within=40)
        assert (scan["state"], scan["found"]) == ("done", count)
        assert scan["engine"] == ("neighbour" if unprivileged else "arp")
        found = await devices(daemon, status="here")
        assert {mac: entry["ip_address"] for mac, entry in found.items()} == {
            camera.mac: camera.address for camera in site.cameras
        }
        assert {entry["vendor"] for entry in found.values()} == {"Espressif Inc."}
        assert {entry["status"] for entry in found.values()} == {"online"}
        assert {entry["source"] for camera in found.values() for entry in camera["evidence"]} == {scan["engine"]}
        discovered = (await daemon.api.get("/api/v1/espcam/discovered")).data
        assert discovered["engine"] == scan["engine"]
        if unprivileged:
            assert "arp: " in discovered["engine_reason"].lower()  # the reason why ARP is not used


async def test_lost_requests_are_retried(tmp_path):
    async with lan.opened(tmp_path, broker=False) as site, site.player() as player:
        hosts = {f"10.77.0.{number}": f"24:6F:28:10:00:{number:02X}" for number in range(10, 70)}
        await player.play(hosts)
        await player.set_behaviour(ignore=0.33)
        launch_options = {"command": THREE_ROUNDS}
        async with site.daemon(connected=False, discovery={"probe": False}, launch_options=launch_options) as daemon:

            async def all_found():
                await run_scan(daemon)
                return set(await devices(daemon)) == set(hosts.values())

            await eventually(all_found)
            await run_scan(daemon)
            assert {entry["status"] for entry in (await devices(daemon)).values()} == {"online"}


async def test_camera_seen_only_by_mqtt_or_arp_is_online(tmp_path):
    async with lan.opened(tmp_path, cameras=3) as site:
        mqtt_only, arp_only, off = site.cameras
        await site.block_broadcasts(mqtt_only)
        site.switch_off(off)
        windows = {"idle_after_s": 3, "offline_after_s": 6}
        async with (
            site.camera_player() as cameras,
            site.daemon(cameras=windows, auto_onboard={"enabled": False}, discovery={"interval_s": 5}) as daemon,
        ):
            await cameras.start(mqtt_only, interval=1)
            await site.announce(off.mac, off.address, retain=True)
            await site.announce(off.mac, off.address, state="OFFLINE")
            for _ in range(3):
                await run_scan(daemon)

            async def has_expected_statuses():
                statuses = {mac: entry["status"] for mac, entry in (await devices(daemon)).items()}
                return statuses == {mqtt_only.mac: "online", arp_only.mac: "online", off.mac: "offline"}

            await eventually(has_expected_statuses, what="two cameras are online and one is offline")
            assert "MQTT" in (await device(daemon, mqtt_only))["why"]
            assert "arp" not in {entry["source"] for entry in (await device(daemon, mqtt_only))["evidence"]}
            assert [
                entry["source"] for entry in (await device(daemon, arp_only))["evidence"] if entry["proves_life"]
            ] == ["arp"]
            assert (await devices(daemon, status="here")).keys() == {mqtt_only.mac, arp_only.mac}


async def test_retained_message_alone_does_not_bring_camera_online(tmp_path):
    async with lan.opened(tmp_path, cameras=2) as site:
        live, ghost = site.cameras
        site.switch_off(ghost)
        await site.announce(ghost.mac, ghost.address, retain=True)
        await site.announce("24:6F:28:DE:AD:00", live.address, retain=True)  # the previous user of this address
        await site.announce(live.mac, live.address, retain=True)
        async with site.daemon(auto_onboard={"enabled": False}) as daemon:
            for _ in range(2):
                await run_scan(daemon)
            await eventually(lambda: has_status(daemon, live.mac, "online"))
            found = await devices(daemon)
            assert found[ghost.mac]["status"] == found["24:6F:28:DE:AD:00"]["status"] == "claimed"
            assert "retained" in found[ghost.mac]["why"]


# Addresses.


async def test_moves_and_swaps_are_tracked(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=4, broker=False) as site,
        site.daemon(connected=False, discovery={"probe": False}) as daemon,
    ):
        first, second, moved, unmoved = site.cameras
        await run_scan(daemon)
        before = {first.mac: first.address, second.mac: second.address}
        site.swap(first, second)
        site.move(moved, "10.77.0.99")

        async def has_moved():  # if a reply of the old address was late, the next scan removes that address
            await run_scan(daemon)
            return (await devices(daemon))[moved.mac]["ip_addresses"] == ["10.77.0.99"]

        await eventually(has_moved)
        found = await devices(daemon)
        assert found[first.mac]["ip_address"] == before[second.mac]
        assert found[second.mac]["ip_address"] == before[first.mac]
        assert found[unmoved.mac]["ip_address"] == unmoved.address
        assert all(entry["conflict"] == [] for entry in found.values())

        async def moves_are_published():
            return {move["mac"] for move in await events(site, "device.moved")} == {first.mac, second.mac, moved.mac}

        await eventually(moves_are_published)
        assert await events(site, "device.conflict") == []


async def test_contested_address_is_unassigned_until_resolved(tmp_path):
    async with lan.opened(tmp_path, broker=False) as site, site.player() as player:
        honest, forger = "24:6F:28:AA:00:10", "24:6F:28:BB:00:20"
        await player.play({"10.77.0.20": honest, "10.77.0.21": "24:6F:28:CC:00:30"})
        async with site.daemon(connected=False, discovery={"probe": False}) as daemon:
            await run_scan(daemon)
            await player.play({"10.77.0.20": [honest, forger]})
            await run_scan(daemon)
            found = await devices(daemon)
            assert (found[honest]["conflict"], found[forger]["conflict"]) == ([forger], [honest])
            await run_scan(daemon)
            await player.play({"10.77.0.20": honest})
            await run_scan(daemon)
            await eventually(lambda: _has_no_conflict(daemon, honest))

            async def conflict_events():
                return await events(site, "device.conflict"), await events(site, "device.conflict_resolved")

            async def both_are_published():
                return all(await conflict_events())

            await eventually(both_are_published)
            # One event each, however often a scan saw the conflict.
            ((conflict,), (resolution,)) = await conflict_events()
            assert (conflict["ip"], conflict["macs"]) == ("10.77.0.20", [honest, forger])
            assert (resolution["ip"], resolution["mac"]) == ("10.77.0.20", honest)


async def _has_no_conflict(daemon, mac):
    return (await devices(daemon))[mac]["conflict"] == []


async def test_multihomed_device_and_proxy_are_distinguished(tmp_path):
    async with lan.opened(tmp_path, broker=False) as site, site.player() as player:
        multihomed, proxy = "24:6F:28:AA:00:10", "24:6F:28:BB:00:20"
        await player.play({"10.77.0.20": multihomed, "10.77.0.21": multihomed})
        await player.play({f"10.77.0.{number}": proxy for number in range(100, 120)})
        async with site.daemon(connected=False, discovery={"probe": False}) as daemon:
            await run_scan(daemon)
            await run_scan(daemon)
            found = await devices(daemon)
            assert set(found) == {multihomed, proxy}
            assert sorted(found[multihomed]["ip_addresses"]) == ["10.77.0.20", "10.77.0.21"]
            assert len(found[proxy]["ip_addresses"]) <= 4

            async def macs_by_kind():
                kinds = ("device.multiple_addresses", "device.answers_for_many")
                return [[event["mac"] for event in await events(site, kind)] for kind in kinds]

            async def both_are_published():
                with_several, with_many = await macs_by_kind()
                return with_several == [multihomed] and with_many == [proxy]

            await eventually(both_are_published)


# Scans.


async def test_scan_has_id_progress_and_history_and_can_be_joined(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=5, broker=False) as site,
        site.daemon(connected=False, discovery={"interval_s": 3600, "probe": False}) as daemon,
    ):
        await run_scan(daemon)

        async def periodic_scan_has_ended():
            return any(scan["requested_by"] == "periodic" for scan in (await daemon.api.get(SCAN)).data["scans"])

        await eventually(periodic_scan_has_ended, what="no request below joins the periodic run")
        first = (await daemon.api.post(SCAN)).data["scan"]
        joined = await asyncio.gather(*(daemon.api.post(SCAN) for _ in range(5)))
        assert {answer.data["scan"]["id"] for answer in joined} == {first["id"]}
        assert (first["state"], first["subnet"], first["interface"]) == ("running", "10.77.0.0/24", "ap0")
        progress = [first["progress"]]

        async def ended_scan():
            scan = (await daemon.api.get(f"{SCAN}/{first['id']}")).data["scan"]
            progress.append(scan["progress"])
            return scan["state"] == "done" and scan

        done = await eventually(ended_scan)
        assert done["progress"] == 100
        assert progress == sorted(progress)
        assert progress[0] < 100
        assert (done["found"], done["new"], done["moved"], done["gone"]) == (5, 0, 0, 0)
        cancelled = (await daemon.api.post(SCAN)).data["scan"]
        answer = await daemon.api.delete(f"{SCAN}/{cancelled['id']}")
        assert answer.data["scan"]["state"] == "cancelled"
        assert (await daemon.api.delete(f"{SCAN}/{cancelled['id']}")).data == answer.data
        assert (await daemon.api.get(f"{SCAN}/no-such-scan")).json["code"] == "NOT_FOUND"
        history = (await daemon.api.get(SCAN)).data
        assert [scan["id"] for scan in history["scans"]][:2] == [cancelled["id"], first["id"]]
        assert history["pagination"]["total"] == len(history["scans"])
        await daemon.stop()
    # A new network of the same kind, with the state folder of the first.
    async with (
        lan.opened(tmp_path, broker=False) as site,
        site.daemon(connected=False, discovery={"interval_s": 3600}) as daemon,
    ):
        stored = (await daemon.api.get(SCAN)).data["scans"]
        scan_ids = [scan["id"] for scan in stored if scan["requested_by"] != "periodic"]
        assert scan_ids[:2] == [cancelled["id"], first["id"]]


# Passive sources.


async def test_leases_are_reread_and_prove_nothing(tmp_path):
    async with lan.opened(tmp_path, cameras=1, broker=False) as site:
        (camera,) = site.cameras
        leases = tmp_path / "leases"
        leases.write_text(f"0 {camera.mac.lower()} {camera.address} espcam-kitchen *\n")
        settings = {"lease_files": [str(leases)], "probe": False}
        async with site.daemon(connected=False, discovery=settings) as daemon:
            await run_scan(daemon)
            await eventually(lambda: _named(daemon, camera.mac, "espcam-kitchen"))
            assert (await device(daemon, camera))["status"] == "online"
            absent = "24:6F:28:0A:0B:00"
            new_leases = tmp_path / "leases.new"
            new_leases.write_text(
                f"0 {camera.mac.lower()} {camera.address} espcam-hall *\n0 {absent.lower()} 10.77.0.77 x *\n"
            )
            new_leases.replace(leases)
            await eventually(lambda: _named(daemon, camera.mac, "espcam-hall"))
            assert (await devices(daemon))[absent]["status"] == "offline"
            leases.unlink()

            async def leases_are_off():
                return (await sources(daemon))["leases"][0] == "off"

            await eventually(leases_are_off)


async def _named(daemon, mac, name):
    found = await devices(daemon)
    return mac in found and found[mac]["hostname"] == name


async def test_network_status_changes_are_events(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=2, broker=False) as site,
        site.daemon(connected=False, ap={"interface": "ap0", "subnet": "10.77.0.0/24", "ssid": "Cameras"}) as daemon,
    ):
        await run_scan(daemon)

        async def network_status():
            return [
                (await daemon.admin.get(f"/api/v1/provisioning/{path}")).data
                for path in ("batch/network", "network/status")
            ]

        up = {"interface": "ap0", "ssid": "Cameras", "connected": True, "is_active": True, "connected_devices": 2}

        async def is_up():
            return await network_status() == [up, up]

        await eventually(is_up)

        async def all_are_published():
            changes = await events(site, "network.status_changed")
            return {"ssid": "Cameras", "is_active": True, "connected_devices": 2} in changes

        await eventually(all_are_published)
        site.down()

        async def is_down():
            return all(not status["connected"] and not status["is_active"] for status in await network_status())

        await eventually(is_down)

        async def last_change_is_published():
            changes = await events(site, "network.status_changed")
            return changes[-1] == {"ssid": "Cameras", "is_active": False, "connected_devices": 0}

        await eventually(last_change_is_published)


async def test_last_will_is_checked_by_probe(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=2) as site,
        site.camera_player() as cameras,
        site.daemon(discovery={"interval_s": 3600}) as daemon,
    ):
        reachable, switched_off = site.cameras
        await cameras.start(reachable, switched_off, interval=60)

        async def registered():
            return (await daemon.api.get("/api/v1/espcam/paired")).data["total"] == 2

        await eventually(registered)
        await run_scan(daemon)
        site.switch_off(switched_off)
        for camera in (reachable, switched_off):
            await site.announce(camera.mac, camera.address, state="OFFLINE")
        await eventually(lambda: has_status(daemon, switched_off.mac, "offline"))
        assert await has_status(daemon, reachable.mac, "online")
        assert "MQTT session ended" in (await device(daemon, reachable))["why"]

        async def change_is_published():
            return [change["mac"] for change in await events(site, "camera.status_changed")] == [switched_off.mac]

        await eventually(change_is_published)


async def test_shorter_interval_applies_without_restart(tmp_path):
    async with lan.opened(tmp_path, cameras=1, broker=False) as site:
        scans_only = {"probe": False, "mdns": False}
        async with site.daemon(connected=False, discovery=scans_only | {"interval_s": 3600}) as daemon:
            await run_scan(daemon)
            last = (await daemon.api.get(SCAN)).data["pagination"]["total"]
            process.write_toml(tmp_path / "config.toml", site.tree(discovery=scans_only | {"interval_s": 5}))
            daemon.send(signal.SIGHUP)

            async def two_more():
                return (await daemon.api.get(SCAN)).data["pagination"]["total"] >= last + 2

            await eventually(two_more)


async def test_scan_id_survives_kill(tmp_path):
    async with lan.opened(tmp_path, cameras=1, broker=False) as site:
        scans_only = {"probe": False, "mdns": False}
        async with site.daemon(connected=False, discovery=scans_only) as daemon:
            scan_ids = []
            for _ in range(3):  # the first probably joins the periodic scan
                answer = await daemon.api.post(SCAN)
                scan_ids += [answer.data["scan"]["id"]] if answer.status == 202 else []
                await asyncio.sleep(0)
            await eventually(lambda: _started(daemon, scan_ids))
            daemon.process.kill()
            await daemon.ended()
        async with site.daemon(connected=False, discovery=scans_only) as daemon:
            for scan_id in scan_ids:
                assert (await daemon.api.get(f"{SCAN}/{scan_id}")).data["scan"]["state"] in ("interrupted", "done")


async def _started(daemon, scan_ids):
    """Request scans until one starts; append its id."""
    answer = await daemon.api.post(SCAN)
    if answer.status == 202:
        scan_ids.append(answer.data["scan"]["id"])
    return bool(scan_ids)
