"""`allowlist`, beside a daemon process: text that fits a terminal, files in and out, exit codes, remedies."""

import csv
import io

import pytest

from tests.support.process import command, daemon, write_toml

MAC, OTHER, THIRD = "24:6F:28:00:00:10", "24:6F:28:00:00:20", "24:6F:28:00:00:30"
BOX = "550e8400-e29b-41d4-a716-446655440000"
HEADER = "mac,description,container_id"
VERBS = ("list", "add", "remove", "import", "export")


@pytest.fixture
async def cli(world, tmp_path):
    """`await cli("list", ...)` beside a daemon, in `cli.folder`; `cli.mark_used(mac)` is what a batch does."""
    async with daemon(world, tmp_path, connected=False) as process:
        config = write_toml(tmp_path / "config.toml", world.tree(http={"listen": [process.api.url[7:]]}))
        folder = tmp_path / "here"
        folder.mkdir()

        async def run(*args, code=0, stdin=None, **how):
            if stdin is not None:
                (folder / "stdin").write_bytes(stdin)
                how["prefix"] = ("sh", "-c", f'exec "$0" "$@" < {folder / "stdin"}')
            done = await command("allowlist", *args, "--config", config, cwd=folder, **how)
            assert "Traceback" not in done.err
            assert done.code == code, done
            assert code or done.err == "", "what went well is told on stdout alone"
            assert [line for line in (done.out + done.err).splitlines() if not line.isprintable()] == []
            if "--json" not in args and args[0] != "export":
                assert [line for line in done.out.splitlines() if len(line) > 80] == []
            return done

        async def mark_used(mac):
            await world.sabotage(f"UPDATE allowlist SET used_at = '2026-03-04T05:06:07Z' WHERE mac = '{mac}'")

        run.folder, run.process, run.world, run.mark_used = folder, process, world, mark_used
        yield run


def write(cli, name, *lines, header=HEADER):
    (cli.folder / name).write_text("\n".join([header, *lines, ""]))
    return name


# Without a daemon.


@pytest.mark.parametrize("args", [[], *([verb] for verb in VERBS)], ids=" ".join)
async def test_the_command_explains_itself_within_the_width_of_a_terminal(args):
    done = await command("allowlist", *args, "--help", env={"COLUMNS": "80"})
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"usage: {' '.join(['pi-orchestrator', 'allowlist', *args])}")
    assert [line for line in done.out.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize(
    "args", [[], ["nonsense"], ["add"], ["remove"], ["import"], ["list", MAC], ["export", "a", "b"]]
)
async def test_wrong_arguments_end_with_code_2(args):
    done = await command("allowlist", *args)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "args", [["list"], ["add", MAC], ["remove", MAC], ["import", "/dev/null"], ["export"]], ids=" ".join
)
async def test_without_a_daemon_the_code_is_3_and_the_remedy_is_told(args):
    done = await command("allowlist", *args, "--url", "http://127.0.0.1:1")
    assert (done.code, done.out) == (3, "")
    assert "is it running?" in done.err


# One by one.


async def test_entries_are_added_listed_and_removed(cli):
    empty = await cli("list")
    assert empty.out == (
        "The allowlist is empty: no camera may be provisioned.\nTo add one: pi-orchestrator allowlist add MAC\n"
    )
    assert (await cli("list", "--json")).json == []
    assert (await cli("list", "--available")).out == "No entry is unused.\n"

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
    *_, boxed, named = (await cli("list")).out.splitlines()
    assert boxed.split()[3] == f"{BOX[:5]}…", "what is long gives way"
    assert "A camera with a name" in named
    assert named.endswith("…")
    assert [entry["mac"] for entry in (await cli("list", "--available", "--json")).json] == [MAC, THIRD]
    assert len((await cli("list", "--available")).out.splitlines()) == 3

    assert (await cli("remove", MAC, OTHER.lower())).out == "Removed 2.\n"
    assert (await cli("remove", THIRD, "--json")).json["removed"] == 1
    assert (await cli("list", "--json")).json == []


async def test_an_entry_that_is_added_again_keeps_what_is_not_given(cli):
    await cli("add", MAC, "--description", "Camera 1", "--container", "box")
    again = (await cli("add", MAC, "--description", "Camera 2", "--json")).json
    assert (again["description"], again["container_id"]) == ("Camera 2", "box")
    bare = (await cli("add", MAC, "--container", "", "--json")).json
    assert bare.keys() == {"mac", "description", "added_at", "used"}


async def test_what_was_not_there_to_remove_is_an_error_and_named(cli):
    await cli("add", MAC)
    done = await cli("remove", MAC, OTHER, THIRD, code=1)
    assert done.out == "Removed 1.\n"
    assert done.err == (
        f"error: {OTHER} was not on the allowlist\n"
        f"error: {THIRD} was not on the allowlist\n"
        "  see: pi-orchestrator allowlist list\n"
    )
    assert (await cli("remove", MAC, "--json", code=1)).json["missing"] == [MAC]


async def test_wrong_values_are_refused_with_every_field_by_name(cli):
    done = await cli("add", "zz", "--description", "x" * 201, "--container", "a b", code=1)
    assert done.out == ""
    assert all(name in done.err for name in ("mac: 'zz'", "description: 201", "container_id: "))
    done = await cli("remove", MAC, "zz", code=1)
    assert "macs.1: 'zz' is not a MAC" in done.err
    assert (await cli("list", "--json")).json == []


# Files.


async def test_a_file_is_imported_after_a_look_at_what_it_would_do(cli):
    await cli("add", OTHER, "--description", "old")
    await cli("add", THIRD)
    name = write(cli, "cameras.csv", f"{MAC},Camera 1,{BOX}", f"{OTHER},new,", f"{THIRD},,")
    planned = await cli("import", name, "--dry-run")
    assert [line.split(maxsplit=3) for line in planned.out.splitlines()[:-1]] == [
        ["LINE", "EFFECT", "MAC", "WHY"],
        ["2", "add", MAC, "-"],
        ["3", "update", OTHER, "-"],
        ["4", "skip", THIRD, "it is listed like this already"],
    ]
    assert planned.out.splitlines()[-1] == "1 to add, 1 to update, 1 to skip, 0 refused; nothing is changed yet"
    assert len((await cli("list", "--json")).json) == 2

    assert (await cli("import", name)).out == "1 added, 1 updated, 1 skipped, 0 refused\n"
    assert (await cli("import", name)).out == "0 added, 0 updated, 3 skipped, 0 refused\n"
    entries = {entry["mac"]: entry.get("description") for entry in (await cli("list", "--json")).json}
    assert entries == {MAC: "Camera 1", OTHER: "new", THIRD: None}


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["import", "dry run"])
async def test_bad_rows_are_named_by_their_line_and_the_code_is_1(cli, dry_run):
    name = write(cli, "cameras.csv", f"{MAC},Camera 1,box", "zz\x1b[2J,x,box", "", f"{OTHER},{'x' * 201},a b")
    done = await cli("import", name, *dry_run, code=1)
    assert [line for line in done.err.splitlines() if len(line) > 80] == []
    first, second = done.err.replace("\n", " ").split("line 5: ")
    assert first.startswith("line 3: mac: 'zz\\x1b[2J' is not a MAC address")
    assert "description: 201 characters" in second
    assert "container_id: " in second
    assert len((await cli("list", "--json")).json) == (0 if dry_run else 1), "good rows land"
    report = (await cli("import", name, "--json", *dry_run, code=1)).json
    assert [fault["line"] for fault in report["errors"]] == [3, 5]
    assert report["dry_run"] is bool(dry_run)


async def test_stdin_is_a_file_too(cli):
    raw = f"\ufeff{HEADER}\r\n{MAC},Küche,box\r\n".encode()
    assert (await cli("import", "-", stdin=raw)).out == "1 added, 0 updated, 0 skipped, 0 refused\n"
    assert (await cli("list", "--json")).json[0]["description"] == "Küche"


async def test_a_file_that_cannot_be_used_is_told_with_the_remedy(cli):
    (cli.folder / "large.csv").write_bytes(b"mac\n" + b"\n" * 1024 * 1024)
    (cli.folder / "latin.csv").write_bytes(f"{HEADER}\n{MAC},Küche,\n".encode("latin-1"))
    (cli.folder / "empty.csv").write_bytes(b"")
    write(cli, "headless.csv", f"{MAC},x,box", header=f"{OTHER},x,box")
    for name, *words in (
        ("nowhere.csv", "nowhere.csv cannot be read: No such file or directory", "name a CSV file, or - for stdin"),
        (".", "cannot be read: Is a directory"),
        ("large.csv", "large.csv is over 1024 KiB", "split it into several files"),
        ("latin.csv", "the file cannot be read", "line 2: byte 0xFC is not UTF-8; save it as CSV UTF-8"),
        ("empty.csv", "the file cannot be read", f"it is empty; the first line must be the header {HEADER}"),
        ("headless.csv", "the file cannot be read", f"the first line must be the header {HEADER}"),
    ):
        done = await command("allowlist", "import", name, "--url", cli.process.api.url, cwd=cli.folder, env=key(cli))
        assert (done.code, done.out) == (1, ""), done
        assert all(text in done.err for text in words), done.err
    assert (await cli("list", "--json")).json == []


def key(cli):
    return {"PIORCH_API_KEY": cli.world.admin_key()}


async def test_an_export_is_imported_as_the_same_list(cli):
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
    assert cells[4] == "'=1+1", "no spreadsheet takes it for a formula"
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]

    assert (await cli("import", "list.csv")).out == "0 added, 0 updated, 3 skipped, 0 refused\n"
    await cli("remove", MAC, OTHER, THIRD)
    await cli("import", "-", stdin=raw)
    assert [entry | {"added_at": ""} for entry in (await cli("list", "--json")).json] == before


async def test_an_export_can_be_json_and_of_an_empty_list(cli):
    assert (await cli("export")).out.splitlines() == [HEADER]
    assert (await cli("export", "--json")).json == []
    await cli("add", MAC, "--description", "Küche")
    assert (await cli("export", "--json")).json == (await cli("list", "--json")).json
    assert (await cli("export", "list.json", "--json")).out == "1 entries written to list.json.\n"
    assert "24:6F:28:00:00:10" in (cli.folder / "list.json").read_text()
    assert (await cli("import", write(cli, "empty.csv"))).out == "0 added, 0 updated, 0 skipped, 0 refused\n"


async def test_an_export_that_cannot_be_written_is_told_with_the_remedy(cli):
    done = await cli("export", "nowhere/list.csv", code=1)
    assert done.err == (
        "error: nowhere/list.csv cannot be written: No such file or directory\n  name another file, or - for stdout\n"
    )


async def test_a_key_that_may_only_read_reads(cli):
    answer = await cli.process.admin.post("/api/v1/keys", json={"name": "looks", "scope": "read"})
    reader = {"PIORCH_API_KEY": answer.data["secret"]}
    assert (await cli("list", "--json", env=reader)).json == []
    assert "'looks' has read" in (await cli("add", MAC, env=reader, code=1)).err
    assert (await cli("list", "--json")).json == []
