"""The diagnostics bundle and the export of old dashboards: whole, bounded, and with nothing secret in them."""

import asyncio
import io
import json
import tarfile

import pytest

from pi_orchestrator.api import bundle
from pi_orchestrator.errors import StorageError
from pi_orchestrator.logs import get_logger
from pi_orchestrator.storage import dump
from tests.support.api import camera_is_registered
from tests.support.sse import SESSION, say, store_session

BUNDLE = "/api/v1/system/bundle"
EXPORT = "/api/dashboard/diagnostics/export"
OLD_LOGS = "/api/dashboard/logs"


def opened(answer):
    assert answer.status == 200
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
        return {member.name.split("/", 1)[1]: tar.extractfile(member).read() for member in tar.getmembers()}


def lines(content):
    return [json.loads(line) for line in content.splitlines()]


async def test_a_bundle_has_everything_that_helps(world):
    async with world.daemon() as running, world.fleet(1):
        await camera_is_registered(running)
        await store_session(running, devices=["24:6F:28:B0:F7:F1"])
        await say(running, "scan.started")
        get_logger("pi_orchestrator.test").warning("a line to find", n=4711)
        answer = await running.admin.get(BUNDLE)
        mac = next(iter(running.services.roster)).mac
    assert answer.headers["Content-Type"] == "application/gzip"
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="pi-orchestrator-20')
    assert answer.headers["Cache-Control"] == "no-store"
    files = opened(answer)
    for name in ("README.txt", "manifest.json", "system.json", "health.json", "versions.json", "config.json",
                 "metrics.txt", "logs.jsonl", "cameras.jsonl", "devices.jsonl", "sessions.jsonl", "events.jsonl",
                 "audit.jsonl", "actions.jsonl", "database/containers.jsonl"):  # fmt: skip
        assert files[name], name
    assert json.loads(files["system.json"])["cpu"]["core_count"] > 0
    assert {"database", "mqtt"} <= {part["name"] for part in json.loads(files["health.json"])}
    assert json.loads(files["versions.json"])["aiohttp"][0].isdigit()
    config = {one["key"]: one for one in json.loads(files["config.json"])}
    assert config["mqtt.host"]["value"] == "127.0.0.1"
    assert {"n": 4711} in [one["fields"] for one in lines(files["logs.jsonl"]) if one["message"] == "a line to find"]
    (camera,) = lines(files["cameras.jsonl"])
    assert (camera["mac_address"], "diagnostics" in camera) == (mac, True)
    (device,) = [one for one in lines(files["devices.jsonl"]) if one["mac_address"] == mac]
    assert device["evidence"]
    assert [row["id"] for row in lines(files["sessions.jsonl"])] == [SESSION]
    assert {"scan.started", "camera.onboarded"} <= {row["type"] for row in lines(files["events.jsonl"])}
    assert {row["stage"] for row in lines(files["audit.jsonl"])} >= {"discovered", "paired"}
    assert lines(files["actions.jsonl"])[0]["action"] == "api_key.create"
    assert b"piorch_mqtt_connected 1.0" in files["metrics.txt"]
    manifest = json.loads(files["manifest.json"])
    assert (manifest["made_by"], manifest["notes"]) == ("the daemon", [])
    assert {one["name"] for one in manifest["files"]} == files.keys() - {"README.txt", "manifest.json"}
    assert not any("session_secrets" in name or "idempotency" in name for name in files)


async def test_a_bundle_wants_a_key_that_may_operate(daemon):
    assert (await daemon.api.get(BUNDLE)).status == 401
    for scope, status in (("read", 403), ("operate", 200)):
        made = await daemon.admin.post("/api/v1/keys", json={"name": scope, "scope": scope})
        assert (await daemon.api.get(BUNDLE, headers={"X-API-Key": made.data["secret"]})).status == status


async def test_the_loop_goes_on_while_bundles_are_made(daemon):
    await say(daemon, *["scan.ended"] * 3000, payload={"x": "y" * 500})
    for number in range(3000):
        get_logger("pi_orchestrator.test").debug("x" * 200, n=number)
    loop, late = asyncio.get_running_loop(), []
    making = asyncio.gather(*(daemon.admin.get(BUNDLE) for _ in range(3)))
    while not making.done():
        began = loop.time()
        await asyncio.sleep(0.01)
        late.append(loop.time() - began - 0.01)
    for answer in await making:
        assert len(lines(opened(answer)["logs.jsonl"])) > 2900
    assert sorted(late)[len(late) // 2] < 0.1
    assert max(late) < 3.0


async def test_bundles_are_made_one_at_a_time(daemon, monkeypatch):
    """Each takes a thread for seconds; together they would keep pages from being served, and the daemon from ending."""
    at_once, most, make = 0, 0, bundle._made

    def made(*given):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            return make(*given)
        finally:
            at_once -= 1

    monkeypatch.setattr(bundle, "_made", made)
    answers = await asyncio.gather(*(daemon.admin.get(BUNDLE) for _ in range(5)))
    assert {answer.status for answer in answers} == {200}
    assert most == 1


async def test_a_database_that_fails_is_a_note_and_the_rest_is_there(daemon, monkeypatch):
    def fail(path):
        raise StorageError("the database could not be read: disk I/O error")

    monkeypatch.setattr(dump, "of_file", fail)
    files = opened(await daemon.admin.get(BUNDLE))
    (note,) = json.loads(files["manifest.json"])["notes"]
    assert note.startswith("the database could not be read")
    assert files["logs.jsonl"]


# What old dashboards call it.


async def test_old_dashboards_get_the_last_lines(daemon):
    for number in range(210):
        get_logger("pi_orchestrator.test").info("x", n=number)
    answer = await daemon.api.get(OLD_LOGS)
    assert answer.json.keys() == {"count", "logs"}
    assert answer.json["count"] == len(answer.json["logs"]) == 200
    assert answer.json["logs"][0]["fields"] == {"n": 209}


async def test_old_dashboards_get_their_export(daemon):
    answer = await daemon.api.get(EXPORT)
    assert answer.json.keys() == {"generated_at", "system", "logs", "config"}
    assert answer.json["system"]["overall_status"] in ("healthy", "warning", "critical")
    keys = {item["key"] for section in answer.json["config"]["sections"] for item in section["items"]}
    assert {"http.listen", "auth.api_key"} <= keys
    assert "ready" in [line["message"] for line in answer.json["logs"]]


@pytest.mark.parametrize("path, successor", [(OLD_LOGS, "/api/v1/system/logs"), (EXPORT, BUNDLE)])
async def test_old_paths_say_where_it_went(daemon, path, successor):
    answer = await daemon.api.get(path)
    assert answer.headers["Deprecation"] == "true"
    assert answer.headers["Link"] == f'<{successor}>; rel="successor-version"'
