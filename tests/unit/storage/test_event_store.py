"""The event log as streams read it: filters, ids, and damaged payloads."""

import itertools
from dataclasses import replace

import pytest

from pi_orchestrator.core.errors import StorageError
from pi_orchestrator.core.events import ConfigChanged, StoredEvent
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.storage import event_store as event_log
from pi_orchestrator.storage.event_store import Bounds, EventFilter
from tests.support.events import RawEvent

MAC = Mac("24:6F:28:B0:F7:F1")
TYPES = ("camera.onboarded", "camera.status_changed", "cameras", "camera", "session.status", "error", "x.camera.")
SESSIONS = (None, "one", "two")
FILTERS = [
    EventFilter(types=frozenset(types), families=families, session_id=session_id, include_sessions=sessions)
    for types, families, session_id, sessions in itertools.product(
        ((), ("error",), ("error", "session.status", "camera")),
        ((), ("camera.",), ("camera.", "session.")),
        (None, "one", "unknown"),
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
    events = [RawEvent(type_, {"n": 1}, session_id=session) for type_ in TYPES for session in SESSIONS]
    await append(*events)
    return events


@pytest.mark.parametrize("event_filter", FILTERS)
async def test_filter_and_its_sql_agree(database, filled, event_filter):
    stored = await event_log.between(database, 0, len(filled), event_filter=event_filter)
    expected = [(number, event.row()) for number, event in enumerate(filled, 1) if event_filter.matches(event.row())]
    assert [(event.id, event.type, event.session_id) for event in stored] == [
        (number, event.type, event.session_id) for number, event in expected
    ]


def test_filter_matches_types_and_sessions():
    def matches(event_filter, type_, session_id=None):
        return event_filter.matches(StoredEvent(type_, {}, session_id=session_id))

    assert matches(EventFilter(), "anything", "one")
    assert not matches(EventFilter(include_sessions=False), "session.status", "one")
    assert matches(EventFilter(include_sessions=False), "network.status_changed")
    assert matches(EventFilter(session_id="one"), "session.status", "one")
    assert not matches(EventFilter(session_id="one"), "session.status", "two")
    assert matches(EventFilter(session_id="one"), "network.status_changed")
    assert matches(EventFilter(families=("camera.",)), "camera.onboarded")
    assert not matches(EventFilter(families=("camera.",)), "cameras.onboarded")
    assert not matches(EventFilter(types=frozenset({"camera"})), "camera.onboarded")


async def test_stored_event_is_read_unchanged(database, append, bus):
    with bus.subscribe(StoredEvent) as subscription:
        await append(RawEvent("camera.onboarded", {"a": ["é", None]}, mac=MAC), RawEvent("error", {}, session_id="one"))
        bus.close()
        published = [event async for event in subscription]
    assert await event_log.between(database, 0, 2, event_filter=EventFilter()) == published


async def test_between_excludes_first_and_includes_last(database, append):
    await append(*[RawEvent("error", {})] * 10)
    page = await event_log.between(database, 3, 7, event_filter=EventFilter())
    assert [event.id for event in page] == [4, 5, 6, 7]


async def test_bounds_keep_newest_id_without_rows(database, append):
    assert await event_log.bounds(database) == Bounds(oldest=1, newest=0)
    await append(*[RawEvent("error", {})] * 10)
    assert await event_log.bounds(database) == Bounds(oldest=1, newest=10)
    await database.write(lambda tx: event_log.keep_newest(tx, keep=4))
    assert await event_log.bounds(database) == Bounds(oldest=7, newest=10)
    await database.write(lambda tx: event_log.keep_newest(tx, keep=0))
    assert await event_log.bounds(database) == Bounds(oldest=11, newest=10)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"text"', "\x00", "nonsense\n\ndata: x"])
async def test_damaged_payload_is_empty(database, append, text):
    await append(RawEvent("error", {"code": "X"}), RawEvent("error", {"code": "Y"}))
    await database.write(lambda tx: tx.run("UPDATE events SET payload = ? WHERE id = 1", (text,)))
    first, second = await event_log.between(database, 0, 2, event_filter=EventFilter())
    assert second.payload == {"code": "Y"}
    assert first == replace(second, id=1, at=first.at, payload={})


# Listeners.


async def test_listener_writes_in_the_transaction_of_the_event(database):
    seen = []

    async def copy(tx, event, row):
        seen.append((event.type, row.id))
        await tx.run("INSERT INTO api_keys VALUES (?, ?, 'read', x'00', ?)", (f"k{row.id}", f"n{row.id}", row.at))

    database.listen(copy)
    await database.write(lambda tx: event_log.append(tx, ConfigChanged(key="a.b", by="me")))
    assert seen == [("config.changed", 1)]
    assert [row["id"] for row in await database.read("SELECT id FROM api_keys")] == ["k1"]


async def test_listener_that_raises_undoes_the_event_and_its_change(database, bus):
    async def refuse(tx, event, row):
        raise StorageError("outbox full")

    database.listen(refuse)

    async def job(tx):
        await tx.run("INSERT INTO api_keys VALUES ('k', 'n', 'read', x'00', '2026')")
        await event_log.append(tx, ConfigChanged(key="a.b", by="me"))

    with bus.subscribe(ConfigChanged, StoredEvent) as published:
        with pytest.raises(StorageError, match="outbox full"):
            await database.write(job)
        bus.close()
        assert [event async for event in published] == []
    assert await database.read("SELECT id FROM api_keys") == await database.read("SELECT id FROM events") == []


async def test_event_is_published_by_its_class_and_as_its_row(database, bus):
    with bus.subscribe(ConfigChanged) as typed, bus.subscribe(StoredEvent) as rows:
        await database.write(lambda tx: event_log.append(tx, ConfigChanged(key="a.b", by="me")))
        bus.close()
        assert [event async for event in typed] == [ConfigChanged(key="a.b", by="me")]
        assert [(row.id, row.payload) async for row in rows] == [(1, {"key": "a.b", "by": "me"})]
