"""Commands `cameras capture` and `cameras reboot` with a daemon process."""

import asyncio
import json
import os
import pty

import pytest

from tests.support.process import COMMAND, command, daemon, environment, write_toml


@pytest.fixture
async def cli(rig, tmp_path):
    """`await cli("capture", ...)` with a daemon, a working camera `cli.camera` and a failing one `cli.bad`."""
    async with (
        daemon(rig, tmp_path) as process,
        rig.fleet(2, faults=["capture-error"], reboot_s=0.5) as fleet,
    ):
        await process.logged("camera onboarded", count=2)
        config = write_toml(tmp_path / "config.toml", rig.tree(http={"listen": [process.api.url[7:]]}))

        async def run(*args, code=0):
            done = await command("cameras", *args, "--config", config)
            assert "Traceback" not in done.err
            assert done.code == code, done
            return done

        run.config, (run.camera, run.bad) = config, fleet.cameras
        yield run


async def test_capture_writes_a_file(cli, tmp_path):
    file = tmp_path / "door.jpg"
    done = await cli("capture", cli.camera.device_id, "-o", file)
    jpeg = file.read_bytes()
    assert jpeg.startswith(b"\xff\xd8") and jpeg.endswith(b"\xff\xd9")  # noqa: PT018
    assert f"{file}: {len(jpeg)} bytes, taken by {cli.camera.device_id} on " in " ".join(done.out.split())
    report = json.loads((await cli("capture", cli.camera.mac, "-o", file, "--json")).out)
    assert (report["file"], report["file_size"]) == (str(file), len(file.read_bytes()))
    assert "image" not in report


async def test_capture_writes_to_a_pipe_but_not_a_terminal(cli):
    args = [*COMMAND, "cameras", "capture", cli.camera.mac, "-o", "-", "--config", str(cli.config)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*args, stdout=pipe, stderr=pipe, env=environment())
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert out.startswith(b"\xff\xd8")
    controller, terminal = pty.openpty()
    process = await asyncio.create_subprocess_exec(*args, stdout=terminal, stderr=pipe, env=environment())
    _, err = await process.communicate()
    os.close(terminal)
    os.close(controller)
    assert process.returncode == 2
    assert b"cannot write a JPEG to a terminal" in err
    assert b"give a file name" in err


async def test_capture_errors_are_printed(cli, tmp_path):
    done = await cli("capture", cli.bad.mac, "-o", tmp_path / "x.jpg", code=1)
    assert "frame buffer timeout" in done.err
    assert not (tmp_path / "x.jpg").exists()
    assert "not found" in (await cli("capture", "unknown", "-o", "-", code=1)).err
    done = await cli("capture", cli.camera.mac, "-o", tmp_path / "no" / "x.jpg", code=1)
    assert f"cannot write {tmp_path / 'no' / 'x.jpg'}: No such file or directory" in " ".join(done.err.split())
    await cli("capture", cli.camera.mac, code=2)


async def test_reboot_can_wait_until_camera_is_online(cli):
    assert (await cli("reboot", cli.camera.device_id)).out == f"{cli.camera.device_id} is rebooting.\n"
    done = await cli("reboot", cli.camera.device_id, "--wait")
    assert done.out == f"{cli.camera.device_id} is online again.\n"
    assert cli.camera.restarts in (1, 2)
    report = json.loads((await cli("reboot", cli.bad.mac, "--wait", "--json")).out)
    assert (report["mac_address"], report["status"]) == (cli.bad.mac, "online")
