"""The support bundle and the export for old dashboards: complete, bounded, without secrets."""

import asyncio
import io
import json
import tarfile
import time

import pytest

from pi_orchestrator.core.errors import StorageError
from pi_orchestrator.core.logging import get_logger
from pi_orchestrator.features.system import database_dump
from tests.support.api import camera_is_registered
from tests.support.sse import SESSION, store_events, store_session

pytestmark = pytest.mark.usefixtures("documented_answers")

BUNDLE = "/api/v1/system/bundle"
EXPORT = "/api/dashboard/diagnostics/export"
OLD_LOGS = "/api/dashboard/logs"


def extract(answer):
    assert answer.status == 200
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
        return {member.name.split("/", 1)[1]: tar.extractfile(member).read() for member in tar.getmembers()}


def lines(content):
    return [json.loads(line) for line in content.splitlines()]


async def test_bundle_contains_all_files(rig):
    async with rig.daemon() as running, rig.fleet(1):
        await camera_is_registered(running)
        await store_session(running, devices=["24:6F:28:B0:F7:F1"])
        await store_events(running, "scan.started")
        get_logger("pi_orchestrator.test").warning("a line to find", n=4711)
        answer = await running.admin.get(BUNDLE)
        mac = next(iter(running.app.cameras.cache)).mac
    assert answer.headers["Content-Type"] == "application/gzip"
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="pi-orchestrator-20')
    assert answer.headers["Cache-Control"] == "no-store"
    files = extract(answer)
    for name in ("README.txt", "manifest.json", "system.json", "health.json", "versions.json", "config.json",
                 "metrics.txt", "logs.jsonl", "cameras.jsonl", "devices.jsonl", "sessions.jsonl", "events.jsonl",
                 "audit.jsonl", "actions.jsonl", "database/containers.jsonl"):  # fmt: skip
        assert files[name], name
    assert json.loads(files["system.json"])["cpu"]["core_count"] > 0
    assert {"database", "mqtt"} <= {part["name"] for part in json.loads(files["health.json"])}
    assert json.loads(files["versions.json"])["aiohttp"][0].isdigit()
    config = {item["key"]: item for item in json.loads(files["config.json"])}
    assert config["mqtt.host"]["value"] == "127.0.0.1"
    assert {"n": 4711} in [line["fields"] for line in lines(files["logs.jsonl"]) if line["message"] == "a line to find"]
    (camera,) = lines(files["cameras.jsonl"])
    assert (camera["mac_address"], "diagnostics" in camera) == (mac, True)
    (device,) = [row for row in lines(files["devices.jsonl"]) if row["mac_address"] == mac]
    assert device["evidence"]
    assert [row["id"] for row in lines(files["sessions.jsonl"])] == [SESSION]
    assert {"scan.started", "camera.onboarded"} <= {row["type"] for row in lines(files["events.jsonl"])}
    assert {row["stage"] for row in lines(files["audit.jsonl"])} >= {"discovered", "paired"}
    assert lines(files["actions.jsonl"])[0]["action"] == "api_key.create"
    assert b"piorch_mqtt_connected 1.0" in files["metrics.txt"]
    manifest = json.loads(files["manifest.json"])
    assert (manifest["made_by"], manifest["notes"]) == ("the daemon", [])
    assert {entry["name"] for entry in manifest["files"]} == files.keys() - {"README.txt", "manifest.json"}
    assert not any("session_secrets" in name or "idempotency" in name for name in files)


async def test_bundle_requires_operate_scope(daemon):
    assert (await daemon.api.get(BUNDLE)).status == 401
    for scope, status in (("read", 403), ("operate", 200)):
        created = await daemon.admin.post("/api/v1/keys", json={"name": scope, "scope": scope})
        assert (await daemon.api.get(BUNDLE, headers={"X-API-Key": created.data["secret"]})).status == status


async def test_bundles_do_not_block_the_loop(daemon):
    await store_events(daemon, *["scan.ended"] * 3000, payload={"x": "y" * 500})
    for number in range(3000):
        get_logger("pi_orchestrator.test").debug("x" * 200, n=number)
    loop, delays = asyncio.get_running_loop(), []
    making = asyncio.gather(*(daemon.admin.get(BUNDLE) for _ in range(3)))
    while not making.done():
        start = loop.time()
        await asyncio.sleep(0.01)
        delays.append(loop.time() - start - 0.01)
    for answer in await making:
        assert len(lines(extract(answer)["logs.jsonl"])) > 2900
    assert len(delays) > 20, "the loop runs while the bundles are made"


async def test_bundles_are_built_in_turn(daemon, monkeypatch):
    """Each bundle occupies a thread for seconds; several would delay other requests and the stop of the daemon."""
    running, peak, read = 0, 0, database_dump.read_database

    def counted(path):
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        time.sleep(0.05)  # long enough for another thread to begin
        try:
            return read(path)
        finally:
            running -= 1

    monkeypatch.setattr(database_dump, "read_database", counted)
    answers = await asyncio.gather(*(daemon.admin.get(BUNDLE) for _ in range(5)))
    assert {answer.status for answer in answers} == {200}
    assert peak == 1


async def test_database_error_is_noted_in_bundle(daemon, monkeypatch):
    def fail(path):
        raise StorageError("the database could not be read: disk I/O error")

    monkeypatch.setattr(database_dump, "read_database", fail)
    files = extract(await daemon.admin.get(BUNDLE))
    (note,) = json.loads(files["manifest.json"])["notes"]
    assert note.startswith("the database could not be read")
    assert files["logs.jsonl"]


# Paths of old dashboards.


async def test_legacy_logs_have_200_lines(daemon):
    for number in range(210):
        get_logger("pi_orchestrator.test").info("x", n=number)
    answer = await daemon.api.get(OLD_LOGS)
    assert answer.json.keys() == {"count", "logs"}
    assert answer.json["count"] == len(answer.json["logs"]) == 200
    assert answer.json["logs"][0]["fields"] == {"n": 209}


async def test_legacy_export_has_all_parts(daemon):
    answer = await daemon.api.get(EXPORT)
    assert answer.json.keys() == {"generated_at", "system", "logs", "config"}
    assert answer.json["system"]["overall_status"] in ("healthy", "warning", "critical")
    keys = {item["key"] for section in answer.json["config"]["sections"] for item in section["items"]}
    assert {"http.listen", "auth.api_key"} <= keys
    assert "ready" in [line["message"] for line in answer.json["logs"]]


@pytest.mark.parametrize("path, successor", [(OLD_LOGS, "/api/v1/system/logs"), (EXPORT, BUNDLE)])
async def test_legacy_paths_name_successor(daemon, path, successor):
    answer = await daemon.api.get(path)
    assert answer.headers["Deprecation"] == "true"
    assert answer.headers["Link"] == f'<{successor}>; rel="successor-version"'
