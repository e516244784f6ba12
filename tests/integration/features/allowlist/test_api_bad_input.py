"""The allowlist API with bad input: errors name every field, nothing is changed, text is cleaned."""

import pytest

from tests.integration.features.allowlist.test_api import CSV, LIST, MAC, OTHER, add, check_answers

__all__ = ["check_answers"]  # imported so that this autouse fixture also runs in this module

LONG = "x" * 201


@pytest.mark.parametrize(
    "method, path, body, fragments",
    [
        ("POST", LIST, {}, ["mac: "]),
        ("POST", LIST, {"mac": None}, ["mac: "]),
        ("POST", LIST, {"mac": 7}, ["mac: "]),
        ("POST", LIST, {"mac": ""}, ["mac: "]),
        ("POST", LIST, {"mac": "AA:BB:CC:DD:EE"}, ["mac: "]),
        ("POST", LIST, {"mac": "AA:BB:CC:DD:EE:FF:00"}, ["mac: "]),
        ("POST", LIST, {"mac": "AA:BB:CC:DD:EE:GG"}, ["mac: "]),
        ("POST", LIST, {"mac": "AA:BB-CC:DD:EE:FF"}, ["mac: "]),
        ("POST", LIST, {"mac": "FF:FF:FF:FF:FF:FF"}, ["mac: ", "broadcast"]),
        ("POST", LIST, {"mac": "00:00:00:00:00:00"}, ["mac: ", "all-zero"]),
        ("POST", LIST, {"mac": "01:00:5E:00:00:01"}, ["mac: ", "multicast"]),
        ("POST", LIST, {"mac": ["AA:BB:CC:DD:EE:FF"]}, ["mac: "]),
        ("POST", LIST, {"mac": MAC, "description": LONG}, ["description: 201 characters, over the limit of 200"]),
        ("POST", LIST, {"mac": MAC, "description": 7}, ["description: "]),
        ("POST", LIST, {"mac": MAC, "container_id": "a b"}, ["container_id: "]),
        ("POST", LIST, {"mac": MAC, "container_id": "x" * 65}, ["container_id: "]),
        ("POST", LIST, {"mac": MAC, "container_id": {}}, ["container_id: "]),
        ("POST", LIST, {"mac": MAC, "used": True, "added_at": "2020"}, ["used: ", "added_at: "]),
        (
            "POST",
            LIST,
            {"mac": "x", "description": LONG, "container_id": "/"},
            ["mac: ", "description: ", "container_id: "],
        ),
        ("PATCH", f"{LIST}/{OTHER}", {"description": LONG, "container_id": "/"}, ["description: ", "container_id: "]),
        ("PATCH", f"{LIST}/{OTHER}", {"mac": MAC}, ["mac: "]),
        ("PATCH", f"{LIST}/{OTHER}", {"used": False}, ["used: "]),
        ("PATCH", f"{LIST}/zz", {"description": LONG}, ["mac: ", "description: "]),
        ("POST", f"{LIST}/bulk", {}, ["entries: "]),
        ("POST", f"{LIST}/bulk", {"entries": None}, ["entries: "]),
        ("POST", f"{LIST}/bulk", {"entries": {"mac": MAC}}, ["entries: "]),
        ("POST", f"{LIST}/bulk", {"entries": [], "overwrite": True}, ["overwrite: "]),
        ("POST", f"{LIST}/bulk-remove", {}, ["macs: "]),
        ("POST", f"{LIST}/bulk-remove", {"macs": [OTHER, "x", OTHER, "y"]}, ["macs.1: ", "macs.3: "]),
        ("POST", f"{LIST}/bulk-remove", {"macs": OTHER}, ["macs: "]),
        ("POST", f"{LIST}/bulk-remove", {"macs": [OTHER] * 1001}, ["macs: ", "1000"]),
        ("POST", f"{LIST}/import?dry_run=perhaps", None, ["dry_run: "]),
        ("GET", f"{LIST}?available=perhaps", None, ["available: "]),
        ("GET", f"{LIST}/nobody", None, ["mac: "]),
        ("DELETE", f"{LIST}/nobody", None, ["mac: "]),
    ],
)
async def test_invalid_fields_are_named_in_error(daemon, rig, method, path, body, fragments):
    await add(daemon, OTHER, description="old")
    before = rig.tables()
    answer = await daemon.admin.call(method, path, json=body, headers=CSV if body is None else {})
    assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED")
    assert all(fragment in answer.json["error"]["details"] for fragment in fragments), answer.json["error"]["details"]
    assert rig.tables() == before


@pytest.mark.parametrize("raw", [b"{", b"[]", b"null", b"\xff", b'{"mac": NaN}', b"[" * 5000, b'{"mac": "' + b"x" * 99])
async def test_body_without_json_object_is_refused(daemon, rig, raw):
    await add(daemon, OTHER)
    before = rig.tables()
    for method, path in (("POST", LIST), ("PATCH", f"{LIST}/{OTHER}"), ("POST", f"{LIST}/bulk")):
        answer = await daemon.admin.call(method, path, data=raw, headers={"Content-Type": "application/json"})
        assert (answer.status, answer.json["code"]) == (400, "INVALID_REQUEST")
    assert rig.tables() == before


async def test_hostile_text_is_cleaned(daemon):
    raw = b'{"mac": "24:6F:28:00:00:10", "description": "\\u001b[2J\\u0000\\ud800\\u202e<script>=1\\n2"}'
    answer = await daemon.admin.post(LIST, data=raw, headers={"Content-Type": "application/json"})
    assert answer.data["entry"]["description"] == "[2J<script>=1 2"
    entries = b'{"entries": [{"mac": "\\ud800\\u001b", "\\ud800": 1}, {"\\u0000": {}}, [[[[]]]], {"mac": "\\u202e"}]}'
    answer = await daemon.admin.post(f"{LIST}/bulk", data=entries, headers={"Content-Type": "application/json"})
    assert answer.status == 200
    assert len(answer.data["errors"]) == 4
    assert all((error["mac"] + error["reason"]).isprintable() for error in answer.data["errors"])
