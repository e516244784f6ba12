"""The allowlist: parsing of rows, the plan of changes, and the rows in the database."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.core.errors import FieldError
from pi_orchestrator.core.events import StoredEvent
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.allowlist import store as allowlist
from pi_orchestrator.features.allowlist.model import (
    FULL,
    MAX_ENTRIES,
    Details,
    Effect,
    Entry,
    Row,
    parse_container,
    parse_description,
    parse_row,
    plan,
)

MAC, OTHER, THIRD = Mac("24:6F:28:B0:F7:F0"), Mac("24:6F:28:B0:F7:F4"), Mac("24:6F:28:B0:F7:F8")


def mac(number):
    return f"24:6F:{number >> 24 & 255:02X}:{number >> 16 & 255:02X}:{number >> 8 & 255:02X}:{number & 255:02X}"


def effects(steps):
    return [(step.effect.value, step.reason) for step in steps]


def parsed_rows(*entries):
    return [parse_row(entry, number=number) for number, entry in enumerate(entries)]


# Fields.


@pytest.mark.parametrize(
    "text, cleaned",
    [
        (None, None),
        ("", None),
        (" \t\r\n ", None),
        ("\x00\x1b\x7f\u202e\ud800", None),
        ("Camera 1", "Camera 1"),
        ("  Camera 1\n", "Camera 1"),
        ("two\nlines\tand a tab", "two lines and a tab"),
        ("red \x1b[31mletters\x1b[0m", "red [31mletters[0m"),
        ("Küche – 📷", "Küche – 📷"),
        ("=1+1", "=1+1"),
        ("x" * 200, "x" * 200),
        ("📷" * 200, "📷" * 200),
    ],
)
def test_description_is_cleaned(text, cleaned):
    assert parse_description(text) == cleaned


@pytest.mark.parametrize("value", ["x" * 201, "x" + " " * 200, "\x00" * 201, "📷" * 201, 7, 0, True, [], {}, b"x"])
def test_description_invalid_is_refused(value):
    with pytest.raises(FieldError, match="over the limit of 200|must be text"):
        parse_description(value)


@given(st.text(max_size=200))
def test_description_parsed_twice_is_unchanged(text):
    parsed = parse_description(text)
    assert parsed is None or (parsed.isprintable() and parsed == parsed.strip() and len(parsed) <= 200)
    assert parse_description(parsed) == parsed


def test_container_is_an_id_or_none():
    assert [parse_container(value) for value in (None, "", "box-1", "a" * 64)] == [None, None, "box-1", "a" * 64]
    for invalid in (" ", "a" * 65, "-box", "=1", "a b", "bö", 7, ["box"], "box\n"):
        with pytest.raises(FieldError, match="a container id (is|must be)"):
            parse_container(invalid)


# Rows.


def test_row_has_only_given_fields():
    assert parse_row({"mac": "24-6f-28-b0-f7-f0"}, number=3) == Row(3, MAC, {})
    full_row = {"mac": MAC, "description": " x ", "container_id": None}
    assert parse_row(full_row, number=0, line=7) == Row(0, MAC, {"description": "x", "container_id": None}, line=7)


@pytest.mark.parametrize(
    "values, shown_mac, fragments",
    [
        ({}, "", ["mac: missing"]),
        ({"mac": None}, "", ["mac: "]),
        ({"mac": 246}, "", ["mac: '246' is not"]),
        ({"mac": "zz"}, "zz", ["mac: 'zz' is not a MAC address such as"]),
        ({"mac": "z\x1b[2J\ud800"}, "z[2J", ["mac: "]),
        ({"mac": "y" * 1000}, "y" * 40, ["mac: "]),
        ({"mac": "FF:FF:FF:FF:FF:FF"}, "FF:FF:FF:FF:FF:FF", ["mac: ", "broadcast"]),
        ({"mac": "00:00:00:00:00:00"}, "00:00:00:00:00:00", ["mac: ", "all-zero"]),
        ({"mac": "01:00:5E:00:00:01"}, "01:00:5E:00:00:01", ["mac: ", "multicast"]),
        ({"mac": MAC, "description": "x" * 201}, MAC, ["description: 201 characters, over the limit of 200"]),
        ({"mac": MAC, "container_id": "a b"}, MAC, ["container_id: a container id is"]),
        ({"mac": MAC, "used": True}, MAC, ["unknown field 'used'"]),
        ({"mac": "zz", "description": 1, "container_id": 2, "x": 3}, "zz", ["'x'", "mac: ", "description", "contain"]),
        (None, "", ["an entry must be an object with a mac"]),
        ("24:6F:28:B0:F7:F0", "", ["an entry must be an object with a mac"]),
        ([MAC], "", ["an entry must be an object with a mac"]),
    ],
)
def test_invalid_row_error_names_every_invalid_field(values, shown_mac, fragments):
    row = parse_row(values, number=5)
    assert (row.number, row.mac, row.fields) == (5, shown_mac, {})
    assert all(fragment in row.error for fragment in fragments), row.error
    assert row.error.isprintable()
    assert len(row.error) < 400


def test_many_unknown_fields_give_a_short_error():
    error = parse_row({"mac": MAC} | {f"{'field' * 20}{n}": n for n in range(1000)}, number=0).error
    assert len(error) < 200


# Plan of changes.


def test_plan_adds_updates_skips_or_refuses_rows():
    listed = {OTHER: Details("Camera 2", "box"), THIRD: Details("Camera 3", None)}
    steps = plan(
        parsed_rows(
            {"mac": MAC, "description": "Camera 1"},
            {"mac": OTHER, "container_id": None},
            {"mac": THIRD, "description": "Camera 3"},
            {"mac": "zz"},
        ),
        listed,
        capacity=10,
    )
    assert [step.effect for step in steps] == [Effect.ADD, Effect.UPDATE, Effect.SKIP, Effect.ERROR]
    assert [step.details for step in steps[:3]] == [("Camera 1", None), ("Camera 2", None), ("Camera 3", None)]
    assert [step.reason for step in steps[:3]] == [None, None, "already listed with these values"]
    assert listed == {OTHER: ("Camera 2", "box"), THIRD: ("Camera 3", None)}, "a plan changes nothing"


def test_plan_of_duplicate_mac_uses_the_first_row():
    steps = plan(
        parsed_rows(
            {"mac": MAC, "description": "Camera 1"},
            {"mac": MAC.lower(), "description": "Camera 1"},
            {"mac": MAC},
            {"mac": MAC, "description": "Camera 2"},
            {"mac": MAC, "container_id": "box"},
        ),
        {},
        capacity=10,
    )
    contradiction = ("error", "conflicts with index 0, which has the same MAC and takes precedence")
    assert effects(steps) == [("add", None), *[("skip", "same as index 0")] * 2, contradiction, contradiction]


def test_plan_adds_valid_row_after_invalid_row_of_same_mac():
    steps = plan(parsed_rows({"mac": MAC, "description": 1}, {"mac": MAC}), {}, capacity=10)
    assert [step.effect for step in steps] == [Effect.ERROR, Effect.ADD]


@pytest.mark.parametrize("capacity", [0, 1, 2])
def test_plan_for_a_full_list_only_updates(capacity):
    listed = {OTHER: Details("Camera 2", None)}
    steps = plan(
        parsed_rows({"mac": MAC}, {"mac": OTHER, "description": "x"}, {"mac": THIRD}, {"mac": THIRD}),
        listed,
        capacity=capacity,
    )
    full = ("error", FULL)
    assert effects(steps) == [
        ("add", None) if capacity > 0 else full,
        ("update", None),
        ("add", None) if capacity > 1 else full,
        ("skip", "same as index 2") if capacity > 1 else full,
    ]


some_macs = st.sampled_from([MAC, MAC.lower(), OTHER, THIRD, "zz"])
some_rows = st.lists(
    st.builds(
        lambda mac, details: {"mac": mac} | details,
        some_macs,
        st.dictionaries(st.sampled_from(["description", "container_id"]), st.sampled_from([None, "", "a", "b", 7])),
    ),
    max_size=12,
)
some_list = st.dictionaries(
    st.sampled_from([MAC, OTHER, THIRD]),
    st.builds(Details, st.sampled_from([None, "a", "b"]), st.sampled_from([None, "a"])),
)


@given(some_rows, some_list, st.integers(0, 3))
def test_plan_repeated_changes_nothing(entries, listed, capacity):
    rows = parsed_rows(*entries)
    first = plan(rows, listed, capacity=capacity)
    after = dict(listed)
    for step in first:
        if step.effect in (Effect.ADD, Effect.UPDATE):
            after[step.row.mac] = step.details
    added = len(after) - len(listed)
    assert added == sum(step.effect is Effect.ADD for step in first)
    assert added <= capacity
    second = plan(rows, after, capacity=capacity - added)
    assert {step.effect for step in second} <= {Effect.SKIP, Effect.ERROR}
    assert [step.effect is Effect.ERROR for step in second] == [step.effect is Effect.ERROR for step in first]
    assert len(first) == len(rows), "one step per row"


# Database.


@pytest.fixture
def write(database):
    return database.write


async def change(write, *entries):
    return await write(lambda tx: allowlist.apply_rows(tx, parsed_rows(*entries)))


async def events(database):
    rows = await database.read("SELECT mac, payload FROM events WHERE type = 'allowlist.changed' ORDER BY id")
    return [(row["mac"], row["payload"]) for row in rows]


async def test_entry_is_stored_and_marked_used_once(database, write, clock):
    assert await write(lambda tx: allowlist.find(tx, MAC)) is None
    assert await write(lambda tx: allowlist.is_listed(tx, MAC)) is False
    assert await allowlist.listed(database) == {}
    added_at = clock.wall()
    await change(write, {"mac": MAC, "description": "Camera 1", "container_id": "nowhere-yet"})
    entry = Entry(MAC, added_at, "Camera 1", "nowhere-yet")
    assert entry.used is False
    assert await write(lambda tx: allowlist.find(tx, MAC)) == await allowlist.load(database, MAC) == entry
    assert await write(lambda tx: allowlist.is_listed(tx, MAC)) is True
    assert await write(lambda tx: allowlist.is_listed(tx, OTHER)) is False
    assert await allowlist.listed(database) == {MAC: entry}

    clock.jump_wall(timedelta(minutes=1))
    first = clock.wall()
    await write(lambda tx: allowlist.mark_used(tx, MAC))
    clock.jump_wall(timedelta(minutes=1))
    await write(lambda tx: allowlist.mark_used(tx, MAC))
    await write(lambda tx: allowlist.mark_used(tx, OTHER))
    found = await allowlist.listed(database)
    assert found.keys() == {MAC}
    assert (found[MAC].used, found[MAC].used_at, found[MAC].added_at) == (True, first, added_at)
    assert await allowlist.stats(database) == allowlist.Stats(total=1, used=1)

    await change(write, {"mac": MAC, "description": None})
    entry = await allowlist.load(database, MAC)
    assert (entry.description, entry.container_id, entry.used_at) == (None, "nowhere-yet", first)


async def test_entries_are_in_mac_order(database, write):
    await change(write, {"mac": THIRD}, {"mac": MAC}, {"mac": OTHER})
    assert list(await allowlist.listed(database)) == [MAC, OTHER, THIRD]


async def test_change_appends_one_event_with_counts(database, write, bus):
    with bus.subscribe(StoredEvent) as subscription:
        await change(write, {"mac": MAC}, {"mac": OTHER}, {"mac": "zz"})
        await change(write, {"mac": MAC}, {"mac": OTHER})
        await change(write, {"mac": MAC, "description": "x"}, {"mac": THIRD})
        await change(write, {"mac": MAC, "description": "y"})
        assert await write(lambda tx: allowlist.remove(tx, [MAC, "24:6F:28:00:00:00"])) == {MAC}
        assert await write(lambda tx: allowlist.remove(tx, [MAC])) == set()
        assert [await write(allowlist.clear), await write(allowlist.clear)] == [2, 0]
        bus.close()
        published = [(event.mac, event.payload) async for event in subscription]
    assert published == [
        (None, {"added": 2, "removed": 0, "updated": 0}),
        (None, {"added": 1, "removed": 0, "updated": 1}),
        (MAC, {"added": 0, "removed": 0, "updated": 1}),
        (MAC, {"added": 0, "removed": 1, "updated": 0}),
        (None, {"added": 0, "removed": 2, "updated": 0}),
    ]
    assert len(await events(database)) == len(published)


async def test_planned_changes_are_not_applied(database, write):
    await change(write, {"mac": MAC, "description": "Camera 1"})
    rows = parsed_rows({"mac": MAC, "description": "Camera 2"}, {"mac": OTHER}, {"mac": "zz"})
    before = (await allowlist.listed(database), await events(database))
    planned = await write(lambda tx: allowlist.plan_changes(tx, rows))
    assert [step.effect for step in planned] == [Effect.UPDATE, Effect.ADD, Effect.ERROR]
    assert (await allowlist.listed(database), await events(database)) == before
    assert await write(lambda tx: allowlist.apply_rows(tx, rows)) == planned


async def test_list_limit_is_ten_thousand_entries(database, write):
    rows = parsed_rows(*({"mac": mac(number)} for number in range(MAX_ENTRIES + 1)))
    steps = await write(lambda tx: allowlist.apply_rows(tx, rows))
    assert [(step.row.number, step.reason) for step in steps if step.effect is not Effect.ADD] == [(MAX_ENTRIES, FULL)]
    assert (await allowlist.stats(database)).total == MAX_ENTRIES
    (step,) = await change(write, {"mac": mac(MAX_ENTRIES), "description": "one too many"})
    assert (step.effect, step.reason) == (Effect.ERROR, FULL)
    (step,) = await change(write, {"mac": mac(0), "description": "there already"})
    assert step.effect is Effect.UPDATE
    await write(lambda tx: allowlist.remove(tx, [Mac(mac(7))]))
    (step,) = await change(write, {"mac": mac(MAX_ENTRIES)})
    assert step.effect is Effect.ADD


async def test_list_with_damaged_times_is_readable(database, write):
    await change(write, {"mac": MAC}, {"mac": OTHER})
    await write(lambda tx: tx.run("UPDATE allowlist SET added_at = 'x', used_at = 'y' WHERE mac = ?", (MAC,)))
    found = await allowlist.listed(database)
    assert found.keys() == {MAC, OTHER}
    assert found[MAC].used
