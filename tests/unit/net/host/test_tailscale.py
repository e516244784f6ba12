"""Parsing of `tailscale status --json`."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.net.host.tailscale import MAX_PEERS, Peer, parse_status
from tests.support.programs import TAILSCALE_STATUS


def parsed(**more):
    return parse_status(json.dumps(TAILSCALE_STATUS | more).encode())


def test_status_is_parsed():
    status = parsed()
    assert (status.backend_state, status.address, status.hostname) == ("Running", "100.101.102.103", "pi-kitchen")
    assert status.peers == (Peer("nOffice", "office", "100.101.102.104", True), Peer("nPhone", "phone", "", False))


def test_stopped_status_is_parsed():
    status = parsed(BackendState="Stopped", TailscaleIPs=None, Self=None, Peer=None)
    assert (status.backend_state, status.address, status.hostname, status.peers) == ("Stopped", "", "", ())


def test_address_falls_back_to_own_node():
    assert parsed(TailscaleIPs=[]).address == "100.101.102.103"


def test_peers_are_limited():
    assert len(parsed(Peer={str(n): {"HostName": f"h{n}"} for n in range(3000)}).peers) == MAX_PEERS


@pytest.mark.parametrize("addresses", [["evil"], [7, None], "100.1.1.1", {"a": 1}, ["100.64.0.1\n"]])
def test_invalid_address_is_empty(addresses):
    assert parsed(TailscaleIPs=addresses, Self={}).address == ""


@pytest.mark.parametrize("invalid", [7, None, "evil"])
def test_invalid_address_is_skipped(invalid):
    assert parsed(TailscaleIPs=[invalid, "100.64.0.1"], Self={}).address == "100.64.0.1"


@pytest.mark.parametrize("state", [None, "", 7, [], "\x1b"])
def test_missing_state_is_rejected(state):
    with pytest.raises(FieldError, match="no BackendState"):
        parsed(BackendState=state)


def test_text_is_clean_and_bounded():
    status = parsed(Self={"HostName": "pi\x1b[2J" + "x" * 500}, BackendState="Run\nning")
    assert status.hostname.isprintable()
    assert len(status.hostname) <= 128
    assert status.backend_state == "Running"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("TailscaleIPs", "Self", "Peer", "BackendState"), JSON)))
def test_any_object_is_parsed_or_rejected(document):
    try:
        parse_status(json.dumps(document).encode())
    except FieldError:
        state = document.get("BackendState")
        assert not (isinstance(state, str) and state.isprintable() and state.strip()), "a valid state is not rejected"


@given(st.binary(max_size=200))
def test_any_bytes_are_rejected(raw):
    with pytest.raises(FieldError):
        parse_status(raw)
