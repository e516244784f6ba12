"""The configuration API: shows settings without secrets, sets and resets them at run time; restarts keep overrides."""

import asyncio
import io
import json
import re
import stat

import pytest

from pi_orchestrator.core.logging import configure
from pi_orchestrator.settings import from_program, known_paths
from pi_orchestrator.settings.reference import keys
from tests.integration.edge_http.test_auth import client_with_new_key
from tests.support.api import case, exchange
from tests.support.reloadable import IN_EFFECT
from tests.support.rig import Api
from tests.support.sse import opened

pytestmark = pytest.mark.usefixtures("documented_answers")

V1, LEGACY = "/api/v1/config", "/api/dashboard/config"
IDLE = "cameras.idle_after_s"
CANARY = "canary-7f3a9c1e"
FIELDS = {"key", "value", "default_value", "type", "description", "required", "editable", "validation"}


async def items(api, path=V1):
    """All items of the configuration: {name of the setting: item}."""
    answer = (await api.get(path)).json
    return {item["key"]: item for section in answer.get("data", answer)["sections"] for item in section["items"]}


async def put(api, key, value, path=V1):
    return await api.call("PUT", f"{path}/{key}", json={"value": value})


def actions(rig):
    """(action, target) of each operator action that succeeded, (action, target, outcome) of each other one."""
    return [
        tuple(row[:2]) if row[2] == "ok" else tuple(row)
        for row in rig.rows("SELECT action, target, outcome FROM operator_actions WHERE actor <> 'first start'")
    ]


async def test_config_lists_all_settings_without_api_key(daemon):
    shown = await items(daemon.api)
    assert list(shown) == known_paths()
    for key, item in shown.items():
        assert set(item) >= FIELDS, key
        assert set(item["validation"]) <= {"options", "min", "max", "pattern"}
        assert isinstance(item["value"], str)
        assert isinstance(item["default_value"], str)
        assert item["editable"] == (key in daemon.daemon.reloadable and not keys()[key].is_file)
    assert (shown["ap.interface"]["value"], shown["ap.interface"]["origin"]) == ("lo", "program")
    assert shown["auth.mode"]["validation"] == {"options": ["provisioning", "required", "off"]}
    assert shown["discovery.interval_s"]["validation"] == {"min": 5, "max": 86400}
    assert {item["type"] for item in shown.values()} == {"string", "number", "boolean", "select", "secret"}
    assert not any(item["restart_needed"] for item in shown.values())


async def test_legacy_paths_return_bare_body_and_successor(daemon):
    old = await daemon.api.get(LEGACY)
    assert old.json == {"sections": (await daemon.api.get(V1)).data["sections"], "success": True}
    assert old.headers["Deprecation"] == "true"
    result = await put(daemon.admin, IDLE, "60", LEGACY)
    assert (result.json["item"]["value"], result.json["success"]) == ("60", True)
    assert result.headers["Link"] == f'<{V1}/{IDLE}>; rel="successor-version"'
    after_reset = await daemon.admin.post(f"{LEGACY}/{IDLE}/reset")
    assert (after_reset.json["item"]["value"], after_reset.json["success"]) == ("120", True)
    assert after_reset.headers["Link"] == f'<{V1}/{IDLE}/reset>; rel="successor-version"'


async def test_editable_settings_take_effect_immediately(daemon):
    configure(level="info", style="json")  # as the process does at its start
    shown = await items(daemon.api)
    assert {key for key, item in shown.items() if item["editable"]} == set(IN_EFFECT)
    for key, (text, expected, probe) in IN_EFFECT.items():
        with case(key):
            before = probe(daemon.daemon)
            assert before != expected
            result = await put(daemon.admin, key, text)
            assert result.status == 200, result.body
            assert probe(daemon.daemon) == expected
            item = result.data["item"]
            assert (item["origin"], item["restart_needed"]) == ("override", False)
            assert item["value"] == "***" if item["type"] == "secret" else item["value"] != shown[key]["value"]
            after_reset = await daemon.admin.post(f"{V1}/{key}/reset")
            assert after_reset.data["item"] == shown[key]
            assert probe(daemon.daemon) == before
    assert await items(daemon.api) == shown
    result = await put(daemon.admin, IDLE, "60")
    assert (await items(daemon.api))[IDLE] == result.data["item"]


@pytest.mark.parametrize("value", [60, 60.0, "60", " 60 ", "60.0"])
async def test_number_value_is_accepted(daemon, value):
    assert (await put(daemon.admin, IDLE, value)).data["item"]["value"] == "60"


async def test_boolean_value_is_accepted(daemon):
    assert (await put(daemon.admin, "http.sse_unnamed_copy", False)).data["item"]["value"] == "false"
    assert daemon.app.events.streams.unnamed_copy is False


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
    (f"{V1}/auto_onboard.queue_limit", '{"value": "60"}', 404, "NOT_FOUND", "waiting line is fixed"),
    (f"{V1}/cameras", '{"value": "60"}', 404, "NOT_FOUND", "did you mean cameras.http_port?"),
    (f"{V1}/{'x' * 81}", '{"value": "60"}', 400, "VALIDATION_FAILED", "key"),
    (f"{V1}/..%2Fadmin.key", '{"value": "60"}', 400, "VALIDATION_FAILED", "key"),
    (f"{V1}/mqtt.port", '{"value": "1"}', 409, "CONFLICT", "set it in the configuration file and restart"),
    (f"{V1}/mqtt.password", '{"value": "canary"}', 409, "CONFLICT", "set it in the configuration file and restart"),
    (f"{V1}/auth.api_key_file", '{"value": "/etc/shadow"}', 409, "CONFLICT", "only on the daemon's machine"),
    (f"{V1}/storage.state_dir", '{"value": "/tmp"}', 409, "CONFLICT", "set it in the configuration file and restart"),
]


async def test_invalid_change_is_refused_with_reason(daemon, rig, log):
    before = await items(daemon.api)
    for path, body, status, code, expected in REFUSED:
        for prefix in V1, LEGACY:
            url = path.replace(V1, prefix)
            with case(url, body[:40]):
                headers = {"Content-Type": "application/json"}
                answer = await daemon.admin.call("PUT", url, data=io.BytesIO(body.encode()), headers=headers)
                assert (answer.status, answer.json["code"]) == (status, code)
                assert expected in answer.json["error"].get("details", "")
                assert len(answer.body) < 2000
                assert b"canary" not in answer.body.replace(b"canary-canary", b"")
    for key in "auth.api_keys", "x":
        assert (await daemon.admin.post(f"{V1}/{key}/reset")).status == 404
    assert await items(daemon.api) == before
    assert not (rig.state_dir / "overrides.json").exists()
    outcomes = {row[1:] for row in actions(rig)}
    assert outcomes >= {(IDLE, "VALIDATION_FAILED"), ("auth.api_keys", "NOT_FOUND"), ("mqtt.port", "CONFLICT")}
    assert "canary" not in log.getvalue() + str(rig.tables())


async def test_write_requires_admin_scope(daemon, rig):
    operator = await client_with_new_key(daemon, "operator", "operate")
    for path in V1, LEGACY:
        for api, status in ((daemon.api, 401), (operator, 403)):
            assert (await put(api, IDLE, "60", path)).status == status
            assert (await api.post(f"{path}/{IDLE}/reset")).status == status
    headers = [("X-API-Key", daemon.admin.key), ("Origin", "http://evil.example"), ("Content-Length", "13")]
    answer = await exchange(daemon, "PUT", f"{V1}/{IDLE}", headers, b'{"value":"60"')
    assert answer.status == 403, "a page of another origin is refused"
    assert (await items(daemon.api))[IDLE]["value"] == "120"


async def test_change_is_published_and_audited_without_value(daemon, rig):
    async with opened(daemon.admin, types="config.changed") as events:
        await put(daemon.admin, "auth.api_key", CANARY)
        event = await events.event()
        assert (event.type, event.payload) == ("config.changed", {"key": "auth.api_key", "by": "admin"})
        await daemon.admin.post(f"{V1}/auth.api_key/reset")
        assert (await events.event()).payload == {"key": "auth.api_key", "by": "admin"}
        assert CANARY.encode() not in events.raw
    assert actions(rig) == [("config.set", "auth.api_key"), ("config.reset", "auth.api_key")]


async def test_secrets_are_masked_and_only_in_their_files(rig, tmp_path, log):
    (tmp_path / "password").write_text(f"{CANARY}-file\n")
    secrets = {
        "auth": {"api_key": f"{CANARY}-given"},
        "mqtt": {"username": "pi", "password_file": str(tmp_path / "password")},
        "provisioning": {"target_password": f"{CANARY}-wifi"},
    }
    async with rig.daemon(connected=False, **secrets) as running:
        answers = [await running.api.get(V1), await running.api.get(LEGACY)]
        shown = await items(running.api)
        for key in "auth.api_key", "mqtt.password", "mqtt.password_file", "provisioning.target_password":
            assert (shown[key]["value"], shown[key]["type"], shown[key]["default_value"]) == ("***", "secret", ""), key
        assert (shown["provisioning.mqtt_password"]["value"], shown["auth.api_key_file"]["value"]) == ("", "")
        given_key, new_key = (Api(running.api.session, running.api.url, f"{CANARY}-{end}") for end in ("given", "set"))
        once = {"Idempotency-Key": "once"}
        answers.append(await given_key.call("PUT", f"{V1}/auth.api_key", json={"value": new_key.key}, headers=once))
        assert answers[-1].status == 200
        assert (await given_key.get("/api/v1/keys")).status == 401
        answers.append(await new_key.call("PUT", f"{V1}/auth.api_key", json={"value": new_key.key}, headers=once))
        answers.append(await put(new_key, "auth.api_key", "***"))
        assert answers[-1].data["message"] == "auth.api_key is unchanged: the value sent is the mask of a secret"
        answers.append(await new_key.get("/api/v1/keys"))
        assert [answer.status for answer in answers[-3:]] == [200] * 3, "the mask changes nothing"
        answers.append(await running.api.get(V1))
    assert not [answer.body for answer in answers if CANARY.encode() in answer.body]
    assert CANARY not in log.getvalue()
    files = {file.name: file for file in rig.state_dir.rglob("*") if file.is_file()}
    assert {name for name, file in files.items() if CANARY.encode() in file.read_bytes()} == {"overrides.json"}
    assert stat.S_IMODE(files["overrides.json"].stat().st_mode) == 0o600


async def test_override_survives_restart_until_reset(rig):
    async with rig.daemon(connected=False) as running:
        await put(running.admin, IDLE, "60")
        await put(running.admin, "auth.mode", "required")
    async with rig.daemon(connected=False) as running:
        assert running.app.devices.registry.windows.idle_after_s == 60
        assert (await running.api.get(V1)).status == 401
        shown = await items(running.admin)
        assert (shown[IDLE]["value"], shown[IDLE]["origin"]) == ("60", "override")
        for key in IDLE, "auth.mode":
            assert (await running.admin.post(f"{V1}/{key}/reset")).status == 200
    async with rig.daemon(connected=False) as running:
        assert (await items(running.api))[IDLE]["value"] == "120"


async def test_auth_off_on_network_is_refused(rig):
    on_network = {"auto_onboard": {"allow_loopback": False}, "http": {"listen": ["0.0.0.0:0"]}}
    async with rig.daemon(connected=False, **on_network) as running:
        refused = await put(running.admin, "auth.mode", "off")
        assert (refused.status, refused.json["code"]) == (409, "CONFLICT")
        assert "http.listen reaches the network" in refused.json["error"]["details"]
        # The new configuration is loopback only, but the daemon listens on the network until a restart.
        loopback = await asyncio.to_thread(rig.settings, auto_onboard=on_network["auto_onboard"])
        running.app.configuration.service.loaded = await asyncio.to_thread(from_program, loopback)
        refused = await put(running.admin, "auth.mode", "off")
        assert (refused.status, refused.json["code"]) == (409, "CONFLICT")
        assert "while the daemon listens on the network" in refused.json["error"]["details"]
        assert (await running.api.get("/api/v1/keys")).status == 401


async def test_last_admin_key_is_protected(daemon):
    await put(daemon.admin, "auth.api_key", "the-configured-key")
    configured = {"X-API-Key": "the-configured-key"}
    assert (await daemon.api.delete("/api/v1/keys/admin", headers=configured)).status == 204
    for answer in (
        await daemon.api.post(f"{V1}/auth.api_key/reset", headers=configured),
        await daemon.api.call("PUT", f"{V1}/auth.api_key", json={"value": ""}, headers=configured),
    ):
        assert (answer.status, answer.json["error"]["details"]) == (
            409,
            "auth.api_key is the last admin key: create another one first",
        )
    other = {"name": "another", "scope": "admin"}
    assert (await daemon.api.post("/api/v1/keys", json=other, headers=configured)).status == 201
    assert (await daemon.api.post(f"{V1}/auth.api_key/reset", headers=configured)).status == 200
    assert (await daemon.api.get("/api/v1/keys", headers=configured)).status == 401


async def test_damaged_overrides_are_set_aside(rig, log):
    rig.state_dir.mkdir(mode=0o700)
    (rig.state_dir / "overrides.json").write_bytes(b'{"version": 1, "overr')
    async with rig.daemon(connected=False) as running:
        ready = (await running.api.get("/readyz")).json
        assert ready["checks"]["overrides"] is False
        assert re.search(r"overrides: overrides.json cannot be used: not JSON", " ".join(ready["errors"]))
        (aside,) = rig.state_dir.glob("overrides.json.damaged-*")
        assert aside.read_bytes() == b'{"version": 1, "overr'
        assert "damaged overrides set aside" in log.getvalue()
        assert (await put(running.admin, IDLE, "60")).status == 200
        assert (await running.api.get("/readyz")).json["checks"]["overrides"] is True, "a new override clears the error"
    async with rig.daemon(connected=False) as running:
        assert (await items(running.api))[IDLE]["value"] == "60"
        assert "overrides" not in (await running.api.get("/readyz")).json["checks"]


async def test_invalid_override_is_kept_and_reported(rig, log):
    rig.state_dir.mkdir(mode=0o700)
    kept = {"gone.key": "1", "cameras.max_devices": "1", IDLE: "60"}
    file = rig.state_dir / "overrides.json"
    file.write_text(json.dumps({"version": 1, "overrides": kept}))
    async with rig.daemon(connected=False) as running:
        shown = await items(running.api)
        assert (shown[IDLE]["value"], shown["cameras.max_devices"]["value"]) == ("60", "4096")
        ready = (await running.api.get("/readyz")).json
        (error,) = [text for text in ready["errors"] if text.startswith("overrides: ")]
        assert "gone.key: unknown key" in error
        assert "cameras.max_devices: Input should be greater" in error
        assert log.getvalue().count("override ignored") == 2
        await put(running.admin, "cameras.offline_after_s", "500")
        assert json.loads(file.read_text())["overrides"] == kept | {"cameras.offline_after_s": "500"}
        await running.admin.post(f"{V1}/cameras.max_devices/reset")
        await put(running.admin, "cameras.max_devices", "100")
        assert running.app.devices.registry.max_devices == 100
        ready = (await running.api.get("/readyz")).json
        (error,) = [text for text in ready["errors"] if text.startswith("overrides: ")]
        assert error == "overrides: gone.key: unknown key", "a fixed override is no longer reported"
