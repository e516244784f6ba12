"""Invalid requests about sessions: error code, names of all invalid fields, and no change."""

import uuid

import pytest

from tests.support.api import case, exchange
from tests.support.provisioning import BASE, PASSWORD, SSID, Batch, batch

pytestmark = pytest.mark.usefixtures("documented_answers")

BATCH = f"{BASE}/batch"
UNKNOWN_MAC = "24:6F:28:FF:FF:F0"
LOGS = {"operator_actions", "sqlite_sequence"}  # refusals are logged too
WRITTEN_BY_DAEMON = {"onboarding_audit", "onboarding_state", "presence", "scans"}  # written without a request
GOOD = {"target_ssid": SSID, "target_password": PASSWORD}
CANARY = "canary-4711\x07"
SESSION_CALLS = (
    ("GET", ""),
    ("GET", "devices"),
    *(("POST", verb) for verb in ("provision-all", "pause", "resume", "close", "stop")),
)
DEVICE_VERBS = "provision", "retry", "skip"


@pytest.fixture
async def setup(rig):
    """A paused session with one camera."""
    async with batch(rig, 1) as setup:
        await setup.start()
        await setup.wait_for_cameras(1)
        await setup.post("pause")
        yield setup


def state(rig):
    """Every row that a request could change."""
    tables = {name: rows for name, rows in rig.tables().items() if name not in LOGS | WRITTEN_BY_DAEMON}
    tables["events"] = [
        row for row in tables["events"] if not row[1].startswith(("onboarding.", "device.", "network."))
    ]
    return tables


def refused(answer, status, code):
    """Check that a request was refused; return the details of the error."""
    assert (answer.status, answer.json["code"]) == (status, code), answer.body
    error = answer.json["error"]
    assert error["code"] == code
    assert error["retryable"] is False
    return error.get("details", "")


def calls(session_id, mac):
    """Every request about a session, or about a camera of it."""
    for method, verb in SESSION_CALLS:
        yield method, f"{BATCH}/{session_id}/{verb}".rstrip("/")
    for verb in DEVICE_VERBS:
        yield "POST", f"{BATCH}/{session_id}/devices/{mac}/{verb}"
    yield "POST", f"{BASE}/sessions/{session_id}/resume"
    yield "DELETE", f"{BASE}/sessions/{session_id}"


async def call(api, method, path, body=None):
    return await api.call(method, path, **({"json": {} if body is None else body} if method == "POST" else {}))


# Start.


# Fields of a start request → names in the error.
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
async def test_start_names_every_fault(daemon, rig, form):
    before = state(rig)
    for faults, named in FAULTS:
        with case(faults):
            answer = await daemon.admin.post(f"{BATCH}{form}", json=GOOD | faults)
            details = refused(answer, 400, "VALIDATION_FAILED")
            assert {part.split(": ")[0] for part in details.split("; ")} == named
    assert state(rig) == before


async def test_start_refuses_bad_interface(daemon, rig):
    before = state(rig)
    for bad in ("", "x" * 16, "wlan 0", "../wlan", "wlan0\n", 7, ["wlan0"]):
        with case(bad):
            details = refused(await daemon.admin.post(BATCH, json={"network_interface": bad}), 400, "VALIDATION_FAILED")
            assert details.startswith("network_interface: ")
    assert state(rig) == before


async def test_dashboard_start_names_missing_fields(daemon, rig):
    before = state(rig)
    details = refused(await daemon.admin.post(f"{BATCH}/start", json={}), 400, "VALIDATION_FAILED")
    assert {part.split(": ")[0] for part in details.split("; ")} == {"target_ssid", "target_password"}
    assert state(rig) == before


async def test_network_and_password_need_each_other(daemon, rig):
    before = state(rig)
    alone = await daemon.admin.post(BATCH, json={"target_ssid": SSID})
    assert refused(alone, 400, "VALIDATION_FAILED").startswith("target_password: ")
    alone = await daemon.admin.post(BATCH, json={"target_password": PASSWORD})
    assert refused(alone, 400, "VALIDATION_FAILED").startswith("target_ssid: ")
    assert state(rig) == before


async def test_limit_values_are_accepted(daemon):
    networks = ("x", "x" * 32, "ü" * 16, "  ", "Küche\u200b")
    passwords = ("", "eight888", "x" * 63, "0123456789abcdef" * 4, "        ", "~!\"'\\<>&% ")
    for number, (ssid, password) in enumerate(
        [(ssid, PASSWORD) for ssid in networks] + [(SSID, password) for password in passwords]
    ):
        with case(ssid, password):
            body = {"network_interface": f"wlan{number}", "target_ssid": ssid, "target_password": password}
            answer = await daemon.admin.post(BATCH, json=body)
            assert answer.status == 201, answer.body
            assert answer.data["session"]["target_ssid"] == ssid


async def test_password_error_omits_the_password(daemon):
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
async def test_bad_body_is_refused(setup: Batch, rig, body, kind, status):
    before = state(rig)
    for path in (BATCH, f"{BATCH}/start", f"{setup.url}/provision-all"):
        answer = await setup.admin.post(path, data=body, headers={"Content-Type": kind})
        refused(answer, status, "INVALID_REQUEST")
    assert state(rig) == before


async def test_only_allowlisted_must_be_boolean(setup: Batch, rig):
    before = state(rig)
    for bad in ("perhaps", 2, [], {}, None):
        with case(bad):
            answer = await setup.post("provision-all", json={"only_allowlisted": bad})
            assert refused(answer, 400, "VALIDATION_FAILED").startswith("only_allowlisted: ")
    assert state(rig) == before


async def test_missing_body_uses_defaults(setup: Batch):
    await setup.post("resume")
    headers = [("X-API-Key", setup.admin.key), ("Content-Length", 0)]
    answer = await exchange(setup.running, "POST", f"{setup.url}/provision-all", headers)
    assert (answer.status, answer.data["initiated_count"]) == (202, 1)


# Session ids and MACs.


async def test_unknown_session_is_404(setup: Batch, rig):
    before = state(rig)
    unknown = str(uuid.uuid4())
    for method, path in calls(unknown, setup.cameras[0].mac):
        with case(method, path):
            assert unknown in refused(await call(setup.admin, method, path), 404, "SESSION_NOT_FOUND")
    assert state(rig) == before


async def test_malformed_session_id_is_400(setup: Batch, rig):
    before = state(rig)
    for bad in ("1", "not-a-uuid", "x" * 36, setup.id[:-1], f"{setup.id}0", setup.id.replace("-", ""), "%00", "..%2f"):
        for method, path in calls(bad, setup.cameras[0].mac):
            with case(method, path):
                answer = await call(setup.admin, method, path)
                assert refused(answer, 400, "VALIDATION_FAILED").startswith("id: ")
    assert state(rig) == before


async def test_bad_mac_is_400_unknown_is_404(setup: Batch, rig):
    await setup.post("resume")
    before = state(rig)
    for verb in DEVICE_VERBS:
        for bad in ("24:6F:28", "not-a-mac", "FF:FF:FF:FF:FF:FF", "01:00:5E:00:00:01", "00:00:00:00:00:00", "%00"):
            with case(verb, bad):
                details = refused(await setup.post(f"devices/{bad}/{verb}"), 400, "VALIDATION_FAILED")
                assert details.startswith("mac: ")
        answer = await setup.post(f"devices/{UNKNOWN_MAC}/{verb}")
        refused(answer, 404, "DEVICE_NOT_FOUND")
        assert UNKNOWN_MAC in answer.json["error"]["message"]
        both = await setup.admin.post(f"{BATCH}/1/devices/2/{verb}")
        assert {part.split(": ")[0] for part in refused(both, 400, "VALIDATION_FAILED").split("; ")} == {"id", "mac"}
    assert state(rig) == before


async def test_mac_is_accepted_in_every_notation(setup: Batch):
    mac = setup.cameras[0].mac
    notations = (mac.lower(), mac.replace(":", "-"), mac.replace(":", ""), mac.replace(":", "%3A"), mac.lower())
    for form in notations:
        answer = await setup.post(f"devices/{form}/skip")
        assert (answer.status, answer.data["mac"]) == (200, mac)


async def test_bad_query_is_refused(setup: Batch):
    for query in ({"state": "ready"}, {"state": ""}, {"state": "VERIFIED"}):
        answer = await setup.admin.get(f"{setup.url}/devices", params=query)
        assert refused(answer, 400, "VALIDATION_FAILED").startswith("state: ")
    answer = await setup.admin.get(setup.url, params={"include_devices": "perhaps"})
    assert refused(answer, 400, "VALIDATION_FAILED").startswith("include_devices: ")
    answer = await setup.admin.get(f"{BASE}/sessions/history", params={"limit": "0", "offset": "-1"})
    assert {part.split(": ")[0] for part in refused(answer, 400, "VALIDATION_FAILED").split("; ")} == {
        "limit",
        "offset",
    }


# Wrong states.


async def test_closed_session_refuses_commands(setup: Batch, rig):
    mac = setup.cameras[0].mac
    await setup.post("close")
    before = state(rig)
    for verb in ("provision-all", "pause", "resume", *(f"devices/{mac}/{verb}" for verb in DEVICE_VERBS)):
        with case(verb):
            answer = await setup.post(verb, json={})
            refused(answer, 409, "SESSION_ALREADY_CLOSED")
            assert setup.id in answer.json["error"]["message"]
    refused(await setup.admin.post(f"{BASE}/sessions/{setup.id}/resume"), 409, "SESSION_NOT_RECOVERABLE")
    assert state(rig) == before


async def test_expired_session_refuses_commands(setup: Batch, rig):
    mac = setup.cameras[0].mac
    await setup.post("close")
    await rig.execute_in_thread("UPDATE sessions SET ending = 'expired'")
    before = state(rig)
    for verb in ("provision-all", "pause", "resume", *(f"devices/{mac}/{verb}" for verb in DEVICE_VERBS)):
        with case(verb):
            refused(await setup.post(verb, json={}), 410, "SESSION_EXPIRED")
    refused(await setup.admin.post(f"{BASE}/sessions/{setup.id}/resume"), 410, "SESSION_EXPIRED")
    assert (await setup.admin.get(setup.url)).data["session"]["ending"] == "expired", "it can still be read"
    assert state(rig) == before


async def test_request_in_wrong_state_changes_nothing(setup: Batch, rig):
    mac = setup.cameras[0].mac
    await setup.post("resume")
    early = await setup.post(f"devices/{mac}/retry")
    refused(early, 409, "DEVICE_INVALID_STATE")
    await setup.post(f"devices/{mac}/provision")
    await setup.wait_for_state(mac, "verified")
    before = state(rig)
    refused(await setup.post(f"devices/{mac}/skip"), 409, "DEVICE_INVALID_STATE")
    refused(await setup.post(f"devices/{mac}/retry"), 409, "DEVICE_INVALID_STATE")
    again = await setup.post(f"devices/{mac}/provision")
    assert (again.status, again.data["state"]) == (202, "verified")
    assert state(rig) == before
    assert setup.cameras[0].provision_requests == 1


async def test_missing_key_is_refused(setup: Batch, rig):
    before = state(rig)
    for method, path in (*calls(setup.id, setup.cameras[0].mac), ("POST", BATCH), ("GET", f"{BASE}/sessions")):
        with case(method, path):
            answer = await call(setup.running.api, method, path, GOOD)
            refused(answer, 401, "UNAUTHORIZED")
    assert state(rig) == before
