"""The event log as streams read it: which events, which ids, and what damage does."""

import itertools
from dataclasses import replace

import pytest

from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.events import Logged
from pi_orchestrator.storage import event_log
from pi_orchestrator.storage.event_log import Bounds, Wanted

MAC = Mac("24:6F:28:B0:F7:F1")
TYPES = ("camera.onboarded", "camera.status_changed", "cameras", "camera", "session.status", "error", "x.camera.")
SESSIONS = (None, "one", "two")
FILTERS = [
    Wanted(types=frozenset(types), families=families, session_id=session_id, sessions=sessions)
    for types, families, session_id, sessions in itertools.product(
        ((), ("error",), ("error", "session.status", "camera")),
        ((), ("camera.",), ("camera.", "session.")),
        (None, "one", "nobody"),
        (True, False),
    )
]


@pytest.fixture
def append(database):
    async def append(*events):
        async def job(tx):
            for event in events:
                await event_log.append(tx, event)

        await database.write(job)

    return append


@pytest.fixture
async def filled(append):
    events = [Logged(type_, {"n": 1}, session_id=session) for type_ in TYPES for session in SESSIONS]
    await append(*events)
    return events


@pytest.mark.parametrize("wanted", FILTERS)
async def test_the_rule_and_its_sql_agree(database, filled, wanted):
    stored = await event_log.between(database, 0, len(filled), wanted=wanted)
    told = [(number, event) for number, event in enumerate(filled, 1) if wanted.takes(event)]
    assert [(event.id, event.type, event.session_id) for event in stored] == [
        (number, event.type, event.session_id) for number, event in told
    ]


def test_the_rule_says_what_it_means():
    def takes(wanted, type_, session_id=None):
        return wanted.takes(Logged(type_, {}, session_id=session_id))

    assert takes(Wanted(), "anything", "one")
    assert not takes(Wanted(sessions=False), "session.status", "one")
    assert takes(Wanted(sessions=False), "network.status_changed")
    assert takes(Wanted(session_id="one"), "session.status", "one")
    assert not takes(Wanted(session_id="one"), "session.status", "two")
    assert takes(Wanted(session_id="one"), "network.status_changed")
    assert takes(Wanted(families=("camera.",)), "camera.onboarded")
    assert not takes(Wanted(families=("camera.",)), "cameras.onboarded")
    assert not takes(Wanted(types=frozenset({"camera"})), "camera.onboarded")


async def test_what_is_read_is_what_was_told(database, append, hub):
    with hub.subscribe(lambda event: True) as heard:
        await append(Logged("camera.onboarded", {"a": ["é", None]}, mac=MAC), Logged("error", {}, session_id="one"))
        hub.close()
        told = [event async for event in heard]
    assert await event_log.between(database, 0, 2, wanted=Wanted()) == told


async def test_a_page_begins_after_its_first_id_and_ends_with_its_last(database, append):
    await append(*[Logged("error", {})] * 10)
    page = await event_log.between(database, 3, 7, wanted=Wanted())
    assert [event.id for event in page] == [4, 5, 6, 7]


async def test_the_bounds_remember_the_newest_id_when_every_row_is_gone(database, append):
    assert await event_log.bounds(database) == Bounds(oldest=1, newest=0)
    await append(*[Logged("error", {})] * 10)
    assert await event_log.bounds(database) == Bounds(oldest=1, newest=10)
    await database.write(lambda tx: event_log.trim(tx, keep=4))
    assert await event_log.bounds(database) == Bounds(oldest=7, newest=10)
    await database.write(lambda tx: event_log.trim(tx, keep=0))
    assert await event_log.bounds(database) == Bounds(oldest=11, newest=10)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"text"', "\x00", "nonsense\n\ndata: x"])
async def test_a_damaged_payload_is_an_empty_one(database, append, text):
    await append(Logged("error", {"code": "X"}), Logged("error", {"code": "Y"}))
    await database.write(lambda tx: tx.run("UPDATE events SET payload = ? WHERE id = 1", (text,)))
    first, second = await event_log.between(database, 0, 2, wanted=Wanted())
    assert replace(first, payload={"code": "X"}, id=2) == replace(second, payload={"code": "X"}, at=first.at)
    assert first.payload == {}
