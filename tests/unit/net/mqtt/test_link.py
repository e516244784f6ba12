"""Delays of the broker connection; tests/faults/test_broker_outages.py tests its behaviour."""

from pi_orchestrator.net.mqtt import link, session


def test_longest_reconnect_is_five_seconds():
    assert session.CONNECT_TIMEOUT_S + link.MAX_RETRY_DELAY_S <= 5
