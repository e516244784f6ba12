"""The database file at start: created, checked, backed up, migrated, or refused with a remedy."""

import asyncio
import re
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from pi_orchestrator.core.errors import StartupError
from pi_orchestrator.features.allowlist import store as allowlist
from pi_orchestrator.features.cameras import exclusion_store
from pi_orchestrator.features.cameras.cache import CameraCache
from pi_orchestrator.features.cameras.exclusion_store import ExcludedCameras
from pi_orchestrator.features.containers import store as containers
from pi_orchestrator.features.discovery import store as scans
from pi_orchestrator.features.discovery.model import ScanState
from pi_orchestrator.storage import schema
from pi_orchestrator.storage.database import Database

DATA = Path(__file__).parents[2] / "data"
OLD = DATA / "schema-0001.sql"
NEWEST = schema.migrations()[-1][0]
ADDS_A_COLUMN = "ALTER TABLE cameras ADD COLUMN lens TEXT;\nUPDATE cameras SET lens = 'wide';"
ADDS_A_TABLE = "CREATE TABLE lenses (name TEXT PRIMARY KEY) STRICT;"
# Tables that are not in OLD.
EXCLUSIONS = ("dismissed", "fingerprints", "replacements")
PROVISIONING = ("allowlist", "session_devices", "session_secrets", "sessions")
DEVICE_STATES = ("discovered", "provisioning", "provisioned", "verifying", "verified", "failed")
FAILS_HALFWAY = "CREATE TABLE half (a TEXT) STRICT;\nUPDATE cameras SET name = 'half';\nINSERT INTO nowhere VALUES (1);"


@pytest.fixture
def prepare(tmp_path):
    """`schema.prepare` on the file of this test."""

    def run(*, closed_cleanly=True, backups_kept=5):
        return schema.prepare(
            tmp_path / "orchestrator.db",
            backups=tmp_path / "backups",
            backups_kept=backups_kept,
            closed_cleanly=closed_cleanly,
        )

    return run


@pytest.fixture
def file(tmp_path):
    return tmp_path / "orchestrator.db"


@pytest.fixture
def old(file):
    """A file of the first version, closed cleanly."""
    create_file(file, 1)
    return file


@pytest.fixture
def add_migrations(monkeypatch):
    """Add migrations after the real ones; returns the newest schema number."""
    real = schema.migrations()

    def add(*further):
        steps = [*real, *enumerate(further, start=NEWEST + 1)]
        monkeypatch.setattr(schema, "migrations", lambda: steps)
        return steps[-1][0]

    return add


def create_file(file, number):
    """Create a file of this schema version, closed cleanly."""
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(sql_of(number))
        connection.execute("PRAGMA journal_mode=WAL")


def sql_of(number):
    return (DATA / f"schema-{number:04d}.sql").read_text(encoding="utf-8")


def rows(file, sql, *params):
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(sql, params).fetchall()


def version(file):
    return rows(file, "PRAGMA user_version")[0][0]


def columns_of(file):
    """{table: names of its columns, separated by commas}."""
    columns = "SELECT t.name, group_concat(c.name) FROM sqlite_schema t, pragma_table_info(t.name) c"
    return dict(rows(file, f"{columns} WHERE t.type = 'table' GROUP BY t.name ORDER BY t.name"))


def content(file, known=None):
    """Every row of every table, limited to the tables and columns in `known` if given."""
    return {
        table: rows(file, f"SELECT {columns} FROM {table}") for table, columns in (known or columns_of(file)).items()
    }


def added(file, known):
    """The rows of tables that are not in `known`."""
    return {table: found for table, found in content(file).items() if table not in known}


def objects(connection):
    return connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name").fetchall()


def test_new_file_has_the_newest_schema(prepare, file, tmp_path):
    assert prepare() == schema.Report()
    assert version(file) == NEWEST
    assert rows(file, "PRAGMA journal_mode") == [("wal",)]
    assert rows(file, "PRAGMA integrity_check") == [("ok",)]
    assert not (tmp_path / "backups").exists()


def test_database_files_are_private(prepare, file):
    prepare()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_every_table_is_strict(prepare, file):
    prepare()
    tables = rows(file, "SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND type = 'table'")
    ours = {name: strict for name, strict in tables if not name.startswith("sqlite_")}
    assert len(ours) >= 10
    assert set(ours.values()) == {1}


def test_migrations_are_numbered_without_gaps():
    assert [number for number, _ in schema.migrations()] == list(range(1, NEWEST + 1))


@pytest.mark.parametrize("number", range(1, NEWEST + 1))
def test_released_migrations_are_unchanged(number):
    """Installed files have every schema version, so a released migration must never change."""
    with closing(sqlite3.connect(":memory:")) as migrated, closing(sqlite3.connect(":memory:")) as released:
        for _, sql in schema.migrations()[:number]:
            migrated.executescript(sql)
        released.executescript(sql_of(number))
        assert objects(migrated) == objects(released)
        assert released.execute("PRAGMA user_version").fetchone() == (number,)


CAMERA = (
    "INSERT INTO cameras (mac, device_id, registered_by, registered_at)"
    " VALUES ('24:6F:28:00:00:{0}', 'cam-{0}', 'auto', '2026')"
)
POSITION = "INSERT INTO assignments VALUES ('24:6F:28:00:00:{}', 'box', {}, '2026')"
LISTED = "INSERT INTO allowlist (mac, added_at) VALUES ('24:6F:28:00:00:{}', {})"
SESSION = (
    "INSERT INTO sessions (id, state, network_interface, target_ssid, discovery_timeout_seconds,"
    " provisioning_timeout_seconds, verification_timeout_seconds, ending, created_at, updated_at, boot_id, monotonic,"
    " clock_trusted) VALUES ('{}', '{}', '{}', 'Home', 60, 120, 90, {}, '2026', '2026', 'b', 1.0, 1)"
)
DEVICE = (
    "INSERT INTO session_devices (session_id, mac, state, progress, ip, rssi, firmware_version, discovered_at)"
    " VALUES ('{}', '24:6F:28:00:00:{}', '{}', {}, '', 0, '', '2026')"
)
SECRET = "INSERT INTO session_secrets (session_id, key_id, sealed) VALUES ('{}', 'k', {})"
CONTAINER = (
    "INSERT INTO containers (id, label, description, created_at, updated_at) VALUES ('crate', {}, {}, '2026', '2026')"
)
EXCLUSION = "INSERT INTO dismissed VALUES ('24:6F:28:00:00:{}', {}, {}, 'cam', NULL, 'me', '2026', 'b', 1.0, 1)"
REPLACEMENT = (
    "INSERT INTO replacements VALUES (1, '24:6F:28:00:00:01', '24:6F:28:00:00:02', {}, 'me', '2026', 'b', 1.0, 1)"
)
SCAN = "INSERT INTO scans VALUES ('s-{}', 'me', 'arp', 'wlan0', '', {}, {}, 0, 0, 0, NULL, NULL, '2026', 'b', 1.0, 1)"


@pytest.mark.parametrize(
    "statement, why",
    [
        (CAMERA.format("01"), "UNIQUE"),
        (CAMERA.format("03").replace("cam-03", "cam-01"), "UNIQUE"),
        (CAMERA.format("03").replace("auto", "magic"), "CHECK"),
        (POSITION.format("02", 1), "UNIQUE"),
        (POSITION.format("01", 2), "UNIQUE"),
        (POSITION.format("02", 0), "CHECK"),
        (POSITION.format("02", 5), "CHECK"),
        (POSITION.format("02", "'two'"), "cannot store TEXT"),
        (POSITION.format("99", 2), "FOREIGN KEY"),
        (POSITION.format("02", 2).replace("'box'", "'nowhere'"), "FOREIGN KEY"),
        ("DELETE FROM containers WHERE id = 'box'", "FOREIGN KEY"),
        ("INSERT INTO presence VALUES ('24:6F:28:00:00:99', 'online', '2026', 'b', 1.0)", "FOREIGN KEY"),
        ("INSERT INTO onboarding_state (id, enabled) VALUES (2, 1)", "CHECK"),
        ("INSERT INTO api_keys VALUES ('k', 'n', 'root', x'00', '2026')", "CHECK"),
        (SCAN.format(1, "'done'", 1), "UNIQUE"),
        (SCAN.format(2, "'ready'", 1), "CHECK"),
        (SCAN.format(2, "NULL", 1), "NOT NULL"),
        (SCAN.format(2, "'done'", "'many'"), "cannot store TEXT"),
        (LISTED.format("01", "'2026'"), "UNIQUE"),
        (LISTED.format("02", "NULL"), "NOT NULL"),
        (SESSION.format("one", "closed", "wlan9", "NULL"), "UNIQUE"),
        (SESSION.format("two", "paused", "wlan0", "NULL"), "UNIQUE"),
        (SESSION.format("two", "open", "wlan9", "NULL"), "CHECK"),
        (SESSION.format("two", "closed", "wlan9", "'lost'"), "CHECK"),
        (SECRET.format("two", "x'00'"), "FOREIGN KEY"),
        (SECRET.format("one", "'in clear'"), "cannot store TEXT"),
        (DEVICE.format("one", "01", "failed", 0), "UNIQUE"),
        (DEVICE.format("two", "02", "failed", 0), "FOREIGN KEY"),
        (DEVICE.format("one", "02", "lost", 0), "CHECK"),
        (DEVICE.format("one", "02", "failed", 101), "CHECK"),
        (DEVICE.format("one", "02", "failed", -1), "CHECK"),
        (CONTAINER.format("''", "NULL"), "CHECK"),
        (CONTAINER.format(f"'{'x' * 101}'", "NULL"), "CHECK"),
        (CONTAINER.format("NULL", "''"), "CHECK"),
        (CONTAINER.format("NULL", f"'{'x' * 501}'"), "CHECK"),
        (CONTAINER.format("NULL", "NULL").replace("crate", "box"), "UNIQUE"),
        (EXCLUSION.format("03", "'lost'", "NULL"), "CHECK"),
        (EXCLUSION.format("03", "'replaced'", "NULL"), "CHECK"),
        (EXCLUSION.format("03", "'unpaired'", "'24:6F:28:00:00:01'"), "CHECK"),
        (EXCLUSION.format("09", "'unpaired'", "NULL"), "UNIQUE"),
        (REPLACEMENT.format("NULL"), "NOT NULL"),
    ],
)
def test_constraints_refuse_invalid_rows(prepare, file, statement, why):
    prepare()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("INSERT INTO containers (id, created_at, updated_at) VALUES ('box', '2026', '2026')")
        connection.execute(CAMERA.format("01"))
        connection.execute(CAMERA.format("02"))
        connection.execute(POSITION.format("01", 1))
        connection.execute(SCAN.format(1, "'running'", 0))
        connection.execute(LISTED.format("01", "'2026'"))
        connection.execute(SESSION.format("one", "active", "wlan0", "NULL"))
        connection.execute(SECRET.format("one", "x'00'"))
        connection.execute(DEVICE.format("one", "01", "discovered", 0))
        connection.execute(EXCLUSION.format("09", "'unpaired'", "NULL"))
        with pytest.raises(sqlite3.IntegrityError, match=why):
            connection.execute(statement)


def test_deleted_camera_deletes_its_rows(old):
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("DELETE FROM cameras WHERE mac = '24:6F:28:00:00:01'")
    assert len(rows(old, "SELECT * FROM assignments")) == len(rows(old, "SELECT * FROM presence")) == 4


def test_deleted_session_deletes_its_rows(prepare, file):
    prepare()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA foreign_keys=ON")
        for statement in (
            LISTED.format("01", "'2026'"),
            SESSION.format("one", "closed", "wlan0", "'closed'"),
            SESSION.format("two", "active", "wlan0", "NULL"),
            *(DEVICE.format(session, "01", "verified", 100) for session in ("one", "two")),
            *(SECRET.format(session, "x'00'") for session in ("one", "two")),
        ):
            connection.execute(statement)
        connection.execute("DELETE FROM sessions WHERE id = 'one'")
        connection.commit()
    for table, remaining in (("session_devices", 1), ("session_secrets", 1), ("allowlist", 1)):
        assert len(rows(file, f"SELECT * FROM {table}")) == remaining, table


def test_second_start_changes_nothing(prepare, old):
    prepare()
    before = content(old)
    assert prepare() == schema.Report()
    assert content(old) == before


@pytest.mark.parametrize("closed_cleanly", [True, False])
def test_file_is_checked_only_after_unclean_shutdown(prepare, old, closed_cleanly):
    report = prepare(closed_cleanly=closed_cleanly)
    assert report.checked is not closed_cleanly
    assert report.moved_to is None


def test_old_file_is_migrated_with_every_row(prepare, old, add_migrations):
    before, known = content(old), columns_of(old)
    newest = add_migrations(ADDS_A_COLUMN, ADDS_A_TABLE)
    report = prepare()
    assert version(old) == newest
    assert (report.migrated_from, report.moved_to) == (1, None)
    assert content(old, known) == before
    assert rows(old, "SELECT DISTINCT lens FROM cameras") == [("wide",)]
    assert added(old, known) == dict.fromkeys(("lenses", "scans", *PROVISIONING, *EXCLUSIONS), [])


@pytest.mark.parametrize("number", range(1, NEWEST))
def test_earlier_version_keeps_every_row(prepare, file, number):
    create_file(file, number)
    before, known = content(file), columns_of(file)
    report = prepare()
    assert (report.migrated_from, report.moved_to, version(report.backup)) == (number, None, number)
    assert content(report.backup) == before
    assert content(file, known) == before
    assert not any(added(file, known).values())
    assert rows(file, "PRAGMA integrity_check") == [("ok",)]
    assert rows(file, "PRAGMA foreign_key_check") == []


async def test_migrated_version_1_accepts_scans(prepare, file, clock, bus):
    create_file(file, 1)
    await asyncio.to_thread(prepare)
    async with Database(path=file, clock=clock, bus=bus).opened() as database:
        assert (await scans.page(database, limit=10, offset=0)).total == 0
        await database.write(lambda tx: tx.run(SCAN.format(1, "'done'", 3)))
        assert (await scans.load(database, "s-1")).found == 3


async def test_version_2_keeps_scans(prepare, file, clock, bus):
    create_file(file, 2)
    await asyncio.to_thread(prepare)
    async with Database(path=file, clock=clock, bus=bus).opened() as database:
        await database.write(scans.interrupt)
        page = await scans.page(database, limit=10, offset=0)
        states = [scan.state for scan in reversed(page.scans)]
        assert states == [*map(ScanState, ("done", "done", "cancelled", "failed", "interrupted", "interrupted"))]
        assert (page.scans[-1].found, page.scans[-1].progress, page.total) == (5, 100, 6)


async def test_version_3_keeps_allowlist_and_sessions(prepare, file, clock, bus):
    create_file(file, 3)
    before, known = content(file), columns_of(file)
    await asyncio.to_thread(prepare)
    assert content(file, known) == before
    async with Database(path=file, clock=clock, bus=bus).opened() as database:
        entries = await allowlist.listed(database)
        assert [(entry.description, entry.container_id, entry.used) for entry in entries.values()] == [
            ("Küche", "auto-onboard", True),
            ("=1+1", None, False),
            (None, "not-there-yet", False),
        ]
        assert await allowlist.stats(database) == allowlist.Stats(total=3, used=1)
        sessions = await database.read("SELECT id, state, ending FROM sessions ORDER BY number")
        assert [(row["state"], row["ending"]) for row in sessions] == [("closed", "closed"), ("active", None)]
        secrets = await database.read("SELECT session_id FROM session_secrets")
        assert [row["session_id"] for row in secrets] == [sessions[1]["id"]], "a closed session has no password"
        states = await database.read("SELECT DISTINCT state FROM session_devices")
        assert {row["state"] for row in states} == set(DEVICE_STATES)
        events = await database.read("SELECT type FROM events WHERE session_id IS NOT NULL ORDER BY id")
        assert [row["type"] for row in events] == ["session.status", "device.discovered", "device.state_changed"]


async def test_version_4_keeps_containers_and_cameras(prepare, file, clock, bus):
    create_file(file, 4)
    before, known = content(file), columns_of(file)
    await asyncio.to_thread(prepare)
    assert content(file, known) == before
    async with Database(path=file, clock=clock, bus=bus).opened() as database:
        labels = [(entry.label, entry.description) for entry in await containers.listed(database)]
        assert labels == [
            ("Auto-onboarded", None),
            ("Auto-onboarded (2)", None),
            ("Halle Nord ☃", 'oben, "links"'),
            (None, None),
        ]
        camera_cache = CameraCache()
        await camera_cache.load(database)
        named = camera_cache.get("24:6F:28:00:02:01")
        assert (named.name, named.position, named.last_seen_at) == ("Eingang", 3, None)
        assert [camera.mac for camera in camera_cache if camera.container_id is None] == ["24:6F:28:00:02:02"]
        excluded = ExcludedCameras()
        await excluded.load(database)
        assert [(entry.mac[-2:], entry.reason, entry.replaced_by, entry.by) for entry in excluded] == [
            ("11", "replaced", named.mac, "admin"),
            ("12", "unpaired", None, "-"),
        ]
        assert await exclusion_store.predecessors(database, named.mac) == [("24:6F:28:00:02:11", 21)]


def test_migration_cuts_too_long_labels(prepare, old):
    """No release wrote such a label, but a manual edit can."""
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("UPDATE containers SET label = ?, description = ''", ("ü" * 101,))
        connection.commit()
    prepare()
    assert rows(old, "SELECT DISTINCT label, description FROM containers") == [("ü" * 100, None)]


def test_backup_has_the_content_before_the_migration(prepare, old, add_migrations, tmp_path):
    before = content(old)
    add_migrations(ADDS_A_COLUMN)
    report = prepare()
    assert [report.backup] == list((tmp_path / "backups").iterdir()), "no partial backup is left"
    assert re.fullmatch(r"schema-0001-\d{8}T\d{12}\.db", report.backup.name)
    assert version(report.backup) == 1
    assert rows(report.backup, "PRAGMA integrity_check") == [("ok",)]
    assert content(report.backup) == before
    assert stat.S_IMODE(report.backup.parent.stat().st_mode) == 0o700


def test_backup_includes_the_wal(prepare, old, add_migrations, tmp_path):
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("UPDATE cameras SET name = 'from the log'")
        connection.commit()
        copies = {name: old.with_name(name).read_bytes() for name in (old.name, old.name + "-wal")}
    for name, data in copies.items():
        (crashed / name).write_bytes(data)
    add_migrations(ADDS_A_COLUMN)
    report = schema.prepare(crashed / old.name, backups=crashed / "backups", backups_kept=5, closed_cleanly=False)
    for database in (crashed / old.name, report.backup):
        assert rows(database, "SELECT DISTINCT name FROM cameras") == [("from the log",)]


def test_failed_migration_is_rolled_back(prepare, old, add_migrations):
    before, known = content(old), columns_of(old)
    add_migrations(FAILS_HALFWAY)
    with pytest.raises(StartupError, match="no such table: nowhere") as caught:
        prepare()
    assert version(old) == NEWEST, "the migrations before it are kept"
    assert added(old, known) == dict.fromkeys(("scans", *PROVISIONING, *EXCLUSIONS), [])
    assert content(old, known) == before
    backup = next(old.parent.glob("backups/*.db"))
    assert str(backup) in caught.value.remedy
    assert content(backup) == before


def test_migrations_before_a_failed_one_are_kept(prepare, old, add_migrations):
    add_migrations(ADDS_A_COLUMN, FAILS_HALFWAY)
    with pytest.raises(StartupError):
        prepare()
    assert version(old) == NEWEST + 1
    assert "half" not in content(old)
    newest = add_migrations(ADDS_A_COLUMN, ADDS_A_TABLE)
    assert prepare().migrated_from == NEWEST + 1
    assert version(old) == newest


def test_oldest_backups_are_deleted(prepare, old, add_migrations, tmp_path):
    further, taken = [], []
    for number in range(5):
        further.append(f"CREATE TABLE extra_{number} (a TEXT) STRICT;")
        add_migrations(*further)
        taken.append(prepare(backups_kept=3).backup)
    assert sorted((tmp_path / "backups").iterdir()) == sorted(taken[-3:])


def test_new_backup_is_kept_after_clock_jump(prepare, old, add_migrations, tmp_path):
    folder = tmp_path / "backups"
    folder.mkdir()
    for year in (2097, 2098, 2099):
        (folder / f"schema-0001-{year}0101T000000000000.db").touch()
    add_migrations(ADDS_A_COLUMN)
    report = prepare(backups_kept=2)
    assert {file.name for file in folder.iterdir()} == {report.backup.name, "schema-0001-20990101T000000000000.db"}


def test_other_files_in_backup_folder_are_kept(prepare, old, add_migrations, tmp_path):
    (tmp_path / "backups").mkdir()
    (tmp_path / "backups/by-hand.db").touch()
    add_migrations(ADDS_A_COLUMN)
    prepare(backups_kept=1)
    assert (tmp_path / "backups/by-hand.db").exists()


def test_partial_backup_is_replaced(old, tmp_path):
    target = tmp_path / "copy.db"
    target.with_suffix(".partial").write_bytes(b"half a backup")
    with closing(sqlite3.connect(old)) as connection:
        schema.backup(connection, target)
    assert content(target) == content(old)
    assert not target.with_suffix(".partial").exists()


def test_refusal_of_newer_file_names_usable_backup(prepare, old, add_migrations, monkeypatch, tmp_path):
    add_migrations(ADDS_A_COLUMN)
    first = prepare().backup
    add_migrations(ADDS_A_COLUMN, ADDS_A_TABLE)
    second = prepare().backup
    before = old.read_bytes()
    add_migrations()  # none: back to the older version
    with pytest.raises(StartupError) as caught:
        prepare()
    assert f"has schema {NEWEST + 2}; this version supports up to {NEWEST}" in caught.value.message
    assert "install the newer version again" in caught.value.remedy
    assert str(first) in caught.value.remedy
    assert str(second) not in caught.value.remedy, "its schema is too new as well"
    assert old.read_bytes() == before, "the file is unchanged"


def test_refusal_without_backup_asks_for_newer_version(prepare, old, add_migrations):
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(StartupError) as caught:
        prepare()
    assert caught.value.remedy == "install the newer version again"


def test_locked_file_stops_the_start(prepare, old, monkeypatch, add_migrations):
    with closing(sqlite3.connect(old, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        add_migrations(ADDS_A_COLUMN)
        real = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", lambda *given, **more: real(*given, **{"timeout": 0.05} | more))
        with pytest.raises(StartupError, match="locked"):
            prepare()
