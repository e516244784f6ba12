"""A damaged file: it is set aside, never deleted; readable rows are saved; the start succeeds."""

import random
import sqlite3
from contextlib import closing

import pytest

from pi_orchestrator.core.errors import StartupError
from pi_orchestrator.storage import schema
from tests.unit.storage.test_schema import OLD, content, rows, version

PAGE = 4096
CAMERAS = 400


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The bytes of a file with 400 cameras, each placed, seen and audited."""
    file = tmp_path_factory.mktemp("sound") / "orchestrator.db"
    schema.prepare(file, backups=file.parent, backups_kept=1, closed_cleanly=True)
    macs = [f"24:6F:28:00:{number // 256:02X}:{number % 256:02X}" for number in range(CAMERAS)]
    with closing(sqlite3.connect(file)) as connection:
        connection.executemany(
            "INSERT INTO cameras (mac, device_id, ip_address, firmware_version, registered_by, registered_at)"
            " VALUES (?, ?, '192.168.10.9', '1.4.2', 'auto', '2026-01-22T15:00:00.000000Z')",
            [(mac, f"espcam-{mac}") for mac in macs],
        )
        connection.executemany(
            "INSERT INTO containers (id, created_at, updated_at) VALUES (?, '2026-01-22', '2026-01-22')",
            [(f"box-{number}",) for number in range(CAMERAS // 4)],
        )
        connection.executemany(
            "INSERT INTO assignments VALUES (?, ?, ?, '2026-01-22')",
            [(mac, f"box-{number // 4}", number % 4 + 1) for number, mac in enumerate(macs)],
        )
        connection.executemany("INSERT INTO presence VALUES (?, 'online', '2026', 'boot', 1.0)", [(m,) for m in macs])
        connection.executemany(
            "INSERT INTO onboarding_audit (mac_address, stage, at, boot_id, monotonic, clock_trusted)"
            " VALUES (?, 'paired', '2026-01-22', 'boot', 1.0, 1)",
            [(mac,) for mac in macs],
        )
        connection.execute("INSERT INTO onboarding_state (id, enabled, success) VALUES (1, 0, 400)")
        connection.execute(
            "INSERT INTO sessions VALUES (1, 's-1', 'active', 'wlan0', 'Yard', 60, 120, 90, 0, NULL, '2026-01-22',"
            " '2026-01-22', NULL, 'boot', 1.0, 1)"
        )
        connection.execute("INSERT INTO session_secrets VALUES ('s-1', 'key', x'00')")
        connection.execute(
            "INSERT INTO session_devices (session_id, mac, state, progress, ip, rssi, firmware_version, discovered_at)"
            " VALUES ('s-1', '24:6F:28:00:00:00', 'discovered', 0, '192.168.10.9', -50, '', '2026-01-22')"
        )
        connection.execute("INSERT INTO api_keys VALUES ('k', 'admin', 'admin', x'00', '2026-01-22')")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return file.read_bytes()


@pytest.fixture(scope="module")
def root_page_of(sound, tmp_path_factory):
    """Table → number of its root page, from 1."""
    file = tmp_path_factory.mktemp("pages") / "orchestrator.db"
    file.write_bytes(sound)
    return dict(rows(file, "SELECT name, rootpage FROM sqlite_schema WHERE type = 'table'"))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "orchestrator.db"


def prepare(file, *, closed_cleanly=False):
    return schema.prepare(file, backups=file.parent / "backups", backups_kept=5, closed_cleanly=closed_cleanly)


def counts(file):
    return {table: len(found) for table, found in content(file).items() if not table.startswith("sqlite_")}


def is_sound(file):
    return rows(file, "PRAGMA integrity_check") == [("ok",)] and not rows(file, "PRAGMA foreign_key_check")


def overwritten(data, at, damage):
    return data[:at] + damage + data[at + len(damage) :]


DAMAGES = {
    "garbage in the header": lambda data: overwritten(data, 0, b"garbage" * 20),
    "garbage in the first page": lambda data: overwritten(data, 100, b"\xa5" * 3000),
    "random bytes": lambda data: random.Random(1).randbytes(len(data)),
    "zeros": lambda data: bytes(len(data)),
    "another kind of file": lambda data: b"<!doctype html><html></html>" * 100,
    "cut in the header": lambda data: data[:60],
    "cut after one page": lambda data: data[:PAGE],
    "cut in half": lambda data: data[: len(data) // 2],
    "cut by a page": lambda data: data[:-PAGE],
    "a page of zeros in the middle": lambda data: overwritten(data, len(data) // 2 // PAGE * PAGE, bytes(PAGE)),
    "pages of noise in the middle": lambda data: overwritten(
        data, len(data) // 2 // PAGE * PAGE, random.Random(2).randbytes(3 * PAGE)
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_is_set_aside(sound, file, damage):
    damaged = DAMAGES[damage](sound)
    file.write_bytes(damaged)
    report = prepare(file)
    assert report.moved_to.parent == file.parent
    assert report.moved_to.name.startswith("orchestrator.db.damaged-")
    assert report.moved_to.read_bytes() == damaged, "the damaged file is unchanged"
    assert report.notes
    assert version(file) == schema.migrations()[-1][0]
    assert is_sound(file)
    assert report.rows_saved == sum(counts(file).values())


@pytest.mark.parametrize("damage", [name for name in DAMAGES if not name.startswith(("a page", "pages"))])
def test_unreadable_file_is_found_after_clean_shutdown(sound, file, damage):
    file.write_bytes(DAMAGES[damage](sound))
    assert prepare(file, closed_cleanly=True).moved_to
    assert is_sound(file)


@pytest.mark.parametrize("table", ["cameras", "onboarding_audit", "assignments", "containers", "presence"])
def test_damaged_table_does_not_affect_others(sound, file, root_page_of, table):
    file.write_bytes(overwritten(sound, (root_page_of[table] - 1) * PAGE, random.Random(3).randbytes(PAGE)))
    report = prepare(file)
    assert report.moved_to
    found = counts(file)
    assert found[table] == (CAMERAS // 4 if table == "containers" else 0), (
        "the containers of saved cameras are created again"
    )
    assert found["onboarding_state"] == found["api_keys"] == 1
    assert rows(file, "SELECT enabled, success FROM onboarding_state") == [(0, 400)], "auto-onboarding stays disabled"
    dependent_tables = {"assignments", "presence"}
    for other in {"cameras", "onboarding_audit", "assignments", "containers", "presence"} - {table}:
        lost = table == "cameras" and other in dependent_tables
        assert found[other] == (0 if lost else CAMERAS // 4 if other == "containers" else CAMERAS), other
    assert is_sound(file)


def test_rows_of_lost_session_are_deleted(sound, file, root_page_of):
    file.write_bytes(overwritten(sound, (root_page_of["sessions"] - 1) * PAGE, random.Random(3).randbytes(PAGE)))
    report = prepare(file)
    found = counts(file)
    assert (found["sessions"], found["session_secrets"], found["session_devices"]) == (0, 0, 0)
    assert found["cameras"] == CAMERAS
    assert report.rows_saved == sum(found.values())
    assert is_sound(file)


def offset_of_page_with(sound, text):
    return sound.rindex(text) // PAGE * PAGE


def test_rows_around_the_damage_are_saved(sound, file):
    """Onboarding events are read from both ends; one page in the middle is damaged."""
    in_the_middle = offset_of_page_with(sound, b"24:6F:28:00:00:C8paired")
    file.write_bytes(overwritten(sound, in_the_middle, random.Random(4).randbytes(PAGE)))
    report = prepare(file)
    assert report.moved_to
    saved = [row[0] for row in rows(file, "SELECT id FROM onboarding_audit ORDER BY id")]
    assert saved[0] == 1
    assert saved[-1] == CAMERAS
    assert CAMERAS - 100 < len(saved) < CAMERAS
    assert counts(file)["cameras"] == CAMERAS
    assert is_sound(file)


@pytest.mark.parametrize("seed", range(25))
def test_random_damage_does_not_stop_the_start(sound, file, seed):
    rng = random.Random(seed)
    at = rng.randrange(len(sound) - 10)
    size = rng.choice([1, 8, 100, PAGE, 5 * PAGE])
    damaged = overwritten(sound, at, rng.randbytes(min(size, len(sound) - at)))
    file.write_bytes(damaged)
    report = prepare(file)
    if report.moved_to:
        assert is_sound(file)
        assert report.moved_to.read_bytes() == damaged
    assert version(file) == schema.migrations()[-1][0]
    assert prepare(file).moved_to is None, "the next start finds no damage"


def test_folder_at_database_path_is_set_aside(file):
    file.mkdir()
    (file / "precious").write_text("kept")
    report = prepare(file)
    assert (report.moved_to / "precious").read_text() == "kept"
    assert report.rows_saved == 0
    assert is_sound(file)


def test_empty_file_is_initialised(file):
    file.touch()
    report = prepare(file)
    assert report == schema.Report()
    assert is_sound(file)


def make_crashed(tmp_path, file):
    """Make a database and its WAL as after a power cut: the last change is only in the WAL. Returns the WAL."""
    source = tmp_path / "source.db"
    with closing(sqlite3.connect(source)) as connection:
        connection.executescript(OLD.read_text(encoding="utf-8"))
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("UPDATE cameras SET name = 'from the log'")
        connection.commit()
        wal = (tmp_path / "source.db-wal").read_bytes()
        file.write_bytes(source.read_bytes())
    file.with_name(file.name + "-wal").write_bytes(wal)
    return wal


def test_wal_content_survives_a_crash(tmp_path, file):
    make_crashed(tmp_path, file)
    assert prepare(file).moved_to is None
    assert rows(file, "SELECT DISTINCT name FROM cameras") == [("from the log",)]


@pytest.mark.parametrize("missing", [True, False])
def test_wal_without_database_is_set_aside(tmp_path, file, missing):
    wal = make_crashed(tmp_path, file)
    file.unlink() if missing else file.write_bytes(b"")
    report = prepare(file)
    assert report.moved_to.with_name(report.moved_to.name + "-wal").read_bytes() == wal
    assert is_sound(file)
    assert counts(file)["cameras"] == 0


def test_wal_of_random_bytes_is_ignored(tmp_path, sound, file):
    make_crashed(tmp_path, file)
    file.with_name(file.name + "-wal").write_bytes(random.Random(5).randbytes(100_000))
    report = prepare(file)
    assert report.moved_to is None
    assert counts(file)["cameras"] == 5


def test_side_files_are_set_aside_too(file):
    file.write_bytes(b"garbage" * 1000)
    for suffix in schema.SIDE_FILES:
        file.with_name(file.name + suffix).write_bytes(b"side " + suffix.encode())
    report = prepare(file)
    assert report.moved_to
    assert is_sound(file)
    assert counts(file)["cameras"] == 0
    assert not file.with_name(file.name + "-journal").exists()


def test_every_damaged_file_is_kept(sound, file):
    set_aside = set()
    for _ in range(3):
        file.write_bytes(DAMAGES["cut in half"](sound))
        set_aside.add(prepare(file).moved_to)
    assert len(set_aside) == 3
    assert all(aside.exists() for aside in set_aside)


def test_invalid_rows_are_not_saved(sound, tmp_path, file):
    """Rows edited by hand or written by another version must not stop the others from being saved."""
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(
            "CREATE TABLE cameras (mac TEXT PRIMARY KEY, device_id TEXT, registered_by TEXT, registered_at TEXT, odd);"
            "INSERT INTO cameras VALUES ('24:6F:28:00:00:01', 'one', 'auto', '2026', 1);"
            "INSERT INTO cameras VALUES ('24:6F:28:00:00:02', 'two', 'magic', '2026', 1);"
            "INSERT INTO cameras VALUES ('24:6F:28:00:00:03', NULL, 'auto', '2026', 1);"
            "INSERT INTO cameras VALUES ('24:6F:28:00:00:04', 'one', 'auto', '2026', 1);"
            "INSERT INTO cameras VALUES ('24:6F:28:00:00:05', 'five', 'auto', '2026', 1);"
            "CREATE TABLE strange (a); INSERT INTO strange VALUES (1);"
            "CREATE TABLE filler (a); PRAGMA user_version=1;"
        )
        connection.executemany("INSERT INTO filler VALUES (?)", [(b"x" * 4000,) for _ in range(10)])
        connection.commit()
    data = file.read_bytes()
    file.write_bytes(overwritten(data, len(data) - 6 * PAGE, b"\xff" * PAGE))
    report = prepare(file)
    assert report.moved_to
    assert rows(file, "SELECT device_id FROM cameras ORDER BY mac") == [("one",), ("five",)]
    assert report.rows_saved == 2


@pytest.mark.parametrize("name", ["plain", "with space", "50% #1", "what?mode=memory", "ünter"])
def test_salvage_works_with_any_folder_name(sound, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    file = folder / "orchestrator.db"
    file.write_bytes(DAMAGES["pages of noise in the middle"](sound))
    report = prepare(file)
    assert report.moved_to.parent == folder
    assert report.rows_saved > CAMERAS


@pytest.mark.parametrize("step", ["_migrate", "_salvage_table", "_put_in_place"])
def test_interrupted_repair_is_repeated(sound, file, root_page_of, monkeypatch, step):
    def interrupt(*_args, **_more):
        raise KeyboardInterrupt

    file.write_bytes(overwritten(sound, (root_page_of["events"] - 1) * PAGE, b"\xa5" * PAGE))
    with monkeypatch.context() as patch:
        patch.setattr(schema, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(file)
    report = prepare(file)
    assert "interrupted" in report.notes[0]
    assert report.moved_to.exists()
    assert counts(file)["cameras"] == counts(file)["assignments"] == CAMERAS
    assert is_sound(file)
    assert prepare(file).moved_to is None


def test_full_disk_during_repair_loses_nothing(sound, file, root_page_of, monkeypatch):
    def full(*_args, **_more):
        raise sqlite3.OperationalError("database or disk is full")

    file.write_bytes(overwritten(sound, (root_page_of["events"] - 1) * PAGE, b"\xa5" * PAGE))
    with monkeypatch.context() as patch:
        patch.setattr(schema, "_salvage_table", full)
        with pytest.raises(StartupError, match="full"):
            prepare(file)
    prepare(file)
    assert counts(file)["cameras"] == CAMERAS
