"""Commands as a user runs them: exit codes, text within the terminal width, JSON, remedies."""

import json
import os

import pytest

from tests.support.process import COMMAND, UNPRIVILEGED, command, daemon, first_line, start, write_toml

COMMANDS = [
    [],
    ["run"],
    ["demo"],
    ["scan"],
    ["check-config"],
    ["show-config"],
    ["config"],
    *(["config", verb] for verb in ("get", "set", "reset")),
    ["cameras"],
    *(["cameras", verb] for verb in ("list", "show", "unassigned", "rename", "pair", "unpair", "replace")),
    *(["cameras", verb] for verb in ("dismissed", "lift", "capture", "reboot")),
    ["containers"],
    *(["containers", verb] for verb in ("list", "show", "create", "rename", "delete", "assign", "remove")),
    ["devices"],
    ["network"],
    ["onboarding"],
    *(["onboarding", verb] for verb in ("status", "enable", "disable", "events", "explain")),
    ["allowlist"],
    *(["allowlist", verb] for verb in ("list", "add", "remove", "import", "export")),
    ["sessions"],
    *(["sessions", verb] for verb in ("start", "show", "devices", "provision-all", "provision", "retry", "skip")),
    *(["sessions", verb] for verb in ("pause", "resume", "close", "discard", "recoverable", "history")),
    ["events"],
    ["logs"],
    ["bundle"],
    ["secrets"],
    ["secrets", "rotate"],
    ["api-key"],
    *(["api-key", verb] for verb in ("create", "list", "revoke")),
    ["doctor"],
    ["openapi"],
    ["sandbox"],
    ["sandbox", "cameras"],
]
WIDTH = 80
MAC = "24:6F:28:00:01:00"


def too_long(text):
    return [line for line in text.splitlines() if len(line) > WIDTH]


@pytest.fixture
async def cli(rig, tmp_path):
    """`await cli("cameras", ...)` with a running daemon and three paired cameras; `cli.process` is the daemon."""
    async with daemon(rig, tmp_path) as process, rig.fleet(3) as fleet:
        await process.logged("camera onboarded", count=3)
        config = write_toml(tmp_path / "config.toml", rig.tree(http={"listen": [process.api.url[7:]]}))

        async def run(*args, code=0, **options):
            done = await command(*args, "--config", config, **options)
            assert "Traceback" not in done.err
            assert done.code == code, done
            assert code or done.err == "", "a successful command prints nothing on stderr"
            return done

        run.process, run.fleet, run.config = process, fleet, config
        yield run


# Without a daemon.


@pytest.mark.parametrize("args", COMMANDS, ids=" ".join)
async def test_command_help_fits_terminal(args):
    done = await command(*args, "--help", env={"COLUMNS": str(WIDTH)})
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"usage: {' '.join(['pi-orchestrator', *args])}")
    assert too_long(done.out) == []


async def test_help_lists_commands_and_exit_codes():
    text = (await command("--help")).out
    listed = {line.split()[0] for line in text.splitlines() if line.startswith("    ")}
    assert {args[0] for args in COMMANDS if args} <= listed
    for meaning in ("0 success", "1 failure", "2 invalid configuration or arguments", "3 daemon unreachable"):
        assert meaning in " ".join(text.split())


async def test_version_is_the_package_version():
    from pi_orchestrator import __version__

    assert (await command("--version")).out == f"pi-orchestrator {__version__}\n"


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["nonsense"],
        ["onboarding"],
        ["onboarding", "nonsense"],
        ["cameras", "list", "--nonsense"],
        ["onboarding", "explain"],
        ["onboarding", "events", "--limit", "many"],
        ["api-key", "create"],
        ["api-key", "create", "x", "--scope", "god"],
        ["allowlist"],
        ["sessions"],
        ["secrets"],
        ["secrets", "nonsense"],
        ["events", "--since", "x"],
        ["demo", "--count", "x"],
        ["run", "--log-level", "loud"],
        ["cameras", "list", "--url", "nonsense"],
        ["cameras", "list", "--url", "http://127.0.0.1:port"],
        ["cameras", "list", "--url", "http://127.0.0.1:99999"],
        ["cameras", "list", "--config", "/nonexistent"],
    ],
    ids=" ".join,
)
async def test_wrong_arguments_exit_with_2(args):
    done = await command(*args)
    assert (done.code, done.out) == (2, "")
    assert done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "args",
    [
        ["cameras", "list"],
        ["cameras", "show", MAC],
        ["cameras", "rename", MAC, "Entrance"],
        ["cameras", "replace", MAC, "24:6F:28:00:02:00"],
        ["containers", "list"],
        ["containers", "assign", "box", MAC, "1"],
        ["devices"],
        ["devices", MAC],
        ["onboarding", "status"],
        ["onboarding", "enable"],
        ["onboarding", "disable"],
        ["onboarding", "events"],
        ["onboarding", "explain", MAC],
        ["api-key", "create", "x"],
        ["api-key", "list"],
        ["api-key", "revoke", "x"],
        ["allowlist", "list"],
        ["sessions", "show"],
        ["events"],
        ["events", "--follow"],
        ["secrets", "rotate"],
    ],
    ids=" ".join,
)
async def test_command_without_daemon_exits_with_3(args):
    done = await command(*args, "--url", "http://127.0.0.1:1")
    assert (done.code, done.out) == (3, "")
    assert done.err == (
        "error: no daemon responds at http://127.0.0.1:1: Connection refused\n"
        "  check: systemctl status pi-orchestrator, or give the daemon's URL with --url\n"
    )
    assert too_long(done.err) == []


async def test_command_to_other_server_exits_with_3(rig):
    done = await command("cameras", "list", "--url", f"http://127.0.0.1:{rig.broker.port}")
    assert done.code == 3
    assert "Traceback" not in done.err


async def test_openapi_prints_the_document():
    document = (await command("openapi")).json
    assert document["openapi"] == "3.1.0"
    assert "/api/v1/onboarding/auto/status" in document["paths"]


@pytest.mark.parametrize(
    "args, fresh",
    [(["openapi"], False), (["doctor"], False), (["show-config"], True), (["--help"], True), (["--version"], True)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_closed_output_is_no_error(tmp_path, args, fresh):
    """Like `pi-orchestrator ... | head -1`, but the pipe is closed before the first output.

    A new interpreter also flushes its output when it exits.
    """
    reading, writing = os.pipe()
    os.close(reading)
    with (tmp_path / "errors").open("wb") as errors:
        try:
            process = await start((*COMMAND, *args), env={}, cwd="/", stdout=writing, stderr=errors, fresh=fresh)
        finally:
            os.close(writing)
        code = await process.wait()
    assert (tmp_path / "errors").read_text() == ""
    assert code in (0, 1)  # 1 if doctor has found a problem


@pytest.mark.parametrize(
    "args", [["openapi"], ["demo", "--count", "1", "--port", "0", "--duration", "1"]], ids=" ".join
)
async def test_output_to_head_has_no_error(args):
    line, done = await first_line(*COMMAND, *args)
    assert line
    assert (done.code, done.err) == (0, "")


# With a running daemon.


async def test_cameras_are_listed_and_shown(cli):
    macs = {camera.mac for camera in cli.fleet.cameras}
    listed = await cli("cameras", "list")
    head, *rows = listed.out.splitlines()
    assert head.split() == ["NAME", "MAC", "STATUS", "ADDRESS", "DBM", "POSITION"]
    assert {row.split()[1] for row in rows} == macs
    assert {row.split()[0] for row in rows} == {camera.device_id for camera in cli.fleet.cameras}
    assert {row[row.index(" auto-onboard") - 1 :] for row in rows} == {f"{n} auto-onboard" for n in (1, 2, 3)}
    assert all("online" in row for row in rows)
    assert too_long(listed.out) == []

    assert {camera["mac_address"] for camera in (await cli("cameras", "list", "--json")).json} == macs

    camera = cli.fleet.cameras[0]
    for name in (camera.mac, camera.mac.lower().replace(":", "-"), camera.mac.replace(":", ""), camera.device_id):
        assert (await cli("cameras", "show", name, "--json")).json["mac_address"] == camera.mac
    card = await cli("cameras", "show", camera.device_id)
    assert camera.mac in card.out
    assert "\nWhy: published on MQTT" in card.out
    assert too_long(card.out) == []

    missing = await cli("cameras", "show", "no-such-camera", code=1)
    assert missing.err.splitlines() == [
        "error: camera 'no-such-camera' not found",
        "  see the list of cameras for registered and live ones",
    ]


async def test_empty_camera_list_says_how_cameras_appear(rig, tmp_path):
    async with daemon(rig, tmp_path) as process:
        config = tmp_path / "config.toml"
        empty = await command("cameras", "list", "--config", config, "--url", process.api.url)
        assert empty.out == "No cameras yet. They appear when they publish on MQTT (camera/status/...).\n"
        assert (await command("cameras", "list", "--config", config, "--url", process.api.url, "--json")).json == []


async def test_onboarding_status_is_shown_and_toggled(cli):
    status = await cli("onboarding", "status")
    lines = dict(line.rsplit("  ", 1) for line in status.out.splitlines()[1:])
    shown = {name.strip(): value.strip() for name, value in lines.items()}
    assert (shown["enabled"], shown["running"], shown["mode"]) == ("yes", "yes", "dev")
    assert (shown["attempts"], shown["success"]) == ("3", "3")
    assert too_long(status.out) == []
    assert (await cli("onboarding", "status", "--json")).json["metrics"]["success"] == 3

    assert (await cli("onboarding", "disable")).out == "Auto-onboarding disabled\n"
    assert (await cli("onboarding", "status", "--json")).json["enabled"] is False
    assert (await cli("onboarding", "disable", "--json")).json["running"] is False, "disabling twice is no error"
    assert (await cli("onboarding", "enable")).out == "Auto-onboarding enabled\n"
    assert (await cli("onboarding", "enable", "--json")).json["enabled"] is True


async def test_onboarding_enable_with_mode_off_is_refused(rig, tmp_path):
    async with daemon(rig, tmp_path, auto_onboard={"mode": "off"}) as process:
        done = await command("onboarding", "enable", "--url", process.api.url)
        assert (done.code, done.out) == (1, "")
        assert done.err == "error: auto-onboard mode must be 'dev' to enable\n"


async def test_onboarding_events_are_filtered(cli):
    unfiltered = await cli("onboarding", "events")
    head, *rows = unfiltered.out.splitlines()
    assert head.split() == ["TIME", "(UTC)", "MAC", "STAGE"]
    assert len(rows) == 12
    assert too_long(unfiltered.out) == []

    mac = cli.fleet.cameras[1].mac
    page = (await cli("onboarding", "events", "--mac", mac.lower(), "--json")).json
    assert [event["stage"] for event in page["events"]] == ["paired", "registered", "verified", "discovered"]

    limited = await cli("onboarding", "events", "--stage", "paired", "--limit", "2")
    assert len(limited.out.splitlines()) == 4
    assert limited.out.splitlines()[-1] == "… and 1 older events; use --limit to show more."
    assert (await cli("onboarding", "events", "--since", "2999-01-01T00:00:00Z")).out == "No events.\n"

    invalid = await cli("onboarding", "events", "--mac", "zz", "--stage", "zz", "--limit", "0", "--since", "zz", code=1)
    assert all(name in invalid.err for name in ("mac", "stage", "limit", "since")), "every invalid option is named"


async def test_onboarding_explain_lists_rules(cli, rig):
    inside = await cli("onboarding", "explain", MAC, "--ip", rig.address(200))
    assert [line.split()[0] for line in inside.out.splitlines()[1:]] == [
        "enabled",
        "mode",
        "subnet",
        "deny",
        "already_onboarded",
        "rate",
    ]
    assert {line.split()[1] for line in inside.out.splitlines()[1:]} == {"pass"}
    outside = await cli("onboarding", "explain", MAC, "--ip", "10.1.2.3", code=1)
    assert "fail" in outside.out
    assert too_long(inside.out + outside.out) == []
    answer = await cli("onboarding", "explain", cli.fleet.cameras[0].mac, "--json", code=1)
    assert answer.json["allowed"] is False


async def test_onboarding_explain_has_last_failure(cli, rig):
    await rig.announce(50)  # no server at this address
    await cli.process.logged("onboarding failed")
    done = await cli("onboarding", "explain", rig.mac(50), "--ip", rig.address(50), code=1)
    text = " ".join(done.out.split())
    assert "retry fail onboarding failed once: VERIFY_UNREACHABLE: " in text
    assert "next attempt in " in text
    assert "cameras.http_port" in text
    assert too_long(done.out) == []


async def test_api_keys_are_created_listed_and_revoked(cli):
    created = await cli("api-key", "create", "dashboard", "--scope", "read")
    secret, advice = created.out.splitlines()
    assert secret.startswith("piorch_")
    assert advice == "Save it now: it cannot be shown again."
    listed = await cli("api-key", "list")
    assert [line.split()[1:3] for line in listed.out.splitlines()] == [
        ["NAME", "SCOPE"],
        ["admin", "admin"],
        ["dashboard", "read"],
    ]
    assert secret not in listed.out
    assert too_long(created.out + listed.out) == []

    assert "already" in (await cli("api-key", "create", "dashboard", code=1)).err
    # The refusal of a key with too small a scope names the key and its scope.
    refused = await cli("api-key", "list", code=1, env={"PIORCH_API_KEY": secret})
    assert "'dashboard' has scope read" in refused.err

    assert (await cli("api-key", "revoke", "dashboard")).out == "Revoked dashboard.\n"
    missing = await cli("api-key", "revoke", "dashboard", code=1)
    assert missing.err == "error: API key 'dashboard' not found\n  list the keys: pi-orchestrator api-key list\n"
    assert [key["name"] for key in (await cli("api-key", "list", "--json")).json] == ["admin"]
    created = (await cli("api-key", "create", "script", "--json")).json
    assert (await cli("api-key", "revoke", created["key"]["id"], "--json")).json == {"revoked": created["key"]["id"]}


async def test_missing_key_has_remedy(cli, rig):
    (rig.state_dir / "admin.key").chmod(0o000)
    done = await cli("api-key", "list", code=1, prefix=UNPRIVILEGED)
    assert done.err == (
        "error: this needs an API key\n"
        "  set PIORCH_API_KEY, or run this as a user who may read admin.key in the state folder (--state-dir)\n"
    )
    # Routes that need no key work for this user too.
    await cli("cameras", "list", prefix=UNPRIVILEGED)
    invalid = await cli("api-key", "list", code=1, env={"PIORCH_API_KEY": "not-the-key"})
    assert invalid.err.startswith("error: the API key is not valid\n  set PIORCH_API_KEY")


async def test_unreadable_configuration_has_remedy(tmp_path):
    config = write_toml(tmp_path / "config.toml", {})
    config.chmod(0o000)
    done = await command("cameras", "list", "--config", config, prefix=UNPRIVILEGED)
    assert done.code == 2
    assert done.err.splitlines()[1] == f"  {config}: cannot be read: Permission denied; try with sudo"


async def test_daemon_url_is_taken_from_flag_environment_or_configuration(cli):
    url = cli.process.api.url
    nowhere = "http://127.0.0.1:1"
    await cli("cameras", "list")
    await cli("cameras", "list", code=3, env={"PIORCH_URL": nowhere})
    await cli("cameras", "list", "--url", url, env={"PIORCH_URL": nowhere})


async def test_camera_text_cannot_control_terminal(cli, rig):
    async with rig.camera(900, firmware_version="1\x1b[2J\x07evil") as camera:
        await camera.publish_status(firmware_version="1\x1b[2J\x07evil", device_id="espcam-\x1b]0;x\x07")
        await cli.process.logged("camera onboarded", count=4)
        shown = [
            await cli("cameras", "list"),
            await cli("cameras", "show", camera.mac),
            await cli("onboarding", "events"),
        ]
    assert all(line.isprintable() for done in shown for line in done.out.splitlines())


async def test_json_output_is_one_document(cli):
    for args in (
        ["cameras", "list"],
        ["cameras", "dismissed"],
        ["containers", "list"],
        ["onboarding", "status"],
        ["onboarding", "events"],
        ["onboarding", "explain", MAC, "--ip", "10.0.0.1"],
        ["api-key", "list"],
        ["show-config"],
        ["doctor"],
    ):
        done = await command(*args, "--json", "--config", cli.config)
        assert isinstance(json.loads(done.out), dict | list)
        assert done.err == ""


async def test_stopped_daemon_exits_with_3(rig, tmp_path):
    async with daemon(rig, tmp_path) as process:
        url = process.api.url
        assert (await command("cameras", "list", "--url", url)).code == 0
        assert await process.stop() == 0
        assert (await command("cameras", "list", "--url", url)).code == 3


async def test_terminal_errors_fit_width():
    ours, theirs = os.openpty()
    try:
        for args in (
            ["nosuch"],
            ["logs", "--level", "loud"],
            ["cameras", "list", "--url", "http://127.0.0.1:1/" + "x" * 40],
        ):
            process = await start((*COMMAND, *args), env={"COLUMNS": str(WIDTH)}, cwd="/", stdout=theirs, stderr=theirs)
            assert await process.wait() in (2, 3)
            error = os.read(ours, 65536).decode().replace("\r\n", "\n")
            assert "error: " in error
            assert too_long(error) == []
    finally:
        os.close(ours)
        os.close(theirs)
