"""Containers: made, named, filled and emptied by hand, each step once, with one answer for each fault."""

import json

import pytest

from pi_orchestrator.domain.container import MAX_CONTAINERS
from tests.support.api import case, exchange
from tests.support.waiting import eventually

CONTAINERS = "/api/v1/containers"
CAMERAS = "/api/v1/cameras"
PAIR = "/api/v1/espcam/pair"
QUIET = {"auto_onboard": {"enabled": False}}
HOSTILE = {
    "<script>alert(1)</script>": "<script>alert(1)</script>",
    "Halle \u202enegeg\u2066": "Halle negeg",
    "two\nlines\tand a tab": "two lines and a tab",
    "NUL\x00 ESC\x1b[31m": "NUL ESC[31m",
    "\U0001f4f7 Kitchen \u00e9": "\U0001f4f7 Kitchen \u00e9",
    "  padded  ": "padded",
    "'; DROP TABLE containers; --": "'; DROP TABLE containers; --",
    "\ud800 lone": "lone",
}


@pytest.fixture
async def quiet(world):
    """A daemon that onboards nobody by itself."""
    async with world.daemon(connected=False, **QUIET) as running:
        yield running


async def made(running, **text):
    answer = await running.api.post(CONTAINERS, json=text)
    assert answer.status == 201, answer.body
    return answer.data["id"]


async def paired(running, mac, container, position=None):
    """A camera that was never heard, in its place."""
    body = {"mac": mac, "container_id": container} | ({"position": position} if position else {})
    answer = await running.api.post(PAIR, json=body)
    assert answer.status == 200, answer.body
    return answer.data


async def refused(call, status, code):
    answer = await call
    assert (answer.status, answer.json["code"]) == (status, code), answer.body
    return answer.json["error"]


async def test_with_nothing_there_lists_are_empty_but_for_the_target_of_auto_onboarding(quiet):
    (target,) = (await quiet.api.get(CONTAINERS)).data["containers"]
    assert (target["id"], target["label"], target["cameras"]) == ("auto-onboard", "Auto-onboarded", [])
    assert (await quiet.api.get("/api/v1/espcam/paired")).data["cameras"] == []
    unassigned = (await quiet.api.get(f"{CAMERAS}/unassigned")).json
    assert (unassigned["cameras"], unassigned["count"], unassigned["data"]) == ([], 0, {"cameras": [], "count": 0})


async def test_a_container_is_made_shown_changed_and_deleted(quiet, world):
    first = (await quiet.api.post(CONTAINERS, json={"label": "North", "description": "by the door"})).data
    assert {name: first[name] for name in ("label", "description", "cameras", "camera_count", "online_count")} == {
        "label": "North",
        "description": "by the door",
        "cameras": [],
        "camera_count": 0,
        "online_count": 0,
    }
    path = f"{CONTAINERS}/{first['id']}"
    assert (await quiet.api.get(path)).data == first
    changed = (await quiet.api.call("PATCH", path, json={"label": "South"})).data
    assert (changed["label"], changed["description"]) == ("South", "by the door"), "what is not given stays"
    assert changed["updated_at"] > first["updated_at"]
    assert (await quiet.api.call("PATCH", path, json={"label": "South"})).data == changed, "and so does its time"
    cleared = (await quiet.api.call("PATCH", path, json={"label": "", "description": None})).data
    assert not {"label", "description"} & set(cleared)
    listed = (await quiet.api.get(CONTAINERS)).data
    assert (listed["total"], [one["id"] for one in listed["containers"]]) == (2, ["auto-onboard", first["id"]])
    for _ in range(3):
        assert (await quiet.api.delete(path)).status == 204
    await refused(quiet.api.get(path), 404, "CONTAINER_NOT_FOUND")
    await refused(quiet.api.call("PATCH", path, json={"label": "x"}), 404, "CONTAINER_NOT_FOUND")
    told = [
        (kind, json.loads(text)["id"])
        for kind, text in world.rows("SELECT type, payload FROM events WHERE type LIKE 'container.%' ORDER BY id")
    ]
    assert told == [(f"container.{what}", first["id"]) for what in ("created", "updated", "updated", "deleted")]


async def test_the_same_words_again_are_a_repeat_until_something_is_done_with_the_container(quiet, world):
    first = await made(quiet, label="North")
    assert [await made(quiet, label="North") for _ in range(2)] == [first, first]
    other = await made(quiet, label="North", description="another")
    unnamed = await made(quiet)
    assert len({first, other, unnamed}) == 3
    assert await made(quiet) == unnamed
    await paired(quiet, world.mac(1), first)
    second = await made(quiet, label="North")
    assert second != first
    await quiet.api.call("PATCH", f"{CONTAINERS}/{second}", json={"description": "x"})
    assert await made(quiet, label="North") not in (first, second)
    late = await made(quiet, label="Late")
    await world.sabotage(f"UPDATE containers SET monotonic = monotonic - 31 WHERE id = '{late}'")
    assert await made(quiet, label="Late") != late


async def test_there_is_an_end_to_how_many_anybody_can_make(quiet, world):
    values = ",".join(f"('c{number}', '', '')" for number in range(MAX_CONTAINERS - 1))
    await world.sabotage(f"INSERT INTO containers (id, created_at, updated_at) VALUES {values}")
    error = await refused(quiet.api.post(CONTAINERS, json={"label": "one too many"}), 409, "CONFLICT")
    assert error["details"] == "delete some that are empty"


async def test_what_people_write_is_kept_in_one_line_and_harmless(quiet, world):
    container = await made(quiet)
    mac = world.mac(1)
    await paired(quiet, mac, container)
    for text, kept in HOSTILE.items():
        with case(text):
            body = json.dumps({"label": text, "description": text}).encode()
            how = {"data": body, "headers": {"Content-Type": "application/json"}}
            view = (await quiet.api.call("PATCH", f"{CONTAINERS}/{container}", **how)).data
            assert (view["label"], view["description"]) == (kept, kept)
            renamed = await quiet.api.call("PATCH", f"{CAMERAS}/{mac}", **how | {"data": json.dumps({"name": text})})
            assert renamed.data["name"] == kept
    for field, most in (("label", 100), ("description", 500)):
        view = await quiet.api.call("PATCH", f"{CONTAINERS}/{container}", json={field: "ü" * most})
        assert len(view.data[field]) == most
        for text in ("x" * (most + 1), "x" * 10_000, 7, ["x"], {}):
            with case(field, str(text)[:20]):
                call = quiet.api.call("PATCH", f"{CONTAINERS}/{container}", json={field: text})
                assert (await refused(call, 400, "VALIDATION_FAILED"))["details"].startswith(f"{field}: ")
    for name in ("x" * 65, "x" * 10_000, 7, ["x"], True):
        error = await refused(
            quiet.api.call("PATCH", f"{CAMERAS}/{mac}", json={"name": name}), 400, "VALIDATION_FAILED"
        )
        assert error["details"].startswith("name: ")


@pytest.mark.parametrize("position", [0, 5, -1, 99, "1", "two", 1.5, True, None, [], {}, 2**63])
async def test_a_position_that_is_none_is_named(quiet, position):
    for path, body in (
        (f"{CONTAINERS}/auto-onboard/cameras", {"device_id": "24:6F:28:00:00:10"}),
        (PAIR, {"mac": "24:6F:28:00:00:10", "container_id": "auto-onboard"}),
    ):
        if path == PAIR and position is None:
            continue  # none given: the first free one
        error = await refused(quiet.api.post(path, json=body | {"position": position}), 400, "INVALID_POSITION")
        assert error["details"] == f"position: {position!r} is no position of a container; those are 1, 2, 3 and 4"
    body = {"mac": "nonsense", "container_id": "auto-onboard", "position": 9}
    error = await refused(quiet.api.post(PAIR, json=body), 400, "VALIDATION_FAILED")
    assert "mac: " in error["details"]
    assert "position: 9" in error["details"]


@pytest.mark.parametrize("name", ["%20", "a%20b", "%00", "..", "%ff", "x" * 65, "-x", "%F0%9F%93%B7"])
async def test_what_is_no_id_is_told_so_and_reaches_no_table(quiet, world, name):
    before = world.rows("SELECT * FROM containers")
    for method, path in (
        ("GET", f"{CONTAINERS}/{name}"),
        ("DELETE", f"{CONTAINERS}/{name}"),
        ("DELETE", f"{CONTAINERS}/{name}/cameras/{name}"),
    ):
        answer = await exchange(quiet, method, path)
        assert answer.status in (400, 404), answer.body
    assert world.rows("SELECT * FROM containers") == before


async def test_a_camera_has_one_place_and_a_place_has_one_camera(quiet, world):
    north, south = await made(quiet, label="North"), await made(quiet, label="South")
    one, two = world.mac(1), world.mac(2)
    await paired(quiet, one, north, 2)
    await paired(quiet, two, south)
    north_cameras, south_cameras = (f"{CONTAINERS}/{which}/cameras" for which in (north, south))

    error = await refused(
        quiet.api.post(south_cameras, json={"device_id": one, "position": 3}), 409, "CAMERA_ALREADY_ASSIGNED"
    )
    assert north in error["message"]
    assert "position 2" in error["message"]
    await refused(quiet.api.post(north_cameras, json={"device_id": one, "position": 3}), 409, "CAMERA_ALREADY_ASSIGNED")
    first = (await quiet.api.get(f"{CONTAINERS}/{north}")).data
    for _ in range(3):
        again = await quiet.api.post(north_cameras, json={"device_id": one, "position": 2})
        assert (again.status, again.data["assigned_at"]) == (201, first["cameras"][0]["assigned_at"])

    for _ in range(3):
        answer = await quiet.api.delete(f"{south_cameras}/{two}")
        assert (answer.status, answer.data["container_id"]) == (200, south)
    error = await refused(
        quiet.api.post(north_cameras, json={"device_id": two, "position": 2}), 409, "POSITION_OCCUPIED"
    )
    assert one in error["message"]
    assert error["details"] == "free: 1, 3, 4"
    unassigned = (await quiet.api.get(f"{CAMERAS}/unassigned")).data
    assert [camera["mac_address"] for camera in unassigned["cameras"]] == [two]
    assert not {"container_id", "position"} & set(unassigned["cameras"][0])
    listed = (await quiet.api.get("/api/v1/espcam/paired")).data
    assert [(camera["mac_address"], camera["position"]) for camera in listed["cameras"]] == [(one, 2)]
    assert listed["total"] == 1

    placed = await quiet.api.post(north_cameras, json={"device_id": two.lower().replace(":", "-"), "position": 4})
    assert (placed.status, placed.data["mac_address"], placed.data["position"]) == (201, two, 4)
    assert (await quiet.api.get(f"{CAMERAS}/unassigned")).data["count"] == 0
    await refused(quiet.api.delete(f"{CONTAINERS}/{north}"), 409, "CONTAINER_HAS_CAMERAS")
    assert (await quiet.api.delete(f"{CONTAINERS}/{south}")).status == 204


async def test_who_is_not_known_has_no_place(quiet, world):
    where = f"{CONTAINERS}/auto-onboard/cameras"
    for name in ("espcam-nobody", world.mac(9), "%20", "\u202e"):
        with case(name):
            await refused(quiet.api.post(where, json={"device_id": name, "position": 1}), 404, "CAMERA_NOT_FOUND")
            answer = await exchange(quiet, "DELETE", f"{where}/{world.mac(9)}")
            assert (answer.status, answer.json["code"]) == (404, "CAMERA_NOT_FOUND")
    for method, path, body in (
        ("POST", f"{CONTAINERS}/nowhere/cameras", {"device_id": world.mac(9), "position": 1}),
        ("POST", PAIR, {"mac": world.mac(9), "container_id": "nowhere"}),
    ):
        answer = await quiet.api.call(method, path, json=body)
        assert answer.status == 404
    assert world.rows("SELECT * FROM cameras") == []


async def test_four_fit_and_the_fifth_is_told_that_it_is_full(quiet, world):
    box = await made(quiet, label="Box")
    given = [(await paired(quiet, world.mac(number), box))["position"] for number in range(1, 5)]
    assert given == [1, 2, 3, 4]
    error = await refused(
        quiet.api.post(PAIR, json={"mac": world.mac(5), "container_id": box}), 409, "POSITION_OCCUPIED"
    )
    assert error["message"] == "the four positions of Box are taken"
    assert world.rows("SELECT count(*) FROM cameras") == [(4,)], "who found no place is not registered either"


async def test_the_container_of_auto_onboarding_cannot_be_deleted_unless_another_takes_its_part(world):
    async with world.daemon(connected=False, **QUIET) as running:
        error = await refused(running.api.delete(f"{CONTAINERS}/auto-onboard"), 409, "CONFLICT")
        assert error["details"].startswith("set auto_onboard.target_container to another container and restart")
        other = await made(running, label="Other")
    async with world.daemon(connected=False, auto_onboard={"enabled": False, "target_container": other}) as running:
        assert (await running.api.delete(f"{CONTAINERS}/auto-onboard")).status == 204
        await refused(running.api.delete(f"{CONTAINERS}/{other}"), 409, "CONFLICT")


async def test_how_many_are_online_is_as_of_now(world):
    async with world.daemon() as running, world.camera(1) as camera:
        await camera.say()
        await eventually(lambda: camera.mac in running.services.roster)
        path = f"{CONTAINERS}/auto-onboard"
        view = (await running.api.get(path)).data
        assert (view["camera_count"], view["online_count"], view["cameras"][0]["status"]) == (1, 1, "online")
        await camera.say("OFFLINE")

        async def is_gone():
            now = (await running.api.get(path)).data
            return (now["camera_count"], now["online_count"], now["cameras"][0]["status"]) == (1, 0, "offline")

        await eventually(is_gone)
        await paired(running, world.mac(2), "auto-onboard")
        (box,) = (await running.api.get(CONTAINERS)).data["containers"]
        assert [(one["position"], one["status"]) for one in box["cameras"]] == [(1, "offline"), (2, "offline")]


async def test_a_camera_that_is_heard_is_registered_by_being_given_a_place(world):
    async with world.daemon(**QUIET) as running:
        await world.announce(1, device_id="front-door", firmware_version="3.1.4")
        await running.considered(world)
        placed = await running.api.post(
            f"{CONTAINERS}/auto-onboard/cameras", json={"device_id": "front-door", "position": 3}
        )
        assert (placed.status, placed.data["mac_address"]) == (201, world.mac(1))
        camera = await running.camera("front-door")
        assert (camera["status"], camera["position"], camera["firmware_version"]) == ("online", 3, "3.1.4")
        assert world.rows("SELECT registered_by FROM cameras") == [("manual",)]
