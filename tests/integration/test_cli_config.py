"""`check-config` and `show-config`: every mistake at once, every value with its origin, no secret."""

import json
import tomllib

import pytest

from pi_orchestrator.settings import known_paths
from pi_orchestrator.settings.overrides import render
from tests.support.process import command, daemon, write_toml


async def show(*args, **how):
    done = await command("show-config", *args, **how)
    assert (done.code, done.err) == (0, "")
    return done


async def test_check_config_says_that_all_is_well_or_everything_that_is_not(tmp_path):
    config = write_toml(tmp_path / "config.toml", {"mqtt": {"port": 1884}})
    good = await command("check-config", "--config", config)
    assert (good.code, good.out, good.err) == (0, "The configuration is valid.\n", "")
    write_toml(config, {"mqtt": {"prt": 1}, "logging": {"level": "x"}, "cameras": {"http_port": 0}})
    bad = await command("check-config", "--config", config, env={"PIORCH_NO__SUCH": "x"})
    assert (bad.code, bad.out) == (2, "")
    lines = bad.err.splitlines()
    assert lines[0] == "The configuration cannot be used:"
    assert len(lines) == 5
    assert f"  mqtt.prt: unknown key; did you mean mqtt.port? (from file {config})" in lines


async def test_check_config_touches_nothing(tmp_path):
    config = write_toml(tmp_path / "config.toml", {"storage": {"state_dir": str(tmp_path / "state")}})
    assert (await command("check-config", "--config", config)).code == 0
    assert not (tmp_path / "state").exists()


async def test_show_config_is_toml_that_means_the_same_again(tmp_path):
    config = write_toml(
        tmp_path / "config.toml",
        {
            "http": {"listen": ["127.0.0.1:9000", "[::1]:9000"], "trusted_hosts": ["a.example"]},
            "mqtt": {"host": 'we"ird', "keepalive_s": 20},
            "auto_onboard": {"deny": ["24-6f-28-00-00-01"], "subnet_allowlist": ["10.0.0.0/8"]},
        },
    )
    shown = (await show("--config", config)).out
    tree = tomllib.loads(shown)
    assert tree["auto_onboard"]["deny"] == ["24:6F:28:00:00:01"]
    again = tmp_path / "again.toml"
    again.write_text(shown)
    assert tomllib.loads((await show("--config", again)).out) == tree


async def test_every_key_is_shown_with_its_value_and_origin(tmp_path):
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
    ids=["default", "file", "old name", "new name"],
)
async def test_each_layer_stands_above_the_one_before_and_is_named(tmp_path, file, env, args, value, origin):
    config = write_toml(tmp_path / "config.toml", {"logging": {"level": file}} if file else {})
    shown = (await show("--json", "--config", config, *args, env=env)).json
    assert shown["logging.level"] == {"value": value, "origin": origin.format(config=config)}
    text = (await show("--origin", "--config", config, env=env)).out
    assert f'level = "{value}"  # {origin.format(config=config)}' in text.splitlines()


async def test_a_flag_stands_above_everything(tmp_path):
    config = write_toml(tmp_path / "config.toml", {"storage": {"state_dir": "/from/the/file"}})
    env = {"PIORCH_STORAGE__STATE_DIR": "/from/the/environment"}
    shown = (await show("--json", "--config", config, "--state-dir", "/from/a/flag", env=env)).json
    assert shown["storage.state_dir"] == {"value": "/from/a/flag", "origin": "flag"}


async def test_the_configuration_file_may_be_named_by_the_environment(tmp_path):
    config = write_toml(tmp_path / "config.toml", {"ap": {"interface": "uap0"}})
    shown = (await show("--json", env={"PIORCH_CONFIG": str(config)})).json
    assert shown["ap.interface"] == {"value": "uap0", "origin": f"file {config}"}


async def test_the_old_names_of_the_go_daemon_are_understood():
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


async def test_show_config_in_json_and_toml_agree(tmp_path):
    config = write_toml(tmp_path / "config.toml", {"cameras": {"idle_after_s": 30}})
    as_json = (await show("--json", "--config", config)).json
    tree = tomllib.loads((await show("--config", config)).out)
    for path, entry in as_json.items():
        section, key = path.split(".")
        assert json.loads(json.dumps(tree[section].get(key))) == entry["value"], path


# Beside a running daemon.


async def test_a_running_daemon_is_asked_and_told(world, tmp_path):
    idle = "cameras.idle_after_s"
    async with daemon(world, tmp_path, cameras={"idle_after_s": 90}, connected=False) as process:
        config = write_toml(tmp_path / "client.toml", world.tree(http={"listen": [process.api.url[7:]]}))

        async def cli(*args, code=0, **how):
            done = await command("config", *args, "--config", config, **how)
            assert (done.code, "Traceback" in done.err) == (code, False), done
            return done.out if code == 0 else done.err

        rows = (await cli("get")).splitlines()
        assert rows[0].split() == ["KEY", "FROM", "SET", "BY", "VALUE"]
        assert [row.split()[0] for row in rows[1:]] == known_paths()
        assert [idle, "file", "config", "set", "90"] in [row.split() for row in rows]
        assert await cli("get", idle) == "90\n"
        assert await cli("set", idle, "60") == f"{idle} = 60 (from: override)\n"
        (section, *_) = [item for item in json.loads(await cli("get", "cameras", "--json")) if item["key"] == idle]
        assert (section["value"], section["origin"]) == ("60", "override")
        assert json.loads(await cli("get", idle, "--json")) == section

        shown = (await show("--json", "--config", config)).json[idle]
        assert shown == {"value": 60, "origin": f"override {world.state_dir}/overrides.json"}
        assert await cli("reset", idle) == f"{idle} = 90 (from: file)\n"

        assert await cli("set", "auth.api_key", "a-new-key-0123", "--json")
        assert await cli("get", "auth.api_key") == "***\n"
        assert await cli("set", idle, "0", code=1) == (
            f"error: Validation failed\n  {idle}: Input should be greater than 0\n"
        )
        assert "set it in the configuration file, and restart" in await cli("set", "mqtt.port", "1", code=1)
        for verb in ("get",), ("reset",), ("set", "x"):
            said = await cli(verb[0], "cameras.idle_after", *verb[1:], code=1)
            assert said == "error: there is no setting cameras.idle_after\n  did you mean cameras.idle_after_s?\n"


async def test_overrides_that_are_not_in_force_are_told_beside_what_is(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    config = write_toml(tmp_path / "config.toml", {"storage": {"state_dir": str(state)}})
    file = state / "overrides.json"
    file.write_bytes(render({"gone.key": "1", "logging.level": "error"}))
    for args in ("check-config",), ("show-config", "--json"):
        done = await command(*args, "--config", config)
        assert (done.code, done.err) == (
            0,
            f"warning: an override is not in force: gone.key: unknown key ({file})\n",
        )
    assert done.json["logging.level"] == {"value": "error", "origin": f"override {file}"}
    file.write_bytes(b"{")
    done = await command("check-config", "--config", config)
    assert done.code == 0
    assert done.err.startswith("warning: an override is not in force: overrides.json cannot be used: not JSON")
    assert file.read_bytes() == b"{", "nothing is touched"
