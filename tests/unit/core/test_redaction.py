"""Known secrets are masked in every encoding, and nothing else is."""

import base64
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.core.redaction import MASK, Redactor

SECRET = 'Kan"arien/Vogel+4711 \\&?ü'
ENCODINGS = {
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


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encoded_secret_is_masked(encoding):
    written = ENCODINGS[encoding](SECRET)
    cleaned = Redactor(["other secret", SECRET]).clean(f"before {written} after {written}")
    assert cleaned.startswith("before ")
    assert " after " in cleaned
    assert cleaned.count(MASK) == 2
    around = '"\\" {"x": }yz='  # what an encoding may leave around the mask
    assert len(cleaned.replace(MASK, "")) <= len("before  after ") + 2 * len(around)


def test_longer_overlapping_secret_is_masked():
    assert Redactor(["secret", "secret-two"]).clean("secret-two secret") == f"{MASK} {MASK}"


@pytest.mark.parametrize("secrets", [[], [""], ["short"], ["", "abc"]])
def test_short_secret_is_not_masked(secrets):
    assert Redactor(secrets).clean("a short abc text") == "a short abc text"


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=8, max_size=20), st.binary(max_size=3))
def test_any_secret_is_masked_in_encodings(secret, before):
    redactor = Redactor([secret])
    if MASK not in secret and secret not in MASK:
        assert secret not in redactor.clean(f"x{secret}y")
    encoded = base64.b64encode(before + secret.encode() + b"!").decode()
    assert MASK in redactor.clean(encoded)
    assert redactor.clean(secret.encode().hex()) == MASK
