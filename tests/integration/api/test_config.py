"""The configuration through the API: shown without secrets, set and reset while the daemon runs, kept over restarts."""

import asyncio
import io
import json
import re
import stat

import pytest

from pi_orchestrator.app.daemon import RELOADABLE
from pi_orchestrator.logs import configure
from pi_orchestrator.settings import given, known_paths
from pi_orchestrator.settings.keys import keys
from tests.integration.api.test_auth import make_key
from tests.support.api import case, exchange
from tests.support.reloadable import IN_EFFECT
from tests.support.sse import opened
from tests.support.world import Api

V1, OLD = "/api/v1/config", "/api/dashboard/config"
IDLE = "cameras.idle_after_s"
CANARY = "canary-7f3a9c1e"
FIELDS = {"key", "value", "default_value", "type", "description", "required", "editable", "validation"}


async def items(api, path=V1):
    """Every item by its key."""
    answer = (await api.get(path)).json
    return {item["key"]: item for section in answer.get("data", answer)["sections"] for item in section["items"]}


async def put(api, key, value, path=V1):
    return await api.call("PUT", f"{path}/{key}", json={"value": value})


def told(world):
    return [
        tuple(row[:2]) if row[2] == "ok" else tuple(row)
        for row in world.rows("SELECT action, target, outcome FROM operator_actions WHERE actor <> 'first start'")
    ]


async def test_every_key_is_shown_to_everyone_as_the_contract_has_it(daemon):
    shown = await items(daemon.api)
    assert list(shown) == known_paths()
    for key, item in shown.items():
        assert set(item) >= FIELDS, key
        assert set(item["validation"]) <= {"options", "min", "max", "pattern"}
        assert isinstance(item["value"], str)
        assert isinstance(item["default_value"], str)
        assert item["editable"] == (key in RELOADABLE and not keys()[key].is_file)
    assert (shown["ap.interface"]["value"], shown["ap.interface"]["origin"]) == ("lo", "program")
    assert shown["auth.mode"]["validation"] == {"options": ["provisioning", "required", "off"]}
    assert shown["discovery.interval_s"]["validation"] == {"min": 5, "max": 86400}
    assert {item["type"] for item in shown.values()} == {"string", "number", "boolean", "select", "secret"}
    assert not any(item["restart_needed"] for item in shown.values())


async def test_old_dashboards_get_the_same_bare_and_are_told_of_the_successor(daemon):
    old = await daemon.api.get(OLD)
    assert old.json == {"sections": (await daemon.api.get(V1)).data["sections"], "success": True}
    assert old.headers["Deprecation"] == "true"
    done = await put(daemon.admin, IDLE, "60", OLD)
    assert (done.json["item"]["value"], done.json["success"]) == ("60", True)
    assert done.headers["Link"] == f'<{V1}/{IDLE}>; rel="successor-version"'
    back = await daemon.admin.post(f"{OLD}/{IDLE}/reset")
    assert (back.json["item"]["value"], back.json["success"]) == ("120", True)
    assert back.headers["Link"] == f'<{V1}/{IDLE}/reset>; rel="successor-version"'


async def test_every_key_that_is_called_editable_takes_effect_at_once_and_back(daemon):
    configure(level="info", style="json")  # as the process does at its start
    shown = await items(daemon.api)
    assert {key for key, item in shown.items() if item["editable"]} == set(IN_EFFECT)
    for key, (text, expected, probe) in IN_EFFECT.items():
        with case(key):
            before = probe(daemon.daemon)
            assert before != expected
            done = await put(daemon.admin, key, text)
            assert done.status == 200, done.body
            assert probe(daemon.daemon) == expected
            item = done.data["item"]
            assert (item["origin"], item["restart_needed"]) == ("override", False)
            assert item["value"] == "***" if item["type"] == "secret" else item["value"] != shown[key]["value"]
            back = await daemon.admin.post(f"{V1}/{key}/reset")
            assert back.data["item"] == shown[key]
            assert probe(daemon.daemon) == before
    assert await items(daemon.api) == shown
    done = await put(daemon.admin, IDLE, "60")
    assert (await items(daemon.api))[IDLE] == done.data["item"]


@pytest.mark.parametrize("value", [60, 60.0, "60", " 60 ", "60.0"])
async def test_a_number_may_be_sent_as_one(daemon, value):
    assert (await put(daemon.admin, IDLE, value)).data["item"]["value"] == "60"


async def test_a_switch_may_be_sent_as_one(daemon):
    assert (await put(daemon.admin, "http.sse_unnamed_copy", False)).data["item"]["value"] == "false"
    assert daemon.services.streams.unnamed_copy is False


REFUSED = [
    (f"{V1}/{IDLE}", '{"value": null}', 400, "VALIDATION_FAILED", "value"),
    (f"{V1}/{IDLE}", '{"value": [60]}', 400, "VALIDATION_FAILED", "value"),
    (f"{V1}/{IDLE}", '{"value": {"a": 1}}', 400, "VALIDATION_FAILED", "value"),
    (f"{V1}/{IDLE}", '{"value": NaN}', 400, "INVALID_REQUEST", ""),
    (f"{V1}/{IDLE}", '{"value": 1e999}', 400, "INVALID_REQUEST", ""),
    (f"{V1}/{IDLE}", "{}", 400, "VALIDATION_FAILED", "value"),
    (f"{V1}/{IDLE}", '{"value": "60", "by": "me"}', 400, "VALIDATION_FAILED", "by"),
    (f"{V1}/{IDLE}", '{"value": "NaN"}', 400, "VALIDATION_FAILED", IDLE),
    (f"{V1}/{IDLE}", '{"value": "0"}', 400, "VALIDATION_FAILED", "greater than 0"),
    (f"{V1}/{IDLE}", '{"value": "6\\u00000"}', 400, "VALIDATION_FAILED", "cannot be printed"),
    (f"{V1}/{IDLE}", '{"value": "6\\ud8000"}', 400, "VALIDATION_FAILED", ""),
    (f"{V1}/auto_onboard.deny", '{"value": "246f28b0f7f1,x"}', 400, "VALIDATION_FAILED", "auto_onboard.deny"),
    (f"{V1}/auto_onboard.deny", '{"value": "%s"}' % ("x" * 900_000), 400, "VALIDATION_FAILED", "over the limit"),
    (f"{V1}/auto_onboard.deny", '{"value": "%s"}' % ("x" * 1_100_000), 413, "INVALID_REQUEST", ""),
    (f"{V1}/auth.api_key", '{"value": "canary"}', 400, "VALIDATION_FAILED", "shorter than 8"),
    (f"{V1}/auth.api_key", '{"value": ["canary"]}', 400, "VALIDATION_FAILED", "value"),
    (f"{V1}/auth.api_keys", '{"value": "canary-canary"}', 404, "NOT_FOUND", "did you mean auth.api_key?"),
    (f"{V1}/cameras", '{"value": "60"}', 404, "NOT_FOUND", "did you mean cameras.http_port?"),
    (f"{V1}/{'x' * 81}", '{"value": "60"}', 400, "VALIDATION_FAILED", "key"),
    (f"{V1}/..%2Fadmin.key", '{"value": "60"}', 400, "VALIDATION_FAILED", "key"),
    (f"{V1}/mqtt.port", '{"value": "1"}', 409, "CONFLICT", "set it in the configuration file, and restart"),
    (f"{V1}/mqtt.password", '{"value": "canary"}', 409, "CONFLICT", "set it in the configuration file, and restart"),
    (f"{V1}/auth.api_key_file", '{"value": "/etc/shadow"}', 409, "CONFLICT", "decided on its machine"),
    (f"{V1}/storage.state_dir", '{"value": "/tmp"}', 409, "CONFLICT", "set it in the configuration file, and restart"),
]


async def test_what_cannot_be_is_refused_with_the_reason_and_changes_nothing(daemon, world, log):
    before = await items(daemon.api)
    for path, body, status, code, says in REFUSED:
        for prefix in V1, OLD:
            where = path.replace(V1, prefix)
            with case(where, body[:40]):
                headers = {"Content-Type": "application/json"}
                answer = await daemon.admin.call("PUT", where, data=io.BytesIO(body.encode()), headers=headers)
                assert (answer.status, answer.json["code"]) == (status, code)
                assert says in answer.json["error"].get("details", "")
                assert len(answer.body) < 2000
                assert b"canary" not in answer.body.replace(b"canary-canary", b"")
    for key in "auth.api_keys", "x":
        assert (await daemon.admin.post(f"{V1}/{key}/reset")).status == 404
    assert await items(daemon.api) == before
    assert not (world.state_dir / "overrides.json").exists()
    outcomes = {row[1:] for row in told(world)}
    assert outcomes >= {(IDLE, "VALIDATION_FAILED"), ("auth.api_keys", "NOT_FOUND"), ("mqtt.port", "CONFLICT")}
    assert "canary" not in log.getvalue() + str(world.tables())


async def test_only_an_admin_may_write(daemon, world):
    operator = await make_key(daemon, "operator", "operate")
    for path in V1, OLD:
        for api, status in ((daemon.api, 401), (operator, 403)):
            assert (await put(api, IDLE, "60", path)).status == status
            assert (await api.post(f"{path}/{IDLE}/reset")).status == status
    headers = [("X-API-Key", daemon.admin.key), ("Origin", "http://evil.example"), ("Content-Length", "13")]
    answer = await exchange(daemon, "PUT", f"{V1}/{IDLE}", headers, b'{"value":"60"')
    assert answer.status == 403, "and no page from elsewhere"
    assert (await items(daemon.api))[IDLE]["value"] == "120"


async def test_a_change_is_told_to_streams_and_recorded_without_its_value(daemon, world):
    async with opened(daemon.admin, types="config.changed") as events:
        await put(daemon.admin, "auth.api_key", CANARY)
        told_of = await events.event()
        assert (told_of.type, told_of.payload) == ("config.changed", {"key": "auth.api_key", "by": "admin"})
        await daemon.admin.post(f"{V1}/auth.api_key/reset")
        assert (await events.event()).payload == {"key": "auth.api_key", "by": "admin"}
        assert CANARY.encode() not in events.raw
    assert told(world) == [("config.set", "auth.api_key"), ("config.reset", "auth.api_key")]


async def test_secrets_are_masked_wherever_they_come_from_and_lie_in_their_files_alone(world, tmp_path, log):
    (tmp_path / "password").write_text(f"{CANARY}-file\n")
    secrets = {
        "auth": {"api_key": f"{CANARY}-given"},
        "mqtt": {"username": "pi", "password_file": str(tmp_path / "password")},
        "provisioning": {"target_password": f"{CANARY}-wifi"},
    }
    async with world.daemon(connected=False, **secrets) as running:
        said = [await running.api.get(V1), await running.api.get(OLD)]
        shown = await items(running.api)
        for key in "auth.api_key", "mqtt.password", "mqtt.password_file", "provisioning.target_password":
            assert (shown[key]["value"], shown[key]["type"], shown[key]["default_value"]) == ("***", "secret", ""), key
        assert (shown["provisioning.mqtt_password"]["value"], shown["auth.api_key_file"]["value"]) == ("", "")
        given_key, new_key = (Api(running.api.session, running.api.url, f"{CANARY}-{end}") for end in ("given", "set"))
        once = {"Idempotency-Key": "once"}
        said.append(await given_key.call("PUT", f"{V1}/auth.api_key", json={"value": new_key.key}, headers=once))
        assert said[-1].status == 200
        assert (await given_key.get("/api/v1/keys")).status == 401
        said.append(await new_key.call("PUT", f"{V1}/auth.api_key", json={"value": new_key.key}, headers=once))
        said.append(await put(new_key, "auth.api_key", "***"))
        assert said[-1].data["message"] == "auth.api_key is as it was: this is its mask"
        said.append(await new_key.get("/api/v1/keys"))
        assert [answer.status for answer in said[-3:]] == [200] * 3, "the mask given back changes nothing"
        said.append(await running.api.get(V1))
    assert not [answer.body for answer in said if CANARY.encode() in answer.body]
    assert CANARY not in log.getvalue()
    files = {file.name: file for file in world.state_dir.rglob("*") if file.is_file()}
    assert {name for name, file in files.items() if CANARY.encode() in file.read_bytes()} == {"overrides.json"}
    assert stat.S_IMODE(files["overrides.json"].stat().st_mode) == 0o600


async def test_what_was_set_holds_after_a_restart_until_it_is_reset(world):
    async with world.daemon(connected=False) as running:
        await put(running.admin, IDLE, "60")
        await put(running.admin, "auth.mode", "required")
    async with world.daemon(connected=False) as running:
        assert running.services.registry.windows.idle_after_s == 60
        assert (await running.api.get(V1)).status == 401
        shown = await items(running.admin)
        assert (shown[IDLE]["value"], shown[IDLE]["origin"]) == ("60", "override")
        for key in IDLE, "auth.mode":
            assert (await running.admin.post(f"{V1}/{key}/reset")).status == 200
    async with world.daemon(connected=False) as running:
        assert (await items(running.api))[IDLE]["value"] == "120"


async def test_nobody_takes_the_lock_off_a_door_to_the_network(world):
    open_door = {"auto_onboard": {"allow_loopback": False}, "http": {"listen": ["0.0.0.0:0"]}}
    async with world.daemon(connected=False, **open_door) as running:
        refused = await put(running.admin, "auth.mode", "off")
        assert (refused.status, refused.json["code"]) == (409, "CONFLICT")
        assert "http.listen reaches the network" in refused.json["error"]["details"]
        # Configured for loopback by now, it listens on the network until it is restarted.
        by_now = await asyncio.to_thread(world.settings, auto_onboard=open_door["auto_onboard"])
        running.services.configuration.loaded = await asyncio.to_thread(given, by_now)
        refused = await put(running.admin, "auth.mode", "off")
        assert (refused.status, refused.json["code"]) == (409, "CONFLICT")
        assert "while the daemon listens on the network" in refused.json["error"]["details"]
        assert (await running.api.get("/api/v1/keys")).status == 401


async def test_nobody_locks_the_last_admin_out(daemon):
    await put(daemon.admin, "auth.api_key", "the-configured-key")
    configured = {"X-API-Key": "the-configured-key"}
    assert (await daemon.api.delete("/api/v1/keys/admin", headers=configured)).status == 204
    for answer in (
        await daemon.api.post(f"{V1}/auth.api_key/reset", headers=configured),
        await daemon.api.call("PUT", f"{V1}/auth.api_key", json={"value": ""}, headers=configured),
    ):
        assert (answer.status, answer.json["error"]["details"]) == (
            409,
            "auth.api_key is the last admin key: make another one first",
        )
    other = {"name": "another", "scope": "admin"}
    assert (await daemon.api.post("/api/v1/keys", json=other, headers=configured)).status == 201
    assert (await daemon.api.post(f"{V1}/auth.api_key/reset", headers=configured)).status == 200
    assert (await daemon.api.get("/api/v1/keys", headers=configured)).status == 401


async def test_a_damaged_file_is_set_aside_and_said_loudly_and_new_overrides_can_be_set(world, log):
    world.state_dir.mkdir(mode=0o700)
    (world.state_dir / "overrides.json").write_bytes(b'{"version": 1, "overr')
    async with world.daemon(connected=False) as running:
        ready = (await running.api.get("/readyz")).json
        assert ready["checks"]["overrides"] is False
        assert re.search(r"overrides: overrides.json cannot be used: not JSON", " ".join(ready["errors"]))
        (aside,) = world.state_dir.glob("overrides.json.damaged-*")
        assert aside.read_bytes() == b'{"version": 1, "overr'
        assert "damaged overrides set aside" in log.getvalue()
        assert (await put(running.admin, IDLE, "60")).status == 200
        assert (await running.api.get("/readyz")).json["checks"]["overrides"] is True, "what was lost is set anew"
    async with world.daemon(connected=False) as running:
        assert (await items(running.api))[IDLE]["value"] == "60"
        assert "overrides" not in (await running.api.get("/readyz")).json["checks"]


async def test_an_override_that_is_not_possible_is_kept_and_named_and_the_others_hold(world, log):
    world.state_dir.mkdir(mode=0o700)
    kept = {"gone.key": "1", "cameras.max_devices": "1", IDLE: "60"}
    file = world.state_dir / "overrides.json"
    file.write_text(json.dumps({"version": 1, "overrides": kept}))
    async with world.daemon(connected=False) as running:
        shown = await items(running.api)
        assert (shown[IDLE]["value"], shown["cameras.max_devices"]["value"]) == ("60", "4096")
        ready = (await running.api.get("/readyz")).json
        (said,) = [error for error in ready["errors"] if error.startswith("overrides: ")]
        assert "gone.key: unknown key" in said
        assert "cameras.max_devices: Input should be greater" in said
        assert log.getvalue().count("an override is not in force") == 2
        await put(running.admin, "cameras.offline_after_s", "500")
        assert json.loads(file.read_text())["overrides"] == kept | {"cameras.offline_after_s": "500"}
        await running.admin.post(f"{V1}/cameras.max_devices/reset")
        await put(running.admin, "cameras.max_devices", "100")
        assert running.services.registry.max_devices == 100
        ready = (await running.api.get("/readyz")).json
        (said,) = [error for error in ready["errors"] if error.startswith("overrides: ")]
        assert said == "overrides: gone.key: unknown key", "what was mended is no trouble any more"
