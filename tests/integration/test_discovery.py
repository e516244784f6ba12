"""The whole daemon on an access point's network: who is found, by which engine, and what is said of them.

The network is real (two namespaces, cameras on interfaces of their own, see tests/support/lan.py), and so are
mosquitto, the kernel's tables and the daemon, which runs as a process at the Pi's end.
"""

import asyncio
import signal

import pytest

from tests.support import lan, process
from tests.support.discovery import SCAN, device, devices, events, has_status, scanned, sources
from tests.support.waiting import eventually


@pytest.mark.parametrize("powerless", [False, True], ids=["arp", "neighbour, as a user without any capability"])
@pytest.mark.parametrize("count, network", [(60, "10.77.0.0/24"), (250, "10.77.0.0/23")])
async def test_everyone_is_found_by_either_engine(tmp_path, count, network, powerless):
    async with (
        lan.opened(tmp_path, cameras=count, network=network, broker=False) as site,
        site.daemon(powerless=powerless, connected=False, discovery={"probe": False}) as daemon,
    ):
        scan = await scanned(daemon, within=40)
        assert (scan["state"], scan["found"]) == ("done", count)
        assert scan["engine"] == ("neighbour" if powerless else "arp")
        found = await devices(daemon, status="here")
        assert {mac: one["ip_address"] for mac, one in found.items()} == {
            camera.mac: camera.address for camera in site.cameras
        }
        assert {one["vendor"] for one in found.values()} == {"Espressif Inc."}
        assert {one["status"] for one in found.values()} == {"online"}
        assert {one["source"] for camera in found.values() for one in camera["evidence"]} == {scan["engine"]}
        told = (await daemon.api.get("/api/v1/espcam/discovered")).data
        assert told["engine"] == scan["engine"]
        if powerless:
            assert "arp: " in told["engine_reason"].lower()  # why the better way is not taken


async def test_one_in_three_requests_lost_is_made_up_for_by_asking_again(tmp_path):
    async with lan.opened(tmp_path, broker=False) as site, site.player() as player:
        hosts = {f"10.77.0.{number}": f"24:6F:28:10:00:{number:02X}" for number in range(10, 70)}
        await player.play(hosts)
        await player.behave(ignore=0.33)
        async with site.daemon(connected=False, discovery={"probe": False, "rounds": 3}) as daemon:

            async def all_found():
                await scanned(daemon)
                return set(await devices(daemon)) == set(hosts.values())

            await eventually(all_found, within=20)
            await scanned(daemon)
            assert {one["status"] for one in (await devices(daemon)).values()} == {"online"}


async def test_a_camera_that_ignores_arp_but_publishes_is_online_and_one_that_only_answers_is_too(tmp_path):
    async with lan.opened(tmp_path, cameras=3) as site:
        deaf, mute, dead = site.cameras
        await site.put_to_sleep(deaf)
        site.switch_off(dead)
        windows = {"idle_after_s": 3, "offline_after_s": 6}
        async with (
            site.camera_player() as cameras,
            site.daemon(cameras=windows, auto_onboard={"enabled": False}, discovery={"interval_s": 5}) as daemon,
        ):
            await cameras.start(deaf, interval=1)
            await site.announce(dead.mac, dead.address, retain=True)
            await site.announce(dead.mac, dead.address, state="OFFLINE")
            for _ in range(3):
                await scanned(daemon)

            async def as_they_are():
                words = {mac: one["status"] for mac, one in (await devices(daemon)).items()}
                return words == {deaf.mac: "online", mute.mac: "online", dead.mac: "offline"}

            await eventually(as_they_are, what="two are online and one is not")
            assert "MQTT" in (await device(daemon, deaf))["why"]
            assert "arp" not in {one["source"] for one in (await device(daemon, deaf))["evidence"]}
            assert [one["source"] for one in (await device(daemon, mute))["evidence"] if one["proves_life"]] == ["arp"]
            assert (await devices(daemon, status="here")).keys() == {deaf.mac, mute.mac}


async def test_a_retained_ghost_never_comes_online_and_its_living_successor_does(tmp_path):
    async with lan.opened(tmp_path, cameras=2) as site:
        living, ghost = site.cameras
        site.switch_off(ghost)
        await site.announce(ghost.mac, ghost.address, retain=True)
        await site.announce("24:6F:28:DE:AD:00", living.address, retain=True)  # had this address before
        await site.announce(living.mac, living.address, retain=True)
        async with site.daemon(auto_onboard={"enabled": False}) as daemon:
            for _ in range(2):
                await scanned(daemon)
            await eventually(lambda: has_status(daemon, living.mac, "online"))
            known = await devices(daemon)
            assert known[ghost.mac]["status"] == known["24:6F:28:DE:AD:00"]["status"] == "claimed"
            assert "retained" in known[ghost.mac]["why"]


# Addresses.


async def test_a_camera_that_moves_is_followed_and_two_that_swap_are_told_apart(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=4, broker=False) as site,
        site.daemon(connected=False, discovery={"probe": False}) as daemon,
    ):
        one, other, mover, rest = site.cameras
        await scanned(daemon)
        before = {one.mac: one.address, other.mac: other.address}
        site.swap(one, other)
        site.move(mover, "10.77.0.99")
        scan = await scanned(daemon)
        assert scan["moved"] == 3
        known = await devices(daemon)
        assert known[one.mac]["ip_address"] == before[other.mac]
        assert known[other.mac]["ip_address"] == before[one.mac]
        assert known[mover.mac]["ip_addresses"] == ["10.77.0.99"]
        assert known[rest.mac]["ip_address"] == rest.address
        assert all(one["conflict"] == [] for one in known.values())

        async def told():
            return {move["mac"] for move in await events(site, "device.moved")} == {one.mac, other.mac, mover.mac}

        await eventually(told)
        assert await events(site, "device.conflict") == []


async def test_an_address_that_two_claim_belongs_to_nobody_until_one_gives_way(tmp_path):
    async with lan.opened(tmp_path, broker=False) as site, site.player() as player:
        honest, liar = "24:6F:28:AA:00:10", "24:6F:28:BB:00:20"
        await player.play({"10.77.0.20": honest, "10.77.0.21": "24:6F:28:CC:00:30"})
        async with site.daemon(connected=False, discovery={"probe": False}) as daemon:
            await scanned(daemon)
            await player.play({"10.77.0.20": [honest, liar]})
            await scanned(daemon)
            known = await devices(daemon)
            assert (known[honest]["conflict"], known[liar]["conflict"]) == ([liar], [honest])
            await scanned(daemon)
            await player.play({"10.77.0.20": honest})
            await scanned(daemon)
            await eventually(lambda: _alone(daemon, honest))

            async def told():
                return await events(site, "device.conflict"), await events(site, "device.conflict_resolved")

            async def both_told():
                return all(await told())

            await eventually(both_told)
            ((conflict,), (over,)) = await told()  # once each, however often it was seen
            assert (conflict["ip"], conflict["macs"]) == ("10.77.0.20", [honest, liar])
            assert (over["ip"], over["mac"]) == ("10.77.0.20", honest)


async def _alone(daemon, mac):
    return (await devices(daemon))[mac]["conflict"] == []


async def test_one_device_at_two_addresses_is_one_device_and_one_that_answers_for_many_is_no_camera(tmp_path):
    async with lan.opened(tmp_path, broker=False) as site, site.player() as player:
        twice, proxy = "24:6F:28:AA:00:10", "24:6F:28:BB:00:20"
        await player.play({"10.77.0.20": twice, "10.77.0.21": twice})
        await player.play({f"10.77.0.{number}": proxy for number in range(100, 120)})
        async with site.daemon(connected=False, discovery={"probe": False}) as daemon:
            await scanned(daemon)
            await scanned(daemon)
            known = await devices(daemon)
            assert set(known) == {twice, proxy}
            assert sorted(known[twice]["ip_addresses"]) == ["10.77.0.20", "10.77.0.21"]
            assert len(known[proxy]["ip_addresses"]) <= 4

            async def told():
                kinds = ("device.multiple_addresses", "device.answers_for_many")
                return [[one["mac"] for one in await events(site, kind)] for kind in kinds]

            async def both_told():
                several, many = await told()
                return several == [twice] and many == [proxy]

            await eventually(both_told)


# Runs.


async def test_a_run_has_an_id_progress_and_a_place_in_history_and_a_second_request_joins_it(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=5, broker=False) as site,
        site.daemon(connected=False, discovery={"interval_s": 3600, "probe": False}) as daemon,
    ):
        await scanned(daemon)

        async def periodic_one_is_over():
            return any(scan["requested_by"] == "periodic" for scan in (await daemon.api.get(SCAN)).data["scans"])

        await eventually(periodic_one_is_over, what="no request below joins the periodic run")
        first = (await daemon.api.post(SCAN)).data["scan"]
        joined = await asyncio.gather(*(daemon.api.post(SCAN) for _ in range(5)))
        assert {answer.data["scan"]["id"] for answer in joined} == {first["id"]}
        assert (first["state"], first["subnet"], first["interface"]) == ("running", "10.77.0.0/24", "ap0")
        progress = set()

        async def over():
            scan = (await daemon.api.get(f"{SCAN}/{first['id']}")).data["scan"]
            progress.add(scan["progress"])
            return scan["state"] == "done" and scan

        done = await eventually(over)
        assert done["progress"] == 100
        assert len(progress) > 2, "it was seen on its way"
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
    # Another network of the same kind, and the state that was left.
    async with (
        lan.opened(tmp_path, broker=False) as site,
        site.daemon(connected=False, discovery={"interval_s": 3600}) as daemon,
    ):
        kept = (await daemon.api.get(SCAN)).data["scans"]
        known = [scan["id"] for scan in kept if scan["requested_by"] != "periodic"]
        assert known[:2] == [cancelled["id"], first["id"]]


# The quiet sources.


async def test_leases_give_names_are_read_again_when_they_change_and_prove_nothing(tmp_path):
    async with lan.opened(tmp_path, cameras=1, broker=False) as site:
        (camera,) = site.cameras
        leases = tmp_path / "leases"
        leases.write_text(f"0 {camera.mac.lower()} {camera.address} espcam-kitchen *\n")
        settings = {"lease_files": [str(leases)], "probe": False}
        async with site.daemon(connected=False, discovery=settings) as daemon:
            await scanned(daemon)
            await eventually(lambda: _named(daemon, camera.mac, "espcam-kitchen"))
            assert (await device(daemon, camera))["status"] == "online"
            away = "24:6F:28:0A:0B:00"
            fresh = tmp_path / "leases.new"
            fresh.write_text(
                f"0 {camera.mac.lower()} {camera.address} espcam-hall *\n0 {away.lower()} 10.77.0.77 x *\n"
            )
            fresh.replace(leases)
            await eventually(lambda: _named(daemon, camera.mac, "espcam-hall"), within=15)
            assert (await devices(daemon))[away]["status"] == "offline"
            leases.unlink()

            async def says_so():
                return (await sources(daemon))["leases"][0] == "off"

            await eventually(says_so, within=15)


async def _named(daemon, mac, name):
    known = await devices(daemon)
    return mac in known and known[mac]["hostname"] == name


async def test_the_network_is_told_as_it_is_and_its_changes_are_events(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=2, broker=False) as site,
        site.daemon(connected=False, ap={"interface": "ap0", "subnet": "10.77.0.0/24", "ssid": "Cameras"}) as daemon,
    ):
        await scanned(daemon)

        async def as_it_is():
            return [
                (await daemon.admin.get(f"/api/v1/provisioning/{path}")).data
                for path in ("batch/network", "network/status")
            ]

        up = {"interface": "ap0", "ssid": "Cameras", "connected": True, "is_active": True, "connected_devices": 2}

        async def is_up():
            return await as_it_is() == [up, up]

        await eventually(is_up, within=15)
        site.down()

        async def is_down():
            return all(not one["connected"] and not one["is_active"] for one in await as_it_is())

        await eventually(is_down, within=15)

        async def told():
            changes = await events(site, "network.status_changed")
            return (
                changes and changes[-1] == {"ssid": "Cameras", "is_active": False, "connected_devices": 0} and changes
            )

        changes = await eventually(told, within=10)
        assert {"ssid": "Cameras", "is_active": True, "connected_devices": 2} in changes


async def test_a_last_will_of_a_camera_that_answers_is_a_question_and_of_one_that_has_gone_the_end(tmp_path):
    async with (
        lan.opened(tmp_path, cameras=2) as site,
        site.camera_player() as cameras,
        site.daemon(discovery={"interval_s": 3600}) as daemon,
    ):
        here, gone = site.cameras
        await cameras.start(here, gone, interval=60)

        async def registered():
            return (await daemon.api.get("/api/v1/espcam/paired")).data["total"] == 2

        await eventually(registered, within=20)
        await scanned(daemon)
        site.switch_off(gone)
        for camera in (here, gone):
            await site.announce(camera.mac, camera.address, state="OFFLINE")
        await eventually(lambda: has_status(daemon, gone.mac, "offline"), within=10)
        assert await has_status(daemon, here.mac, "online")
        assert "MQTT session ended" in (await device(daemon, here))["why"]
        changes = await events(site, "camera.status_changed")
        assert {change["mac"] for change in changes} == {gone.mac}


async def test_a_shorter_interval_takes_effect_without_a_restart(tmp_path):
    async with lan.opened(tmp_path, cameras=1, broker=False) as site:
        quiet = {"probe": False, "mdns": False}
        async with site.daemon(connected=False, discovery=quiet | {"interval_s": 3600}) as daemon:
            await scanned(daemon)
            last = (await daemon.api.get(SCAN)).data["pagination"]["total"]
            process.write_toml(tmp_path / "config.toml", site.tree(discovery=quiet | {"interval_s": 5}))
            daemon.send(signal.SIGHUP)

            async def two_more():
                return (await daemon.api.get(SCAN)).data["pagination"]["total"] >= last + 2

            await eventually(two_more, within=25)


async def test_a_scan_id_that_was_told_is_known_after_a_kill(tmp_path):
    async with lan.opened(tmp_path, cameras=1, broker=False) as site:
        quiet = {"probe": False, "mdns": False}
        async with site.daemon(connected=False, discovery=quiet) as daemon:
            told = []
            for _ in range(3):  # the first joins the periodic run, most likely
                answer = await daemon.api.post(SCAN)
                told += [answer.data["scan"]["id"]] if answer.status == 202 else []
                await asyncio.sleep(0)
            await eventually(lambda: _started(daemon, told))
            daemon.process.kill()
            await daemon.ended()
        async with site.daemon(connected=False, discovery=quiet) as daemon:
            for scan in told:
                assert (await daemon.api.get(f"{SCAN}/{scan}")).data["scan"]["state"] in ("interrupted", "done")


async def _started(daemon, told):
    """Ask until somebody could be asked; the id joins those that were told."""
    answer = await daemon.api.post(SCAN)
    if answer.status == 202:
        told.append(answer.data["scan"]["id"])
    return bool(told)
