"""Retired settings: ignored with a warning in every layer, while any other unknown key stays an error."""

import pytest

from pi_orchestrator.core.errors import SettingsError
from pi_orchestrator.settings import (
    RETIRED,
    Settings,
    SettingWarning,
    from_program,
    known_paths,
    load,
    with_override,
)
from pi_orchestrator.settings.overrides import NAME, render
from pi_orchestrator.settings.reference import keys

CANARY = "canary-7f3a9c1e"
KEEPALIVE, BACKUPS, QUEUE = "mqtt.keepalive_s", "storage.backups_kept", "auto_onboard.queue_limit"

each_retired_key = pytest.mark.parametrize("path", RETIRED)


def tree_of(path, value):
    section, key = path.split(".")
    return {section: {key: value}}


def environment_of(path):
    return "PIORCH_" + path.replace(".", "__").upper()


def warning_origins(loaded):
    """(key, origin) of each warning."""
    return [(warning.key, warning.origin) for warning in loaded.warnings]


@pytest.fixture
def file(tmp_path):
    """Write the configuration file; returns its path."""

    def write(text):
        path = tmp_path / "config.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def state(tmp_path):
    """`state(overrides)` stores them and returns their file; `state.flags` are the flags that name its folder."""

    def write(values):
        (tmp_path / NAME).write_bytes(render(values))
        return tmp_path / NAME

    write.flags = {"storage": {"state_dir": str(tmp_path)}}
    return write


def test_retired_settings_are_not_in_the_model_or_the_reference():
    assert not RETIRED.keys() & set(known_paths())
    assert not RETIRED.keys() & keys().keys()
    assert all(path.split(".")[0] in Settings.model_fields for path in RETIRED)


def test_configuration_without_retired_keys_has_no_warning():
    assert load(environ={}, flags={"mqtt": {"port": 1884}}).warnings == ()


# Each layer. The value does not matter: it is not validated.


@each_retired_key
@pytest.mark.parametrize("value", ["7", "-1", "[1, 2]", "'text'", "{a = 1}"])
def test_retired_setting_in_file_is_ignored_with_a_warning(file, path, value):
    section, key = path.split(".")
    config = file(f"[{section}]\n{key} = {value}\n")
    loaded = load(path=config, environ={})
    assert loaded.settings == Settings()
    assert loaded.warnings == (SettingWarning(path, f"file {config}", RETIRED[path]),)
    assert path not in loaded.origins


@each_retired_key
@pytest.mark.parametrize("value", ["7", "", "text"])
def test_retired_setting_in_environment_is_ignored_with_a_warning(path, value):
    name = environment_of(path)
    loaded = load(environ={name: value})
    assert loaded.settings == Settings()
    assert warning_origins(loaded) == [(path, f"environment {name}")]


@each_retired_key
def test_retired_setting_as_flag_is_ignored_with_a_warning(path):
    loaded = load(environ={}, flags=tree_of(path, 7))
    assert loaded.settings == Settings()
    assert warning_origins(loaded) == [(path, "flag")]


@each_retired_key
def test_retired_setting_from_program_is_ignored_with_a_warning(tmp_path, path):
    state_dir = {"state_dir": str(tmp_path)}
    tree = tree_of(path, 7)
    loaded = from_program(tree | {"storage": tree.get("storage", {}) | state_dir})
    assert loaded.settings == Settings(storage=state_dir)
    assert warning_origins(loaded) == [(path, "program")]


@each_retired_key
def test_retired_override_is_ignored_with_a_warning_and_kept_in_the_file(state, path):
    file = state({path: "7", "cameras.idle_after_s": "60"})
    loaded = load(environ={}, flags=state.flags)
    assert loaded.settings.cameras.idle_after_s == 60
    assert warning_origins(loaded) == [(path, f"override {file}")]
    assert loaded.ignored == {}, "neither a fault nor a reason to refuse a reload"
    assert dict(loaded.active_overrides) == {"cameras.idle_after_s": "60"}
    changed = with_override(loaded, "cameras.idle_after_s", None)
    assert changed.settings.cameras.idle_after_s == 120
    assert changed.overrides.values == {path: "7"}
    assert changed.warnings == loaded.warnings


# Several retired settings, and retired settings beside errors.


def test_every_place_that_sets_a_retired_key_has_a_warning(file, state):
    config = file("[mqtt]\nport = 1884\nkeepalive_s = 30\n[storage]\nbackups_kept = 2\n")
    overrides = state({QUEUE: "10"})
    environ = {environment_of(KEEPALIVE): "20"}
    loaded = load(path=config, environ=environ, flags=state.flags | {"discovery": {"rounds": 3}})
    assert warning_origins(loaded) == [
        (KEEPALIVE, f"file {config}"),
        (BACKUPS, f"file {config}"),
        (KEEPALIVE, f"environment {environment_of(KEEPALIVE)}"),
        ("discovery.rounds", "flag"),
        (QUEUE, f"override {overrides}"),
    ]
    assert loaded.settings.mqtt.port == 1884, "the rest of a section has its effect"


def test_warning_text_names_key_origin_and_remedy(file):
    config = file("[mqtt]\nkeepalive_s = 30\n")
    (warning,) = load(path=config, environ={}).warnings
    assert str(warning) == (
        "mqtt.keepalive_s: has no effect any more because the MQTT keep-alive interval is fixed; remove it"
        f" (from file {config})"
    )


def test_warning_does_not_contain_the_value(state):
    state({QUEUE: CANARY})
    loaded = load(environ={environment_of(KEEPALIVE): CANARY}, flags=state.flags)
    assert len(loaded.warnings) == 2
    assert CANARY not in repr(loaded) + "".join(map(str, loaded.warnings))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[mqtt]\nkeepalive = 30\n", "mqtt.keepalive: unknown key"),
        ("[storage]\nkeepalive_s = 30\n", "storage.keepalive_s: unknown key"),
        ("keepalive_s = 30\n", "keepalive_s: unknown key"),
        ("'mqtt.keepalive_s' = 30\n", "mqtt.keepalive_s: unknown key"),
        ("[mqtt]\nprt = 1\n", "mqtt.prt: unknown key; did you mean mqtt.port?"),
    ],
    ids=["similar name", "other section", "no section", "quoted", "with suggestion"],
)
def test_unknown_key_beside_a_retired_one_is_an_error(file, text, problem):
    config = file(text)
    with pytest.raises(SettingsError) as caught:
        load(path=config, environ={environment_of(BACKUPS): "2"})
    (found,) = caught.value.problems
    assert found.startswith(problem)
    assert not any(f"did you mean {path}?" in found for path in RETIRED)


def test_unknown_environment_variable_beside_a_retired_one_is_an_error():
    with pytest.raises(SettingsError) as caught:
        load(environ={environment_of(KEEPALIVE): "20", "PIORCH_MQTT__KEEPALIVE": "20"})
    (found,) = caught.value.problems
    assert found.startswith("environment PIORCH_MQTT__KEEPALIVE: unknown key")


def test_unknown_override_beside_a_retired_one_is_ignored_as_before(state):
    state({"cameras.idle_after": "60", QUEUE: "10"})
    loaded = load(environ={}, flags=state.flags)
    assert list(loaded.ignored) == ["cameras.idle_after"]
    assert [warning.key for warning in loaded.warnings] == [QUEUE]


def test_retired_override_is_not_blamed_for_an_invalid_one(state):
    state({QUEUE: "0", "cameras.max_devices": "1"})
    loaded = load(environ={}, flags=state.flags)
    assert list(loaded.ignored) == ["cameras.max_devices"]
