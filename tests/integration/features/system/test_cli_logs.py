"""`logs` and `bundle`: with a daemon, over its restart, and without a daemon."""

import asyncio
import io
import json
import os
import stat
import sys
import tarfile

import pytest

from tests.support.broker import free_port
from tests.support.process import command, daemon, running_command, write_toml
from tests.support.waiting import eventually
from tests.unit.core.test_logging import CANARY


def fixed_port():
    """A port in the configuration, so that commands find the daemon."""
    return {"listen": [f"127.0.0.1:{free_port()}"]}


def extract(content):
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {member.name.split("/", 1)[1]: tar.extractfile(member).read() for member in tar.getmembers()}


async def test_logs_follow_survives_daemon_restart(rig, tmp_path):
    async with daemon(rig, tmp_path, http=fixed_port()) as process:
        config = tmp_path / "config.toml"
        shown = await command("logs", "--config", config)
        assert shown.code == 0
        times = [line[:14] for line in shown.out.splitlines() if line[0] != " "]
        assert times == sorted(times), "oldest first"
        assert "app.lifecycle" in shown.out
        assert "ready" in shown.out
        (line,) = (
            await command("logs", "--config", config, "--json", "-n", "1", "--source", "app.lifecycle")
        ).out.splitlines()
        assert json.loads(line)["component"] == "app.lifecycle"
        assert (await command("logs", "--config", config, "--level", "error")).out == "No lines.\n"
        warned = [await command("logs", "--config", config, "--level", level) for level in ("warning", "warn")]
        assert [outcome.code for outcome in warned] == [0, 0]
        assert warned[0].out == warned[1].out
        assert warned[0].out != (await command("logs", "--config", config)).out
        async with running_command("logs", "--config", config, "--follow", "--json", folder=tmp_path) as following:
            await eventually(lambda: "mqtt connected" in following.out())
            assert await process.stop() == 0
            await eventually(lambda: "retrying in" in following.err())
            async with daemon(rig, tmp_path, config=config):
                await eventually(lambda: "reconnected" in following.err())
                await eventually(lambda: following.out().count('"mqtt connected"') == 2)
        ids = [json.loads(line)["id"] for line in following.out().splitlines()]
        assert ids == sorted(set(ids))


@pytest.mark.parametrize("wrong", [("-n", "x"), ("-n", "1001"), ("--level", "loud")])
async def test_invalid_argument_is_named_in_error(wrong):
    outcome = await command("logs", *wrong)
    assert outcome.code == 2
    assert wrong[0] in outcome.err


async def test_bundle_from_daemon_is_private_file(rig, tmp_path):
    async with daemon(rig, tmp_path, connected=False, http=fixed_port()):
        config, file = tmp_path / "config.toml", tmp_path / "out.tar.gz"
        outcome = await command("bundle", "--config", config, "-o", file, "--json")
        assert outcome.code == 0, outcome.err
        assert outcome.json == {"file": str(file), "bytes": file.stat().st_size, "made_by": "daemon"}
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert "logs.jsonl" in extract(file.read_bytes())
        default_name = await command("bundle", "--config", config, cwd=tmp_path)
        assert default_name.code == 0
        (written,) = tmp_path.glob("pi-orchestrator-*.tar.gz")
        assert written.name in default_name.out
        piped = await asyncio.create_subprocess_shell(
            f"{sys.executable} -m pi_orchestrator bundle --config {config} -o - | gzip -t",
            env={**os.environ},
        )
        assert await piped.wait() == 0
        refused = await command("bundle", "--config", config, "-o", "/nowhere/x", env={"PIORCH_API_KEY": ""})
        assert (refused.code, "cannot be written" in refused.err) == (1, True)
        keyless = await command("bundle", "--config", config, env={"PIORCH_API_KEY": "wrong-key"}, cwd=tmp_path)
        assert keyless.code == 1
        assert "key" in keyless.err


async def test_bundle_without_daemon_is_built_from_disk(rig, tmp_path):
    secret = {"mqtt": {"password": CANARY}, "auth": {"api_key": f"key-{CANARY}"}}
    async with daemon(rig, tmp_path, connected=False, http=fixed_port(), **secret) as process:
        await process.kill()

    def stored_files():  # without the index of the WAL, in which SQLite notes its readers
        files = (file for file in rig.state_dir.iterdir() if not file.name.endswith("-shm"))
        return sorted((file.name, file.stat().st_mtime_ns) for file in files)

    before = stored_files()
    file = tmp_path / "out.tar.gz"
    outcome = await command("bundle", "--config", tmp_path / "config.toml", "-o", file)
    assert outcome.code == 0, outcome.err
    assert "built from the files on disk" in outcome.err
    assert "no daemon responds" in outcome.err
    files = extract(file.read_bytes())
    assert {"manifest.json", "config.json", "system.json", "doctor.json", "files.json", "events.jsonl"} <= files.keys()
    assert "no daemon responds" in json.loads(files["manifest.json"])["notes"][0]
    assert {"orchestrator.db", "lock", "starts"} <= {
        entry["name"] for entry in json.loads(files["files.json"])["files"]
    }
    assert json.loads(files["database/containers.jsonl"])["id"] == "auto-onboard"
    config = {item["key"]: item["value"] for item in json.loads(files["config.json"])}
    assert (config["mqtt.password"], config["auth.api_key"]) == ("***", "***")
    for name, content in files.items():
        assert CANARY.encode() not in content, name
    assert stored_files() == before


async def test_bundle_with_invalid_config_is_built(tmp_path):
    config = write_toml(tmp_path / "config.toml", {"mqtt": {"prot": 1883}})
    file = tmp_path / "out.tar.gz"
    outcome = await command("bundle", "--config", config, "--state-dir", tmp_path / "none", "-o", file)
    assert outcome.code == 0, outcome.err
    files = extract(file.read_bytes())
    notes = json.loads(files["manifest.json"])["notes"]
    assert "mqtt.prot: unknown key" in notes[0]
    assert any("database" in note for note in notes)


async def test_bundle_unreachable_url_fails(tmp_path):
    outcome = await command("bundle", "--url", "http://127.0.0.1:1", "-o", tmp_path / "x")
    assert outcome.code == 3
    assert not (tmp_path / "x").exists()
