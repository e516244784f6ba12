"""The containers API: create, change, assign, unassign, delete, repeats, limits and errors."""

import json

import pytest

from pi_orchestrator.features.containers.model import MAX_CONTAINERS
from tests.support.api import case, exchange
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("documented_answers")

CONTAINERS = "/api/v1/containers"
CAMERAS = "/api/v1/cameras"
PAIR = "/api/v1/espcam/pair"
ONBOARDING_OFF = {"auto_onboard": {"enabled": False}}
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
async def running(rig):
    """A daemon with auto-onboarding disabled."""
    async with rig.daemon(connected=False, **ONBOARDING_OFF) as running:
        yield running


async def create(running, **texts):
    answer = await running.api.post(CONTAINERS, json=texts)
    assert answer.status == 201, answer.body
    return answer.data["id"]


async def pair(running, mac, container, position=None):
    """Pair a camera that was never seen; return the answer's data."""
    body = {"mac": mac, "container_id": container} | ({"position": position} if position else {})
    answer = await running.api.post(PAIR, json=body)
    assert answer.status == 200, answer.body
    return answer.data


async def refused(call, status, code):
    """Check that a request is refused; return the error."""
    answer = await call
    assert (answer.status, answer.json["code"]) == (status, code), answer.body
    return answer.json["error"]


async def test_new_daemon_has_only_the_target_container(running):
    (target,) = (await running.api.get(CONTAINERS)).data["containers"]
    assert (target["id"], target["label"], target["cameras"]) == ("auto-onboard", "Auto-onboarded", [])
    assert (await running.api.get("/api/v1/espcam/paired")).data["cameras"] == []
    unassigned = (await running.api.get(f"{CAMERAS}/unassigned")).json
    assert (unassigned["cameras"], unassigned["count"], unassigned["data"]) == ([], 0, {"cameras": [], "count": 0})


async def test_container_is_created_changed_and_deleted(running, rig):
    first = (await running.api.post(CONTAINERS, json={"label": "North", "description": "by the door"})).data
    assert {name: first[name] for name in ("label", "description", "cameras", "camera_count", "online_count")} == {
        "label": "North",
        "description": "by the door",
        "cameras": [],
        "camera_count": 0,
        "online_count": 0,
    }
    path = f"{CONTAINERS}/{first['id']}"
    assert (await running.api.get(path)).data == first
    changed = (await running.api.call("PATCH", path, json={"label": "South"})).data
    assert (changed["label"], changed["description"]) == ("South", "by the door"), "missing fields do not change"
    assert changed["updated_at"] > first["updated_at"]
    assert (await running.api.call("PATCH", path, json={"label": "South"})).data == changed, "no change, no new time"
    cleared = (await running.api.call("PATCH", path, json={"label": "", "description": None})).data
    assert not {"label", "description"} & set(cleared)
    listed = (await running.api.get(CONTAINERS)).data
    assert (listed["total"], [container["id"] for container in listed["containers"]]) == (
        2,
        ["auto-onboard", first["id"]],
    )
    for _ in range(3):
        assert (await running.api.delete(path)).status == 204
    await refused(running.api.get(path), 404, "CONTAINER_NOT_FOUND")
    await refused(running.api.call("PATCH", path, json={"label": "x"}), 404, "CONTAINER_NOT_FOUND")
    published = [
        (kind, json.loads(text)["id"])
        for kind, text in rig.rows("SELECT type, payload FROM events WHERE type LIKE 'container.%' ORDER BY id")
    ]
    assert published == [(f"container.{verb}", first["id"]) for verb in ("created", "updated", "updated", "deleted")]


async def test_create_repeated_returns_the_unused_container(running, rig):
    first = await create(running, label="North")
    assert [await create(running, label="North") for _ in range(2)] == [first, first]
    other = await create(running, label="North", description="another")
    unnamed = await create(running)
    assert len({first, other, unnamed}) == 3
    assert await create(running) == unnamed
    await pair(running, rig.mac(1), first)
    second = await create(running, label="North")
    assert second != first
    await running.api.call("PATCH", f"{CONTAINERS}/{second}", json={"description": "x"})
    assert await create(running, label="North") not in (first, second)
    late = await create(running, label="Late")
    await rig.execute_in_thread(f"UPDATE containers SET monotonic = monotonic - 31 WHERE id = '{late}'")
    assert await create(running, label="Late") != late


async def test_create_over_the_limit_is_refused(running, rig):
    values = ",".join(f"('c{number}', '', '')" for number in range(MAX_CONTAINERS - 1))
    await rig.execute_in_thread(f"INSERT INTO containers (id, created_at, updated_at) VALUES {values}")
    error = await refused(running.api.post(CONTAINERS, json={"label": "one too many"}), 409, "CONFLICT")
    assert error["details"] == "delete empty containers"


async def test_texts_are_cleaned_and_bounded(running, rig):
    container = await create(running)
    mac = rig.mac(1)
    await pair(running, mac, container)
    for text, cleaned in HOSTILE.items():
        with case(text):
            body = json.dumps({"label": text, "description": text}).encode()
            options = {"data": body, "headers": {"Content-Type": "application/json"}}
            view = (await running.api.call("PATCH", f"{CONTAINERS}/{container}", **options)).data
            assert (view["label"], view["description"]) == (cleaned, cleaned)
            renamed = await running.api.call(
                "PATCH", f"{CAMERAS}/{mac}", **options | {"data": json.dumps({"name": text})}
            )
            assert renamed.data["name"] == cleaned
    for field, limit in (("label", 100), ("description", 500)):
        view = await running.api.call("PATCH", f"{CONTAINERS}/{container}", json={field: "ü" * limit})
        assert len(view.data[field]) == limit
        for text in ("x" * (limit + 1), "x" * 10_000, 7, ["x"], {}):
            with case(field, str(text)[:20]):
                call = running.api.call("PATCH", f"{CONTAINERS}/{container}", json={field: text})
                assert (await refused(call, 400, "VALIDATION_FAILED"))["details"].startswith(f"{field}: ")
    for name in ("x" * 65, "x" * 10_000, 7, ["x"], True):
        error = await refused(
            running.api.call("PATCH", f"{CAMERAS}/{mac}", json={"name": name}), 400, "VALIDATION_FAILED"
        )
        assert error["details"].startswith("name: ")


@pytest.mark.parametrize("position", [0, 5, -1, 99, "1", "two", 1.5, True, None, [], {}, 2**63])
async def test_invalid_position_is_refused(running, position):
    for path, body in (
        (f"{CONTAINERS}/auto-onboard/cameras", {"device_id": "24:6F:28:00:00:10"}),
        (PAIR, {"mac": "24:6F:28:00:00:10", "container_id": "auto-onboard"}),
    ):
        if path == PAIR and position is None:
            continue  # null: the first free position
        error = await refused(running.api.post(path, json=body | {"position": position}), 400, "INVALID_POSITION")
        assert error["details"] == f"position: {position!r} is not a position; use 1, 2, 3 or 4"
    body = {"mac": "nonsense", "container_id": "auto-onboard", "position": 9}
    error = await refused(running.api.post(PAIR, json=body), 400, "VALIDATION_FAILED")
    assert "mac: " in error["details"]
    assert "position: 9" in error["details"]


@pytest.mark.parametrize("name", ["%20", "a%20b", "%00", "..", "%ff", "x" * 65, "-x", "%F0%9F%93%B7"])
async def test_invalid_id_in_path_is_refused(running, rig, name):
    before = rig.rows("SELECT * FROM containers")
    for method, path in (
        ("GET", f"{CONTAINERS}/{name}"),
        ("DELETE", f"{CONTAINERS}/{name}"),
        ("DELETE", f"{CONTAINERS}/{name}/cameras/{name}"),
    ):
        answer = await exchange(running, method, path)
        assert answer.status in (400, 404), answer.body
    assert rig.rows("SELECT * FROM containers") == before


async def test_camera_has_one_position_and_position_one_camera(running, rig):
    north, south = await create(running, label="North"), await create(running, label="South")
    one, two = rig.mac(1), rig.mac(2)
    await pair(running, one, north, 2)
    await pair(running, two, south)
    north_cameras, south_cameras = (f"{CONTAINERS}/{container}/cameras" for container in (north, south))

    error = await refused(
        running.api.post(south_cameras, json={"device_id": one, "position": 3}), 409, "CAMERA_ALREADY_ASSIGNED"
    )
    assert north in error["message"]
    assert "position 2" in error["message"]
    await refused(
        running.api.post(north_cameras, json={"device_id": one, "position": 3}), 409, "CAMERA_ALREADY_ASSIGNED"
    )
    first = (await running.api.get(f"{CONTAINERS}/{north}")).data
    for _ in range(3):
        repeat = await running.api.post(north_cameras, json={"device_id": one, "position": 2})
        assert (repeat.status, repeat.data["assigned_at"]) == (201, first["cameras"][0]["assigned_at"])

    for _ in range(3):
        answer = await running.api.delete(f"{south_cameras}/{two}")
        assert (answer.status, answer.data["container_id"]) == (200, south)
    error = await refused(
        running.api.post(north_cameras, json={"device_id": two, "position": 2}), 409, "POSITION_OCCUPIED"
    )
    assert one in error["message"]
    assert error["details"] == "free positions: 1, 3, 4"
    unassigned = (await running.api.get(f"{CAMERAS}/unassigned")).data
    assert [camera["mac_address"] for camera in unassigned["cameras"]] == [two]
    assert not {"container_id", "position"} & set(unassigned["cameras"][0])
    listed = (await running.api.get("/api/v1/espcam/paired")).data
    assert [(camera["mac_address"], camera["position"]) for camera in listed["cameras"]] == [(one, 2)]
    assert listed["total"] == 1

    placed = await running.api.post(north_cameras, json={"device_id": two.lower().replace(":", "-"), "position": 4})
    assert (placed.status, placed.data["mac_address"], placed.data["position"]) == (201, two, 4)
    assert (await running.api.get(f"{CAMERAS}/unassigned")).data["count"] == 0
    await refused(running.api.delete(f"{CONTAINERS}/{north}"), 409, "CONTAINER_HAS_CAMERAS")
    assert (await running.api.delete(f"{CONTAINERS}/{south}")).status == 204


async def test_unknown_camera_or_container_is_404(running, rig):
    cameras = f"{CONTAINERS}/auto-onboard/cameras"
    for name in ("espcam-unknown", rig.mac(9), "%20", "\u202e"):
        with case(name):
            await refused(running.api.post(cameras, json={"device_id": name, "position": 1}), 404, "CAMERA_NOT_FOUND")
            answer = await exchange(running, "DELETE", f"{cameras}/{rig.mac(9)}")
            assert (answer.status, answer.json["code"]) == (404, "CAMERA_NOT_FOUND")
    for method, path, body in (
        ("POST", f"{CONTAINERS}/nowhere/cameras", {"device_id": rig.mac(9), "position": 1}),
        ("POST", PAIR, {"mac": rig.mac(9), "container_id": "nowhere"}),
    ):
        answer = await running.api.call(method, path, json=body)
        assert answer.status == 404
    assert rig.rows("SELECT * FROM cameras") == []


async def test_full_container_refuses_a_fifth_camera(running, rig):
    box = await create(running, label="Box")
    positions = [(await pair(running, rig.mac(number), box))["position"] for number in range(1, 5)]
    assert positions == [1, 2, 3, 4]
    error = await refused(
        running.api.post(PAIR, json={"mac": rig.mac(5), "container_id": box}), 409, "POSITION_OCCUPIED"
    )
    assert error["message"] == "all four positions of Box are occupied"
    assert rig.rows("SELECT count(*) FROM cameras") == [(4,)], "the refused camera is not registered"


async def test_target_container_cannot_be_deleted(rig):
    async with rig.daemon(connected=False, **ONBOARDING_OFF) as running:
        error = await refused(running.api.delete(f"{CONTAINERS}/auto-onboard"), 409, "CONFLICT")
        assert error["details"].startswith("set auto_onboard.target_container to another container and restart")
        other = await create(running, label="Other")
    async with rig.daemon(connected=False, auto_onboard={"enabled": False, "target_container": other}) as running:
        assert (await running.api.delete(f"{CONTAINERS}/auto-onboard")).status == 204
        await refused(running.api.delete(f"{CONTAINERS}/{other}"), 409, "CONFLICT")


async def test_online_count_is_current(rig):
    async with rig.daemon() as running, rig.camera(1) as camera:
        await camera.publish_status()
        await eventually(lambda: camera.mac in running.app.cameras.cache)
        path = f"{CONTAINERS}/auto-onboard"
        view = (await running.api.get(path)).data
        assert (view["camera_count"], view["online_count"], view["cameras"][0]["status"]) == (1, 1, "online")
        await camera.publish_status("OFFLINE")

        async def is_offline():
            now = (await running.api.get(path)).data
            return (now["camera_count"], now["online_count"], now["cameras"][0]["status"]) == (1, 0, "offline")

        await eventually(is_offline)
        await pair(running, rig.mac(2), "auto-onboard")
        (box,) = (await running.api.get(CONTAINERS)).data["containers"]
        assert [(placed["position"], placed["status"]) for placed in box["cameras"]] == [(1, "offline"), (2, "offline")]


async def test_assign_registers_a_seen_camera(rig):
    async with rig.daemon(**ONBOARDING_OFF) as running:
        await rig.announce(1, device_id="front-door", firmware_version="3.1.4")
        await running.wait_until_processed(rig)
        placed = await running.api.post(
            f"{CONTAINERS}/auto-onboard/cameras", json={"device_id": "front-door", "position": 3}
        )
        assert (placed.status, placed.data["mac_address"]) == (201, rig.mac(1))
        camera = await running.camera("front-door")
        assert (camera["status"], camera["position"], camera["firmware_version"]) == ("online", 3, "3.1.4")
        assert rig.rows("SELECT registered_by FROM cameras") == [("manual",)]
