"""Command `allowlist` with a daemon process: output width, import and export, exit codes, error messages."""

import csv
import io

import pytest

from tests.support.process import command, daemon, write_toml

MAC, OTHER, THIRD = "24:6F:28:00:00:10", "24:6F:28:00:00:20", "24:6F:28:00:00:30"
BOX = "550e8400-e29b-41d4-a716-446655440000"
HEADER = "mac,description,container_id"
VERBS = ("list", "add", "remove", "import", "export")


@pytest.fixture
async def cli(rig, tmp_path):
    """`await cli("list", ...)` runs the command in `cli.folder`; `cli.mark_used(mac)` marks an entry as used."""
    async with daemon(rig, tmp_path, connected=False) as process:
        config = write_toml(
            tmp_path / "config.toml", rig.tree(http={"listen": [process.api.url.removeprefix("http://")]})
        )
        folder = tmp_path / "here"
        folder.mkdir()

        async def run(*args, code=0, stdin=None, **options):
            if stdin is not None:
                (folder / "stdin").write_bytes(stdin)
                options["prefix"] = ("sh", "-c", f'exec "$0" "$@" < {folder / "stdin"}')
            done = await command("allowlist", *args, "--config", config, cwd=folder, **options)
            assert "Traceback" not in done.err
            assert done.code == code, done
            assert code or done.err == "", "success prints to stdout only"
            assert [line for line in (done.out + done.err).splitlines() if not line.isprintable()] == []
            if "--json" not in args and args[0] != "export":
                assert [line for line in done.out.splitlines() if len(line) > 80] == []
            return done

        async def mark_used(mac):
            await rig.execute_in_thread(f"UPDATE allowlist SET used_at = '2026-03-04T05:06:07Z' WHERE mac = '{mac}'")

        run.folder, run.process, run.rig, run.mark_used = folder, process, rig, mark_used
        yield run


def write_csv(cli, name, *lines, header=HEADER):
    """Write a CSV file into `cli.folder`; return its name."""
    (cli.folder / name).write_text("\n".join([header, *lines, ""]))
    return name


# Without a daemon.


@pytest.mark.parametrize("args", [[], *([verb] for verb in VERBS)], ids=" ".join)
async def test_help_fits_80_columns(args):
    done = await command("allowlist", *args, "--help", env={"COLUMNS": "80"})
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"usage: {' '.join(['pi-orchestrator', 'allowlist', *args])}")
    assert [line for line in done.out.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize(
    "args", [[], ["nonsense"], ["add"], ["remove"], ["import"], ["list", MAC], ["export", "a", "b"]]
)
async def test_invalid_arguments_exit_with_2(args):
    done = await command("allowlist", *args)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "args", [["list"], ["add", MAC], ["remove", MAC], ["import", "/dev/null"], ["export"]], ids=" ".join
)
async def test_unreachable_daemon_exits_with_3(args):
    done = await command("allowlist", *args, "--url", "http://127.0.0.1:1")
    assert (done.code, done.out) == (3, "")
    assert "check: systemctl status" in done.err


# Entries.


async def test_entries_are_added_listed_and_removed(cli):
    empty = await cli("list")
    assert empty.out == (
        "The allowlist is empty: no camera may be provisioned.\nTo add one: pi-orchestrator allowlist add MAC\n"
    )
    assert (await cli("list", "--json")).json == []
    assert (await cli("list", "--available")).out == "No unused entries.\n"

    assert (await cli("add", "24-6f-28-00-00-10", "--description", "Camera 1")).out == f"{MAC} is on the allowlist.\n"
    added = (await cli("add", OTHER, "--container", BOX, "--json")).json
    assert (added["mac"], added["container_id"], added["used"]) == (OTHER, BOX, False)
    await cli.mark_used(OTHER)
    head, *rows = (await cli("list")).out.splitlines()
    assert head.split() == ["MAC", "ADDED", "USED", "CONTAINER", "DESCRIPTION"]
    assert [row.split()[0] for row in rows] == [MAC, OTHER]
    assert rows[0].split()[2:] == ["no", "-", "Camera", "1"]
    assert rows[1].split()[2] == "2026-03-04"

    await cli("add", THIRD, "--description", "A camera with a name that is far too long for one line of a terminal")
    *_, second, third = (await cli("list")).out.splitlines()
    assert second.split()[3] == f"{BOX[:5]}…", "long values are cut"
    assert "A camera with a name" in third
    assert third.endswith("…")
    assert [entry["mac"] for entry in (await cli("list", "--available", "--json")).json] == [MAC, THIRD]
    assert len((await cli("list", "--available")).out.splitlines()) == 3

    assert (await cli("remove", MAC, OTHER.lower())).out == "Removed 2.\n"
    assert (await cli("remove", THIRD, "--json")).json["removed"] == 1
    assert (await cli("list", "--json")).json == []


async def test_add_again_keeps_other_fields(cli):
    await cli("add", MAC, "--description", "Camera 1", "--container", "box")
    changed = (await cli("add", MAC, "--description", "Camera 2", "--json")).json
    assert (changed["description"], changed["container_id"]) == ("Camera 2", "box")
    without_container = (await cli("add", MAC, "--container", "", "--json")).json
    assert without_container.keys() == {"mac", "description", "added_at", "used"}


async def test_remove_of_unlisted_macs_exits_with_1(cli):
    await cli("add", MAC)
    done = await cli("remove", MAC, OTHER, THIRD, code=1)
    assert done.out == "Removed 1.\n"
    assert done.err == (
        f"error: {OTHER} was not on the allowlist\n"
        f"error: {THIRD} was not on the allowlist\n"
        "  see: pi-orchestrator allowlist list\n"
    )
    assert (await cli("remove", MAC, "--json", code=1)).json["missing"] == [MAC]


async def test_invalid_fields_are_named_in_error(cli):
    done = await cli("add", "zz", "--description", "x" * 201, "--container", "a b", code=1)
    assert done.out == ""
    assert all(name in done.err for name in ("mac: 'zz'", "description: 201", "container_id: "))
    done = await cli("remove", MAC, "zz", code=1)
    assert "macs.1: 'zz' is not a MAC" in done.err
    assert (await cli("list", "--json")).json == []


# Files.


async def test_import_does_what_dry_run_printed(cli):
    await cli("add", OTHER, "--description", "old")
    await cli("add", THIRD)
    name = write_csv(cli, "cameras.csv", f"{MAC},Camera 1,{BOX}", f"{OTHER},new,", f"{THIRD},,")
    planned = await cli("import", name, "--dry-run")
    assert [line.split(maxsplit=3) for line in planned.out.splitlines()[:-1]] == [
        ["LINE", "EFFECT", "MAC", "REASON"],
        ["2", "add", MAC, "-"],
        ["3", "update", OTHER, "-"],
        ["4", "skip", THIRD, "already listed with these values"],
    ]
    assert planned.out.splitlines()[-1] == "1 to add, 1 to update, 1 to skip, 0 refused (dry run, nothing changed)"
    assert len((await cli("list", "--json")).json) == 2

    assert (await cli("import", name)).out == "1 added, 1 updated, 1 skipped, 0 refused\n"
    assert (await cli("import", name)).out == "0 added, 0 updated, 3 skipped, 0 refused\n"
    entries = {entry["mac"]: entry.get("description") for entry in (await cli("list", "--json")).json}
    assert entries == {MAC: "Camera 1", OTHER: "new", THIRD: None}


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["import", "dry run"])
async def test_import_with_invalid_rows_exits_with_1(cli, dry_run):
    name = write_csv(cli, "cameras.csv", f"{MAC},Camera 1,box", "zz\x1b[2J,x,box", "", f"{OTHER},{'x' * 201},a b")
    done = await cli("import", name, *dry_run, code=1)
    assert [line for line in done.err.splitlines() if len(line) > 80] == []
    first, second = done.err.replace("\n", " ").split("line 5: ")
    assert first.startswith("line 3: mac: 'zz\\x1b[2J' is not a MAC address")
    assert "description: 201 characters" in second
    assert "container_id: " in second
    assert len((await cli("list", "--json")).json) == (0 if dry_run else 1), "valid rows are applied"
    report = (await cli("import", name, "--json", *dry_run, code=1)).json
    assert [error["line"] for error in report["errors"]] == [3, 5]
    assert report["dry_run"] is bool(dry_run)


async def test_import_reads_stdin(cli):
    raw = f"\ufeff{HEADER}\r\n{MAC},Küche,box\r\n".encode()
    assert (await cli("import", "-", stdin=raw)).out == "1 added, 0 updated, 0 skipped, 0 refused\n"
    assert (await cli("list", "--json")).json[0]["description"] == "Küche"


async def test_import_of_unusable_file_prints_remedy(cli):
    (cli.folder / "large.csv").write_bytes(b"mac\n" + b"\n" * 1024 * 1024)
    (cli.folder / "latin.csv").write_bytes(f"{HEADER}\n{MAC},Küche,\n".encode("latin-1"))
    (cli.folder / "empty.csv").write_bytes(b"")
    write_csv(cli, "no_header.csv", f"{MAC},x,box", header=f"{OTHER},x,box")
    for name, *fragments in (
        ("nowhere.csv", "cannot read nowhere.csv: No such file or directory", "choose a CSV file, or - for stdin"),
        (".", "cannot read .: Is a directory"),
        ("large.csv", "large.csv is over 1024 KiB", "split it into several files"),
        ("latin.csv", "the file is not a valid CSV list", "line 2: byte 0xFC is not UTF-8; save it as CSV UTF-8"),
        (
            "empty.csv",
            "the file is not a valid CSV list",
            f"the file is empty; the first line must be the header {HEADER}",
        ),
        ("no_header.csv", "the file is not a valid CSV list", f"the first line must be the header {HEADER}"),
    ):
        done = await command(
            "allowlist", "import", name, "--url", cli.process.api.url, cwd=cli.folder, env=key_environment(cli)
        )
        assert (done.code, done.out) == (1, ""), done
        assert all(text in done.err for text in fragments), done.err
    assert (await cli("list", "--json")).json == []


def key_environment(cli):
    return {"PIORCH_API_KEY": cli.rig.admin_key()}


async def test_exported_list_is_imported_unchanged(cli):
    await cli("add", MAC, "--description", "=1+1", "--container", BOX)
    await cli("add", OTHER, "--description", '\'="quoted", too')
    await cli("add", THIRD, "--description", "Küche")
    before = [entry | {"added_at": ""} for entry in (await cli("list", "--json")).json]

    written = await cli("export", "list.csv")
    assert written.out == "3 entries written to list.csv.\n"
    raw = (cli.folder / "list.csv").read_bytes()
    printed = (await cli("export")).out
    assert (await cli("export", "-")).out == printed == raw.decode()
    cells = [cell for row in csv.reader(io.StringIO(printed, newline="")) for cell in row]
    assert cells[:3] == HEADER.split(",")
    assert cells[4] == "'=1+1", "a spreadsheet does not read it as a formula"
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]

    assert (await cli("import", "list.csv")).out == "0 added, 0 updated, 3 skipped, 0 refused\n"
    await cli("remove", MAC, OTHER, THIRD)
    await cli("import", "-", stdin=raw)
    assert [entry | {"added_at": ""} for entry in (await cli("list", "--json")).json] == before


async def test_export_can_be_json_and_empty(cli):
    assert (await cli("export")).out.splitlines() == [HEADER]
    assert (await cli("export", "--json")).json == []
    await cli("add", MAC, "--description", "Küche")
    assert (await cli("export", "--json")).json == (await cli("list", "--json")).json
    assert (await cli("export", "list.json", "--json")).out == "1 entries written to list.json.\n"
    assert "24:6F:28:00:00:10" in (cli.folder / "list.json").read_text()
    assert (await cli("import", write_csv(cli, "empty.csv"))).out == "0 added, 0 updated, 0 skipped, 0 refused\n"


async def test_export_to_unwritable_file_prints_remedy(cli):
    done = await cli("export", "nowhere/list.csv", code=1)
    assert done.err == (
        "error: cannot write nowhere/list.csv: No such file or directory\n  choose another file, or - for stdout\n"
    )


async def test_key_with_scope_read_cannot_write(cli):
    answer = await cli.process.admin.post("/api/v1/keys", json={"name": "viewer", "scope": "read"})
    reader = {"PIORCH_API_KEY": answer.data["secret"]}
    assert (await cli("list", "--json", env=reader)).json == []
    assert "'viewer' has scope read" in (await cli("add", MAC, env=reader, code=1)).err
    assert (await cli("list", "--json")).json == []
