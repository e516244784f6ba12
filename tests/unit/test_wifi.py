"""Names of networks, passwords, and what holds them."""

import copy
import dataclasses
import json
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, SecretStr, TypeAdapter, ValidationError

from pi_orchestrator.domain.strict_json import clean_text
from pi_orchestrator.domain.wifi import (
    Credentials,
    MqttAccess,
    PasswordField,
    SsidField,
    check_password,
    names_network,
    parse_ssid,
)
from pi_orchestrator.errors import FieldError

HEX_KEY = "0123456789abcdefABCDEF" * 2 + "0" * 20
CANARY = "correct horse battery"
REFUSALS = {
    "a WiFi password holds printable ASCII characters alone (0x20 to 0x7E)",
    "a WiFi password has 8 to 63 characters, is 64 hex digits, or is empty for an open network",
}


def refusal(parse, value):
    """The text of the FieldError; None where there is none."""
    try:
        parse(value)
    except FieldError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "name", ["a", "DeliCasa-AP", " kitchen ", "Küche", "📷", "📷" * 8, "x" * 32, "é" * 16, "a'b\"c;d", "\u200d"]
)
def test_a_name_of_1_to_32_bytes_is_taken_as_it_is(name):
    assert parse_ssid(name) == name
    assert TypeAdapter(SsidField).validate_python(name) == name


@pytest.mark.parametrize(
    "name, why",
    [
        ("", "1 to 32 bytes in UTF-8, this one 0"),
        ("x" * 33, "this one 33"),
        ("é" * 17, "this one 34"),
        ("📷" * 8 + "x", "this one 33"),
        ("a\0b", "U\\+0000"),
        ("a\r\nb", "U\\+000D"),
        ("a\nb", "U\\+000A"),
        ("\x1b[2J", "U\\+001B"),
        ("a\x7f", "U\\+007F"),
        ("a\x9bb", "U\\+009B"),
        ("\ud800", "surrogates"),
        (None, "is text"),
        (12345678, "is text"),
        (b"DeliCasa", "is text"),
        (["DeliCasa"], "is text"),
    ],
)
def test_any_other_name_is_refused_with_the_reason(name, why):
    with pytest.raises(FieldError, match=why):
        parse_ssid(name)
    with pytest.raises(ValidationError):
        TypeAdapter(SsidField).validate_python(name)


@given(st.one_of(st.text(), st.binary(), st.integers(), st.none(), st.text(max_size=40)))
def test_whatever_comes_is_a_name_or_a_field_error(value):
    why = refusal(parse_ssid, value)
    if why is not None:
        assert why.isprintable()
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
def test_a_password_that_a_network_may_have(password):
    check_password(password)
    assert TypeAdapter(PasswordField).validate_python(password).get_secret_value() == password
    assert re.search(TypeAdapter(PasswordField).json_schema()["pattern"], password)


@pytest.mark.parametrize(
    "password",
    ["1234567", "x", "x" * 64, HEX_KEY + "0", HEX_KEY[:-1] + "g", "pässword1", "password\n", "\tpassword", "passwor\0"]
    + ["pass\x7fword", "\ud800password", "１２３４５６７８", "٠" * 64],
)
def test_a_password_that_no_network_has_is_refused_in_fixed_words(password):
    with pytest.raises(FieldError) as caught:
        check_password(password)
    assert str(caught.value) in REFUSALS
    assert caught.value.__context__ is None
    # $ of Python also matches before a newline at the end; that of a schema does not.
    pattern = TypeAdapter(PasswordField).json_schema()["pattern"].removesuffix("$")
    assert not re.search(pattern + r"\Z", password)


@given(st.text())
def test_what_is_wrong_with_a_password_never_depends_on_more_than_its_kind(password):
    assert refusal(check_password, password) in {None, *REFUSALS}


def test_a_model_with_a_password_tells_it_in_no_error():
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


def test_what_holds_a_secret_does_not_show_it(holder):
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


@pytest.mark.parametrize("accident", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps, vars])
def test_it_cannot_be_written_down_whole(holder, accident):
    with pytest.raises(TypeError) as caught:
        accident(holder)
    assert CANARY not in str(caught.value)


def test_it_is_frozen_and_can_be_compared(holder):
    with pytest.raises(dataclasses.FrozenInstanceError):
        holder.password = SecretStr("other")
    assert dataclasses.replace(holder) == holder
    assert dataclasses.replace(holder, password=SecretStr("another one")) != holder


@pytest.mark.parametrize("ssid", ["DeliCasa", " kitchen ", "📷" * 8, "👩\u200d💻", "x" * 32])
def test_a_camera_that_tells_its_network_is_understood(ssid):
    told = clean_text(ssid, max_chars=32)
    assert names_network(told, ssid)
    assert not names_network(told, ssid[:-1] + "?")


@pytest.mark.parametrize("ssid", ["DeliCasa", " ", "\u200d"])
def test_a_camera_that_tells_nothing_is_on_no_network(ssid):
    assert not names_network(None, ssid)
