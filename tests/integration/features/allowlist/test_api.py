"""The allowlist API: the dashboard's contract, repeats, limits, concurrent clients, audit and events."""

import asyncio
import json

import pytest

from pi_orchestrator.core.events import StoredEvent
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.allowlist import store as allowlist
from pi_orchestrator.features.allowlist.model import MAX_ENTRIES
from tests.support.api import case, check_all_answers

LIST = "/api/v1/provisioning/allowlist"
MAC, OTHER, THIRD = Mac("AA:BB:CC:DD:EE:FF"), Mac("24:6F:28:00:00:10"), Mac("24:6F:28:00:00:20")
LOGS = {"operator_actions", "idempotency", "sqlite_sequence"}  # changed by every request
CSV = {"Content-Type": "text/csv"}
INVALID_MAC = "mac: 'zz' is not a MAC address such as AA:BB:CC:DD:EE:FF"


@pytest.fixture(autouse=True)
def check_answers(monkeypatch):
    """Check every answer against the OpenAPI document. Unlike `documented_answers`, it puts no MAC on the allowlist."""
    check_all_answers(monkeypatch)


def mac_of(n):
    """The MAC of camera number n."""
    return f"24:6F:{n >> 24 & 255:02X}:{n >> 16 & 255:02X}:{n >> 8 & 255:02X}:{n & 255:02X}"


def state(rig):
    """All stored rows except the logs of requests; events included."""
    return {name: rows for name, rows in rig.tables().items() if name not in LOGS}


def events(rig):
    """(MAC, (added, removed, updated)) of each `allowlist.changed` event; the MAC is None if several changed."""
    rows = rig.rows("SELECT mac, payload FROM events WHERE type = 'allowlist.changed' ORDER BY id")
    return [(mac, tuple(json.loads(payload).values())) for mac, payload in rows]


def actions(rig):
    return rig.rows("SELECT action, target, outcome FROM operator_actions WHERE actor = 'admin' ORDER BY id")


async def add(running, *macs, **details):
    for mac in macs:
        assert (await running.admin.post(LIST, json={"mac": mac} | details)).status in (200, 201)


async def listed(running, **query):
    return (await running.admin.get(LIST, params=query)).data["entries"]


async def upload(running, text, **query):
    raw = text if isinstance(text, bytes) else text.encode()
    return await running.admin.post(f"{LIST}/import", data=raw, headers=CSV, params=query)


async def mark_used(running, mac):
    await running.app.resources.database.write(lambda tx: allowlist.mark_used(tx, mac))


# The dashboard's contract.


async def test_empty_list_is_an_array(daemon):
    answer = await daemon.admin.get(LIST)
    assert answer.status == 200
    assert answer.json.keys() == {"success", "data", "correlation_id", "timestamp"}
    assert answer.data == {"entries": [], "count": 0}


async def test_add_answers_as_in_the_contract(daemon):
    body = {"mac": "AA:BB:CC:DD:EE:FF", "description": "Camera 1", "container_id": "optional-container-id"}
    answer = await daemon.admin.post(LIST, json=body)
    assert answer.status == 201
    assert answer.json["success"] is True
    (entry,) = answer.data.values()
    added_at = entry.pop("added_at")
    assert entry == body | {"used": False}
    assert answer.data.keys() == {"entry"}
    shown = await daemon.admin.get(LIST)
    assert shown.data == {"entries": [{**entry, "added_at": added_at}], "count": 1}


async def test_add_with_invalid_mac_is_refused(daemon, rig):
    before = state(rig)
    answer = await daemon.admin.post(LIST, json={"mac": "not a mac"})
    assert answer.status == 400
    error = answer.json["error"]
    assert {name: error[name] for name in ("code", "message", "retryable")} == {
        "code": "VALIDATION_FAILED",
        "message": "Validation failed",
        "retryable": False,
    }
    assert error["details"] == "mac: 'not a mac' is not a MAC address such as AA:BB:CC:DD:EE:FF"
    assert state(rig) == before


async def test_remove_answers_204_without_body(daemon):
    await add(daemon, MAC, OTHER)
    answer = await daemon.admin.delete(f"{LIST}/{MAC}")
    assert (answer.status, answer.body) == (204, b"")
    assert [entry["mac"] for entry in await listed(daemon)] == [OTHER]


async def test_endpoints_require_a_key_with_scope(daemon, rig):
    secret = (await daemon.admin.post("/api/v1/keys", json={"name": "reader", "scope": "read"})).data["secret"]
    await add(daemon, MAC)
    before = state(rig)
    reads = [("GET", LIST), ("GET", f"{LIST}/stats"), ("GET", f"{LIST}/{MAC}")]
    writes = [("POST", LIST), ("PATCH", f"{LIST}/{MAC}"), ("DELETE", f"{LIST}/{MAC}"), ("DELETE", f"{LIST}/all")]
    writes += [("POST", f"{LIST}/{verb}") for verb in ("bulk", "bulk-remove", "import")]
    for method, path in reads + writes:
        with case(method, path):
            assert (await daemon.api.call(method, path)).status == 401
            answer = await daemon.api.call(method, path, headers={"X-API-Key": secret})
            assert answer.status == (200 if method == "GET" else 403)
    assert state(rig) == before


# Single entries.


@pytest.mark.parametrize(
    "spelling", ["aa-bb-cc-dd-ee-ff", "AABBCCDDEEFF", "aabb.ccdd.eeff", "aa%3Abb%3Acc%3Add%3Aee%3Aff"]
)
async def test_mac_is_accepted_in_any_format(daemon, spelling):
    body = spelling.replace("%3A", ":")
    assert (await daemon.admin.post(LIST, json={"mac": body})).data["entry"]["mac"] == MAC
    assert (await daemon.admin.post(LIST, json={"mac": MAC})).status == 200
    assert (await daemon.admin.get(f"{LIST}/{spelling}")).data["entry"]["mac"] == MAC
    assert (await daemon.admin.call("PATCH", f"{LIST}/{spelling}", json={"description": "x"})).status == 200
    assert (await daemon.admin.post(f"{LIST}/bulk-remove", json={"macs": [body, MAC]})).data["removed"] == 1


async def test_add_again_changes_only_given_fields(daemon, rig):
    first = await daemon.admin.post(LIST, json={"mac": MAC, "description": "Camera 1", "container_id": "box"})
    await mark_used(daemon, MAC)
    second = await daemon.admin.post(LIST, json={"mac": MAC, "description": "Camera 2"})
    assert second.status == 200
    used_at = second.data["entry"]["used_at"]
    assert second.data["entry"] == first.data["entry"] | {"description": "Camera 2", "used": True, "used_at": used_at}
    for empty in (None, "", " \n"):
        await add(daemon, MAC, description="x")
        answer = await daemon.admin.post(LIST, json={"mac": MAC, "description": empty})
        assert "description" not in answer.data["entry"]
    assert answer.data["entry"]["container_id"] == "box"


async def test_unlisted_mac_is_404(daemon):
    await add(daemon, OTHER, description="Camera 1")
    assert (await daemon.admin.get(f"{LIST}/{OTHER}")).data["entry"]["description"] == "Camera 1"
    for method, options in (("GET", {}), ("PATCH", {"json": {"description": "x"}})):
        answer = await daemon.admin.call(method, f"{LIST}/{MAC}", **options)
        assert (answer.status, answer.json["code"]) == (404, "DEVICE_NOT_FOUND")
        assert answer.json["error"]["message"] == f"{MAC} is not on the allowlist"
    assert [entry["mac"] for entry in await listed(daemon)] == [OTHER], "PATCH does not add entries"


async def test_patch_changes_only_given_fields(daemon):
    await add(daemon, MAC, description="Camera 1", container_id="box")

    async def change(**fields):
        answer = await daemon.admin.call("PATCH", f"{LIST}/{MAC}", json=fields)
        assert answer.data.keys() == {"entry", "message"}
        entry = answer.data["entry"]
        return entry.get("description"), entry.get("container_id")

    assert await change() == ("Camera 1", "box")
    assert await change(description="Camera 2") == ("Camera 2", "box")
    assert await change(container_id="shelf") == ("Camera 2", "shelf")
    assert await change(description=None) == (None, "shelf")
    assert await change(container_id="", description="Camera 3") == ("Camera 3", None)


async def test_used_entries_are_counted_and_not_available(daemon):
    await add(daemon, MAC, OTHER, THIRD)
    assert (await daemon.admin.get(f"{LIST}/stats")).data == {"total": 3, "used": 0, "available": 3}
    await mark_used(daemon, OTHER)
    assert (await daemon.admin.get(f"{LIST}/stats")).data == {"total": 3, "used": 1, "available": 2}
    used = [(entry["mac"], entry["used"], "used_at" in entry) for entry in await listed(daemon)]
    assert used == [(OTHER, True, True), (THIRD, False, False), (MAC, False, False)], "in MAC order"
    for value in ("true", "1"):
        answer = (await daemon.admin.get(LIST, params={"available": value})).data
        assert ([entry["mac"] for entry in answer["entries"]], answer["count"]) == ([THIRD, MAC], 2)
    assert len(await listed(daemon, available="false")) == 3


async def test_path_verbs_are_not_taken_as_macs(daemon):
    for method, segment, allowed in (
        ("GET", "all", "DELETE"),
        ("PATCH", "all", "DELETE"),
        ("DELETE", "stats", "GET, HEAD"),
        ("GET", "bulk", "POST"),
        ("DELETE", "import", "POST"),
        ("PATCH", "bulk-remove", "POST"),
    ):
        answer = await daemon.admin.call(method, f"{LIST}/{segment}", json={} if method == "PATCH" else None)
        assert (answer.status, answer.headers["Allow"]) == (405, allowed), segment
    for segment in ("ALL", "al", "all ", "no-mac", "FF:FF:FF:FF:FF:FF"):
        answer = await daemon.admin.delete(f"{LIST}/{segment}")
        assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED")


async def test_list_survives_a_restart(rig):
    async with rig.daemon(connected=False) as running:
        await add(running, MAC, description="Camera 1")
        await mark_used(running, MAC)
        before = await listed(running)
    async with rig.daemon(connected=False) as running:
        assert await listed(running) == before


# Bulk requests.


async def test_bulk_applies_good_rows_and_reports_bad_ones(daemon):
    await add(daemon, THIRD, description="Camera 3")
    entries = [
        {"mac": MAC, "description": "Camera 1"},
        {"mac": "zz", "description": 7},
        {"mac": OTHER.lower(), "container_id": "box"},
        {"mac": THIRD, "description": "Camera 3"},
        {"mac": MAC},
        {"mac": MAC, "description": "another"},
        "24:6F:28:00:00:30",
        {"mac": THIRD, "description": "y" * 201},
    ]
    answer = await daemon.admin.post(f"{LIST}/bulk", json={"entries": entries})
    assert answer.status == 200
    report = answer.data
    assert {name: report[name] for name in ("added", "updated", "skipped", "message")} == {
        "added": 2,
        "updated": 0,
        "skipped": 2,
        "message": "2 added, 0 updated, 2 skipped, 4 refused",
    }
    assert [(error["index"], error["mac"], error["reason"]) for error in report["errors"]] == [
        (1, "zz", "mac: 'zz' is not a MAC address such as AA:BB:CC:DD:EE:FF; description: a description must be text"),
        (5, MAC, "conflicts with index 0, which has the same MAC and takes precedence"),
        (6, "", "an entry must be an object with a mac"),
        (7, THIRD, "description: 201 characters, over the limit of 200"),
    ]
    assert {(entry["mac"], entry.get("description")) for entry in await listed(daemon)} == {
        (MAC, "Camera 1"),
        (OTHER, None),
        (THIRD, "Camera 3"),
    }


async def test_bulk_limit_is_a_thousand_entries(daemon, rig):
    entries = [{"mac": mac_of(n)} for n in range(1001)]
    before = state(rig)
    answer = await daemon.admin.post(f"{LIST}/bulk", json={"entries": entries})
    assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED")
    assert "entries" in answer.json["error"]["details"]
    assert "1000" in answer.json["error"]["details"]
    assert state(rig) == before
    answer = await daemon.admin.post(f"{LIST}/bulk", json={"entries": entries[:1000]})
    assert (answer.data["added"], answer.data["errors"]) == (1000, [])
    assert (await daemon.admin.post(f"{LIST}/bulk", json={"entries": []})).data["message"].startswith("0 added")


async def test_bulk_remove_reports_missing_macs(daemon):
    await add(daemon, MAC, OTHER)
    body = {"macs": [MAC.lower(), OTHER, THIRD, THIRD, MAC]}
    answer = await daemon.admin.post(f"{LIST}/bulk-remove", json=body)
    assert answer.data == {
        "removed": 2,
        "not_found": 1,
        "missing": [THIRD],
        "message": "2 removed, 1 not found",
    }
    assert await listed(daemon) == []


async def test_clear_removes_all_entries(daemon):
    await add(daemon, MAC, OTHER)
    await mark_used(daemon, OTHER)
    assert (await daemon.admin.delete(f"{LIST}/all")).data == {"cleared": 2, "message": "2 entries removed"}
    assert (await daemon.admin.get(LIST)).data == {"entries": [], "count": 0}


async def test_full_list_refuses_new_entries(daemon, rig):
    """Each way to add an entry refuses entry 10,001; other requests still work."""
    lines = [f"{mac_of(n)},Camera {n}" for n in range(MAX_ENTRIES)]
    answer = await upload(daemon, "\n".join(["mac,description", *lines]))
    assert (answer.data["added"], len(answer.data["rows"])) == (MAX_ENTRIES, MAX_ENTRIES)
    before = state(rig)
    full = "the allowlist is full: it holds 10,000 entries"
    answer = await daemon.admin.post(LIST, json={"mac": MAC})
    assert (answer.status, answer.json["code"], answer.json["error"]["message"]) == (409, "CONFLICT", full)
    assert answer.json["error"]["details"]
    bulk = (await daemon.admin.post(f"{LIST}/bulk", json={"entries": [{"mac": MAC}, {"mac": mac_of(0)}]})).data
    assert (bulk["added"], bulk["skipped"]) == (0, 1)
    assert bulk["errors"] == [{"index": 0, "mac": MAC, "reason": full}]
    imported = (await upload(daemon, f"mac\n{mac_of(0)}\n{MAC}\n")).data
    assert imported["errors"] == [{"index": 1, "line": 3, "mac": MAC, "reason": full}]
    assert state(rig) == before
    assert actions(rig)[-3] == ("allowlist.add", MAC, "CONFLICT")
    assert (await daemon.admin.post(LIST, json={"mac": mac_of(0), "description": "x"})).status == 200
    assert (await daemon.admin.get(LIST)).data["count"] == MAX_ENTRIES
    assert (await daemon.admin.delete(f"{LIST}/all")).data["cleared"] == MAX_ENTRIES


# Repeated and concurrent requests.

ENTRY = {"mac": str(MAC), "description": "Camera 1"}
FILE = {"data": f"mac,description\n{MAC},Camera 1\n{THIRD},x\nzz,\n".encode(), "headers": CSV}
WRITES = {
    "add": ("POST", LIST, {"json": ENTRY}),
    "add listed": ("POST", LIST, {"json": {"mac": OTHER, "container_id": "box"}}),
    "change": ("PATCH", f"{LIST}/{OTHER}", {"json": {"description": "Camera 2"}}),
    "remove": ("DELETE", f"{LIST}/{OTHER}", {}),
    "bulk": ("POST", f"{LIST}/bulk", {"json": {"entries": [ENTRY, {"mac": OTHER, "description": "y"}, {"mac": "zz"}]}}),
    "import": ("POST", f"{LIST}/import", FILE),
    "bulk-remove": ("POST", f"{LIST}/bulk-remove", {"json": {"macs": [OTHER, THIRD]}}),
    "clear": ("DELETE", f"{LIST}/all", {}),
}
# Fields that differ in the answer to a repeat without an Idempotency-Key.
NO_CHANGES = {"added": 0, "updated": 0, "skipped": 2, "message": "0 added, 0 updated, 2 skipped, 1 refused"}
SKIPPED = {"effect": "skip", "reason": "already listed with these values"}
REPEATED = {
    "bulk": NO_CHANGES,
    "import": NO_CHANGES
    | {
        "rows": [
            {"line": 2, "mac": MAC} | SKIPPED,
            {"line": 3, "mac": THIRD} | SKIPPED,
            {"line": 4, "mac": "zz", "effect": "error", "reason": INVALID_MAC},
        ]
    },
    "bulk-remove": {"removed": 0, "not_found": 2, "missing": [OTHER, THIRD], "message": "0 removed, 2 not found"},
    "clear": {"cleared": 0, "message": "0 entries removed"},
}
each_write = pytest.mark.parametrize("name", WRITES)


async def call(running, name, **headers):
    method, path, options = WRITES[name]
    return await running.admin.call(method, path, **options | {"headers": options.get("headers", {}) | headers})


@each_write
async def test_write_repeated_has_one_effect(daemon, rig, name):
    await add(daemon, OTHER, description="old")
    count = len(events(rig))
    first = await call(daemon, name)
    after = state(rig)
    assert len(events(rig)) == count + 1, "one event for one change"
    second, third = await call(daemon, name), await call(daemon, name)
    assert state(rig) == after, "no second effect, and no second event"
    assert (first.status, second.status, third.status) == {
        "add": (201, 200, 200),
        "remove": (204, 204, 204),
    }.get(name, (200, 200, 200))
    if name == "remove":
        return
    assert second.data == third.data
    assert second.data == first.data | REPEATED.get(name, {})


@each_write
async def test_write_with_idempotency_key_repeats_the_answer(daemon, rig, name):
    await add(daemon, OTHER, description="old")
    first = await call(daemon, name, **{"Idempotency-Key": "k-1"})
    after, recorded = state(rig), actions(rig)
    for _ in range(2):
        repeat = await call(daemon, name, **{"Idempotency-Key": "k-1"})
        assert repeat.status == first.status
        assert not first.body or repeat.data == first.data
    assert (state(rig), actions(rig)) == (after, recorded)


@each_write
async def test_write_sent_concurrently_has_one_effect(daemon, rig, name):
    await add(daemon, OTHER, description="old")
    count = len(events(rig))
    answers = await asyncio.gather(*(call(daemon, name) for _ in range(3)))
    assert len(events(rig)) == count + 1
    assert sorted(answer.status for answer in answers) == {"add": [200, 200, 201], "remove": [204] * 3}.get(
        name, [200] * 3
    )
    for field in ("added", "updated", "removed", "cleared"):
        numbers = sorted(answer.data.get(field, 0) for answer in answers if answer.body)
        assert numbers[:-1] in ([], [0, 0]), "only one request had an effect"


async def test_concurrent_bulk_requests_are_serialised(daemon, rig):
    ours = [{"mac": mac_of(n), "description": "ours"} for n in range(60)]
    theirs = [{"mac": mac_of(n), "description": "theirs"} for n in range(30, 90)]
    answers = await asyncio.gather(
        *(daemon.admin.post(f"{LIST}/bulk", json={"entries": entries}) for entries in (ours, theirs)),
        *(daemon.admin.delete(f"{LIST}/{mac_of(n)}") for n in range(200, 210)),
    )
    first, second = (answer.data for answer in answers[:2])
    assert first["added"] + second["added"] == 90
    assert first["updated"] + second["updated"] == 30
    descriptions = {entry["mac"]: entry["description"] for entry in await listed(daemon)}
    assert len(descriptions) == 90
    last = "ours" if first["updated"] else "theirs"
    assert {descriptions[mac_of(n)] for n in range(30, 60)} == {last}, "rows of two requests are not mixed"
    assert [counts for _, counts in events(rig)] == [(60, 0, 0), (30, 0, 30)]


async def test_last_free_place_is_taken_by_one_request(daemon):
    await upload(daemon, "\n".join(["mac", *(mac_of(n) for n in range(MAX_ENTRIES - 1))]))
    answers = await asyncio.gather(*(daemon.admin.post(LIST, json={"mac": mac_of(50_000 + n)}) for n in range(8)))
    assert sorted(answer.status for answer in answers) == [201, *[409] * 7]
    assert (await daemon.admin.get(f"{LIST}/stats")).data["total"] == MAX_ENTRIES


# Audit log and events.


async def test_writes_are_in_the_audit_log(daemon, rig):
    await add(daemon, OTHER)
    for name in WRITES:
        await call(daemon, name)
    await call(daemon, "remove")
    await daemon.admin.call("PATCH", f"{LIST}/{MAC}", json={})
    assert actions(rig) == [
        ("allowlist.add", OTHER, "ok"),
        ("allowlist.add", MAC, "ok"),
        ("allowlist.add", OTHER, "ok"),
        ("allowlist.change", OTHER, "ok"),
        ("allowlist.remove", OTHER, "ok"),
        ("allowlist.bulk", "3 rows", "1 added, 0 updated, 1 skipped, 1 refused"),
        ("allowlist.import", "3 rows", "1 added, 0 updated, 1 skipped, 1 refused"),
        ("allowlist.bulk_remove", "2 MACs", "2 removed"),
        ("allowlist.clear", None, "1 removed"),
        ("allowlist.remove", OTHER, "was not there"),
        ("allowlist.change", MAC, "DEVICE_NOT_FOUND"),
    ]


async def test_change_publishes_a_stored_event(daemon, rig):
    with daemon.daemon.app.resources.bus.subscribe(StoredEvent) as subscription:
        await add(daemon, MAC)
        await add(daemon, MAC)
        await call(daemon, "bulk")
        subscription.close()
        published = [event async for event in subscription]
    assert [(event.type, event.mac, event.payload) for event in published] == [
        ("allowlist.changed", MAC, {"added": 1, "removed": 0, "updated": 0}),
        ("allowlist.changed", None, {"added": 1, "removed": 0, "updated": 1}),
    ]
    assert [event.id for event in published] == [row[0] for row in rig.rows("SELECT id FROM events ORDER BY id")]


@each_write
@pytest.mark.parametrize("table", ["events", "operator_actions"])
async def test_write_is_undone_if_event_or_audit_row_fails(daemon, rig, name, table):
    await add(daemon, OTHER, description="old")
    await rig.execute_in_thread(
        f"CREATE TRIGGER full BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'no room'); END"
    )
    before = rig.rows("SELECT * FROM allowlist")
    answer = await call(daemon, name)
    assert (answer.status, answer.json["code"]) == (500, "DATABASE_ERROR")
    assert rig.rows("SELECT * FROM allowlist") == before
