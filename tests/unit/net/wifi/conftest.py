"""A long timeout of nl80211 requests for all tests in this folder."""

import pytest

from pi_orchestrator.net.wifi import radio
from tests.support.waiting import HANG_S


@pytest.fixture(autouse=True)
def long_answer_timeout(monkeypatch):
    """On a slow machine, a late answer must not count as no answer."""
    monkeypatch.setattr(radio, "ANSWER_TIMEOUT_S", HANG_S)
