"""The override file: read with suspicion, and one layer among the others."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from pi_orchestrator.cli.demo import demo_settings
from pi_orchestrator.errors import SettingsError
from pi_orchestrator.settings import Settings, given, load, overridden, overrides
from pi_orchestrator.settings.overrides import NAME, Overrides, read, render, set_aside

CANARY = "canary-7f3a9c1e"


@pytest.fixture
def state(tmp_path):
    """A state folder; call it with overrides to put them there."""

    def write(content):
        file = tmp_path / NAME
        file.write_bytes(content if isinstance(content, bytes) else render(content))
        return file

    write.folder = tmp_path
    return write


def loaded(state, environ=None, **flags):
    return load(environ=environ or {}, flags={"storage": {"state_dir": str(state.folder)}, **flags})


# The file.


@given_any(st.dictionaries(st.text(), st.text()))
def test_what_is_written_is_what_is_read(values):
    assert overrides._parse(render(values)) == values


def test_no_file_is_no_override(tmp_path):
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
        (b'{"version": 1}', "not keys with a text each"),
        (b'{"version": 1, "overrides": []}', "not keys with a text each"),
        (b'{"version": 1, "overrides": {"mqtt.port": 1}}', "not keys with a text each"),
        (b'{"version": 1, "overrides": {"a": {"b": {}}}}', "nested deeper"),
        (b'{"version": 1, "overrides": {"a": NaN}}', "not a number of JSON"),
        (b" " * (overrides.MAX_BYTES + 1), "over the limit"),
    ],
)
def test_a_damaged_file_is_no_override_and_says_what_is_wrong(state, content, fault):
    found = read(state(content))
    assert found.values == {}
    assert fault in found.fault
    assert loaded(state).settings == Settings(storage={"state_dir": state.folder})


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link", "loop"])
def test_what_is_no_file_is_told_and_never_waited_for(tmp_path, kind):
    file = tmp_path / NAME
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(tmp_path / "nowhere" if kind == "dangling link" else file)
    assert bool(read(file).fault) == (kind != "dangling link")
    assert read(file).values == {}


def test_what_is_set_aside_is_kept_under_another_name(state):
    file = state(b"{")
    aside = set_aside(file)
    assert not file.exists()
    assert aside.read_bytes() == b"{"
    assert aside.parent == file.parent
    assert aside.name.startswith(f"{NAME}.damaged-")


def test_loading_touches_nothing(state):
    file = state(b"{")
    before = (file.read_bytes(), file.stat().st_mtime_ns, [*state.folder.iterdir()])
    assert loaded(state).overrides.fault
    assert (file.read_bytes(), file.stat().st_mtime_ns, [*state.folder.iterdir()]) == before


# The layer.


def test_an_override_stands_above_the_environment_and_below_a_flag(state):
    file = state({"logging.level": "error"})
    environ = {"PIORCH_LOGGING__LEVEL": "debug"}
    one = loaded(state, environ)
    assert (one.settings.logging.level, one.origins["logging.level"]) == ("error", f"override {file}")
    flagged = loaded(state, environ, logging={"level": "warning"})
    assert (flagged.settings.logging.level, flagged.origins["logging.level"]) == ("warning", "flag")


def test_the_state_folder_itself_cannot_be_overridden(state):
    state({"storage.state_dir": "/elsewhere"})
    one = loaded(state)
    assert one.settings.storage.state_dir == state.folder
    assert list(one.ignored) == ["storage.state_dir"]


@pytest.mark.parametrize("given_as", [7, ["x"], None])
def test_a_state_folder_that_is_no_path_is_a_mistake_like_any_other(given_as):
    with pytest.raises(SettingsError) as caught:
        load(environ={}, flags={"storage": {"state_dir": given_as}})
    assert caught.value.problems[0].startswith("storage.state_dir: ")


def test_an_override_that_is_not_known_any_more_is_kept_and_not_in_force(state):
    state({"cameras.idle_after": "60", "cameras.offline_after_s": "300"})
    one = loaded(state)
    assert one.settings.cameras.offline_after_s == 300
    assert one.ignored == {"cameras.idle_after": "cameras.idle_after: unknown key; did you mean cameras.idle_after_s?"}
    changed = overridden(one, "cameras.offline_after_s", None)
    assert changed.overrides.values == {"cameras.idle_after": "60"}
    assert list(changed.ignored) == ["cameras.idle_after"]


def test_overrides_that_are_not_possible_any_more_do_not_take_the_others_with_them(state):
    """`off` and the key are each possible; the first not, while the network is listened on."""
    state(
        {
            "cameras.max_devices": "1",
            "auth.mode": "off",
            "auth.api_key": "a-good-key-0123",
            "auto_onboard.deny": "FF:FF:FF:FF:FF:FF",
            "cameras.idle_after_s": "60",
        }
    )
    one = loaded(state)
    assert set(one.ignored) == {"cameras.max_devices", "auth.mode", "auto_onboard.deny"}
    assert one.ignored["cameras.max_devices"].startswith("cameras.max_devices: Input should be")
    assert "http.listen reaches the network" in one.ignored["auth.mode"]
    assert (one.settings.auth.mode, one.settings.cameras.max_devices) == ("provisioning", 4096)
    assert one.settings.auth.api_key.get_secret_value() == "a-good-key-0123"
    assert one.settings.cameras.idle_after_s == 60
    assert set(one.overrides.values) >= set(one.ignored), "they are kept"


def test_an_override_that_is_possible_only_beside_a_later_one_holds(state):
    state({"auth.mode": "off", "http.listen": "127.0.0.1:8081", "cameras.max_devices": "1"})
    one = loaded(state)
    assert one.settings.auth.mode == "off"
    assert list(one.ignored) == ["cameras.max_devices"]


def test_what_is_wrong_elsewhere_is_not_blamed_on_overrides(state):
    state({"cameras.idle_after_s": "60"})
    with pytest.raises(SettingsError) as caught:
        loaded(state, mqtt={"port": "x"})
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["mqtt.port"]


def test_an_override_mends_what_is_wrong_below_it(state):
    state({"mqtt.port": "1884"})
    assert loaded(state, {"PIORCH_MQTT__PORT": "x"}).settings.mqtt.port == 1884


# Setting and taking away.


def test_an_override_goes_between_the_layers_as_they_were_read(state, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("[cameras]\nidle_after_s = 90\n")
    one = load(path=config, environ={}, flags={"storage": {"state_dir": str(tmp_path)}})
    config.write_text("[cameras]\nidle_after_s = 91\n[mqtt]\nport = 0\n")
    two = overridden(one, "cameras.idle_after_s", "60")
    assert two.settings.cameras.idle_after_s == 60
    assert two.origins["cameras.idle_after_s"] == f"override {tmp_path / NAME}"
    three = overridden(two, "cameras.idle_after_s", None)
    assert (three.settings, three.origins) == (one.settings, one.origins), "not what is in the file by now"
    assert not (tmp_path / NAME).exists(), "nothing is written"


def test_a_secret_that_an_override_hid_comes_back_though_its_file_has_gone(state, tmp_path):
    (tmp_path / "key").write_text("from-the-file")
    one = loaded(state, auth={"api_key_file": str(tmp_path / "key")})
    (tmp_path / "key").unlink()
    # A file named by a flag stands above an override of the key that it stands for.
    assert overridden(one, "auth.api_key", "from-an-override").settings == one.settings
    below = loaded(state, {"PIORCH_AUTH__API_KEY": "from-the-environment"})
    two = overridden(below, "auth.api_key", "from-an-override")
    assert two.settings.auth.api_key.get_secret_value() == "from-an-override"
    assert overridden(two, "auth.api_key", None).settings == below.settings


def test_an_override_that_contradicts_the_rest_is_refused(state):
    one = loaded(state)
    with pytest.raises(SettingsError) as caught:
        overridden(one, "auth.mode", "off")
    assert "http.listen reaches the network" in caught.value.problems[0]


def test_what_is_not_in_force_does_not_stand_in_the_way_of_a_change(state):
    state({"auth.mode": "off", "gone.key": "1"})
    one = overridden(loaded(state), "cameras.idle_after_s", "60")
    assert one.settings.cameras.idle_after_s == 60
    assert set(one.overrides.values) == {"auth.mode", "gone.key", "cameras.idle_after_s"}
    two = overridden(one, "auth.mode", "required")
    assert (two.settings.auth.mode, set(two.ignored)) == ("required", {"gone.key"})


def test_settings_that_a_program_was_written_with_are_a_layer_too(tmp_path):
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
    one = given(settings)
    assert one.settings.cameras.idle_after_s == 60
    assert (one.origins["auto_onboard.deny"], "auth.mode" in one.origins) == ("program", False)
    back = overridden(overridden(one, "cameras.idle_after_s", None), "auto_onboard.mode", None)
    assert back.settings == settings
    assert given(Settings()).origins == {}


def test_what_a_program_gives_as_a_tree_has_its_mistakes_named_and_lies_below_the_overrides(tmp_path):
    (tmp_path / NAME).write_bytes(render({"cameras.idle_after_s": "60", "mqtt.port": "1999"}))
    one = demo_settings(tmp_path, port=0, camera_port=8000)
    assert (one.settings.cameras.idle_after_s, one.settings.mqtt.port) == (60, 1999)
    back = overridden(overridden(one, "cameras.idle_after_s", None), "mqtt.port", None)
    assert (back.settings.cameras.idle_after_s, back.settings.mqtt.port) == (120, 0), "a reset leads to what is below"
    with pytest.raises(SettingsError) as caught:
        demo_settings(tmp_path, port=99999, camera_port=8000)
    assert "127.0.0.1:99999" in caught.value.problems[0]


def test_no_secret_is_in_what_is_printed(state):
    state({"auth.api_key": CANARY})
    one = loaded(state, {"PIORCH_MQTT__PASSWORD": CANARY, "API_KEY": CANARY})
    assert one.settings.auth.api_key.get_secret_value() == CANARY
    assert CANARY not in repr(one) + str(one.overrides) + repr(overridden(one, "auth.api_key", CANARY + "2"))
    state({"auth.api_key": "canary", "auth.mode": "canary"})
    assert "canary" not in json.dumps(dict(loaded(state).ignored))


def test_the_default_file_lies_in_the_default_state_folder():
    assert load(environ={}).overrides.file == Path("/var/lib/pi-orchestrator") / NAME
