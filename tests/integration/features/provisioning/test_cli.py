"""Commands `sessions` and `secrets` with a daemon process and cameras: text, exit codes, advice."""

import re
import signal

import pytest

from tests.support.process import command, daemon, running_command, write_toml
from tests.support.terminal import on_terminal
from tests.support.waiting import eventually

SSID, PASSWORD = "Target Küche", "canary-4711-canary"
VERBS = (
    *("start", "show", "devices", "provision", "provision-all", "retry", "confirm", "skip", "pause", "resume", "close"),
    *("discard", "recoverable", "history"),
)
CAMERA_VERBS = ("provision", "retry", "confirm", "skip")
MAC, UNKNOWN_ID = "24:6F:28:00:01:00", "00000000-0000-4000-8000-000000000000"
BATCH = "/api/v1/provisioning/batch"


def sections(rig, **provisioning):
    return {
        "auto_onboard": {"enabled": False},
        "provisioning": {"target_subnets": [rig.network], "mqtt_host": rig.broker.host} | provisioning,
    }


class Cli:
    """`await cli("show")` runs `sessions show` against a daemon and checks its output."""

    def __init__(self, rig, process, folder):
        self.rig, self.process, self.folder = rig, process, folder
        tree = rig.tree(http={"listen": [process.api.url[7:]]})
        self.config = write_toml(folder / "client.toml", tree)
        self.secret = folder / "wifi"
        self.secret.write_text(f"{PASSWORD}\n")

    async def __call__(self, *args, code=0, group="sessions", **how):
        done = await command(group, *args, "--config", self.config, **how)
        assert "Traceback" not in done.err
        assert done.code == code, done
        assert PASSWORD not in done.out + done.err
        assert [line for line in (done.out + done.err).splitlines() if not line.isprintable()] == []
        if "--json" not in args:
            assert [line for line in done.out.splitlines() if len(line) > 80] == []
        return done

    async def start(self, *args, **how):
        """Start a session with a network that the simulated cameras can join; return its id."""
        done = await self("start", "--ssid", SSID, "--password-file", self.secret, *args, "--json", **how)
        return done.json["id"]

    async def joined(self, session_id, fleet, *, allow=True):
        """Wait until every camera of a fleet is in the session."""
        if allow:
            await self.allow(*(camera.mac for camera in fleet.cameras))

        async def have_joined():
            answer = await self.process.admin.get(f"{BATCH}/{session_id}/devices")
            return answer.data["count"] == len(fleet.cameras)

        await eventually(have_joined, what="the cameras joined")

    async def allow(self, *macs):
        body = {"entries": [{"mac": mac} for mac in macs]}
        await self.process.admin.post("/api/v1/provisioning/allowlist/bulk", json=body)

    async def devices(self, session_id):
        answer = await self.process.admin.get(f"{BATCH}/{session_id}/devices")
        return {device["mac"]: device for device in answer.data["devices"]}

    def started(self, *args, prefix=()):
        """The command as a process that keeps running (see `running_command`)."""
        return running_command("sessions", *args, "--config", self.config, folder=self.folder, prefix=prefix)


@pytest.fixture
async def cli(rig, tmp_path):
    async with daemon(rig, tmp_path, **sections(rig)) as process:
        yield Cli(rig, process, tmp_path)


# Without a daemon.


@pytest.mark.parametrize("args", [[], *([verb] for verb in VERBS)], ids=" ".join)
async def test_help_fits_80_columns(args):
    done = await command("sessions", *args, "--help", env={"COLUMNS": "80"})
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"usage: {' '.join(['pi-orchestrator', 'sessions', *args])}")
    assert [line for line in done.out.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["nonsense"],
        ["provision"],
        ["retry"],
        ["skip"],
        ["show", "a", "b"],
        ["devices", "--state", "nonsense"],
        ["start", "--open", "--password-stdin"],
        ["start", "--open", "--password-file", "/dev/null"],
        ["start", "--password", "secret"],
        ["start", "--discovery-timeout", "x"],
        ["start", "--ssid", "x"],
        ["history", "--limit", "x"],
    ],
    ids=" ".join,
)
async def test_wrong_arguments_exit_2(args):
    done = await command("sessions", *args, "--url" if args else "--nonsense", "http://127.0.0.1:1")
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err


@pytest.mark.parametrize("verb", VERBS)
async def test_unreachable_daemon_exits_3(verb):
    args = [MAC] if verb in CAMERA_VERBS else []
    done = await command("sessions", verb, *args, "--url", "http://127.0.0.1:1")
    assert (done.code, done.out) == (3, "")
    assert "check: systemctl status" in done.err


async def test_missing_key_error_names_variable(cli):
    done = await cli("show", code=1, env={"PIORCH_API_KEY": "wrong"})
    assert "PIORCH_API_KEY" in done.err


# Selecting a session.


async def test_missing_session_error_names_start(cli):
    for verb in VERBS[1:-2]:
        done = await cli(verb, *([MAC] if verb in CAMERA_VERBS else []), code=1)
        assert done.err == "error: no session is open\n  open one: pi-orchestrator sessions start\n"
    assert (await cli("recoverable")).out == "No interrupted sessions.\n"
    assert (await cli("recoverable", "--json")).json == []
    assert (await cli("history")).out == "No closed sessions.\n"
    assert (await cli("history", "--json")).json["sessions"] == []


async def test_session_is_found_by_id_prefix(cli):
    session_id = await cli.start()
    for name in ([], [session_id], [session_id.upper()], [session_id[:4]], [session_id[:8].upper()]):
        assert (await cli("show", *name, "--json")).json["session"]["id"] == session_id
    other_prefix = "f" if session_id[0] != "f" else "0"
    assert f"no session id starts with '{other_prefix}'" in (await cli("show", other_prefix, code=1)).err
    assert "is not a session id" in (await cli("show", "../keys", code=1)).err
    assert "session not found" in (await cli("show", UNKNOWN_ID, code=1)).err
    other = await cli.start("--interface", "other0")
    done = await cli("show", code=1)
    assert "2 sessions are open; name one of them" in done.err
    assert f"  {session_id} active on lo\n" in done.err
    assert f"  {other} active on other0\n" in done.err
    assert (await cli("show", other[:6], "--json")).json["session"]["id"] == other
    await cli("discard", other)
    assert (await cli("show", "--json")).json["session"]["id"] == session_id
    assert (await cli("show", other[:6], "--json")).json["session"]["state"] == "closed", (
        "closed sessions are found too"
    )


# Session lifecycle.


async def test_session_is_started_paused_resumed_and_closed(cli):
    done = await cli("start", "--ssid", SSID, "--password-file", cli.secret, "--discovery-timeout", "61")
    session_id = re.search(r"Session (\S+) on lo\n", done.out)[1]
    assert "cameras join it when they are discovered" in done.out
    assert "Target Küche" in done.out
    again = await cli("start", "--open", "--ssid", SSID, code=1)
    assert session_id in again.err

    shown = (await cli("show")).out
    assert [line.split()[0] for line in shown.splitlines()[:3]] == ["SESSION", "id", "state"]
    assert "discovery 61 s, provisioning 120 s, verification 90 s" in shown
    assert (await cli("show", "--json")).json["session"]["config"]["discovery_timeout_seconds"] == 61
    assert "No cameras yet" in (await cli("devices")).out
    assert (await cli("devices", "--json")).json == []

    assert "paused" in (await cli("pause")).out
    assert "resume it first" in (await cli("provision-all", code=1)).err
    watched = await cli("show", "--watch")
    assert watched.out.startswith("The session is paused: nothing new is started. To continue:")
    assert "resumed" in (await cli("resume")).out
    assert (await cli("show", "--json")).json["session"]["state"] == "active"
    assert re.fullmatch(r"0 verified, 0 failed, 0 skipped, in \d+\.\d s\.\n", (await cli("show", "--watch")).out)

    assert "closed: 0 verified" in (await cli("close")).out
    listed = (await cli("history")).out.splitlines()
    assert listed[0].split()[:4] == ["ID", "STARTED", "(UTC)", "STATE"]
    assert listed[1].split()[0] == session_id[:8]
    assert (await cli("history", "--json")).json["pagination"]["total"] == 1
    assert "0 verified" in (await cli("close", session_id)).out, "a repeat is no error"
    assert f"session {session_id} is closed" in (await cli("resume", session_id, code=1)).err


async def test_password_from_file_or_stdin(cli):
    wrong = cli.folder / "wrong"
    for content, error in (
        (b"", "is empty"),
        (b"\nsecret-on-line-2", "is empty"),
        (b"x" * 2000, "longer than 1024 bytes"),
        (b"\xff\xfe-binary", "not UTF-8"),
        (b"short77", "8 to 63"),
    ):
        wrong.write_bytes(content)
        done = await cli("start", "--ssid", SSID, "--password-file", wrong, code=1)
        assert error in done.err
        assert "secret-on" not in done.err
        assert "short77" not in done.err
    done = await cli("start", "--ssid", SSID, "--password-file", "/nonexistent", code=1)
    assert "/nonexistent cannot be read: No such file or directory" in done.err
    from_stdin = ("sh", "-c", f'exec "$0" "$@" < {cli.secret}')
    done = await cli("start", "--ssid", SSID, "--password-stdin", "--json", prefix=from_stdin)
    assert done.json["target_ssid"] == SSID
    assert (await cli("discard", "--json")).json == {"discarded": done.json["id"]}
    assert (await cli("start", "--ssid", SSID, "--open", "--json")).json["target_ssid"] == SSID
    assert f"Session {(await cli('show', '--json')).json['session']['id']} discarded." in (await cli("discard")).out
    bare = await cli("start")
    assert "It cannot provision cameras without a target network" in bare.out


async def test_password_prompt_is_not_echoed(cli):
    done = await on_terminal(
        *("sessions", "start", "--ssid", SSID, "--config", cli.config),
        question="Password of 'Target Küche': ",
        answer=f"{PASSWORD}\n",
    )
    assert done.code == 0, done
    assert PASSWORD not in done.out
    assert (await cli("show", "--json")).json["session"]["target_ssid"] == SSID


# The batch.


async def test_provision_all_prints_each_change(cli, rig):
    async with rig.fleet(3, rejoin_s=0.2) as fleet:
        session_id = await cli.start()
        await cli.joined(session_id, fleet)
        assert len((await cli("devices")).out.splitlines()) == 3
        done = await cli("provision-all")
        for camera in fleet.cameras:
            lines = [line for line in done.out.splitlines() if camera.mac in line]
            assert lines[-1].endswith("verified")
            assert len(lines) >= 2
        assert re.search(r"^3 verified, 0 failed, 0 skipped, in [0-9.]+ s\.$", done.out, re.MULTILINE)
        assert done.err == ""
        again = await cli("provision-all", "--json")
        assert (again.json["outcome"], again.json["verified"], again.json["failed"]) == ("done", 3, 0)
        assert {device["state"] for device in again.json["devices"]} == {"verified"}
        assert "closed: 3 verified" in (await cli("close")).out


async def test_terminal_view_is_redrawn_in_place(cli, rig):
    async with rig.fleet(4, rejoin_s=0.2) as fleet:
        session_id = await cli.start()
        await cli.joined(session_id, fleet)
        done = await on_terminal("sessions", "provision-all", "--config", cli.config, width=60, height=5)
        assert done.code == 0, done
        assert "\x1b[4F" in done.out, "overwritten lines"
        *_, last, summary = re.split(r"\x1b\[\d+F|\x1b\[J", done.out)
        lines = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", last).replace("\r", "").strip().split("\n")
        assert len(lines) <= 4
        assert all(len(line) < 60 for line in lines)
        assert "4 verified" in lines[0]
        assert lines[-1].startswith("… and 2 more: 2 verified")
        assert "4 verified, 0 failed" in summary


async def test_failure_prints_advice_and_exits_1(cli, rig):
    async with rig.fleet(3, faults=["provision-reject"], rejoin_s=0.2) as fleet:
        session_id = await cli.start()
        await cli.joined(session_id, fleet)
        done = await cli("provision-all", code=1)
        bad = fleet.cameras[-1].mac
        assert "2 verified, 1 failed, 0 skipped" in done.out
        assert "DEVICE_REJECTED: its firmware rejected this network" in done.out
        assert f"  {bad}: " in done.out
        assert (await cli("devices", "--state", "failed", "--json")).json[0]["mac"] == bad
        assert "failed" in (await cli("devices", "--state", "failed")).out

        done = await cli("retry", bad.lower(), "--wait", "--json", code=1)
        assert [device["mac"] for device in done.json["devices"]] == [bad], "only the requested camera"
        assert done.json["devices"][0]["retry_count"] == 1
        assert (await cli("skip", bad)).out == "skipped by the operator\n"
        assert "\n2 verified, 0 failed, 1 skipped" in (await cli("show", "--watch")).out, "a skip is no failure"


async def test_single_camera_is_provisioned_alone(cli, rig):
    async with rig.fleet(2, rejoin_s=0.2) as fleet:
        session_id = await cli.start()
        await cli.joined(session_id, fleet, allow=False)
        first, second = (camera.mac for camera in fleet.cameras)
        done = await cli("provision", first, code=1)
        assert "is not on the allowlist" in done.err
        assert "not provisioned: not on the allowlist" in (await cli("provision-all")).out
        await cli.allow(first)
        done = await cli("provision", first.replace(":", "-").lower(), session_id[:8], "--wait")
        assert done.out.splitlines()[-1].startswith("1 verified, 0 failed")
        assert second not in done.out
        assert "already" in (await cli("provision", first)).out
        assert "is not in this session" in (await cli("skip", "24:6F:28:FF:FF:FF", code=1)).err
        assert "zz" in (await cli("skip", "zz", code=1)).err


async def test_no_wait_and_ctrl_c_keep_batch_running(cli, rig):
    async with rig.fleet(2, faults=["provision-vanish:2"], rejoin_s=0.2) as fleet:
        session_id = await cli.start()
        await cli.joined(session_id, fleet)
        assert "2 queued" in (await cli("provision-all", "--no-wait")).out
        async with cli.started("show", "--watch") as process:
            await eventually(lambda: process.out().count("24:6F") + process.out().count("verifying") > 1)
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
            assert "The session continues. To watch it again: pi-orchestrator" in process.err()
            assert session_id[:8] in process.err()
        under_way = {device["state"] for device in (await cli.devices(session_id)).values()}
        assert under_way <= {"provisioning", "provisioned", "verifying"}

        async with cli.started("show", "--watch") as process:
            await eventually(lambda: "24:6F" in process.out())
            await cli.process.admin.post(f"{BATCH}/{session_id}/pause")
            assert await process.wait() == 1
            assert "The session is paused: nothing new is started." in process.out()
            assert "2 not finished" in process.out()


async def test_view_survives_daemon_restart(cli, rig, tmp_path):
    async with rig.fleet(1, faults=["provision-vanish"], rejoin_s=0.2) as fleet:
        session_id = await cli.start()
        await cli.joined(session_id, fleet)
        async with cli.started("provision-all") as process:
            await eventually(lambda: "verifying" in process.out())
            listen = [cli.process.api.url[7:]]
            await cli.process.kill()
            await eventually(lambda: "retrying in" in process.err())
            async with daemon(rig, tmp_path, http={"listen": listen}, **sections(rig)) as again:
                cli.process = again
                assert await process.wait() == 1
                assert "A restart of the daemon interrupted the session." in process.out()
                listed = (await cli("recoverable")).out
                assert session_id[:8] in listed
                assert "sessions resume ID --watch" in listed
                assert (await cli("recoverable", "--json")).json[0]["id"] == session_id
                assert "resumed" in (await cli("resume")).out
                assert rig.rows("SELECT * FROM operator_actions WHERE action = 'session.recover'"), (
                    "recovered, not only resumed"
                )
                assert (await cli("recoverable", "--json")).json == []


# Secrets.


async def test_key_rotation_keeps_passwords(cli, rig):
    async with rig.fleet(1, rejoin_s=0.2) as fleet:
        session_id = await cli.start()
        await cli.joined(session_id, fleet)
        assert "1 stored passwords encrypted" in (await cli("rotate", group="secrets")).out
        assert (await cli("rotate", "--json", group="secrets")).json["rotated"] == 1
        assert "1 verified" in (await cli("provision-all")).out
    answer = await cli.process.admin.post("/api/v1/keys", json={"name": "hand", "scope": "operate"})
    refused = await cli("rotate", group="secrets", code=1, env={"PIORCH_API_KEY": answer.data["secret"]})
    assert "'hand' has scope operate" in refused.err
    assert (await command("secrets", "rotate", "--url", "http://127.0.0.1:1")).code == 3
