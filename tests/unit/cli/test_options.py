"""Parsing of command options."""

import argparse

import pytest

from pi_orchestrator.cli.connection import api_path
from pi_orchestrator.cli.options import seconds_up_to


@pytest.mark.parametrize(
    "names, path",
    [
        (("cameras",), "/api/v1/cameras"),
        (("cameras", "24:6F:28:00:00:01", "capture"), "/api/v1/cameras/24%3A6F%3A28%3A00%3A00%3A01/capture"),
        (("keys", "../../a?b#c d/ü"), "/api/v1/keys/..%2F..%2Fa%3Fb%23c%20d%2F%C3%BC"),
    ],
)
def test_api_path_quotes_every_name(names, path):
    assert api_path(*names) == path


@pytest.mark.parametrize("text, seconds", [("0.5", 0.5), ("60", 60.0), ("6e1", 60.0)])
def test_seconds_within_the_limit_are_parsed(text, seconds):
    assert seconds_up_to(60)(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "60.1", "nan", "inf"])
def test_seconds_outside_the_limit_are_an_argument_error(text):
    with pytest.raises(argparse.ArgumentTypeError, match="number of seconds above 0"):
        seconds_up_to(60)(text)
