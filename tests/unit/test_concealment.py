"""Known secrets are taken out of a text in whatever writing they stand there, and nothing else is."""

import base64
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_orchestrator.concealment import MASK, Concealer

SECRET = 'Kan"arien/Vogel+4711 \\&?ü'
WRITINGS = {
    "plain": lambda text: text,
    "json": json.dumps,
    "json of json": lambda text: json.dumps(json.dumps(text)),
    "readable json": lambda text: json.dumps({"x": text}, ensure_ascii=False),
    "python": repr,
    "url": quote,
    "path": lambda text: quote(text, safe=""),
    "form": quote_plus,
    "hex": lambda text: text.encode().hex(),
    "HEX": lambda text: text.encode().hex().upper(),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 shifted by 1": lambda text: base64.b64encode(b"a" + text.encode() + b"yz").decode(),
    "base64 shifted by 2": lambda text: base64.b64encode(b"ab" + text.encode() + b"y").decode(),
    "base64 for urls": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
}


@pytest.mark.parametrize("way", WRITINGS)
def test_it_is_taken_out(way):
    written = WRITINGS[way](SECRET)
    cleaned = Concealer(["other secret", SECRET]).clean(f"before {written} after {written}")
    assert cleaned.startswith("before ")
    assert " after " in cleaned
    assert cleaned.count(MASK) == 2
    assert len(cleaned.replace(MASK, "")) <= len("before  after ") + 2 * len('"\\" {"x": }yz=')


def test_the_longer_of_two_that_begin_alike_goes_whole():
    assert Concealer(["secret", "secret-two"]).clean("secret-two secret") == f"{MASK} {MASK}"


@pytest.mark.parametrize("secrets", [[], [""], ["short"], ["", "abc"]])
def test_nothing_is_taken_out_where_nothing_is_secret_or_it_is_too_short_to_tell(secrets):
    assert Concealer(secrets).clean("a short abc text") == "a short abc text"


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=8, max_size=20), st.binary(max_size=3))
def test_no_writing_of_any_secret_is_left(secret, before):
    concealer = Concealer([secret])
    if MASK not in secret and secret not in MASK:
        assert secret not in concealer.clean(f"x{secret}y")
    encoded = base64.b64encode(before + secret.encode() + b"!").decode()
    assert MASK in concealer.clean(encoded)
    assert concealer.clean(secret.encode().hex()) == MASK
