"""Cameras on the record and off it by hand: who is unpaired stays out, hardware is replaced, races have one winner."""

import asyncio
import json
from collections import Counter

import pytest

from pi_orchestrator.storage.actions import Actor
from tests.integration.api.test_containers import CAMERAS, CONTAINERS, PAIR, QUIET, made, paired, refused
from tests.support.api import case, exchange
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

AUTO = "/api/v1/onboarding/auto"
PAIRED = "/api/v1/espcam/paired"
DISMISSED = "/api/v1/espcam/dismissed"
REPLACE = "/api/v1/espcam/replace"
CLIENTS = 20


@pytest.fixture
async def quiet(world):
    """A daemon that onboards nobody by itself."""
    async with world.daemon(connected=False, **QUIET) as running:
        yield running


async def unpair(running, mac):
    return await running.admin.delete(f"{PAIRED}/{mac}")


async def replace(running, old, new):
    return await running.admin.post(REPLACE, json={"old_mac": old, "new_mac": new})


async def rename(running, name, to):
    return await running.api.call("PATCH", f"{CAMERAS}/{name}", json={"name": to})


async def places(running):
    """Who stands where, as the daemon tells it."""
    return {
        camera["mac_address"]: (camera["container_id"], camera["position"])
        for camera in (await running.api.get(PAIRED)).data["cameras"]
    }


def stored(world):
    """Who stands where, as it is on disk."""
    return {mac: (box, at) for mac, box, at in world.rows("SELECT mac, container_id, position FROM assignments")}


def told(world, *families):
    """(type, MAC) of events, in order."""
    rows = world.rows("SELECT type, mac FROM events WHERE type LIKE 'camera.%' ORDER BY id")
    return [row for row in rows if not families or row[0].startswith(families)]


# Unpairing.


async def test_who_is_unpaired_stays_out_over_a_restart_until_the_dismissal_is_lifted(world):
    async with world.daemon() as running, world.camera(1) as camera:
        await camera.say()
        await eventually(lambda: camera.mac in running.services.roster)
        await rename(running, camera.mac, "Entrance")
        first = await unpair(running, camera.mac)
        assert (first.status, first.data["reason"], first.data["name"]) == (200, "unpaired", "Entrance")
        assert [(await unpair(running, camera.mac)).data for _ in range(2)] == [first.data] * 2
        assert await places(running) == stored(world) == {}
        assert world.rows("SELECT * FROM presence") == []

        await camera.say()
        await running.considered(world)
        assert (await running.camera(camera.mac))["status"] == "discovered"
        assert (await running.trail(camera.mac))[-1] == ("rejected_by_policy", "DENIED")
    async with world.daemon() as running, world.camera(1) as camera:
        await camera.say()
        await running.considered(world)
        assert world.rows("SELECT * FROM cameras") == []
        query = {"mac": camera.mac, "ip": camera.address}
        explained = (await running.api.get(f"{AUTO}/policy/explain", params=query)).data
        (deny,) = [rule for rule in explained["rules"] if rule["rule"] == "deny"]
        assert (deny["result"], deny["code"], explained["allowed"]) == ("fail", "DENIED", False)
        assert deny["why"].startswith("it was unpaired (by admin, 20")
        (listed,) = (await running.api.get(DISMISSED)).data["cameras"]
        assert listed == first.data

        for _ in range(3):
            assert (await running.admin.delete(f"{DISMISSED}/{camera.mac}")).status == 204
        await camera.say()
        await eventually(lambda: camera.mac in running.services.roster)
        assert running.services.roster.get(camera.mac).name is None, "what was forgotten is forgotten"
        assert (await running.api.get(DISMISSED)).data == {"cameras": [], "total": 0}
    kinds = ["onboarded", "renamed", "removed", "dismissal_lifted", "onboarded"]
    assert told(world, "camera.onb", "camera.re", "camera.dis") == [(f"camera.{kind}", camera.mac) for kind in kinds]


async def test_pairing_by_hand_brings_back_who_was_taken_out(quiet, world):
    mac = world.mac(1)
    await paired(quiet, mac, "auto-onboard", 4)
    await unpair(quiet, mac)
    again = await paired(quiet, mac.lower(), "auto-onboard")
    assert (again["mac_address"], again["position"]) == (mac, 1)
    assert (await quiet.api.get(DISMISSED)).data["total"] == 0
    assert world.rows("SELECT * FROM dismissed") == []


async def test_who_is_not_on_record_cannot_be_unpaired_renamed_or_replaced(quiet, world):
    for spelling in (world.mac(1), world.mac(1).lower().replace(":", "-"), world.mac(1).replace(":", "")):
        with case(spelling):
            await refused(unpair(quiet, spelling), 404, "CAMERA_NOT_FOUND")
            await refused(rename(quiet, spelling, "x"), 404, "CAMERA_NOT_FOUND")
            await refused(replace(quiet, spelling, world.mac(2)), 404, "CAMERA_NOT_FOUND")
    for spelling in ("nonsense", "FF:FF:FF:FF:FF:FF", "00:00:00:00:00:00", "01:00:5E:00:00:01"):
        answer = await exchange(quiet, "DELETE", f"{PAIRED}/{spelling}", [("X-API-Key", quiet.admin.key)])
        assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED")
        await refused(
            quiet.api.post(PAIR, json={"mac": spelling, "container_id": "auto-onboard"}), 400, "VALIDATION_FAILED"
        )
    assert world.rows("SELECT * FROM dismissed") == world.rows("SELECT * FROM cameras") == []
    refusals = world.rows("SELECT DISTINCT action, target FROM operator_actions WHERE outcome = 'CAMERA_NOT_FOUND'")
    assert ("camera.replace", world.mac(1)) in refusals, "the record says who was not replaced"


async def test_a_stranger_that_is_heard_keeps_no_name(world):
    async with world.daemon(**QUIET) as running:
        await world.announce(1)
        await running.considered(world)
        error = await refused(rename(running, world.mac(1), "Mine"), 409, "CONFLICT")
        assert error["details"].startswith("pair it first")


async def test_a_name_is_kept_over_a_restart_and_cleared_by_an_empty_one(world):
    async with world.daemon(connected=False, **QUIET) as running:
        mac = world.mac(1)
        await paired(running, mac, "auto-onboard")
        for _ in range(3):
            assert (await rename(running, mac, "Entrance")).data["name"] == "Entrance"
        assert world.rows("SELECT count(*) FROM events WHERE type = 'camera.renamed'") == [(1,)]
    async with world.daemon(connected=False, **QUIET) as running:
        (camera,) = (await running.api.get(PAIRED)).data["cameras"]
        (box,) = (await running.api.get(CONTAINERS)).data["containers"]
        assert camera["name"] == box["cameras"][0]["name"] == "Entrance"
        for nothing in ("", None, "   "):
            assert (await rename(running, mac, nothing)).data["name"].startswith("espcam-")
    outcomes = world.rows("SELECT outcome FROM operator_actions WHERE action = 'camera.rename' ORDER BY id")
    assert [row[0] for row in outcomes] == ["ok", *["was so already"] * 2, "ok", *["was so already"] * 2]


# Races with auto-onboarding.


@pytest.mark.parametrize("switch", [False, True], ids=["on", "killed"])
async def test_an_attempt_that_is_under_way_does_not_bring_back_who_is_unpaired_meanwhile(world, switch):
    """Paired by hand and taken out again while the camera thinks about its answer: the last word is the operator's."""
    async with world.daemon() as running, world.camera(1) as camera:
        camera.answer_now.clear()
        await camera.say()
        await camera.asked.wait()
        await paired(running, camera.mac, "auto-onboard")
        assert (await unpair(running, camera.mac)).status == 200
        if switch:
            await running.api.post(f"{AUTO}/disable")
        camera.answer_now.set()
        await eventually(lambda: not running.services.onboarding.is_onboarding(camera.mac))
        await running.considered(world)
        code = "NOT_ENABLED" if switch else "DENIED"
        assert (await running.trail(camera.mac))[:2] == [("discovered", None), ("rejected_by_policy", code)]
        assert world.rows("SELECT * FROM cameras") == world.rows("SELECT * FROM assignments") == []
        assert camera.mac not in running.services.roster
        assert ("camera.onboarding_failed", camera.mac) not in told(world), "it is no failure of the camera"


async def test_an_attempt_that_is_under_way_finds_new_hardware_registered(world):
    async with world.daemon() as running, world.camera(2) as new:
        await paired(running, world.mac(1), "auto-onboard", 3)
        new.answer_now.clear()
        await new.say()
        await new.asked.wait()
        assert (await replace(running, world.mac(1), new.mac)).status == 200
        new.answer_now.set()
        await eventually(lambda: not running.services.onboarding.is_onboarding(new.mac))
        assert await places(running) == stored(world) == {new.mac: ("auto-onboard", 3)}


async def test_who_is_taken_out_while_its_facts_are_stored_is_not_put_back_into_memory(world):
    """Presence stores what it knew of a camera a moment ago; the roster follows the order of the commits."""
    async with world.daemon() as running, world.camera(1) as camera:
        await camera.say()
        await eventually(lambda: camera.mac in running.services.roster)
        await camera.say(firmware_version="9.9.9")
        await eventually(lambda: running.services.registry.get(camera.mac).claims.firmware_version == "9.9.9")
        presence, actor = running.services.presence, Actor("me", "-", "-", "test")
        await asyncio.gather(
            running.services.inventory.unpair(camera.mac, actor),
            presence._flush(presence._clock.monotonic(), everything=True),
        )
        assert camera.mac not in running.services.roster
        assert world.rows("SELECT * FROM cameras") == []


# New hardware.


async def test_new_hardware_takes_over_name_place_registration_and_history(world):
    clock = FakeClock()
    async with world.daemon(clock=clock) as running, world.camera(1) as old, world.camera(2) as new:
        await old.say()
        await eventually(lambda: old.mac in running.services.roster)
        await rename(running, old.mac, "Entrance")
        before = running.services.roster.get(old.mac)
        history = await running.audit(mac=old.mac)
        await clock.advance(3600)
        await running.api.post(f"{AUTO}/disable")
        await new.say()
        await running.considered(world)
        first = await replace(running, old.mac.lower(), new.mac.replace(":", "-"))
        assert first.status == 200, first.body
        assert first.data["replaces"] == old.mac
        assert [(await replace(running, old.mac, new.mac)).data for _ in range(2)] == [first.data] * 2

        heir = running.services.roster.get(new.mac)
        same = ("name", "registered_at", "container_id", "position", "paired_at")
        assert [getattr(heir, name) for name in same] == [getattr(before, name) for name in same]
        assert (heir.device_id, heir.ip_address) == (new.device_id, new.address)
        assert (await running.camera(new.mac))["status"] == "online"
        assert (await running.camera(old.mac))["status"] == "offline", "it was silent for an hour"
        page = (await running.api.get(f"{AUTO}/events/{new.mac}")).data
        assert [row for row in page["events"] if row["mac_address"] == old.mac][::-1] == history
        (gone,) = (await running.api.get(DISMISSED)).data["cameras"]
        assert (gone["mac_address"], gone["reason"], gone["replaced_by"]) == (old.mac, "replaced", new.mac)

        await running.api.post(f"{AUTO}/enable")
        await old.say()
        await running.considered(world)
        assert old.mac not in running.services.roster, "it is still there, and stays out"
    (row,) = world.rows("SELECT payload FROM events WHERE type = 'camera.replaced'")
    payload = json.loads(row[0])
    assert (payload["mac"], payload["replaces"], payload["position"], payload["name"]) == (
        new.mac,
        old.mac,
        1,
        "Entrance",
    )
    (row,) = world.rows("SELECT payload FROM events WHERE type = 'camera.registered'")
    assert json.loads(row[0])["by"] == payload["by"] == "admin"
    async with world.daemon(connected=False) as running:
        assert [camera.mac for camera in running.services.roster] == [new.mac]
        assert running.services.roster.get(new.mac).registered_at == before.registered_at


async def test_hardware_that_auto_onboarding_has_taken_in_meanwhile_leaves_the_place_that_it_was_given(world):
    async with world.daemon() as running, world.camera(2) as new:
        box = await made(running, label="North")
        await paired(running, world.mac(1), box, 2)
        await new.say()
        await eventually(lambda: new.mac in running.services.roster)
        assert (await replace(running, world.mac(1), new.mac)).status == 200
        assert await places(running) == stored(world) == {new.mac: (box, 2)}
        assert (await running.api.get(f"{CAMERAS}/unassigned")).data["count"] == 0


async def test_hardware_that_a_person_has_placed_is_not_moved(quiet, world):
    north, south = await made(quiet, label="North"), await made(quiet, label="South")
    await paired(quiet, world.mac(1), north)
    await paired(quiet, world.mac(2), south, 4)
    before = world.tables()
    error = await refused(replace(quiet, world.mac(1), world.mac(2)), 409, "CAMERA_ALREADY_ASSIGNED")
    assert south in error["message"]
    after = world.tables()
    assert {name for name in after if after[name] != before[name]} == {"operator_actions", "sqlite_sequence"}
    assert (await quiet.api.delete(f"{CONTAINERS}/{south}/cameras/{world.mac(2)}")).status == 200
    assert (await replace(quiet, world.mac(1), world.mac(2))).status == 200
    assert await places(quiet) == {world.mac(2): (north, 1)}


async def test_a_camera_does_not_replace_itself_and_one_without_a_place_has_none_to_give(quiet, world):
    one, two = world.mac(1), world.mac(2)
    await paired(quiet, one, "auto-onboard")
    error = await refused(replace(quiet, one, one.lower()), 409, "CONFLICT")
    assert error["message"] == f"{one} does not replace itself"
    await quiet.api.delete(f"{CONTAINERS}/auto-onboard/cameras/{one}")
    heir = (await replace(quiet, one, two)).data
    assert not {"container_id", "position", "paired_at"} & set(heir)
    assert [camera["mac_address"] for camera in (await quiet.api.get(f"{CAMERAS}/unassigned")).data["cameras"]] == [two]


async def test_hardware_that_goes_there_and_back_has_one_history_without_an_end_in_itself(quiet, world):
    one, two, three = (world.mac(number) for number in (1, 2, 3))
    row = "INSERT INTO onboarding_audit (mac_address, stage, at, boot_id, monotonic, clock_trusted) VALUES "
    await world.sabotage(f"{row} ('{one}', 'paired', '2026', 'b', 1, 1)")
    await paired(quiet, one, "auto-onboard")
    for old, new in ((one, two), (two, one), (one, three)):
        assert (await replace(quiet, old, new)).status == 200
    await world.sabotage(f"{row} ('{one}', 'failed', '2026', 'b', 1, 1)")
    for mac, stages in ((three, ["paired"]), (two, ["paired"]), (one, ["failed", "paired"])):
        page = (await quiet.api.get(f"{AUTO}/events/{mac}")).data
        assert ([event["stage"] for event in page["events"]], page["pagination"]["total"]) == (stages, len(stages))
    (last,) = [one for one in (await quiet.api.get(DISMISSED)).data["cameras"] if one["replaced_by"] == three]
    assert last["mac_address"] == one
    await refused(replace(quiet, one, two), 404, "CAMERA_NOT_FOUND")


async def test_the_device_id_that_both_claim_goes_over_with_the_place(world):
    async with world.daemon(**QUIET) as running:
        await world.announce(1, device_id="kitchen")
        await running.considered(world)
        await paired(running, world.mac(1), "auto-onboard")
        await world.announce(2, device_id="kitchen")
        await running.considered(world)
        assert (await replace(running, world.mac(1), world.mac(2))).data["device_id"] == "kitchen"
        assert running.services.roster.find("kitchen") == world.mac(2)


# Many at once.


async def at_once(calls):
    """(how many of each (status, code), the answers)."""
    answers = await asyncio.gather(*calls)
    return Counter((answer.status, answer.json.get("code")) for answer in answers), answers


async def test_of_twenty_who_want_one_place_one_gets_it(quiet, world):
    macs = [world.mac(number) for number in range(1, CLIENTS + 1)]
    box = await made(quiet, label="Box")
    bodies = [{"mac": mac, "container_id": box, "position": 3} for mac in macs]
    counted, _ = await at_once(quiet.api.post(PAIR, json=body) for body in bodies)
    assert counted == {(200, None): 1, (409, "POSITION_OCCUPIED"): CLIENTS - 1}
    assert world.rows("SELECT count(*) FROM cameras") == [(1,)], "who found no place is not registered"
    assert stored(world) == await places(quiet)
    assert len(told(world)) == 1


async def test_of_twenty_places_for_one_camera_it_gets_one(quiet, world):
    boxes = [await made(quiet, label=f"Box {number}") for number in range(CLIENTS)]
    mac = world.mac(1)
    calls = [quiet.api.post(PAIR, json={"mac": mac, "container_id": box, "position": 2}) for box in boxes]
    counted, _ = await at_once(calls)
    assert counted == {(200, None): 1, (409, "CAMERA_ALREADY_ASSIGNED"): CLIENTS - 1}
    assert stored(world) == await places(quiet)
    assert list(stored(world)) == [mac]


async def test_twenty_who_say_the_same_are_told_the_same(quiet, world):
    one, two = world.mac(1), world.mac(2)
    for call in (
        lambda: quiet.api.post(PAIR, json={"mac": one, "container_id": "auto-onboard"}),
        lambda: rename(quiet, one, "Entrance"),
        lambda: replace(quiet, one, two),
        lambda: unpair(quiet, two),
        lambda: quiet.api.post(CONTAINERS, json={"label": "Twenty"}),
    ):
        counted, answers = await at_once(call() for _ in range(CLIENTS))
        assert len(counted) == 1
        assert len({json.dumps(answer.data, sort_keys=True) for answer in answers}) == 1
    kinds = ["registered", "renamed", "registered", "replaced", "removed"]
    assert [kind for kind, _ in told(world)] == [f"camera.{kind}" for kind in kinds], "and each is told once"
    assert world.rows("SELECT count(*) FROM containers WHERE label = 'Twenty'") == [(1,)]
    assert world.rows("SELECT count(*) FROM operator_actions WHERE outcome = 'ok' AND actor <> 'first start'") == [(5,)]


async def test_one_camera_is_not_replaced_by_two(quiet, world):
    await paired(quiet, world.mac(1), "auto-onboard", 2)
    calls = [replace(quiet, world.mac(1), world.mac(number)) for number in range(2, CLIENTS + 2)]
    counted, answers = await at_once(calls)
    assert counted == {(200, None): 1, (404, "CAMERA_NOT_FOUND"): CLIENTS - 1}
    (winner,) = [answer.data["mac_address"] for answer in answers if answer.status == 200]
    assert stored(world) == await places(quiet) == {winner: ("auto-onboard", 2)}
    assert f"replaced by {winner}" in next(a for a in answers if a.status == 404).json["error"]["details"]
