"""Sessions and what is wrong: the right code, every fault named, and nothing changed."""

import uuid

import pytest

from tests.support.api import case, exchange
from tests.support.provisioning import BASE, PASSWORD, SSID, Batch, batch

BATCH = f"{BASE}/batch"
NOBODY = "24:6F:28:FF:FF:F0"
LOGS = {"operator_actions", "sqlite_sequence"}  # a refusal is on record too
GOOD = {"target_ssid": SSID, "target_password": PASSWORD}
CANARY = "canary-4711\x07"
OF_SESSIONS = (
    ("GET", ""),
    ("GET", "devices"),
    *(("POST", verb) for verb in ("provision-all", "pause", "resume", "close", "stop")),
)
OF_DEVICES = "provision", "retry", "skip"


@pytest.fixture
async def one(world):
    async with batch(world, 1) as one:
        await one.start()
        await one.joined(1)
        await one.post("pause")
        yield one


def state(world):
    return {name: rows for name, rows in world.tables().items() if name not in LOGS}


def refused(answer, status, code):
    assert (answer.status, answer.json["code"]) == (status, code), answer.body
    error = answer.json["error"]
    assert error["code"] == code
    assert error["retryable"] is False
    return error.get("details", "")


def calls(session, mac):
    """Every request that is about a session, and about a camera of one."""
    for method, verb in OF_SESSIONS:
        yield method, f"{BATCH}/{session}/{verb}".rstrip("/")
    for verb in OF_DEVICES:
        yield "POST", f"{BATCH}/{session}/devices/{mac}/{verb}"
    yield "POST", f"{BASE}/sessions/{session}/resume"
    yield "DELETE", f"{BASE}/sessions/{session}"


async def call(api, method, path, body=None):
    return await api.call(method, path, **({"json": {} if body is None else body} if method == "POST" else {}))


# Starting.


FAULTS = [
    ({"target_ssid": ""}, {"target_ssid"}),
    ({"target_ssid": "x" * 33}, {"target_ssid"}),
    ({"target_ssid": "ü" * 17}, {"target_ssid"}),
    ({"target_ssid": "a\x00b"}, {"target_ssid"}),
    ({"target_ssid": "a\nb"}, {"target_ssid"}),
    ({"target_ssid": 7}, {"target_ssid"}),
    ({"target_ssid": ["x"]}, {"target_ssid"}),
    ({"target_password": "seven77"}, {"target_password"}),
    ({"target_password": "x" * 64}, {"target_password"}),
    ({"target_password": "x" * 65}, {"target_password"}),
    ({"target_password": "a" * 65}, {"target_password"}),
    ({"target_password": "pässwörter"}, {"target_password"}),
    ({"target_password": "tab\tinside"}, {"target_password"}),
    ({"target_password": 12345678}, {"target_password"}),
    ({"target_password": ["password"]}, {"target_password"}),
    ({"target_password": True}, {"target_password"}),
    ({"config": {"discovery_timeout_seconds": 0}}, {"config.discovery_timeout_seconds"}),
    ({"config": {"discovery_timeout_seconds": -1}}, {"config.discovery_timeout_seconds"}),
    ({"config": {"provisioning_timeout_seconds": 86401}}, {"config.provisioning_timeout_seconds"}),
    ({"config": {"verification_timeout_seconds": "soon"}}, {"config.verification_timeout_seconds"}),
    ({"config": {"verification_timeout_seconds": 1.5}}, {"config.verification_timeout_seconds"}),
    ({"config": {"verification_timeout_seconds": None}}, {"config.verification_timeout_seconds"}),
    ({"config": {"timeout": 5}}, {"config.timeout"}),
    ({"config": {"a": 1, "b": 2}}, {"config.a", "config.b"}),
    ({"config": []}, {"config"}),
    ({"config": "fast"}, {"config"}),
    (
        {"target_ssid": "", "target_password": "short", "config": {"discovery_timeout_seconds": 0, "x": 1}},
        {"target_ssid", "target_password", "config.discovery_timeout_seconds", "config.x"},
    ),
]


@pytest.mark.parametrize("form", ["", "/start"])
async def test_a_start_with_faults_names_every_one_of_them_and_starts_nothing(daemon, world, form):
    before = state(world)
    for faults, named in FAULTS:
        with case(faults):
            answer = await daemon.admin.post(f"{BATCH}{form}", json=GOOD | faults)
            details = refused(answer, 400, "VALIDATION_FAILED")
            assert {part.split(": ")[0] for part in details.split("; ")} == named
    assert state(world) == before


async def test_a_start_s_interface_is_a_name_of_one(daemon, world):
    before = state(world)
    for bad in ("", "x" * 16, "wlan 0", "../wlan", "wlan0\n", 7, ["wlan0"]):
        with case(bad):
            details = refused(await daemon.admin.post(BATCH, json={"network_interface": bad}), 400, "VALIDATION_FAILED")
            assert details.startswith("network_interface: ")
    assert state(world) == before


async def test_the_dashboard_s_form_names_both_that_are_missing(daemon, world):
    before = state(world)
    details = refused(await daemon.admin.post(f"{BATCH}/start", json={}), 400, "VALIDATION_FAILED")
    assert {part.split(": ")[0] for part in details.split("; ")} == {"target_ssid", "target_password"}
    assert state(world) == before


async def test_a_network_and_its_password_belong_together(daemon, world):
    before = state(world)
    alone = await daemon.admin.post(BATCH, json={"target_ssid": SSID})
    assert refused(alone, 400, "VALIDATION_FAILED").startswith("target_password: ")
    alone = await daemon.admin.post(BATCH, json={"target_password": PASSWORD})
    assert refused(alone, 400, "VALIDATION_FAILED").startswith("target_ssid: ")
    assert state(world) == before


async def test_the_limits_themselves_are_good(daemon):
    networks = ("x", "x" * 32, "ü" * 16, "  ", "Küche\u200b")
    passwords = ("", "eight888", "x" * 63, "0123456789abcdef" * 4, "        ", "~!\"'\\<>&% ")
    for number, (ssid, password) in enumerate(
        [(one, PASSWORD) for one in networks] + [(SSID, one) for one in passwords]
    ):
        with case(ssid, password):
            body = {"network_interface": f"wlan{number}", "target_ssid": ssid, "target_password": password}
            answer = await daemon.admin.post(BATCH, json=body)
            assert answer.status == 201, answer.body
            assert answer.data["session"]["target_ssid"] == ssid


async def test_no_fault_of_a_password_is_told_with_any_of_it(daemon):
    bodies = [{"target_password": CANARY}, {"target_password": [CANARY]}, {"target_password": {CANARY: CANARY}}]
    for form in ("", "/start"):
        for body in bodies:
            answer = await daemon.admin.post(f"{BATCH}{form}", json={"target_ssid": SSID} | body)
            refused(answer, 400, "VALIDATION_FAILED")
            assert b"4711" not in answer.body


@pytest.mark.parametrize(
    "body, kind, status",
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'"text"', "application/json", 400),
        (b"null", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"target_ssid": NaN}', "application/json", 400),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "application/json", 400),
        (b"target_ssid=x", "application/x-www-form-urlencoded", 415),
        (b"{}", "text/plain", 415),
    ],
)
async def test_a_body_of_another_type_is_refused_wherever_one_is_read(one: Batch, world, body, kind, status):
    before = state(world)
    for path in (BATCH, f"{BATCH}/start", f"{one.url}/provision-all"):
        answer = await one.admin.post(path, data=body, headers={"Content-Type": kind})
        refused(answer, status, "INVALID_REQUEST")
    assert state(world) == before


async def test_which_cameras_is_a_yes_or_a_no(one: Batch, world):
    before = state(world)
    for bad in ("perhaps", 2, [], {}, None):
        with case(bad):
            answer = await one.post("provision-all", json={"only_allowlisted": bad})
            assert refused(answer, 400, "VALIDATION_FAILED").startswith("only_allowlisted: ")
    assert state(world) == before


async def test_a_request_without_a_body_is_one_with_the_defaults(one: Batch):
    await one.post("resume")
    headers = [("X-API-Key", one.admin.key), ("Content-Length", 0)]
    answer = await exchange(one.running, "POST", f"{one.url}/provision-all", headers)
    assert (answer.status, answer.data["initiated_count"]) == (202, 1)


# Which session, which camera.


async def test_an_unknown_session_is_404_in_every_request(one: Batch, world):
    before = state(world)
    unknown = str(uuid.uuid4())
    for method, path in calls(unknown, one.cameras[0].mac):
        with case(method, path):
            assert unknown in refused(await call(one.admin, method, path), 404, "SESSION_NOT_FOUND")
    assert state(world) == before


async def test_a_malformed_session_is_400_in_every_request(one: Batch, world):
    before = state(world)
    for bad in ("1", "not-a-uuid", "x" * 36, one.id[:-1], f"{one.id}0", one.id.replace("-", ""), "%00", "..%2f"):
        for method, path in calls(bad, one.cameras[0].mac):
            with case(method, path):
                answer = await call(one.admin, method, path)
                assert refused(answer, 400, "VALIDATION_FAILED").startswith("id: ")
    assert state(world) == before


async def test_a_wrong_mac_is_400_and_a_camera_that_is_not_in_the_session_404(one: Batch, world):
    await one.post("resume")
    before = state(world)
    for verb in OF_DEVICES:
        for bad in ("24:6F:28", "not-a-mac", "FF:FF:FF:FF:FF:FF", "01:00:5E:00:00:01", "00:00:00:00:00:00", "%00"):
            with case(verb, bad):
                details = refused(await one.post(f"devices/{bad}/{verb}"), 400, "VALIDATION_FAILED")
                assert details.startswith("mac: ")
        answer = await one.post(f"devices/{NOBODY}/{verb}")
        refused(answer, 404, "DEVICE_NOT_FOUND")
        assert NOBODY in answer.json["error"]["message"]
        both = await one.admin.post(f"{BATCH}/1/devices/2/{verb}")
        assert {part.split(": ")[0] for part in refused(both, 400, "VALIDATION_FAILED").split("; ")} == {"id", "mac"}
    assert state(world) == before


async def test_a_mac_is_taken_in_every_usual_form(one: Batch):
    mac = one.cameras[0].mac
    spelled = (mac.lower(), mac.replace(":", "-"), mac.replace(":", ""), mac.replace(":", "%3A"), mac.lower())
    for form in spelled:
        answer = await one.post(f"devices/{form}/skip")
        assert (answer.status, answer.data["mac"]) == (200, mac)


async def test_a_query_that_means_nothing_is_refused(one: Batch):
    for query in ({"state": "ready"}, {"state": ""}, {"state": "VERIFIED"}):
        answer = await one.admin.get(f"{one.url}/devices", params=query)
        assert refused(answer, 400, "VALIDATION_FAILED").startswith("state: ")
    answer = await one.admin.get(one.url, params={"include_devices": "perhaps"})
    assert refused(answer, 400, "VALIDATION_FAILED").startswith("include_devices: ")
    answer = await one.admin.get(f"{BASE}/sessions/history", params={"limit": "0", "offset": "-1"})
    assert {part.split(": ")[0] for part in refused(answer, 400, "VALIDATION_FAILED").split("; ")} == {
        "limit",
        "offset",
    }


# What a session, or a camera, is past.


async def test_a_closed_session_takes_nothing_any_more(one: Batch, world):
    mac = one.cameras[0].mac
    await one.post("close")
    before = state(world)
    for verb in ("provision-all", "pause", "resume", *(f"devices/{mac}/{verb}" for verb in OF_DEVICES)):
        with case(verb):
            answer = await one.post(verb, json={})
            refused(answer, 409, "SESSION_ALREADY_CLOSED")
            assert one.id in answer.json["error"]["message"]
    refused(await one.admin.post(f"{BASE}/sessions/{one.id}/resume"), 409, "SESSION_NOT_RECOVERABLE")
    assert state(world) == before


async def test_an_expired_session_says_that_it_has_expired(one: Batch, world):
    mac = one.cameras[0].mac
    await one.post("close")
    await world.sabotage("UPDATE sessions SET ending = 'expired'")
    before = state(world)
    for verb in ("provision-all", "pause", "resume", *(f"devices/{mac}/{verb}" for verb in OF_DEVICES)):
        with case(verb):
            refused(await one.post(verb, json={}), 410, "SESSION_EXPIRED")
    refused(await one.admin.post(f"{BASE}/sessions/{one.id}/resume"), 410, "SESSION_EXPIRED")
    assert (await one.admin.get(one.url)).data["session"]["ending"] == "expired", "and can still be looked at"
    assert state(world) == before


async def test_a_camera_in_another_state_is_left_as_it_is(one: Batch, world):
    mac = one.cameras[0].mac
    await one.post("resume")
    early = await one.post(f"devices/{mac}/retry")
    refused(early, 409, "DEVICE_INVALID_STATE")
    await one.post(f"devices/{mac}/provision")
    await one.until(mac, "verified")
    before = state(world)
    refused(await one.post(f"devices/{mac}/skip"), 409, "DEVICE_INVALID_STATE")
    refused(await one.post(f"devices/{mac}/retry"), 409, "DEVICE_INVALID_STATE")
    again = await one.post(f"devices/{mac}/provision")
    assert (again.status, again.data["state"]) == (202, "verified")
    assert state(world) == before
    assert one.cameras[0].provision_requests == 1


async def test_without_a_key_nothing_is_told_and_nothing_done(one: Batch, world):
    before = world.tables()
    for method, path in (*calls(one.id, one.cameras[0].mac), ("POST", BATCH), ("GET", f"{BASE}/sessions")):
        with case(method, path):
            answer = await call(one.running.api, method, path, GOOD)
            refused(answer, 401, "UNAUTHORIZED")
    assert world.tables() == before
