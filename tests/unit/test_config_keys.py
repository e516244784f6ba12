"""What is said of each key, held against what the model takes."""

import math
import re

import pytest
from pydantic import SecretStr

from pi_orchestrator.app.daemon import RELOADABLE
from pi_orchestrator.errors import FieldError
from pi_orchestrator.settings import Settings, known_paths, load, value_at
from pi_orchestrator.settings.keys import MAX_CHARS, as_text, groups, keys
from tests.support.reloadable import IN_EFFECT

SECRETS = ("auth.api_key", "mqtt.password", "provisioning.target_password", "provisioning.mqtt_password")

each_key = pytest.mark.parametrize("path", known_paths())


def of_kind(kind):
    return [path for path, key in keys().items() if key.kind == kind]


def takes(path, text):
    try:
        keys()[path].canonical(text)
    except FieldError:
        return False
    return True


def test_every_key_is_described_in_the_order_of_the_file():
    assert list(keys()) == known_paths()
    assert [group.name for group in groups()] == list(Settings.model_fields)
    assert all(group.description[0].isupper() and group.description.endswith(".") for group in groups())
    assert all(key.description for key in keys().values())


def test_secrets_are_those_that_the_model_hides_and_the_files_that_hold_them():
    hidden = [path for path in known_paths() if "SecretStr" in str(_field(path).annotation)]
    assert sorted(hidden) == sorted(SECRETS)
    assert set(of_kind("secret")) == {*SECRETS, *(f"{path}_file" for path in SECRETS)}


def _field(path):
    section, key = path.split(".")
    return Settings.model_fields[section].annotation.model_fields[key]


@each_key
def test_a_default_leads_back_to_itself(path):
    key = keys()[path]
    assert key.default == as_text(value_at(Settings(), path))
    if key.default or not key.required:
        name = "PIORCH_" + path.replace(".", "__").upper()
        assert load(environ={name: key.default}).settings == Settings()
        assert key.canonical(key.default) == key.default
    assert key.required != takes(path, "")


@pytest.mark.parametrize("path", of_kind("number"))
def test_the_limits_of_a_number_are_where_it_is_refused(path):
    key = keys()[path]
    assert key.low is not None
    open_end = not takes(path, str(key.low))  # more than this
    assert takes(path, "0.001" if open_end else str(key.low))
    assert not takes(path, str(key.low - 1))
    if key.high is not None:
        assert takes(path, str(key.high))
        assert not takes(path, str(key.high + 1))
    for text in ("nan", "inf", "-inf", "1e999", "x", "", "0x10", "1,5"):
        assert not takes(path, text), text


@pytest.mark.parametrize("path", of_kind("select"))
def test_the_options_of_a_choice_are_all_that_it_takes(path):
    options = keys()[path].options
    assert len(options) > 1
    assert all(keys()[path].canonical(option) == option for option in options)
    assert not any(takes(path, text) for text in ("", "nothing of the sort", ",".join(options), options[0].upper()))


@pytest.mark.parametrize("path", of_kind("boolean"))
def test_a_switch_is_read_as_an_environment_variable_is(path):
    assert [keys()[path].canonical(text) for text in ("yes", "1", "TRUE", "no", "0", "off")] == ["true"] * 3 + [
        "false"
    ] * 3
    assert not takes(path, "perhaps")


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        ("auto_onboard.triggers", ["mqtt", "scan", "mqtt,scan", "scan , mqtt"], ["", "wifi", "mqtt,wifi", "mqttscan"]),
        ("ap.interface", ["wlan0"], ["wlan 0", "x" * 16]),
    ],
)
def test_a_pattern_tells_what_is_taken_from_what_is_not(path, good, bad):
    pattern = keys()[path].pattern
    for text in good:
        assert re.search(pattern, text)
        assert takes(path, text)
    for text in bad:
        assert not re.search(pattern, text)
        assert not takes(path, text)


@pytest.mark.parametrize(
    ("path", "text", "canonical"),
    [
        ("auto_onboard.deny", "246f28b0f7f1, 24-6f-28-b0-f7-f2 ,", "24:6F:28:B0:F7:F1,24:6F:28:B0:F7:F2"),
        ("auto_onboard.subnet_allowlist", " 10.0.0.0/8 ", "10.0.0.0/8"),
        ("cameras.idle_after_s", "60.0", "60"),
        ("cameras.idle_after_s", "60.25", "60.25"),
        ("http.trusted_hosts", "", ""),
        ("auth.api_key", "a key, with spaces", "a key, with spaces"),
    ],
)
def test_a_value_has_one_spelling(path, text, canonical):
    assert keys()[path].canonical(text) == keys()[path].canonical(canonical) == canonical


@pytest.mark.parametrize("char", ["\0", "\n", "\x1b", "\x7f", "\x85", "\u202e", "\ud800", "\ufeff"])
@each_key
def test_nothing_takes_what_cannot_be_printed(path, char):
    with pytest.raises(FieldError, match="cannot be printed"):
        keys()[path].canonical(f"12345678{char}")


def test_nothing_takes_a_text_without_end():
    with pytest.raises(FieldError, match="over the limit"):
        keys()["http.trusted_hosts"].canonical("x" * (MAX_CHARS + 1))
    assert takes("http.trusted_hosts", "x," * (MAX_CHARS // 2))


def test_what_is_wrong_with_a_secret_is_said_without_it():
    with pytest.raises(FieldError) as caught:
        keys()["auth.api_key"].canonical("canary")
    assert "canary" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_values_as_texts():
    assert as_text(SecretStr("canary-1234")) == "***"
    assert [as_text(value) for value in (None, True, 5, 5.0, 0.5, 1e16, ("a", "b"), ())] == [
        *("", "true", "5", "5", "0.5", "10000000000000000", "a,b", ""),
    ]
    assert float(as_text(math.pi)) == math.pi


def test_each_key_that_can_be_set_while_running_is_seen_to_take_effect():
    """A key that is added to RELOADABLE is set by `api/test_config.py`, with what `IN_EFFECT` says of it."""
    assert set(IN_EFFECT) == {path for path in RELOADABLE if not keys()[path].is_file}
