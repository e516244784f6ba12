import pytest

from pi_orchestrator.net.wifi import radio
from tests.support.waiting import HANG_S


@pytest.fixture(autouse=True)
def patient_radio(monkeypatch):
    """A slow machine is not a kernel that does not answer."""
    monkeypatch.setattr(radio, "ANSWER_TIMEOUT_S", HANG_S)
