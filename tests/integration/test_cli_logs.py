"""`logs` and `bundle`: against a daemon, over its restart, and where there is none."""

import asyncio
import io
import json
import os
import stat
import tarfile

import pytest

from tests.support.broker import free_port
from tests.support.process import command, daemon, going_on, write_toml
from tests.support.waiting import eventually
from tests.unit.test_logs import CANARY


def somewhere():
    """A port that the configuration names, so that commands find it."""
    return {"listen": [f"127.0.0.1:{free_port()}"]}


def opened(content):
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {member.name.split("/", 1)[1]: tar.extractfile(member).read() for member in tar.getmembers()}


async def test_lines_are_shown_and_followed_over_a_restart_of_the_daemon(world, tmp_path):
    async with daemon(world, tmp_path, http=somewhere()) as process:
        config = tmp_path / "config.toml"
        shown = await command("logs", "--config", config)
        assert shown.code == 0
        times = [line[:14] for line in shown.out.splitlines() if line[0] != " "]
        assert times == sorted(times), "oldest first"
        assert "app.life" in shown.out
        assert "ready" in shown.out
        (line,) = (
            await command("logs", "--config", config, "--json", "-n", "1", "--source", "app.life")
        ).out.splitlines()
        assert json.loads(line)["component"] == "app.life"
        assert (await command("logs", "--config", config, "--level", "error")).out == "No lines.\n"
        async with going_on("logs", "--config", config, "--follow", "--json", folder=tmp_path) as following:
            await eventually(lambda: "mqtt connected" in following.out())
            assert await process.stop() == 0
            await eventually(lambda: "trying again" in following.err())
            async with daemon(world, tmp_path, config=config):
                await eventually(lambda: "connected again" in following.err(), within=30)
                await eventually(lambda: following.out().count('"mqtt connected"') == 2)
        ids = [json.loads(line)["id"] for line in following.out().splitlines()]
        assert ids == sorted(set(ids))


@pytest.mark.parametrize("wrong", [("-n", "x"), ("-n", "1001"), ("--level", "loud")])
async def test_wrong_arguments_are_named(wrong):
    outcome = await command("logs", *wrong)
    assert outcome.code == 2
    assert wrong[0] in outcome.err


async def test_a_bundle_of_a_daemon_is_a_file_for_its_owner_alone(world, tmp_path):
    async with daemon(world, tmp_path, connected=False, http=somewhere()):
        config, file = tmp_path / "config.toml", tmp_path / "out.tar.gz"
        outcome = await command("bundle", "--config", config, "-o", file, "--json")
        assert outcome.code == 0, outcome.err
        assert outcome.json == {"file": str(file), "bytes": file.stat().st_size, "made_by": "daemon"}
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert "logs.jsonl" in opened(file.read_bytes())
        by_itself = await command("bundle", "--config", config, cwd=tmp_path)
        assert by_itself.code == 0
        (made,) = tmp_path.glob("pi-orchestrator-*.tar.gz")
        assert made.name in by_itself.out
        piped = await asyncio.create_subprocess_shell(
            f"{os.sys.executable} -m pi_orchestrator bundle --config {config} -o - | gzip -t",
            env={**os.environ},
        )
        assert await piped.wait() == 0
        refused = await command("bundle", "--config", config, "-o", "/nowhere/x", env={"PIORCH_API_KEY": ""})
        assert (refused.code, "cannot be written" in refused.err) == (1, True)
        keyless = await command("bundle", "--config", config, env={"PIORCH_API_KEY": "wrong-key"}, cwd=tmp_path)
        assert keyless.code == 1
        assert "key" in keyless.err


async def test_without_a_daemon_a_bundle_is_made_from_what_is_on_disk(world, tmp_path):
    secret = {"mqtt": {"password": CANARY}, "auth": {"api_key": f"key-{CANARY}"}}
    async with daemon(world, tmp_path, connected=False, http=somewhere(), **secret) as process:
        await process.kill()
    before = sorted((file.name, file.stat().st_mtime_ns) for file in world.state_dir.iterdir())
    file = tmp_path / "out.tar.gz"
    outcome = await command("bundle", "--config", tmp_path / "config.toml", "-o", file)
    assert outcome.code == 0, outcome.err
    assert "made from what is on disk" in outcome.err
    assert "no daemon answers" in outcome.err
    files = opened(file.read_bytes())
    assert {"manifest.json", "config.json", "system.json", "doctor.json", "files.json", "events.jsonl"} <= files.keys()
    assert "no daemon answers" in json.loads(files["manifest.json"])["notes"][0]
    assert {"orchestrator.db", "lock", "starts"} <= {one["name"] for one in json.loads(files["files.json"])["files"]}
    assert json.loads(files["database/containers.jsonl"])["id"] == "auto-onboard"
    config = {one["key"]: one["value"] for one in json.loads(files["config.json"])}
    assert (config["mqtt.password"], config["auth.api_key"]) == ("***", "***")
    for name, content in files.items():
        assert CANARY.encode() not in content, name
    assert sorted((one.name, one.stat().st_mtime_ns) for one in world.state_dir.iterdir()) == before


async def test_a_configuration_that_cannot_be_used_does_not_keep_a_bundle_from_being_made(tmp_path):
    config = write_toml(tmp_path / "config.toml", {"mqtt": {"prot": 1883}})
    file = tmp_path / "out.tar.gz"
    outcome = await command("bundle", "--config", config, "--state-dir", tmp_path / "none", "-o", file)
    assert outcome.code == 0, outcome.err
    files = opened(file.read_bytes())
    notes = json.loads(files["manifest.json"])["notes"]
    assert "mqtt.prot: unknown key" in notes[0]
    assert any("database" in note for note in notes)


async def test_another_machines_daemon_that_does_not_answer_is_not_made_up_for(tmp_path):
    outcome = await command("bundle", "--url", "http://127.0.0.1:1", "-o", tmp_path / "x")
    assert outcome.code == 3
    assert not (tmp_path / "x").exists()
