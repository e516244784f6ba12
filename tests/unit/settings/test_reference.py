"""The reference of each key matches the model."""

import math
import re

import pytest
from pydantic import SecretStr

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.settings import Settings, known_paths, load, value_at
from pi_orchestrator.settings.reference import MAX_CHARS, as_text, groups, keys

SECRETS = ("auth.api_key", "mqtt.password", "provisioning.target_password", "provisioning.mqtt_password")

each_key = pytest.mark.parametrize("path", known_paths())


def of_kind(kind):
    return [path for path, key in keys().items() if key.kind == kind]


def is_valid(path, text):
    try:
        keys()[path].canonical(text)
    except FieldError:
        return False
    return True


def test_keys_are_described_in_file_order():
    assert list(keys()) == known_paths()
    assert [group.name for group in groups()] == list(Settings.model_fields)
    assert all(group.description[0].isupper() and group.description.endswith(".") for group in groups())
    assert all(key.description for key in keys().values())


def test_secret_keys_are_secrets_and_their_files():
    hidden = [path for path in known_paths() if "SecretStr" in str(_field(path).annotation)]
    assert sorted(hidden) == sorted(SECRETS)
    assert set(of_kind("secret")) == {*SECRETS, *(f"{path}_file" for path in SECRETS)}


def _field(path):
    section, key = path.split(".")
    return Settings.model_fields[section].annotation.model_fields[key]


@each_key
def test_default_text_parses_to_the_default(path):
    key = keys()[path]
    assert key.default == as_text(value_at(Settings(), path))
    if key.default or not key.required:
        name = "PIORCH_" + path.replace(".", "__").upper()
        assert load(environ={name: key.default}).settings == Settings()
        assert key.canonical(key.default) == key.default
    assert key.required != is_valid(path, "")


@pytest.mark.parametrize("path", of_kind("number"))
def test_number_limits_match_the_model(path):
    key = keys()[path]
    assert key.low is not None
    is_exclusive = not is_valid(path, str(key.low))  # the value must be above the limit
    assert is_valid(path, "0.001" if is_exclusive else str(key.low))
    assert not is_valid(path, str(key.low - 1))
    if key.high is not None:
        assert is_valid(path, str(key.high))
        assert not is_valid(path, str(key.high + 1))
    for text in ("nan", "inf", "-inf", "1e999", "x", "", "0x10", "1,5"):
        assert not is_valid(path, text), text


@pytest.mark.parametrize("path", of_kind("select"))
def test_options_match_the_model(path):
    options = keys()[path].options
    assert len(options) > 1
    assert all(keys()[path].canonical(option) == option for option in options)
    assert not any(is_valid(path, text) for text in ("", "nothing of the sort", ",".join(options), options[0].upper()))


@pytest.mark.parametrize("path", of_kind("boolean"))
def test_boolean_is_parsed_like_environment(path):
    assert [keys()[path].canonical(text) for text in ("yes", "1", "TRUE", "no", "0", "off")] == ["true"] * 3 + [
        "false"
    ] * 3
    assert not is_valid(path, "perhaps")


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        ("auto_onboard.triggers", ["mqtt", "scan", "mqtt,scan", "scan , mqtt"], ["", "wifi", "mqtt,wifi", "mqttscan"]),
        ("ap.interface", ["wlan0"], ["wlan 0", "x" * 16]),
    ],
)
def test_pattern_matches_exactly_valid_texts(path, good, bad):
    pattern = keys()[path].pattern
    for text in good:
        assert re.search(pattern, text)
        assert is_valid(path, text)
    for text in bad:
        assert not re.search(pattern, text)
        assert not is_valid(path, text)


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
def test_canonical_text_is_unique(path, text, canonical):
    assert keys()[path].canonical(text) == keys()[path].canonical(canonical) == canonical


@pytest.mark.parametrize("char", ["\0", "\n", "\x1b", "\x7f", "\x85", "\u202e", "\ud800", "\ufeff"])
@each_key
def test_unprintable_text_is_refused(path, char):
    with pytest.raises(FieldError, match="cannot be printed"):
        keys()[path].canonical(f"12345678{char}")


def test_too_long_text_is_refused():
    with pytest.raises(FieldError, match="over the limit"):
        keys()["http.trusted_hosts"].canonical("x" * (MAX_CHARS + 1))
    assert is_valid("http.trusted_hosts", "x," * (MAX_CHARS // 2))


def test_secret_is_not_in_its_error():
    with pytest.raises(FieldError) as caught:
        keys()["auth.api_key"].canonical("canary")
    assert "canary" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_as_text_of_each_type():
    assert as_text(SecretStr("canary-1234")) == "***"
    assert [as_text(value) for value in (None, True, 5, 5.0, 0.5, 1e16, ("a", "b"), ())] == [
        *("", "true", "5", "5", "0.5", "10000000000000000", "a,b", ""),
    ]
    assert float(as_text(math.pi)) == math.pi
