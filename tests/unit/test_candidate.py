"""A camera in a session: every step in every state, and what is known of a send."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pi_orchestrator.domain.candidate import SKIPPED, Candidate, CandidateState, Sent, Step
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.errors import ConflictError

AT = datetime(2026, 1, 11, 22, 33, 20, tzinfo=UTC)
DISCOVERED, PROVISIONING, PROVISIONED, VERIFYING, VERIFIED, FAILED = CandidateState
SENT = Sent("192.168.10.21", "boot-1", 1000.0)
EVERY = list(CandidateState)


def camera(state=DISCOVERED, **fields):
    fields = {"sent": SENT if state in (PROVISIONED, VERIFYING, VERIFIED) else None} | fields
    return Candidate("session", Mac("24:6F:28:00:00:10"), "192.168.10.21", AT, state=state, **fields)


STEPS = {
    "queue": (lambda one: one.queue(7), {DISCOVERED: PROVISIONING}),
    "retry": (lambda one: one.retry(7, max_retries=3), {FAILED: PROVISIONING}),
    "skip": (Candidate.skip, {state: FAILED for state in EVERY if state is not VERIFIED}),
    "identifying": (Candidate.identifying, {PROVISIONING: PROVISIONING}),
    "sending": (lambda one: one.sending(SENT), {PROVISIONING: PROVISIONING}),
    "not_taken": (lambda one: one.not_taken("no"), {PROVISIONING: PROVISIONING}),
    "accepted": (lambda one: replace(one, sent=SENT).accepted(AT), {PROVISIONING: PROVISIONED}),
    "returning": (Candidate.returning, {PROVISIONED: VERIFYING, VERIFYING: VERIFYING}),
    "reading_back": (lambda one: one.reading_back("10.0.0.9"), {VERIFYING: VERIFYING}),
    "verified": (lambda one: one.verified(AT), {VERIFYING: VERIFIED}),
    "failed": (lambda one: one.failed("X", "y"), {state: FAILED for state in EVERY if state not in (VERIFIED, FAILED)}),
}


@pytest.mark.parametrize("word", STEPS)
def test_each_step_is_taken_from_the_states_of_the_diagram_and_from_no_other(word):
    take, becomes = STEPS[word]
    for state in EVERY:
        if state in becomes:
            assert take(camera(state)).state is becomes[state], state
            continue
        with pytest.raises(ConflictError) as refused:
            take(camera(state))
        expected = "DEVICE_INVALID_STATE"
        if word == "retry" and state in (PROVISIONING, PROVISIONED, VERIFYING):
            expected = "DEVICE_ALREADY_PROVISIONING"
        assert refused.value.code == expected, state
        assert "24:6F:28:00:00:10" in refused.value.message


def test_progress_tells_the_steps_and_ends_at_100():
    one, seen = camera(), []
    for word in ("queue", "identifying", "sending", "accepted", "returning", "reading_back", "verified"):
        one = STEPS[word][0](one)
        seen.append(int(one.progress))
    assert seen == [0, 10, 30, 50, 60, 85, 100]
    assert (one.ip, one.provisioned_at, one.verified_at, one.queued) == ("10.0.0.9", AT, AT, 7)


def test_nothing_is_accepted_that_was_not_sent():
    with pytest.raises(ConflictError, match="nothing was sent"):
        camera(PROVISIONING).accepted(AT)


def test_what_was_sent_is_known_until_it_surely_was_not_taken():
    sending = camera(PROVISIONING).sending(SENT)
    assert sending.sent == SENT
    assert sending.failed("X", "y").sent == SENT
    assert sending.skip().sent == SENT
    assert sending.skip().retry(2, max_retries=3).sent == SENT
    assert sending.failed("X", "y", has_nothing=True).sent is None
    refused = sending.not_taken("it said no")
    assert (refused.sent, refused.progress, refused.error_message) == (None, Step.IDENTIFYING, "it said no")


def test_a_retry_begins_anew_and_has_an_end():
    one = camera(FAILED, error_code="X", error_message="y", progress=30)
    for count in (1, 2, 3):
        one = one.retry(count, max_retries=3)
        assert (one.retry_count, one.error_code, one.error_message, one.progress) == (count, None, None, 0)
        one = one.failed("DEVICE_TIMEOUT", "no answer")
    with pytest.raises(ConflictError) as refused:
        one.retry(4, max_retries=3)
    assert refused.value.code == "MAX_RETRIES_EXCEEDED"
    assert refused.value.details == "it failed last with DEVICE_TIMEOUT: no answer"
    with pytest.raises(ConflictError):
        camera(FAILED).retry(1, max_retries=0)


def test_a_skip_can_be_taken_back_again_and_again_and_costs_one_retry_at_most():
    one = camera()
    for _ in range(10):
        one = one.skip()
        assert (one.state, one.error_code, one.error_message) == (FAILED, SKIPPED, "skipped by the operator")
        assert one.skip() == one
        one = one.retry(1, max_retries=3)
        assert one.retry_count == 1, "known as retried, so that the same request is known as a repeat"


def test_a_failure_that_is_no_skip_is_none():
    assert not camera(FAILED, error_code="X").skipped
    assert camera().skip().skipped
    assert camera(FAILED, error_code="X").skip().skipped


def test_which_are_under_way():
    assert [state for state in EVERY if camera(state).under_way] == [PROVISIONING, PROVISIONED, VERIFYING]
