"""A session's state machine: every word in every state."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pi_orchestrator.domain.session import PAUSED_S, Ending, Session, SessionConfig, SessionState
from pi_orchestrator.errors import ConflictError

AT = datetime(2026, 1, 11, 22, 33, 20, tzinfo=UTC)
DISCOVERING, ACTIVE, PAUSED, CLOSING, CLOSED = SessionState


def session(state, **fields):
    ending = Ending.CLOSED if state in (CLOSING, CLOSED) else None
    made = Session(
        "7f9c24e5-1c1b-4a57-9c0e-3b7a0d7b5f10", state, "wlan0", "Net", SessionConfig(), AT, AT, ending=ending
    )
    return replace(made, **fields)


@pytest.mark.parametrize(
    "word, becomes",
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
def test_each_word_in_each_state(word, becomes):
    for state in SessionState:
        expected = becomes.get(state, "SESSION_ALREADY_CLOSED")
        if expected in list(SessionState):
            assert getattr(session(state), word)().state is expected, state
            continue
        with pytest.raises(ConflictError) as refused:
            getattr(session(state), word)()
        assert refused.value.code == expected, state


def test_a_close_is_an_end_whose_first_reason_stays():
    for state in (DISCOVERING, ACTIVE, PAUSED):
        for ending in Ending:
            closing = session(state, interrupted=True).close(ending)
            assert (closing.state, closing.ending, closing.interrupted) == (CLOSING, ending, False)
    for ending in Ending:
        assert session(CLOSED, ending=Ending.CLOSED).close(ending).ending is Ending.CLOSED
    assert session(CLOSING, ending=Ending.CLOSED).close(Ending.EXPIRED).ending is Ending.CLOSED


def test_a_discard_hastens_a_close():
    assert session(CLOSING, ending=Ending.CLOSED).close(Ending.DISCARDED).ending is Ending.DISCARDED


def test_only_what_closes_can_be_closed():
    assert session(CLOSING).ended(AT).state is CLOSED
    assert session(CLOSING).ended(AT).closed_at == AT
    for state in (DISCOVERING, ACTIVE, PAUSED, CLOSED):
        assert session(state).ended(AT) == session(state)


@pytest.mark.parametrize("word", ["provision", "pause", "resume", "recover", "check_open"])
@pytest.mark.parametrize("state", [CLOSING, CLOSED])
def test_an_expired_one_says_so_whatever_is_asked(word, state):
    with pytest.raises(ConflictError) as refused:
        getattr(session(state, ending=Ending.EXPIRED), word)()
    assert refused.value.code == "SESSION_EXPIRED"


def test_an_interruption_is_known_until_it_is_resumed_or_recovered():
    cut = session(ACTIVE).interrupt()
    assert cut.interrupted
    assert cut.pause().interrupted, "pausing it again is no resumption"
    assert not cut.resume().interrupted
    assert not cut.recover().interrupted
    assert not session(PAUSED).interrupted


def test_how_long_it_lives_and_when_it_warns():
    assert session(ACTIVE).lifetime_s == 60 + 120 + 90
    assert session(ACTIVE).warning_s == 60
    assert session(PAUSED).lifetime_s == PAUSED_S == 24 * 3600
    assert session(ACTIVE).expires_at == AT + timedelta(seconds=270)
    assert session(PAUSED).expires_at == AT + timedelta(days=1)
    short = session(DISCOVERING, config=SessionConfig(1, 2, 1))
    assert (short.lifetime_s, short.warning_s) == (4, 1)
    for state in (CLOSING, CLOSED):
        assert session(state).expires_at is None


def test_when_cameras_may_be_started_on():
    assert [state for state in SessionState if session(state).runs] == [DISCOVERING, ACTIVE]
    assert [state for state in SessionState if session(state).is_open] == [DISCOVERING, ACTIVE, PAUSED, CLOSING]
