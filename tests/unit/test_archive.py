"""The bundle as a file: bounded, cleaned, and honest about what was left out."""

import io
import json
import sqlite3
import tarfile
from datetime import UTC, datetime

import pytest

from pi_orchestrator.api import archive as archives
from pi_orchestrator.api.archive import Archive
from pi_orchestrator.api.bundle import put_tables
from pi_orchestrator.logs import conceal
from pi_orchestrator.storage import dump, schema
from tests.unit.test_logs import CANARY, HOSTILE

AT = datetime(2026, 1, 22, 15, tzinfo=UTC)


@pytest.fixture
def archive():
    return Archive(at=AT, made_by="a test")


def opened(content):
    """Name → content of an archive, without its one folder."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = tar.getmembers()
        assert all(member.isreg() and member.mode == 0o600 for member in members)
        assert {member.name.split("/")[0] for member in members} == {"pi-orchestrator-20260122T150000Z"}
        return {member.name.split("/", 1)[1]: tar.extractfile(member).read() for member in members}


def about(files, name):
    return next(one for one in json.loads(files["manifest.json"])["files"] if one["name"] == name)


def test_what_is_put_in_comes_out_with_a_manifest(archive):
    archive.add_text("a.txt", "one\ntwo\n")
    archive.add_json("b.json", {"x": [1, None, "y"]})
    archive.add_lines("c/d.jsonl", ['{"n":1}', '{"n":2}'], rows=5)
    archive.notes.append("a note")
    files = opened(archive.finish())
    assert list(files) == ["README.txt", "manifest.json", "a.txt", "b.json", "c/d.jsonl"]
    assert files["a.txt"] == b"one\ntwo\n"
    assert json.loads(files["b.json"]) == {"x": [1, None, "y"]}
    assert [json.loads(line) for line in files["c/d.jsonl"].splitlines()] == [{"n": 1}, {"n": 2}]
    manifest = json.loads(files["manifest.json"])
    assert (manifest["made_at"], manifest["made_by"], manifest["notes"]) == (
        "2026-01-22T15:00:00.000000Z",
        "a test",
        ["a note"],
    )
    assert about(files, "c/d.jsonl") == {
        "name": "c/d.jsonl", "bytes": len(files["c/d.jsonl"]), "rows": 2, "left_out_rows": 3,
    }  # fmt: skip


def test_what_is_too_long_is_cut_where_it_hurts_least_and_said(archive, monkeypatch):
    monkeypatch.setattr(archives, "MOST_BYTES_A_FILE", 1000)
    archive.add_text("a.txt", "".join(f"{number}\n" for number in range(1000)))
    archive.add_json("b.json", ["x"] * 1000)
    archive.add_lines("c.jsonl", [json.dumps({"n": number}) for number in range(1000)])
    files = opened(archive.finish())
    assert files["a.txt"].endswith(b"\n999\n")
    assert len(files["a.txt"]) == 1000
    assert about(files, "a.txt")["left_out_bytes"] == 2890
    assert (files["b.json"], about(files, "b.json")["left_out_bytes"] > 1000) == (b"", True)
    rows = [json.loads(line)["n"] for line in files["c.jsonl"].splitlines()]
    assert rows == list(range(1000 - len(rows), 1000)), "the newest are kept, whole"
    assert about(files, "c.jsonl")["left_out_rows"] == 1000 - len(rows)


def test_all_together_have_a_limit(monkeypatch):
    monkeypatch.setattr(archives, "MOST_BYTES", 2500)
    monkeypatch.setattr(archives, "MOST_BYTES_A_FILE", 1000)
    archive = Archive(at=AT, made_by="a test")
    for name in "abcde":
        archive.add_text(name, name * 5000)
    files = opened(archive.finish())
    assert [len(files[name]) for name in "abcde"] == [1000, 1000, 500, 0, 0]


def test_everything_is_made_safe(archive):
    conceal(["hunter2-hunter2"])
    try:
        line = {"password": CANARY, "text": f"token={CANARY} hunter2-hunter2", "deep": [{"api_key": CANARY}]}
        archive.add_lines("lines.jsonl", [json.dumps(line), f"no json: password={CANARY}"])
        archive.add_json("doc.json", {"psk": CANARY, "hunter2-hunter2": HOSTILE, "url": f"mqtt://u:{CANARY}@h"})
        archive.add_text("text.txt", f"fine\nsecret={CANARY}\nhunter2-hunter2\n")
        archive.notes.append(f"password={CANARY}")
        files = opened(archive.finish())
    finally:
        conceal([])
    for name, content in files.items():
        assert CANARY.encode() not in content, name
        assert b"hunter2" not in content, name
        assert b"\x1b" not in content
        assert b"\\u001b" not in content
    assert b"fine\nsecret=***\n***\n" in files["text.txt"]


# The record.


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "orchestrator.db"
    schema.prepare(path, backups=tmp_path / "backups", backups_kept=1, closed_cleanly=True)
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO api_keys VALUES ('k', 'name', 'read', ?, '2026')", (b"digest-digest",))
        connection.execute("INSERT INTO idempotency VALUES ('k', 'o', ?, 200, ?, '2026')", (b"hash", b"answer"))
        connection.executemany(
            "INSERT INTO events (type, payload, at, boot_id, monotonic, clock_trusted) VALUES ('x', ?, '', '', 0, 1)",
            [(json.dumps({"n": number}),) for number in range(3000)] + [("damaged",)],
        )
    connection.close()
    return path


def rows(tables, name):
    return [json.loads(line) for table in tables if table.name == name for line in table.lines]


def test_the_newest_rows_of_each_open_table(database):
    tables = list(dump.of_file(database))
    names = [table.name for table in tables]
    assert {"cameras", "events", "sessions", "onboarding_audit", "operator_actions", "allowlist"} <= set(names)
    assert not dump.CLOSED & set(names)
    assert next(table.rows for table in tables if table.name == "events") == 3001
    events = rows(tables, "events")
    assert len(events) == dump.MOST_ROWS
    assert [event["payload"] for event in events[-3:]] == [{"n": 2998}, {"n": 2999}, "damaged"]
    assert rows(tables, "api_keys") == [
        {"id": "k", "name": "name", "scope": "read", "digest": "(13 bytes)", "created_at": "2026"}
    ]


def test_closed_tables_are_still_those_with_secrets():
    """A table that is added with something secret has to be added there, too."""
    sql = " ".join(text for _, text in schema.migrations())
    assert all(f"CREATE TABLE {name} " in sql for name in dump.CLOSED)


def test_a_copy_leaves_the_folder_as_it_was(database):
    connection = sqlite3.connect(database)
    connection.execute("DELETE FROM events WHERE id < 3000")
    connection.commit()  # in the log, not yet in the file
    before = {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in database.parent.iterdir()}
    assert len(rows(dump.of_copy(database), "events")) == 2
    assert {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in database.parent.iterdir()} == before
    connection.close()


@pytest.mark.parametrize("damage", ["gone", "garbage", "torn", "large"])
def test_a_database_that_cannot_be_read_is_a_note(database, archive, damage, monkeypatch):
    if damage == "gone":
        database.unlink()
    elif damage == "garbage":
        database.write_bytes(b"no database" * 1000)
    elif damage == "torn":
        database.write_bytes(database.read_bytes()[:20_000])
    else:
        monkeypatch.setattr(dump, "LARGEST_COPY", 1000)
    put_tables(archive, lambda: dump.of_copy(database))
    files = opened(archive.finish())
    assert json.loads(files["manifest.json"])["notes"] or any(b"unreadable" in content for content in files.values())
