"""`check-config`, `show-config` and `config`: all errors at once, each value with its origin, no secrets."""

import json
import tomllib

import pytest

from pi_orchestrator.settings import known_paths
from pi_orchestrator.settings.overrides import render
from tests.support.process import command, daemon, write_toml


async def show(*args, **options):
    done = await command("show-config", *args, **options)
    assert (done.code, done.err) == (0, "")
    return done


async def test_check_config_lists_all_errors(tmp_path):
    config = write_toml(tmp_path / "config.toml", {"mqtt": {"port": 1884}})
    good = await command("check-config", "--config", config)
    assert (good.code, good.out, good.err) == (0, "The configuration is valid.\n", "")
    write_toml(config, {"mqtt": {"prt": 1}, "logging": {"level": "x"}, "cameras": {"http_port": 0}})
    bad = await command("check-config", "--config", config, env={"PIORCH_NO__SUCH": "x"})
    assert (bad.code, bad.out) == (2, "")
    lines = bad.err.splitlines()
    assert lines[0] == "The configuration is not valid:"
    assert len(lines) == 5
    assert f"  mqtt.prt: unknown key; did you mean mqtt.port? (from file {config})" in lines


async def test_check_config_creates_no_files(tmp_path):
    config = write_toml(tmp_path / "config.toml", {"storage": {"state_dir": str(tmp_path / "state")}})
    assert (await command("check-config", "--config", config)).code == 0
    assert not (tmp_path / "state").exists()


async def test_show_config_output_is_valid(tmp_path):
    config = write_toml(
        tmp_path / "config.toml",
        {
            "http": {"listen": ["127.0.0.1:9000", "[::1]:9000"], "trusted_hosts": ["a.example"]},
            "mqtt": {"host": 'we"ird', "client_id": "a\\b"},
            "auto_onboard": {"deny": ["24-6f-28-00-00-01"], "subnet_allowlist": ["10.0.0.0/8"]},
        },
    )
    shown = (await show("--config", config)).out
    tree = tomllib.loads(shown)
    assert tree["auto_onboard"]["deny"] == ["24:6F:28:00:00:01"]
    copy = tmp_path / "copy.toml"
    copy.write_text(shown)
    assert tomllib.loads((await show("--config", copy)).out) == tree


async def test_show_config_shows_all_settings_with_origin(tmp_path):
    shown = (await show("--json", "--config", write_toml(tmp_path / "config.toml", {}))).json
    assert list(shown) == known_paths()
    assert {entry["origin"] for entry in shown.values()} == {"default"}


@pytest.mark.parametrize(
    ("file", "env", "args", "value", "origin"),
    [
        (None, {}, [], "info", "default"),
        ("debug", {}, [], "debug", "file {config}"),
        ("debug", {"LOG_LEVEL": "WARN"}, [], "warning", "environment LOG_LEVEL"),
        (
            "debug",
            {"LOG_LEVEL": "WARN", "PIORCH_LOGGING__LEVEL": "error"},
            [],
            "error",
            "environment PIORCH_LOGGING__LEVEL",
        ),
    ],
    ids=["default", "file", "old variable", "new variable"],
)
async def test_higher_layer_wins(tmp_path, file, env, args, value, origin):
    config = write_toml(tmp_path / "config.toml", {"logging": {"level": file}} if file else {})
    shown = (await show("--json", "--config", config, *args, env=env)).json
    assert shown["logging.level"] == {"value": value, "origin": origin.format(config=config)}
    text = (await show("--origin", "--config", config, env=env)).out
    assert f'level = "{value}"  # {origin.format(config=config)}' in text.splitlines()


async def test_flag_overrides_all_layers(tmp_path):
    config = write_toml(tmp_path / "config.toml", {"storage": {"state_dir": "/from/the/file"}})
    env = {"PIORCH_STORAGE__STATE_DIR": "/from/the/environment"}
    shown = (await show("--json", "--config", config, "--state-dir", "/from/a/flag", env=env)).json
    assert shown["storage.state_dir"] == {"value": "/from/a/flag", "origin": "flag"}


async def test_config_path_is_read_from_environment(tmp_path):
    config = write_toml(tmp_path / "config.toml", {"ap": {"interface": "uap0"}})
    shown = (await show("--json", env={"PIORCH_CONFIG": str(config)})).json
    assert shown["ap.interface"] == {"value": "uap0", "origin": f"file {config}"}


async def test_variables_of_older_go_daemon_are_accepted():
    old = {
        "AUTO_ONBOARD_ENABLED": "true",
        "AUTO_ONBOARD_MODE": "dev",
        "AUTO_ONBOARD_TARGET_CONTAINER": "550e8400-e29b-41d4-a716-446655440000",
        "AUTO_ONBOARD_MAX_PER_MINUTE": "20",
        "AUTO_ONBOARD_BURST_SIZE": "7",
        "AUTO_ONBOARD_SUBNET_ALLOWLIST": "192.168.10.0/24, 10.0.0.0/8",
        "AUTO_ONBOARD_VERIFICATION_TIMEOUT_SEC": "9",
        "API_KEY": "an-old-key",
        "LOCAL_API_PORT": "9081",
        "LOG_LEVEL": "debug",
    }
    shown = (await show("--json", env=old)).json
    assert {path: entry["value"] for path, entry in shown.items() if entry["origin"] != "default"} == {
        "http.listen": ["0.0.0.0:9081", "0.0.0.0:8082"],
        "auth.api_key": "***",
        "auto_onboard.enabled": True,
        "auto_onboard.mode": "dev",
        "auto_onboard.target_container": "550e8400-e29b-41d4-a716-446655440000",
        "auto_onboard.max_per_minute": 20,
        "auto_onboard.burst_size": 7,
        "auto_onboard.subnet_allowlist": ["192.168.10.0/24", "10.0.0.0/8"],
        "auto_onboard.verification_timeout_sec": 9,
        "logging.level": "debug",
    }


async def test_show_config_json_equals_toml(tmp_path):
    config = write_toml(tmp_path / "config.toml", {"cameras": {"idle_after_s": 30}})
    as_json = (await show("--json", "--config", config)).json
    tree = tomllib.loads((await show("--config", config)).out)
    for path, entry in as_json.items():
        section, key = path.split(".")
        assert json.loads(json.dumps(tree[section].get(key))) == entry["value"], path


async def test_retired_settings_cause_warnings(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    overrides = state / "overrides.json"
    overrides.write_bytes(render({"auto_onboard.queue_limit": "10"}))
    tree = {"storage": {"state_dir": str(state), "backups_kept": 2}, "mqtt": {"port": 1884}}
    config = write_toml(tmp_path / "config.toml", tree)
    env = {"PIORCH_MQTT__KEEPALIVE_S": "20"}
    expected = [
        ("storage.backups_kept", f"file {config}"),
        ("mqtt.keepalive_s", "environment PIORCH_MQTT__KEEPALIVE_S"),
        ("auto_onboard.queue_limit", f"override {overrides}"),
    ]
    for args in ("check-config",), ("show-config", "--json"):
        done = await command(*args, "--config", config, env=env)
        assert done.code == 0
        lines = done.err.splitlines()
        assert len(lines) == len(expected)
        for line, (key, origin) in zip(lines, expected, strict=True):
            assert line.startswith(f"warning: {key}: has no effect any more because ")
            assert line.endswith(f"; remove it (from {origin})")
    assert list(done.json) == known_paths()
    assert done.json["mqtt.port"] == {"value": 1884, "origin": f"file {config}"}


async def test_check_config_fails_for_unknown_but_not_retired_key(tmp_path):
    config = write_toml(tmp_path / "config.toml", {"mqtt": {"keepalive_s": 20, "prt": 1}})
    done = await command("check-config", "--config", config)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines() == [
        "The configuration is not valid:",
        f"  mqtt.prt: unknown key; did you mean mqtt.port? (from file {config})",
    ]


# With a running daemon.


async def test_config_get_set_and_reset_on_running_daemon(rig, tmp_path):
    idle = "cameras.idle_after_s"
    async with daemon(rig, tmp_path, cameras={"idle_after_s": 90}, connected=False) as process:
        config = write_toml(tmp_path / "client.toml", rig.tree(http={"listen": [process.api.url[7:]]}))

        async def cli(*args, code=0, **options):
            done = await command("config", *args, "--config", config, **options)
            assert (done.code, "Traceback" in done.err) == (code, False), done
            return done.out if code == 0 else done.err

        rows = (await cli("get")).splitlines()
        assert rows[0].split() == ["KEY", "FROM", "CHANGE", "WITH", "VALUE"]
        assert [row.split()[0] for row in rows[1:]] == known_paths()
        assert [idle, "file", "config", "set", "90"] in [row.split() for row in rows]
        assert await cli("get", idle) == "90\n"
        assert await cli("set", idle, "60") == f"{idle} = 60 (from: override)\n"
        (item,) = [item for item in json.loads(await cli("get", "cameras", "--json")) if item["key"] == idle]
        assert (item["value"], item["origin"]) == ("60", "override")
        assert json.loads(await cli("get", idle, "--json")) == item

        shown = (await show("--json", "--config", config)).json[idle]
        assert shown == {"value": 60, "origin": f"override {rig.state_dir}/overrides.json"}
        assert await cli("reset", idle) == f"{idle} = 90 (from: file)\n"

        assert await cli("set", "auth.api_key", "a-new-key-0123", "--json")
        assert await cli("get", "auth.api_key") == "***\n"
        assert await cli("set", idle, "0", code=1) == (
            f"error: Validation failed\n  {idle}: Input should be greater than 0\n"
        )
        assert "set it in the configuration file and restart" in await cli("set", "mqtt.port", "1", code=1)
        for verb in ("get",), ("reset",), ("set", "x"):
            error = await cli(verb[0], "mqtt.keepalive_s", *verb[1:], code=1)
            assert error == (
                "error: the setting mqtt.keepalive_s no longer exists\n  the MQTT keep-alive interval is fixed\n"
            )
            error = await cli(verb[0], "cameras.idle_after", *verb[1:], code=1)
            assert error == "error: unknown setting cameras.idle_after\n  did you mean cameras.idle_after_s?\n"


async def test_ignored_overrides_cause_warnings(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    config = write_toml(tmp_path / "config.toml", {"storage": {"state_dir": str(state)}})
    file = state / "overrides.json"
    file.write_bytes(render({"gone.key": "1", "logging.level": "error"}))
    for args in ("check-config",), ("show-config", "--json"):
        done = await command(*args, "--config", config)
        assert (done.code, done.err) == (
            0,
            f"warning: override not in effect: gone.key: unknown key ({file})\n",
        )
    assert done.json["logging.level"] == {"value": "error", "origin": f"override {file}"}
    file.write_bytes(b"{")
    done = await command("check-config", "--config", config)
    assert done.code == 0
    assert done.err.startswith("warning: override not in effect: overrides.json cannot be used: not JSON")
    assert file.read_bytes() == b"{", "the file is not changed"
