"""A session device's state machine: every step in every state, and the record of a send."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pi_orchestrator.core.errors import ConflictError
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.devices.fingerprint import FingerprintChange
from pi_orchestrator.features.provisioning.session_device import Sent, SessionDevice, SessionDeviceState, Step

AT = datetime(2026, 1, 11, 22, 33, 20, tzinfo=UTC)
DISCOVERED, PROVISIONING, PROVISIONED, VERIFYING, VERIFIED, FAILED = SessionDeviceState
SENT = Sent("192.168.10.21", "boot-1", 1000.0)
EVERY = list(SessionDeviceState)


def camera(state=DISCOVERED, **fields):
    fields = {"sent": SENT if state in (PROVISIONED, VERIFYING, VERIFIED) else None} | fields
    return SessionDevice("session", Mac("24:6F:28:00:00:10"), "192.168.10.21", AT, state=state, **fields)


# Step: (function that takes it, {state in which it is allowed: next state}).
STEPS = {
    "queue": (lambda device: device.queue(7), {DISCOVERED: PROVISIONING}),
    "retry": (lambda device: device.retry(7, max_retries=3), {FAILED: PROVISIONING}),
    "confirm": (
        lambda device: replace(device, error_code="DEVICE_CHANGED").confirm(7),
        {state: state for state in EVERY} | {DISCOVERED: PROVISIONING, FAILED: PROVISIONING},
    ),
    "skip": (SessionDevice.skip, {state: FAILED for state in EVERY if state is not VERIFIED}),
    "identifying": (SessionDevice.identifying, {PROVISIONING: PROVISIONING}),
    "sending": (lambda device: device.sending(SENT), {PROVISIONING: PROVISIONING}),
    "not_accepted": (lambda device: device.not_accepted("no"), {PROVISIONING: PROVISIONING}),
    "accepted": (lambda device: replace(device, sent=SENT).accepted(AT), {PROVISIONING: PROVISIONED}),
    "returning": (SessionDevice.returning, {PROVISIONED: VERIFYING, VERIFYING: VERIFYING}),
    "reading_back": (lambda device: device.reading_back("10.0.0.9"), {VERIFYING: VERIFYING}),
    "verified": (lambda device: device.verified(AT), {VERIFYING: VERIFIED}),
    "failed": (
        lambda device: device.failed("X", "y"),
        {state: FAILED for state in EVERY if state not in (VERIFIED, FAILED)},
    ),
}


@pytest.mark.parametrize("step", STEPS)
def test_step_follows_diagram(step):
    take, becomes = STEPS[step]
    for state in EVERY:
        if state in becomes:
            assert take(camera(state)).state is becomes[state], state
            continue
        with pytest.raises(ConflictError) as refused:
            take(camera(state))
        expected = "DEVICE_INVALID_STATE"
        if step == "retry" and state in (PROVISIONING, PROVISIONED, VERIFYING):
            expected = "DEVICE_ALREADY_PROVISIONING"
        assert refused.value.code == expected, state
        assert "24:6F:28:00:00:10" in refused.value.message


def test_confirmation_of_waiting_device_is_no_retry():
    change = FingerprintChange("server", "esp-idf", "nginx")
    waiting = camera(FAILED, error_code="DEVICE_CHANGED", error_message="changed", retry_count=2, changed=(change,))
    confirmed = waiting.confirm(9)
    assert (confirmed.queued, confirmed.retry_count, confirmed.error_code, confirmed.changed) == (9, 2, None, ())
    assert camera(FAILED, error_code="DEVICE_TIMEOUT", changed=(change,)).confirm(9).state is FAILED


def test_progress_follows_steps_to_100():
    device, seen = camera(), []
    for step in ("queue", "identifying", "sending", "accepted", "returning", "reading_back", "verified"):
        device = STEPS[step][0](device)
        seen.append(int(device.progress))
    assert seen == [0, 10, 30, 50, 60, 85, 100]
    assert (device.ip, device.provisioned_at, device.verified_at, device.queued) == ("10.0.0.9", AT, AT, 7)


def test_accept_without_send_is_refused():
    with pytest.raises(ConflictError, match="no credentials were sent"):
        camera(PROVISIONING).accepted(AT)


def test_record_of_send_is_kept_unless_not_delivered():
    sending = camera(PROVISIONING).sending(SENT)
    assert sending.sent == SENT
    assert sending.failed("X", "y").sent == SENT
    assert sending.skip().sent == SENT
    assert sending.skip().retry(2, max_retries=3).sent == SENT
    assert sending.failed("X", "y", not_delivered=True).sent is None
    refused = sending.not_accepted("it said no")
    assert (refused.sent, refused.progress, refused.error_message) == (None, Step.IDENTIFYING, "it said no")


def test_retry_resets_and_is_limited():
    device = camera(FAILED, error_code="X", error_message="y", progress=30)
    for count in (1, 2, 3):
        device = device.retry(count, max_retries=3)
        assert (device.retry_count, device.error_code, device.error_message, device.progress) == (count, None, None, 0)
        device = device.failed("DEVICE_TIMEOUT", "no answer")
    with pytest.raises(ConflictError) as refused:
        device.retry(4, max_retries=3)
    assert refused.value.code == "MAX_RETRIES_EXCEEDED"
    assert refused.value.details == "last failure: DEVICE_TIMEOUT: no answer"
    with pytest.raises(ConflictError):
        camera(FAILED).retry(1, max_retries=0)


def test_repeated_skips_cost_one_retry():
    device = camera()
    for _ in range(10):
        device = device.skip()
        assert (device.state, device.error_code, device.error_message) == (FAILED, "SKIPPED", "skipped by the operator")
        assert device.skip() == device
        device = device.retry(1, max_retries=3)
        assert device.retry_count == 1, "a count above 0 marks the same request as a repeat"


def test_failure_is_not_a_skip():
    assert not camera(FAILED, error_code="X").skipped
    assert camera().skip().skipped
    assert camera(FAILED, error_code="X").skip().skipped


def test_under_way_by_state():
    assert [state for state in EVERY if camera(state).under_way] == [PROVISIONING, PROVISIONED, VERIFYING]
