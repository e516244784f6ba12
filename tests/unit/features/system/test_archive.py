"""The bundle archive: bounded, masked, and with a list of what was omitted."""

import io
import json
import sqlite3
import tarfile
from datetime import UTC, datetime

import pytest

from pi_orchestrator.core.logging import configure_redaction
from pi_orchestrator.features.system import archive as archives
from pi_orchestrator.features.system import database_dump
from pi_orchestrator.features.system.archive import Archive
from pi_orchestrator.features.system.bundle import add_tables
from pi_orchestrator.storage import schema
from tests.unit.core.test_logging import CANARY, HOSTILE

AT = datetime(2026, 1, 22, 15, tzinfo=UTC)


@pytest.fixture
def archive():
    return Archive(at=AT, made_by="a test")


def extract(content):
    """Name → content of an archive, without its top folder."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = tar.getmembers()
        assert all(member.isreg() and member.mode == 0o600 for member in members)
        assert {member.name.split("/")[0] for member in members} == {"pi-orchestrator-20260122T150000Z"}
        return {member.name.split("/", 1)[1]: tar.extractfile(member).read() for member in members}


def manifest_entry(files, name):
    return next(entry for entry in json.loads(files["manifest.json"])["files"] if entry["name"] == name)


def test_archive_contains_files_and_manifest(archive):
    archive.add_text("a.txt", "one\ntwo\n")
    archive.add_json("b.json", {"x": [1, None, "y"]})
    archive.add_lines("c/d.jsonl", ['{"n":1}', '{"n":2}'], rows=5)
    archive.notes.append("a note")
    files = extract(archive.finish())
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
    assert manifest_entry(files, "c/d.jsonl") == {
        "name": "c/d.jsonl", "bytes": len(files["c/d.jsonl"]), "rows": 2, "left_out_rows": 3,
    }  # fmt: skip


def test_long_file_is_cut_and_noted(archive, monkeypatch):
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 1000)
    archive.add_text("a.txt", "".join(f"{number}\n" for number in range(1000)))
    archive.add_json("b.json", ["x"] * 1000)
    archive.add_lines("c.jsonl", [json.dumps({"n": number}) for number in range(1000)])
    files = extract(archive.finish())
    assert files["a.txt"].endswith(b"\n999\n")
    assert len(files["a.txt"]) == 1000
    assert manifest_entry(files, "a.txt")["left_out_bytes"] == 2890
    assert (files["b.json"], manifest_entry(files, "b.json")["left_out_bytes"] > 1000) == (b"", True)
    rows = [json.loads(line)["n"] for line in files["c.jsonl"].splitlines()]
    assert rows == list(range(1000 - len(rows), 1000)), "the newest lines are kept, complete"
    assert manifest_entry(files, "c.jsonl")["left_out_rows"] == 1000 - len(rows)


def test_archive_total_size_is_limited(monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 2500)
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 1000)
    archive = Archive(at=AT, made_by="a test")
    for name in "abcde":
        archive.add_text(name, name * 5000)
    files = extract(archive.finish())
    assert [len(files[name]) for name in "abcde"] == [1000, 1000, 500, 0, 0]


def test_archive_masks_secrets(archive):
    configure_redaction(["hunter2-hunter2"])
    try:
        line = {"password": CANARY, "text": f"token={CANARY} hunter2-hunter2", "deep": [{"api_key": CANARY}]}
        archive.add_lines("lines.jsonl", [json.dumps(line), f"no json: password={CANARY}"])
        archive.add_json("doc.json", {"psk": CANARY, "hunter2-hunter2": HOSTILE, "url": f"mqtt://u:{CANARY}@h"})
        archive.add_text("text.txt", f"fine\nsecret={CANARY}\nhunter2-hunter2\n")
        archive.notes.append(f"password={CANARY}")
        files = extract(archive.finish())
    finally:
        configure_redaction([])
    for name, content in files.items():
        assert CANARY.encode() not in content, name
        assert b"hunter2" not in content, name
        assert b"\x1b" not in content
        assert b"\\u001b" not in content
    assert b"fine\nsecret=***\n***\n" in files["text.txt"]


# The database.


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


def test_read_database_has_newest_rows_without_secrets(database):
    tables = list(database_dump.read_database(database))
    names = [table.name for table in tables]
    assert {"cameras", "events", "sessions", "onboarding_audit", "operator_actions", "allowlist"} <= set(names)
    assert not database_dump.SECRET_TABLES & set(names)
    assert next(table.rows for table in tables if table.name == "events") == 3001
    events = rows(tables, "events")
    assert len(events) == database_dump.MAX_ROWS
    assert [event["payload"] for event in events[-3:]] == [{"n": 2998}, {"n": 2999}, "damaged"]
    assert rows(tables, "api_keys") == [
        {"id": "k", "name": "name", "scope": "read", "digest": "(13 bytes)", "created_at": "2026"}
    ]


def test_secret_tables_exist_in_schema():
    """A new table with secrets must be added to SECRET_TABLES."""
    sql = " ".join(text for _, text in schema.migrations())
    assert all(f"CREATE TABLE {name} " in sql for name in database_dump.SECRET_TABLES)


def test_database_copy_leaves_folder_unchanged(database):
    connection = sqlite3.connect(database)
    connection.execute("DELETE FROM events WHERE id < 3000")
    connection.commit()  # in the WAL, not yet in the file
    before = {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in database.parent.iterdir()}
    assert len(rows(database_dump.read_database_copy(database), "events")) == 2
    assert {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in database.parent.iterdir()} == before
    connection.close()


@pytest.mark.parametrize("damage", ["missing", "garbage", "truncated", "large"])
def test_unreadable_database_is_noted(database, archive, damage, monkeypatch):
    if damage == "missing":
        database.unlink()
    elif damage == "garbage":
        database.write_bytes(b"no database" * 1000)
    elif damage == "truncated":
        database.write_bytes(database.read_bytes()[:20_000])
    else:
        monkeypatch.setattr(database_dump, "MAX_COPY_BYTES", 1000)
    add_tables(archive, lambda: database_dump.read_database_copy(database))
    files = extract(archive.finish())
    assert json.loads(files["manifest.json"])["notes"] or any(b"unreadable" in content for content in files.values())
