"""SSIDs, passwords, and the objects that hold them."""

import copy
import dataclasses
import json
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, SecretStr, TypeAdapter, ValidationError

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.validation import clean_text
from pi_orchestrator.core.wifi import (
    Credentials,
    MqttAccess,
    PasswordField,
    SsidField,
    check_password,
    is_same_ssid,
    parse_ssid,
)

HEX_KEY = "0123456789abcdefABCDEF" * 2 + "0" * 20
CANARY = "correct horse battery"
ERRORS = {
    "a WiFi password has only printable ASCII characters (0x20 to 0x7E)",
    "a WiFi password has 8 to 63 characters, is 64 hex digits, or is empty for an open network",
}


def error_text(parse, value):
    """The text of the FieldError; None without an error."""
    try:
        parse(value)
    except FieldError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "name", ["a", "DeliCasa-AP", " kitchen ", "Küche", "📷", "📷" * 8, "x" * 32, "é" * 16, "a'b\"c;d", "\u200d"]
)
def test_ssid_of_1_to_32_bytes_is_accepted(name):
    assert parse_ssid(name) == name
    assert TypeAdapter(SsidField).validate_python(name) == name


@pytest.mark.parametrize(
    "name, reason",
    [
        ("", "1 to 32 bytes in UTF-8, this one has 0"),
        ("x" * 33, "this one has 33"),
        ("é" * 17, "this one has 34"),
        ("📷" * 8 + "x", "this one has 33"),
        ("a\0b", "U\\+0000"),
        ("a\r\nb", "U\\+000D"),
        ("a\nb", "U\\+000A"),
        ("\x1b[2J", "U\\+001B"),
        ("a\x7f", "U\\+007F"),
        ("a\x9bb", "U\\+009B"),
        ("\ud800", "surrogates"),
        (None, "must be text"),
        (12345678, "must be text"),
        (b"DeliCasa", "must be text"),
        (["DeliCasa"], "must be text"),
    ],
)
def test_other_ssid_is_refused(name, reason):
    with pytest.raises(FieldError, match=reason):
        parse_ssid(name)
    with pytest.raises(ValidationError):
        TypeAdapter(SsidField).validate_python(name)


@given(st.one_of(st.text(), st.binary(), st.integers(), st.none(), st.text(max_size=40)))
def test_any_value_is_ssid_or_error(value):
    reason = error_text(parse_ssid, value)
    if reason is not None:
        assert reason.isprintable()
        return
    name = parse_ssid(value)
    assert name == value
    assert 1 <= len(name.encode()) <= 32
    pattern = TypeAdapter(SsidField).json_schema()["pattern"]
    assert re.search(pattern, name)


@pytest.mark.parametrize(
    "password",
    ["", "12345678", "x" * 63, " " * 8, "pass word ~!", HEX_KEY, HEX_KEY.lower(), "0" * 63, "\\\"'`$();&|<>"],
)
def test_valid_password_is_accepted(password):
    check_password(password)
    assert TypeAdapter(PasswordField).validate_python(password).get_secret_value() == password
    assert re.search(TypeAdapter(PasswordField).json_schema()["pattern"], password)


@pytest.mark.parametrize(
    "password",
    ["1234567", "x", "x" * 64, HEX_KEY + "0", HEX_KEY[:-1] + "g", "pässword1", "password\n", "\tpassword", "passwor\0"]
    + ["pass\x7fword", "\ud800password", "１２３４５６７８", "٠" * 64],
)
def test_invalid_password_error_is_fixed_text(password):
    with pytest.raises(FieldError) as caught:
        check_password(password)
    assert str(caught.value) in ERRORS
    assert caught.value.__context__ is None
    # In Python `$` also matches before a final newline; in a JSON schema it does not.
    pattern = TypeAdapter(PasswordField).json_schema()["pattern"].removesuffix("$")
    assert not re.search(pattern + r"\Z", password)


@given(st.text())
def test_any_password_error_is_fixed_text(password):
    assert error_text(check_password, password) in {None, *ERRORS}


def test_model_error_hides_password():
    class Form(BaseModel):
        model_config = ConfigDict(hide_input_in_errors=True)

        password: PasswordField

    with pytest.raises(ValidationError) as caught:
        Form(password="canary\n")
    assert "canary" not in str(caught.value)
    assert CANARY not in repr(Form(password=CANARY))


@pytest.fixture(params=["credentials", "mqtt"])
def holder(request):
    if request.param == "credentials":
        return Credentials("DeliCasa", SecretStr(CANARY))
    return MqttAccess("192.168.10.1", 1883, "camera", SecretStr(CANARY))


def test_holder_never_shows_secret(holder):
    shown = [
        repr(holder),
        str(holder),
        f"{holder}",
        repr(dataclasses.asdict(holder)),
        repr(dataclasses.astuple(holder)),
    ]
    shown += [f"{holder.password}", str(holder.password), repr([holder]), json.dumps({"it": holder}, default=repr)]
    assert [text for text in shown if CANARY in text] == []
    assert holder.password.get_secret_value() == CANARY
    assert not hasattr(holder, "__dict__")


@pytest.mark.parametrize("serialise", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps, vars])
def test_holder_cannot_be_serialised(holder, serialise):
    with pytest.raises(TypeError) as caught:
        serialise(holder)
    assert CANARY not in str(caught.value)


def test_holder_is_frozen_and_comparable(holder):
    with pytest.raises(dataclasses.FrozenInstanceError):
        holder.password = SecretStr("other")
    assert dataclasses.replace(holder) == holder
    assert dataclasses.replace(holder, password=SecretStr("another one")) != holder


@pytest.mark.parametrize("ssid", ["DeliCasa", " kitchen ", "📷" * 8, "👩\u200d💻", "x" * 32])
def test_reported_ssid_matches_network(ssid):
    reported = clean_text(ssid, max_chars=32)
    assert is_same_ssid(reported, ssid)
    assert not is_same_ssid(reported, ssid[:-1] + "?")


@pytest.mark.parametrize("ssid", ["DeliCasa", " ", "\u200d"])
def test_missing_ssid_matches_no_network(ssid):
    assert not is_same_ssid(None, ssid)
