"""A session's state machine: every transition in every state."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pi_orchestrator.core.errors import ConflictError
from pi_orchestrator.features.provisioning.session import PAUSED_S, Ending, Session, SessionConfig, SessionState

AT = datetime(2026, 1, 11, 22, 33, 20, tzinfo=UTC)
DISCOVERING, ACTIVE, PAUSED, CLOSING, CLOSED = SessionState


def session(state, **fields):
    ending = Ending.CLOSED if state in (CLOSING, CLOSED) else None
    result = Session(
        "7f9c24e5-1c1b-4a57-9c0e-3b7a0d7b5f10", state, "wlan0", "Net", SessionConfig(), AT, AT, ending=ending
    )
    return replace(result, **fields)


# In a state that `becomes` does not contain, the transition is refused with SESSION_ALREADY_CLOSED.
@pytest.mark.parametrize(
    "transition, becomes",
    [
        ("activate", {DISCOVERING: ACTIVE, ACTIVE: ACTIVE, PAUSED: PAUSED, CLOSING: CLOSING, CLOSED: CLOSED}),
        ("provision", {DISCOVERING: ACTIVE, ACTIVE: ACTIVE, PAUSED: "CONFLICT"}),
        ("pause", {DISCOVERING: PAUSED, ACTIVE: PAUSED, PAUSED: PAUSED}),
        ("resume", {DISCOVERING: DISCOVERING, ACTIVE: ACTIVE, PAUSED: ACTIVE}),
        ("interrupt", {DISCOVERING: PAUSED, ACTIVE: PAUSED, PAUSED: PAUSED, CLOSING: CLOSING, CLOSED: CLOSED}),
        (
            "recover",
            {
                DISCOVERING: DISCOVERING,
                ACTIVE: ACTIVE,
                PAUSED: ACTIVE,
                CLOSING: "SESSION_NOT_RECOVERABLE",
                CLOSED: "SESSION_NOT_RECOVERABLE",
            },
        ),
    ],
)
def test_transition_in_each_state(transition, becomes):
    for state in SessionState:
        expected = becomes.get(state, "SESSION_ALREADY_CLOSED")
        if expected in list(SessionState):
            assert getattr(session(state), transition)().state is expected, state
            continue
        with pytest.raises(ConflictError) as refused:
            getattr(session(state), transition)()
        assert refused.value.code == expected, state


def test_close_keeps_the_first_ending():
    for state in (DISCOVERING, ACTIVE, PAUSED):
        for ending in Ending:
            closing = session(state, interrupted=True).close(ending)
            assert (closing.state, closing.ending, closing.interrupted) == (CLOSING, ending, False)
    for ending in Ending:
        assert session(CLOSED, ending=Ending.CLOSED).close(ending).ending is Ending.CLOSED
    assert session(CLOSING, ending=Ending.CLOSED).close(Ending.EXPIRED).ending is Ending.CLOSED


def test_discard_replaces_a_close():
    assert session(CLOSING, ending=Ending.CLOSED).close(Ending.DISCARDED).ending is Ending.DISCARDED


def test_only_a_closing_session_becomes_closed():
    assert session(CLOSING).closed(AT).state is CLOSED
    assert session(CLOSING).closed(AT).closed_at == AT
    for state in (DISCOVERING, ACTIVE, PAUSED, CLOSED):
        assert session(state).closed(AT) == session(state)


@pytest.mark.parametrize("transition", ["provision", "pause", "resume", "recover", "check_not_closing"])
@pytest.mark.parametrize("state", [CLOSING, CLOSED])
def test_expired_session_refuses_with_its_code(transition, state):
    with pytest.raises(ConflictError) as refused:
        getattr(session(state, ending=Ending.EXPIRED), transition)()
    assert refused.value.code == "SESSION_EXPIRED"


def test_interruption_lasts_until_resume():
    interrupted = session(ACTIVE).interrupt()
    assert interrupted.interrupted
    assert interrupted.pause().interrupted, "a pause is no resumption"
    assert not interrupted.resume().interrupted
    assert not interrupted.recover().interrupted
    assert not session(PAUSED).interrupted


def test_lifetime_and_warning_depend_on_state():
    assert session(ACTIVE).lifetime_s == 60 + 120 + 90
    assert session(ACTIVE).warning_s == 60
    assert session(PAUSED).lifetime_s == PAUSED_S == 24 * 3600
    assert session(ACTIVE).expires_at == AT + timedelta(seconds=270)
    assert session(PAUSED).expires_at == AT + timedelta(days=1)
    short = session(DISCOVERING, config=SessionConfig(1, 2, 1))
    assert (short.lifetime_s, short.warning_s) == (4, 1)
    for state in (CLOSING, CLOSED):
        assert session(state).expires_at is None


def test_can_provision_and_is_open_by_state():
    assert [state for state in SessionState if session(state).can_provision] == [DISCOVERING, ACTIVE]
    assert [state for state in SessionState if session(state).is_open] == [DISCOVERING, ACTIVE, PAUSED, CLOSING]
