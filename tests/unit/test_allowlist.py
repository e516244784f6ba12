"""The allowlist: rows from strangers, what they do to the list, and the rows in the database."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.domain.allowlist import (
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
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.errors import FieldError
from pi_orchestrator.storage import allowlist

MAC, OTHER, THIRD = Mac("24:6F:28:B0:F7:F0"), Mac("24:6F:28:B0:F7:F4"), Mac("24:6F:28:B0:F7:F8")


def mac(number):
    return f"24:6F:{number >> 24 & 255:02X}:{number >> 16 & 255:02X}:{number >> 8 & 255:02X}:{number & 255:02X}"


def effects(steps):
    return [(step.effect.value, step.reason) for step in steps]


def asked(*entries):
    return [parse_row(entry, number=number) for number, entry in enumerate(entries)]


# Fields.


@pytest.mark.parametrize(
    "text, kept",
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
def test_a_description_is_kept_without_what_no_line_of_text_has(text, kept):
    assert parse_description(text) == kept


@pytest.mark.parametrize("value", ["x" * 201, "x" + " " * 200, "\x00" * 201, "📷" * 201, 7, 0, True, [], {}, b"x"])
def test_what_is_no_description_is_refused_and_not_cut(value):
    with pytest.raises(FieldError, match="over the limit of 200|is text"):
        parse_description(value)


@given(st.text(max_size=200))
def test_a_description_that_was_kept_is_kept_as_it_is(text):
    kept = parse_description(text)
    assert kept is None or (kept.isprintable() and kept == kept.strip() and len(kept) <= 200)
    assert parse_description(kept) == kept


def test_a_container_is_an_id_or_none():
    assert [parse_container(value) for value in (None, "", "box-1", "a" * 64)] == [None, None, "box-1", "a" * 64]
    for wrong in (" ", "a" * 65, "-box", "=1", "a b", "bö", 7, ["box"], "box\n"):
        with pytest.raises(FieldError, match="a container id is"):
            parse_container(wrong)


# Rows.


def test_a_row_holds_what_was_given_and_nothing_that_was_not():
    assert parse_row({"mac": "24-6f-28-b0-f7-f0"}, number=3) == Row(3, MAC, {})
    given_all = {"mac": MAC, "description": " x ", "container_id": None}
    assert parse_row(given_all, number=0, line=7) == Row(0, MAC, {"description": "x", "container_id": None}, line=7)


@pytest.mark.parametrize(
    "values, shown, named",
    [
        ({}, "", ["mac: it is missing"]),
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
        ({"mac": MAC, "used": True}, MAC, ["'used': there is no such field"]),
        ({"mac": "zz", "description": 1, "container_id": 2, "x": 3}, "zz", ["'x'", "mac: ", "description", "contain"]),
        (None, "", ["an entry is an object with a mac"]),
        ("24:6F:28:B0:F7:F0", "", ["an entry is an object with a mac"]),
        ([MAC], "", ["an entry is an object with a mac"]),
    ],
)
def test_a_bad_row_is_told_with_every_field_that_is_wrong(values, shown, named):
    row = parse_row(values, number=5)
    assert (row.number, row.mac, row.given) == (5, shown, {})
    assert all(words in row.fault for words in named), row.fault
    assert row.fault.isprintable()
    assert len(row.fault) < 400


def test_a_thousand_unknown_fields_do_not_make_a_long_answer():
    fault = parse_row({"mac": MAC} | {f"{'field' * 20}{n}": n for n in range(1000)}, number=0).fault
    assert len(fault) < 200


# What rows do to the list.


def test_each_row_is_added_updated_skipped_or_an_error():
    listed = {OTHER: Details("Camera 2", "box"), THIRD: Details("Camera 3", None)}
    steps = plan(
        asked(
            {"mac": MAC, "description": "Camera 1"},
            {"mac": OTHER, "container_id": None},
            {"mac": THIRD, "description": "Camera 3"},
            {"mac": "zz"},
        ),
        listed,
        room=10,
    )
    assert [step.effect for step in steps] == [Effect.ADD, Effect.UPDATE, Effect.SKIP, Effect.ERROR]
    assert [step.details for step in steps[:3]] == [("Camera 1", None), ("Camera 2", None), ("Camera 3", None)]
    assert [step.reason for step in steps[:3]] == [None, None, "it is listed like this already"]
    assert listed == {OTHER: ("Camera 2", "box"), THIRD: ("Camera 3", None)}, "a plan changes nothing"


def test_of_several_rows_of_a_mac_the_first_counts_and_what_contradicts_it_is_bad():
    steps = plan(
        asked(
            {"mac": MAC, "description": "Camera 1"},
            {"mac": MAC.lower(), "description": "Camera 1"},
            {"mac": MAC},
            {"mac": MAC, "description": "Camera 2"},
            {"mac": MAC, "container_id": "box"},
        ),
        {},
        room=10,
    )
    contradiction = ("error", "index 0 says something else of this MAC, and counts")
    assert effects(steps) == [("add", None), *[("skip", "the same as index 0")] * 2, contradiction, contradiction]


def test_a_bad_row_does_not_stand_in_the_way_of_a_good_one_of_the_same_mac():
    steps = plan(asked({"mac": MAC, "description": 1}, {"mac": MAC}), {}, room=10)
    assert [step.effect for step in steps] == [Effect.ERROR, Effect.ADD]


@pytest.mark.parametrize("room", [0, 1, 2])
def test_a_full_list_takes_no_more_but_can_be_changed(room):
    listed = {OTHER: Details("Camera 2", None)}
    steps = plan(
        asked({"mac": MAC}, {"mac": OTHER, "description": "x"}, {"mac": THIRD}, {"mac": THIRD}), listed, room=room
    )
    full = ("error", FULL)
    assert effects(steps) == [
        ("add", None) if room > 0 else full,
        ("update", None),
        ("add", None) if room > 1 else full,
        ("skip", "the same as index 2") if room > 1 else full,
    ]


some_macs = st.sampled_from([MAC, MAC.lower(), OTHER, THIRD, "zz"])
some_rows = st.lists(
    st.builds(
        lambda mac, more: {"mac": mac} | more,
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
def test_the_same_rows_a_second_time_change_nothing(entries, listed, room):
    wanted = asked(*entries)
    first = plan(wanted, listed, room=room)
    after = dict(listed)
    for step in first:
        if step.effect in (Effect.ADD, Effect.UPDATE):
            after[step.row.mac] = step.details
    added = len(after) - len(listed)
    assert added == sum(step.effect is Effect.ADD for step in first) <= room
    again = plan(wanted, after, room=room - added)
    assert {step.effect for step in again} <= {Effect.SKIP, Effect.ERROR}
    assert [step.effect is Effect.ERROR for step in again] == [step.effect is Effect.ERROR for step in first]
    assert len(first) == len(wanted), "each row is counted once"


# In the database.


@pytest.fixture
def write(database):
    return database.write


async def put(write, *entries):
    return await write(lambda tx: allowlist.change(tx, asked(*entries)))


async def events(database):
    found = await database.read("SELECT mac, payload FROM events WHERE type = 'allowlist.changed' ORDER BY id")
    return [(row["mac"], row["payload"]) for row in found]


async def test_an_entry_is_found_listed_and_marked_once(database, write, clock):
    assert await write(lambda tx: allowlist.find(tx, MAC)) is None
    assert await write(lambda tx: allowlist.is_listed(tx, MAC)) is False
    assert await allowlist.listed(database) == {}
    added_at = clock.wall()
    await put(write, {"mac": MAC, "description": "Camera 1", "container_id": "nowhere-yet"})
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

    await put(write, {"mac": MAC, "description": None})
    kept = await allowlist.load(database, MAC)
    assert (kept.description, kept.container_id, kept.used_at) == (None, "nowhere-yet", first)


async def test_entries_come_in_the_order_of_their_macs(database, write):
    await put(write, {"mac": THIRD}, {"mac": MAC}, {"mac": OTHER})
    assert list(await allowlist.listed(database)) == [MAC, OTHER, THIRD]


async def test_what_changes_the_list_is_told_once_with_how_many(database, write, hub):
    with hub.subscribe(lambda event: True) as heard:
        await put(write, {"mac": MAC}, {"mac": OTHER}, {"mac": "zz"})
        await put(write, {"mac": MAC}, {"mac": OTHER})
        await put(write, {"mac": MAC, "description": "x"}, {"mac": THIRD})
        await put(write, {"mac": MAC, "description": "y"})
        assert await write(lambda tx: allowlist.remove(tx, [MAC, "24:6F:28:00:00:00"])) == {MAC}
        assert await write(lambda tx: allowlist.remove(tx, [MAC])) == set()
        assert [await write(allowlist.clear), await write(allowlist.clear)] == [2, 0]
        hub.close()
        told = [(event.mac, event.payload) async for event in heard]
    assert told == [
        (None, {"added": 2, "removed": 0, "updated": 0}),
        (None, {"added": 1, "removed": 0, "updated": 1}),
        (MAC, {"added": 0, "removed": 0, "updated": 1}),
        (MAC, {"added": 0, "removed": 1, "updated": 0}),
        (None, {"added": 0, "removed": 2, "updated": 0}),
    ]
    assert len(await events(database)) == len(told)


async def test_a_plan_is_what_would_be_done_and_does_nothing(database, write):
    await put(write, {"mac": MAC, "description": "Camera 1"})
    wanted = asked({"mac": MAC, "description": "Camera 2"}, {"mac": OTHER}, {"mac": "zz"})
    before = (await allowlist.listed(database), await events(database))
    planned = await write(lambda tx: allowlist.planned(tx, wanted))
    assert [step.effect for step in planned] == [Effect.UPDATE, Effect.ADD, Effect.ERROR]
    assert (await allowlist.listed(database), await events(database)) == before
    assert await write(lambda tx: allowlist.change(tx, wanted)) == planned


async def test_the_list_holds_ten_thousand_entries(database, write):
    wanted = asked(*({"mac": mac(number)} for number in range(MAX_ENTRIES + 1)))
    steps = await write(lambda tx: allowlist.change(tx, wanted))
    assert [(step.row.number, step.reason) for step in steps if step.effect is not Effect.ADD] == [(MAX_ENTRIES, FULL)]
    assert (await allowlist.stats(database)).total == MAX_ENTRIES
    (step,) = await put(write, {"mac": mac(MAX_ENTRIES), "description": "one too many"})
    assert (step.effect, step.reason) == (Effect.ERROR, FULL)
    (step,) = await put(write, {"mac": mac(0), "description": "there already"})
    assert step.effect is Effect.UPDATE
    await write(lambda tx: allowlist.remove(tx, [Mac(mac(7))]))
    (step,) = await put(write, {"mac": mac(MAX_ENTRIES)})
    assert step.effect is Effect.ADD


async def test_times_that_are_damaged_do_not_keep_the_list_from_being_read(database, write):
    await put(write, {"mac": MAC}, {"mac": OTHER})
    await write(lambda tx: tx.run("UPDATE allowlist SET added_at = 'x', used_at = 'y' WHERE mac = ?", (MAC,)))
    found = await allowlist.listed(database)
    assert found.keys() == {MAC, OTHER}
    assert found[MAC].used
