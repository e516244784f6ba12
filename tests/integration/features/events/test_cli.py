"""`events` with a daemon process: past events, new events, and reconnection after a restart."""

import json
import signal

import pytest

from tests.support.process import command, daemon, running_command, write_toml
from tests.support.waiting import eventually

ENABLE, DISABLE = "/api/v1/onboarding/auto/enable", "/api/v1/onboarding/auto/disable"


class Cli:
    """`await cli("--json")` runs `events --json` against a daemon."""

    def __init__(self, rig, process, folder):
        self.rig, self.process, self.folder = rig, process, folder
        self.config = write_toml(folder / "client.toml", rig.tree(http={"listen": [process.api.url[7:]]}))

    async def __call__(self, *args, code=0, **options):
        done = await command("events", *args, "--config", self.config, **options)
        assert "Traceback" not in done.err
        assert done.code == code, done
        assert [line for line in (done.out + done.err).splitlines() if not line.isprintable()] == []
        assert "--json" in args or [line for line in done.out.splitlines() if len(line) > 80] == []
        return done

    async def objects(self, *args, **options):
        return [json.loads(line) for line in (await self("--json", *args, **options)).out.splitlines()]

    async def toggle(self, times):
        """Disable and enable onboarding in turn: one event each time."""
        for number in range(times):
            await self.process.admin.post(DISABLE if number % 2 == 0 else ENABLE)

    def following(self, *args):
        """`events --follow` as a running process (see `running_command`)."""
        return running_command("events", "--follow", *args, "--config", self.config, folder=self.folder)


@pytest.fixture
async def cli(rig, tmp_path):
    async with daemon(rig, tmp_path) as process:
        yield Cli(rig, process, tmp_path)


async def test_help_fits_terminal():
    done = await command("events", "--help", env={"COLUMNS": "80"})
    assert (done.code, done.err) == (0, "")
    assert [line for line in done.out.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("args", [["--since", "x"], ["--since", "-1"], ["--since", str(2**63)], ["x"]], ids=" ".join)
async def test_invalid_arguments_exit_with_2(args):
    done = await command("events", *args)
    assert (done.code, done.out) == (2, "")


@pytest.mark.parametrize("args", [[], ["--follow"]], ids=["past", "follow"])
async def test_unreachable_daemon_exits_3(args, rig):
    done = await command("events", *args, "--url", "http://127.0.0.1:1")
    assert (done.code, done.out) == (3, "")
    assert "check: systemctl status" in done.err
    done = await command("events", *args, "--url", f"http://127.0.0.1:{rig.broker.port}")
    assert done.code == 3


async def test_last_20_events_are_shown_oldest_first(cli):
    await cli.toggle(25)
    seen = await cli.objects()
    ids = [event["id"] for event in seen]
    assert len(ids) == 20
    assert ids == sorted(set(ids))
    assert seen[-1]["type"] == "onboarding.disabled"
    lines = (await cli()).out.splitlines()
    assert len(lines) == 20
    assert lines[-1].split()[2] == "onboarding.disabled"
    assert lines[-1].split()[3] == "by=admin"


async def test_since_shows_events_after_id(cli):
    await cli.toggle(25)
    newest = (await cli.objects())[-1]["id"]
    assert [event["id"] for event in await cli.objects("--since", str(newest - 24))] == list(
        range(newest - 23, newest + 1)
    )
    assert (await cli("--since", str(newest))).out == "No events.\n"
    assert await cli.objects("--since", str(newest)) == []
    await cli.rig.execute_in_thread(f"DELETE FROM events WHERE id < {newest - 2}")
    done = await cli("--since", "1", "--json")
    assert "some events after 1 are no longer stored" in done.err
    assert "camera.list" in {json.loads(line)["type"] for line in done.out.splitlines()}


async def test_types_shows_last_20_of_types(cli):
    await cli.rig.publish("camera/status/x", {"mac": cli.rig.mac(900)})
    await cli.toggle(30)
    seen = await cli.objects("--types", "onboarding.enabled,nothing.*")
    assert {event["type"] for event in seen} == {"onboarding.enabled"}
    assert len(seen) == 15
    assert len(await cli.objects("--types", "onboarding.*")) == 20
    assert (await cli("--types", "nothing.at_all")).out == "No events.\n"
    assert "types" in (await cli("--types", "NO!", code=1)).err


async def test_client_without_key_sees_public_events(cli):
    # The last event belongs to a session, so it is not sent without a key.
    await cli.toggle(2)
    body = {"target_ssid": "x", "target_password": ""}
    answer = await cli.process.admin.post("/api/v1/provisioning/batch", json=body)
    assert answer.status == 201
    assert (await cli.objects())[-1]["type"] == "session.status"
    url = cli.process.api.url
    done = await command("events", "--json", "--url", url, "--state-dir", cli.folder / "none")
    assert done.code == 0, done
    seen = [json.loads(line)["type"] for line in done.out.splitlines()]
    assert seen[-2:] == ["onboarding.disabled", "onboarding.enabled"]
    assert "session.status" not in seen


async def test_follow_resumes_after_daemon_restart(cli, rig, tmp_path):
    async with cli.following("--json", "--types", "onboarding.*") as process:
        await cli.toggle(1)
        await eventually(lambda: "onboarding.disabled" in process.out())
        listen = [cli.process.api.url[7:]]
        await cli.process.stop()
        await eventually(lambda: "retrying in" in process.err())
        async with daemon(rig, tmp_path, http={"listen": listen}) as restarted:
            await restarted.admin.post(ENABLE)
            await eventually(lambda: "onboarding.enabled" in process.out())
            await eventually(lambda: "reconnected" in process.err())
            seen = [json.loads(line) for line in process.out().splitlines()]
            assert [event["type"] for event in seen] == ["onboarding.disabled", "onboarding.enabled"]
            assert max(map(len, process.err().splitlines())) <= 80
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130


async def test_control_characters_of_camera_are_removed(cli, rig):
    async with rig.camera(900, firmware_version="1\x1b[2J\x07evil", device_id="espcam-\x1b]0;x\x07") as camera:
        await camera.publish_status(firmware_version="1\x1b[2J\x07evil")
        await eventually(lambda: cli.process.entries("camera onboarded"))
        assert camera.mac in (await cli()).out
        assert camera.mac in json.dumps(await cli.objects())
