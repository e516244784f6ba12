"""The override file: validation, and its place among the layers."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.app.cli_demo import demo_settings
from pi_orchestrator.core.errors import SettingsError
from pi_orchestrator.settings import Settings, from_program, load, overrides, with_override
from pi_orchestrator.settings.overrides import NAME, Overrides, read, render, set_aside

CANARY = "canary-7f3a9c1e"


@pytest.fixture
def state(tmp_path):
    """`state(overrides)` writes the override file; `state.folder` is its folder."""

    def write(content):
        file = tmp_path / NAME
        file.write_bytes(content if isinstance(content, bytes) else render(content))
        return file

    write.folder = tmp_path
    return write


def loaded(state, environ=None, **flags):
    return load(environ=environ or {}, flags={"storage": {"state_dir": str(state.folder)}, **flags})


# The file.


@given(st.dictionaries(st.text(), st.text()))
def test_rendered_overrides_parse_to_the_same(values):
    assert overrides._parse(render(values)) == values


def test_missing_file_has_no_overrides(tmp_path):
    for file in (tmp_path / NAME, tmp_path / "no-folder" / NAME):
        assert read(file) == Overrides(file)
    (tmp_path / "file").touch()
    assert read(tmp_path / "file" / NAME) == Overrides(tmp_path / "file" / NAME)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "not JSON"),
        (b"\0" * 512, "not JSON"),
        (b"{", "not JSON"),
        (b'"x"', "not a JSON object"),
        (b"\xff", "not UTF-8"),
        (b"{}", "its version is not 1"),
        (b'{"version": 2, "overrides": {}}', "its version is not 1"),
        (b'{"version": true, "overrides": {}}', "its version is not 1"),
        (b'{"version": 1}', "values are all strings"),
        (b'{"version": 1, "overrides": []}', "values are all strings"),
        (b'{"version": 1, "overrides": {"mqtt.port": 1}}', "values are all strings"),
        (b'{"version": 1, "overrides": {"a": {"b": {}}}}', "nested deeper"),
        (b'{"version": 1, "overrides": {"a": NaN}}', "not a JSON number"),
        (b" " * (overrides.MAX_BYTES + 1), "over the limit"),
    ],
)
def test_damaged_file_is_ignored_with_its_fault(state, content, fault):
    found = read(state(content))
    assert found.values == {}
    assert fault in found.fault
    assert loaded(state).settings == Settings(storage={"state_dir": state.folder})


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link", "loop"])
def test_irregular_file_is_a_fault_without_blocking(tmp_path, kind):
    file = tmp_path / NAME
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(tmp_path / "nowhere" if kind == "dangling link" else file)
    assert bool(read(file).fault) == (kind != "dangling link")
    assert read(file).values == {}


def test_set_aside_file_is_renamed(state):
    file = state(b"{")
    aside = set_aside(file)
    assert not file.exists()
    assert aside.read_bytes() == b"{"
    assert aside.parent == file.parent
    assert aside.name.startswith(f"{NAME}.damaged-")


def test_load_changes_no_file(state):
    file = state(b"{")
    before = (file.read_bytes(), file.stat().st_mtime_ns, [*state.folder.iterdir()])
    assert loaded(state).overrides.fault
    assert (file.read_bytes(), file.stat().st_mtime_ns, [*state.folder.iterdir()]) == before


# The layer.


def test_override_is_between_environment_and_flag(state):
    file = state({"logging.level": "error"})
    environ = {"PIORCH_LOGGING__LEVEL": "debug"}
    config = loaded(state, environ)
    assert (config.settings.logging.level, config.origins["logging.level"]) == ("error", f"override {file}")
    with_flag = loaded(state, environ, logging={"level": "warning"})
    assert (with_flag.settings.logging.level, with_flag.origins["logging.level"]) == ("warning", "flag")


def test_state_folder_override_is_ignored(state):
    state({"storage.state_dir": "/elsewhere"})
    config = loaded(state)
    assert config.settings.storage.state_dir == state.folder
    assert list(config.ignored) == ["storage.state_dir"]


@pytest.mark.parametrize("given_as", [7, ["x"], None])
def test_state_folder_not_a_path_is_an_error(given_as):
    with pytest.raises(SettingsError) as caught:
        load(environ={}, flags={"storage": {"state_dir": given_as}})
    assert caught.value.problems[0].startswith("storage.state_dir: ")


def test_unknown_override_is_kept_and_ignored(state):
    state({"cameras.idle_after": "60", "cameras.offline_after_s": "300"})
    config = loaded(state)
    assert config.settings.cameras.offline_after_s == 300
    assert config.ignored == {
        "cameras.idle_after": "cameras.idle_after: unknown key; did you mean cameras.idle_after_s?"
    }
    changed = with_override(config, "cameras.offline_after_s", None)
    assert changed.overrides.values == {"cameras.idle_after": "60"}
    assert list(changed.ignored) == ["cameras.idle_after"]


def test_invalid_overrides_do_not_affect_others(state):
    """`auth.mode = off` is refused because `http.listen` reaches the network; the key is valid."""
    state(
        {
            "cameras.max_devices": "1",
            "auth.mode": "off",
            "auth.api_key": "a-good-key-0123",
            "auto_onboard.deny": "FF:FF:FF:FF:FF:FF",
            "cameras.idle_after_s": "60",
        }
    )
    config = loaded(state)
    assert set(config.ignored) == {"cameras.max_devices", "auth.mode", "auto_onboard.deny"}
    assert config.ignored["cameras.max_devices"].startswith("cameras.max_devices: Input should be")
    assert "http.listen reaches the network" in config.ignored["auth.mode"]
    assert (config.settings.auth.mode, config.settings.cameras.max_devices) == ("provisioning", 4096)
    assert config.settings.auth.api_key.get_secret_value() == "a-good-key-0123"
    assert config.settings.cameras.idle_after_s == 60
    assert set(config.overrides.values) >= set(config.ignored), "they are stored"


def test_override_valid_only_with_another_override_is_active(state):
    state({"auth.mode": "off", "http.listen": "127.0.0.1:8081", "cameras.max_devices": "1"})
    config = loaded(state)
    assert config.settings.auth.mode == "off"
    assert list(config.ignored) == ["cameras.max_devices"]


def test_error_in_other_layer_is_not_blamed_on_overrides(state):
    state({"cameras.idle_after_s": "60"})
    with pytest.raises(SettingsError) as caught:
        loaded(state, mqtt={"port": "x"})
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["mqtt.port"]


def test_override_replaces_invalid_lower_value(state):
    state({"mqtt.port": "1884"})
    assert loaded(state, {"PIORCH_MQTT__PORT": "x"}).settings.mqtt.port == 1884


# Set and reset.


def test_new_override_uses_layers_as_read(state, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("[cameras]\nidle_after_s = 90\n")
    original = load(path=config, environ={}, flags={"storage": {"state_dir": str(tmp_path)}})
    config.write_text("[cameras]\nidle_after_s = 91\n[mqtt]\nport = 0\n")
    changed = with_override(original, "cameras.idle_after_s", "60")
    assert changed.settings.cameras.idle_after_s == 60
    assert changed.origins["cameras.idle_after_s"] == f"override {tmp_path / NAME}"
    reset = with_override(changed, "cameras.idle_after_s", None)
    assert (reset.settings, reset.origins) == (original.settings, original.origins), "the file is not reread"
    assert not (tmp_path / NAME).exists(), "nothing is written"


def test_overridden_secret_returns_after_reset(state, tmp_path):
    (tmp_path / "key").write_text("from-the-file")
    with_file = loaded(state, auth={"api_key_file": str(tmp_path / "key")})
    (tmp_path / "key").unlink()
    # A secret file named by a flag precedes an override of its key.
    assert with_override(with_file, "auth.api_key", "from-an-override").settings == with_file.settings
    with_environment = loaded(state, {"PIORCH_AUTH__API_KEY": "from-the-environment"})
    changed = with_override(with_environment, "auth.api_key", "from-an-override")
    assert changed.settings.auth.api_key.get_secret_value() == "from-an-override"
    assert with_override(changed, "auth.api_key", None).settings == with_environment.settings


def test_conflicting_override_is_refused(state):
    config = loaded(state)
    with pytest.raises(SettingsError) as caught:
        with_override(config, "auth.mode", "off")
    assert "http.listen reaches the network" in caught.value.problems[0]


def test_ignored_override_does_not_block_a_change(state):
    state({"auth.mode": "off", "gone.key": "1"})
    changed = with_override(loaded(state), "cameras.idle_after_s", "60")
    assert changed.settings.cameras.idle_after_s == 60
    assert set(changed.overrides.values) == {"auth.mode", "gone.key", "cameras.idle_after_s"}
    corrected = with_override(changed, "auth.mode", "required")
    assert (corrected.settings.auth.mode, set(corrected.ignored)) == ("required", {"gone.key"})


def test_program_settings_are_a_layer(tmp_path):
    settings = load(
        environ={},
        flags={
            "storage": {"state_dir": str(tmp_path)},
            "auth": {"api_key": CANARY},
            "mqtt": {"password": "mosquito", "ca_file": "/etc/ca.pem"},
            "provisioning": {"target_ssid": "Yard", "target_password": "correct horse battery"},
            "auto_onboard": {"deny": ["24:6F:28:B0:F7:F1"], "mode": "dev"},
        },
    ).settings
    (tmp_path / NAME).write_bytes(render({"cameras.idle_after_s": "60", "auto_onboard.mode": "off"}))
    config = from_program(settings)
    assert config.settings.cameras.idle_after_s == 60
    assert (config.origins["auto_onboard.deny"], "auth.mode" in config.origins) == ("program", False)
    reset = with_override(with_override(config, "cameras.idle_after_s", None), "auto_onboard.mode", None)
    assert reset.settings == settings
    assert from_program(Settings()).origins == {}


def test_program_tree_is_validated_and_below_overrides(tmp_path):
    (tmp_path / NAME).write_bytes(render({"cameras.idle_after_s": "60", "mqtt.port": "1999"}))
    config = demo_settings(tmp_path, port=0, camera_port=8000)
    assert (config.settings.cameras.idle_after_s, config.settings.mqtt.port) == (60, 1999)
    reset = with_override(with_override(config, "cameras.idle_after_s", None), "mqtt.port", None)
    assert (reset.settings.cameras.idle_after_s, reset.settings.mqtt.port) == (120, 0), "a reset uses the lower layer"
    with pytest.raises(SettingsError) as caught:
        demo_settings(tmp_path, port=99999, camera_port=8000)
    assert "127.0.0.1:99999" in caught.value.problems[0]


def test_secret_override_is_not_in_any_text(state):
    state({"auth.api_key": CANARY})
    config = loaded(state, {"PIORCH_MQTT__PASSWORD": CANARY, "API_KEY": CANARY})
    assert config.settings.auth.api_key.get_secret_value() == CANARY
    assert CANARY not in repr(config) + str(config.overrides) + repr(
        with_override(config, "auth.api_key", CANARY + "2")
    )
    state({"auth.api_key": "canary", "auth.mode": "canary"})
    assert "canary" not in json.dumps(dict(loaded(state).ignored))


def test_default_file_is_in_default_state_folder():
    assert load(environ={}).overrides.file == Path("/var/lib/pi-orchestrator") / NAME
