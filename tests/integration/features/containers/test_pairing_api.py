"""Pairing, unpairing and replacement: exclusions, races with auto-onboarding, and concurrent requests."""

import asyncio
import json
from collections import Counter

import pytest

from pi_orchestrator.core.actor import Actor
from pi_orchestrator.features.cameras.presence import FLUSH_S
from tests.integration.features.containers.test_api import (
    CAMERAS,
    CONTAINERS,
    ONBOARDING_OFF,
    PAIR,
    create,
    pair,
    refused,
)
from tests.support.api import case, exchange
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("documented_answers")

AUTO = "/api/v1/onboarding/auto"
PAIRED = "/api/v1/espcam/paired"
DISMISSED = "/api/v1/espcam/dismissed"
REPLACE = "/api/v1/espcam/replace"
CLIENTS = 20


@pytest.fixture
async def running(rig):
    """A daemon with auto-onboarding disabled."""
    async with rig.daemon(connected=False, **ONBOARDING_OFF) as running:
        yield running


async def unpair(running, mac):
    return await running.admin.delete(f"{PAIRED}/{mac}")


async def replace(running, old, new):
    return await running.admin.post(REPLACE, json={"old_mac": old, "new_mac": new})


async def rename(running, name, to):
    return await running.api.call("PATCH", f"{CAMERAS}/{name}", json={"name": to})


async def places(running):
    """The container and position of each camera, from the API."""
    return {
        camera["mac_address"]: (camera["container_id"], camera["position"])
        for camera in (await running.api.get(PAIRED)).data["cameras"]
    }


def stored(rig):
    """The container and position of each camera, from the database."""
    return {
        mac: (box, position) for mac, box, position in rig.rows("SELECT mac, container_id, position FROM assignments")
    }


def events(rig, *prefixes):
    """(type, MAC) of camera events with these prefixes, in order."""
    rows = rig.rows("SELECT type, mac FROM events WHERE type LIKE 'camera.%' ORDER BY id")
    return [row for row in rows if not prefixes or row[0].startswith(prefixes)]


# Unpairing.


async def test_unpaired_camera_is_excluded_until_exclusion_is_lifted(rig):
    async with rig.daemon() as running, rig.camera(1) as camera:
        await camera.publish_status()
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        await rename(running, camera.mac, "Entrance")
        first = await unpair(running, camera.mac)
        assert (first.status, first.data["reason"], first.data["name"]) == (200, "unpaired", "Entrance")
        assert [(await unpair(running, camera.mac)).data for _ in range(2)] == [first.data] * 2
        assert await places(running) == stored(rig) == {}
        assert rig.rows("SELECT * FROM presence") == []

        await camera.publish_status()
        await running.wait_until_processed(rig)
        assert (await running.camera(camera.mac))["status"] == "discovered"
        assert (await running.onboarding_stages(camera.mac))[-1] == ("rejected_by_policy", "DENIED")
    async with rig.daemon() as running, rig.camera(1) as camera:
        await camera.publish_status()
        await running.wait_until_processed(rig)
        assert rig.rows("SELECT * FROM cameras") == []
        query = {"mac": camera.mac, "ip": camera.address}
        explained = (await running.api.get(f"{AUTO}/policy/explain", params=query)).data
        (deny,) = [rule for rule in explained["rules"] if rule["rule"] == "deny"]
        assert (deny["result"], deny["code"], explained["allowed"]) == ("fail", "DENIED", False)
        assert deny["why"].startswith("it was unpaired (by admin, 20")
        (listed,) = (await running.api.get(DISMISSED)).data["cameras"]
        assert listed == first.data

        for _ in range(3):
            assert (await running.admin.delete(f"{DISMISSED}/{camera.mac}")).status == 204
        await camera.publish_status()
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        assert running.app.cameras.cache.get(camera.mac).name is None, "its old name is not restored"
        assert (await running.api.get(DISMISSED)).data == {"cameras": [], "total": 0}
    kinds = ["onboarded", "renamed", "removed", "dismissal_lifted", "onboarded"]
    assert events(rig, "camera.onb", "camera.re", "camera.dis") == [(f"camera.{kind}", camera.mac) for kind in kinds]


async def test_pairing_ends_an_exclusion(running, rig):
    mac = rig.mac(1)
    await pair(running, mac, "auto-onboard", 4)
    await unpair(running, mac)
    second = await pair(running, mac.lower(), "auto-onboard")
    assert (second["mac_address"], second["position"]) == (mac, 1)
    assert (await running.api.get(DISMISSED)).data["total"] == 0
    assert rig.rows("SELECT * FROM dismissed") == []


async def test_unregistered_camera_is_404_for_each_command(running, rig):
    for spelling in (rig.mac(1), rig.mac(1).lower().replace(":", "-"), rig.mac(1).replace(":", "")):
        with case(spelling):
            await refused(unpair(running, spelling), 404, "CAMERA_NOT_FOUND")
            await refused(rename(running, spelling, "x"), 404, "CAMERA_NOT_FOUND")
            await refused(replace(running, spelling, rig.mac(2)), 404, "CAMERA_NOT_FOUND")
    for spelling in ("nonsense", "FF:FF:FF:FF:FF:FF", "00:00:00:00:00:00", "01:00:5E:00:00:01"):
        answer = await exchange(running, "DELETE", f"{PAIRED}/{spelling}", [("X-API-Key", running.admin.key)])
        assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED")
        await refused(
            running.api.post(PAIR, json={"mac": spelling, "container_id": "auto-onboard"}), 400, "VALIDATION_FAILED"
        )
    assert rig.rows("SELECT * FROM dismissed") == rig.rows("SELECT * FROM cameras") == []
    refusals = rig.rows("SELECT DISTINCT action, target FROM operator_actions WHERE outcome = 'CAMERA_NOT_FOUND'")
    assert ("camera.replace", rig.mac(1)) in refusals, "the audit log names the camera"


async def test_unregistered_camera_cannot_be_renamed(rig):
    async with rig.daemon(**ONBOARDING_OFF) as running:
        await rig.announce(1)
        await running.wait_until_processed(rig)
        error = await refused(rename(running, rig.mac(1), "Mine"), 409, "CONFLICT")
        assert error["details"].startswith("pair it first")


async def test_name_survives_a_restart_and_can_be_cleared(rig):
    async with rig.daemon(connected=False, **ONBOARDING_OFF) as running:
        mac = rig.mac(1)
        await pair(running, mac, "auto-onboard")
        for _ in range(3):
            assert (await rename(running, mac, "Entrance")).data["name"] == "Entrance"
        assert rig.rows("SELECT count(*) FROM events WHERE type = 'camera.renamed'") == [(1,)]
    async with rig.daemon(connected=False, **ONBOARDING_OFF) as running:
        (camera,) = (await running.api.get(PAIRED)).data["cameras"]
        (box,) = (await running.api.get(CONTAINERS)).data["containers"]
        assert camera["name"] == box["cameras"][0]["name"] == "Entrance"
        for empty in ("", None, "   "):
            assert (await rename(running, mac, empty)).data["name"].startswith("espcam-")
    outcomes = rig.rows("SELECT outcome FROM operator_actions WHERE action = 'camera.rename' ORDER BY id")
    assert [row[0] for row in outcomes] == ["ok", *["was so already"] * 2, "ok", *["was so already"] * 2]


# Races with auto-onboarding.


@pytest.mark.parametrize("is_disabled", [False, True], ids=["enabled", "disabled"])
async def test_unpair_during_an_attempt_is_not_undone(rig, is_disabled):
    """The camera is paired and unpaired while the attempt waits for its answer; the operator's command wins."""
    async with rig.daemon() as running, rig.camera(1) as camera:
        camera.answer_now.clear()
        await camera.publish_status()
        await camera.request_received.wait()
        await pair(running, camera.mac, "auto-onboard")
        assert (await unpair(running, camera.mac)).status == 200
        if is_disabled:
            await running.api.post(f"{AUTO}/disable")
        camera.answer_now.set()
        await eventually(lambda: not running.app.onboarding.worker.is_onboarding(camera.mac))
        await running.wait_until_processed(rig)
        code = "NOT_ENABLED" if is_disabled else "DENIED"
        assert (await running.onboarding_stages(camera.mac))[:2] == [("discovered", None), ("rejected_by_policy", code)]
        assert rig.rows("SELECT * FROM cameras") == rig.rows("SELECT * FROM assignments") == []
        assert camera.mac not in running.app.cameras.cache
        assert ("camera.onboarding_failed", camera.mac) not in events(rig), "not a failure of the camera"


async def test_replace_during_an_attempt_is_not_undone(rig):
    async with rig.daemon() as running, rig.camera(2) as new:
        await pair(running, rig.mac(1), "auto-onboard", 3)
        new.answer_now.clear()
        await new.publish_status()
        await new.request_received.wait()
        assert (await replace(running, rig.mac(1), new.mac)).status == 200
        new.answer_now.set()
        await eventually(lambda: not running.app.onboarding.worker.is_onboarding(new.mac))
        assert await places(running) == stored(rig) == {new.mac: ("auto-onboard", 3)}


async def test_unpair_during_a_presence_flush_is_not_undone(rig):
    """The camera cache is updated in the order of the commits, also when presence stores older values."""
    clock = FakeClock()
    async with rig.daemon(clock=clock) as running, rig.camera(1) as camera:
        await camera.publish_status()
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        await camera.publish_status(firmware_version="9.9.9")
        await eventually(lambda: running.app.devices.registry.get(camera.mac).claims.firmware_version == "9.9.9")
        presence, actor = running.app.cameras.presence, Actor("me", "-", "-", "test")
        clock.skip(FLUSH_S)
        await asyncio.gather(
            running.app.cameras.service.unpair(camera.mac, actor),
            presence.tick(),
        )
        assert camera.mac not in running.app.cameras.cache
        assert rig.rows("SELECT * FROM cameras") == []


# Replacement.


async def test_replace_transfers_name_position_and_history(rig):
    clock = FakeClock()
    async with rig.daemon(clock=clock) as running, rig.camera(1) as old, rig.camera(2) as new:
        await old.publish_status()
        await eventually(lambda: old.mac in running.app.cameras.cache)
        await rename(running, old.mac, "Entrance")
        before = running.app.cameras.cache.get(old.mac)
        history = await running.onboarding_events(mac=old.mac)
        await clock.advance(3600)
        await running.api.post(f"{AUTO}/disable")
        await new.publish_status()
        await running.wait_until_processed(rig)
        first = await replace(running, old.mac.lower(), new.mac.replace(":", "-"))
        assert first.status == 200, first.body
        assert first.data["replaces"] == old.mac
        assert [(await replace(running, old.mac, new.mac)).data for _ in range(2)] == [first.data] * 2

        successor = running.app.cameras.cache.get(new.mac)
        kept_fields = ("name", "registered_at", "container_id", "position", "paired_at")
        assert [getattr(successor, name) for name in kept_fields] == [getattr(before, name) for name in kept_fields]
        assert (successor.device_id, successor.ip_address) == (new.device_id, new.address)
        assert (await running.camera(new.mac))["status"] == "online"
        assert (await running.camera(old.mac))["status"] == "offline", "not seen for an hour"
        page = (await running.api.get(f"{AUTO}/events/{new.mac}")).data
        assert [row for row in page["events"] if row["mac_address"] == old.mac][::-1] == history
        (excluded,) = (await running.api.get(DISMISSED)).data["cameras"]
        assert (excluded["mac_address"], excluded["reason"], excluded["replaced_by"]) == (old.mac, "replaced", new.mac)

        await running.api.post(f"{AUTO}/enable")
        await old.publish_status()
        await running.wait_until_processed(rig)
        assert old.mac not in running.app.cameras.cache, "present, but excluded"
    (row,) = rig.rows("SELECT payload FROM events WHERE type = 'camera.replaced'")
    payload = json.loads(row[0])
    assert (payload["mac"], payload["replaces"], payload["position"], payload["name"]) == (
        new.mac,
        old.mac,
        1,
        "Entrance",
    )
    (row,) = rig.rows("SELECT payload FROM events WHERE type = 'camera.registered'")
    assert json.loads(row[0])["by"] == payload["by"] == "admin"
    async with rig.daemon(connected=False) as running:
        assert [camera.mac for camera in running.app.cameras.cache] == [new.mac]
        assert running.app.cameras.cache.get(new.mac).registered_at == before.registered_at


async def test_replace_by_an_onboarded_camera_moves_it(rig):
    async with rig.daemon() as running, rig.camera(2) as new:
        box = await create(running, label="North")
        await pair(running, rig.mac(1), box, 2)
        await new.publish_status()
        await eventually(lambda: new.mac in running.app.cameras.cache)
        assert (await replace(running, rig.mac(1), new.mac)).status == 200
        assert await places(running) == stored(rig) == {new.mac: (box, 2)}
        assert (await running.api.get(f"{CAMERAS}/unassigned")).data["count"] == 0


async def test_replace_by_an_assigned_camera_is_refused(running, rig):
    north, south = await create(running, label="North"), await create(running, label="South")
    await pair(running, rig.mac(1), north)
    await pair(running, rig.mac(2), south, 4)
    before = rig.tables()
    error = await refused(replace(running, rig.mac(1), rig.mac(2)), 409, "CAMERA_ALREADY_ASSIGNED")
    assert south in error["message"]
    after = rig.tables()
    assert {name for name in after if after[name] != before[name]} == {"operator_actions", "sqlite_sequence"}
    assert (await running.api.delete(f"{CONTAINERS}/{south}/cameras/{rig.mac(2)}")).status == 200
    assert (await replace(running, rig.mac(1), rig.mac(2))).status == 200
    assert await places(running) == {rig.mac(2): (north, 1)}


async def test_replace_by_itself_is_refused(running, rig):
    one, two = rig.mac(1), rig.mac(2)
    await pair(running, one, "auto-onboard")
    error = await refused(replace(running, one, one.lower()), 409, "CONFLICT")
    assert error["message"] == f"{one} cannot replace itself"
    await running.api.delete(f"{CONTAINERS}/auto-onboard/cameras/{one}")
    successor = (await replace(running, one, two)).data
    assert not {"container_id", "position", "paired_at"} & set(successor)
    assert [camera["mac_address"] for camera in (await running.api.get(f"{CAMERAS}/unassigned")).data["cameras"]] == [
        two
    ]


async def test_history_of_circular_replacements_ends(running, rig):
    one, two, three = (rig.mac(number) for number in (1, 2, 3))
    row = "INSERT INTO onboarding_audit (mac_address, stage, at, boot_id, monotonic, clock_trusted) VALUES "
    await rig.execute_in_thread(f"{row} ('{one}', 'paired', '2026', 'b', 1, 1)")
    await pair(running, one, "auto-onboard")
    for old, new in ((one, two), (two, one), (one, three)):
        assert (await replace(running, old, new)).status == 200
    await rig.execute_in_thread(f"{row} ('{one}', 'failed', '2026', 'b', 1, 1)")
    for mac, stages in ((three, ["paired"]), (two, ["paired"]), (one, ["failed", "paired"])):
        page = (await running.api.get(f"{AUTO}/events/{mac}")).data
        assert ([event["stage"] for event in page["events"]], page["pagination"]["total"]) == (stages, len(stages))
    dismissed = (await running.api.get(DISMISSED)).data["cameras"]
    (last,) = [camera for camera in dismissed if camera["replaced_by"] == three]
    assert last["mac_address"] == one
    await refused(replace(running, one, two), 404, "CAMERA_NOT_FOUND")


async def test_replace_transfers_a_shared_device_id(rig):
    async with rig.daemon(**ONBOARDING_OFF) as running:
        await rig.announce(1, device_id="kitchen")
        await running.wait_until_processed(rig)
        await pair(running, rig.mac(1), "auto-onboard")
        await rig.announce(2, device_id="kitchen")
        await running.wait_until_processed(rig)
        assert (await replace(running, rig.mac(1), rig.mac(2))).data["device_id"] == "kitchen"
        assert running.app.cameras.cache.mac_of("kitchen") == rig.mac(2)


# Concurrent requests.


async def call_concurrently(calls):
    """Return the count of each (status, code), and the answers."""
    answers = await asyncio.gather(*calls)
    return Counter((answer.status, answer.json.get("code")) for answer in answers), answers


async def test_concurrent_pairing_to_one_position_has_one_winner(running, rig):
    macs = [rig.mac(number) for number in range(1, CLIENTS + 1)]
    box = await create(running, label="Box")
    bodies = [{"mac": mac, "container_id": box, "position": 3} for mac in macs]
    counted, _ = await call_concurrently(running.api.post(PAIR, json=body) for body in bodies)
    assert counted == {(200, None): 1, (409, "POSITION_OCCUPIED"): CLIENTS - 1}
    assert rig.rows("SELECT count(*) FROM cameras") == [(1,)], "the refused cameras are not registered"
    assert stored(rig) == await places(running)
    assert len(events(rig)) == 1


async def test_concurrent_pairing_of_one_camera_has_one_winner(running, rig):
    boxes = [await create(running, label=f"Box {number}") for number in range(CLIENTS)]
    mac = rig.mac(1)
    calls = [running.api.post(PAIR, json={"mac": mac, "container_id": box, "position": 2}) for box in boxes]
    counted, _ = await call_concurrently(calls)
    assert counted == {(200, None): 1, (409, "CAMERA_ALREADY_ASSIGNED"): CLIENTS - 1}
    assert stored(rig) == await places(running)
    assert list(stored(rig)) == [mac]


async def test_concurrent_equal_requests_get_equal_answers(running, rig):
    one, two = rig.mac(1), rig.mac(2)
    for call in (
        lambda: running.api.post(PAIR, json={"mac": one, "container_id": "auto-onboard"}),
        lambda: rename(running, one, "Entrance"),
        lambda: replace(running, one, two),
        lambda: unpair(running, two),
        lambda: running.api.post(CONTAINERS, json={"label": "Twenty"}),
    ):
        counted, answers = await call_concurrently(call() for _ in range(CLIENTS))
        assert len(counted) == 1
        assert len({json.dumps(answer.data, sort_keys=True) for answer in answers}) == 1
    kinds = ["registered", "renamed", "registered", "replaced", "removed"]
    assert [kind for kind, _ in events(rig)] == [f"camera.{kind}" for kind in kinds], "one event for each change"
    assert rig.rows("SELECT count(*) FROM containers WHERE label = 'Twenty'") == [(1,)]
    assert rig.rows("SELECT count(*) FROM operator_actions WHERE outcome = 'ok' AND actor <> 'first start'") == [(5,)]


async def test_concurrent_replacements_have_one_winner(running, rig):
    await pair(running, rig.mac(1), "auto-onboard", 2)
    calls = [replace(running, rig.mac(1), rig.mac(number)) for number in range(2, CLIENTS + 2)]
    counted, answers = await call_concurrently(calls)
    assert counted == {(200, None): 1, (404, "CAMERA_NOT_FOUND"): CLIENTS - 1}
    (winner,) = [answer.data["mac_address"] for answer in answers if answer.status == 200]
    assert stored(rig) == await places(running) == {winner: ("auto-onboard", 2)}
    assert (
        f"replaced by {winner}" in next(answer for answer in answers if answer.status == 404).json["error"]["details"]
    )
