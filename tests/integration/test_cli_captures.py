"""`cameras capture` and `cameras reboot`, run as a user runs them."""

import asyncio
import json
import os
import pty

import pytest

from tests.support.process import COMMAND, command, daemon, environment, write_toml


@pytest.fixture
async def cli(world, tmp_path):
    """`await cli("capture", ...)` beside a daemon with a good camera and one that says no."""
    async with (
        daemon(world, tmp_path) as process,
        world.fleet(2, faults=["capture-error"], reboot_s=0.5) as fleet,
    ):
        await process.logged("camera onboarded", count=2)
        config = write_toml(tmp_path / "config.toml", world.tree(http={"listen": [process.api.url[7:]]}))

        async def run(*args, code=0):
            done = await command("cameras", *args, "--config", config)
            assert "Traceback" not in done.err
            assert done.code == code, done
            return done

        run.config, (run.camera, run.bad) = config, fleet.cameras
        yield run


async def test_a_picture_is_written_to_a_file_and_told_of(cli, tmp_path):
    file = tmp_path / "door.jpg"
    done = await cli("capture", cli.camera.device_id, "-o", file)
    jpeg = file.read_bytes()
    assert jpeg.startswith(b"\xff\xd8") and jpeg.endswith(b"\xff\xd9")  # noqa: PT018
    assert f"{file}: {len(jpeg)} bytes, taken by {cli.camera.device_id} on " in " ".join(done.out.split())
    told = json.loads((await cli("capture", cli.camera.mac, "-o", file, "--json")).out)
    assert (told["file"], told["file_size"]) == (str(file), len(file.read_bytes()))
    assert "image" not in told


async def test_a_picture_goes_into_a_pipe_but_not_onto_a_terminal(cli):
    args = [*COMMAND, "cameras", "capture", cli.camera.mac, "-o", "-", "--config", str(cli.config)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*args, stdout=pipe, stderr=pipe, env=environment())
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert out.startswith(b"\xff\xd8")
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(*args, stdout=theirs, stderr=pipe, env=environment())
    _, err = await process.communicate()
    os.close(theirs)
    os.close(ours)
    assert process.returncode == 2
    assert b"no text for a terminal" in err
    assert b"name a file" in err


async def test_what_goes_wrong_is_told(cli, tmp_path):
    done = await cli("capture", cli.bad.mac, "-o", tmp_path / "x.jpg", code=1)
    assert "frame buffer timeout" in done.err
    assert not (tmp_path / "x.jpg").exists()
    assert "there is no camera" in (await cli("capture", "nobody", "-o", "-", code=1)).err
    done = await cli("capture", cli.camera.mac, "-o", tmp_path / "no" / "x.jpg", code=1)
    assert "cannot be written: No such file or directory" in done.err
    await cli("capture", cli.camera.mac, code=2)


async def test_a_reboot_can_be_waited_for(cli):
    assert (await cli("reboot", cli.camera.device_id)).out == f"{cli.camera.device_id} reboots.\n"
    done = await cli("reboot", cli.camera.device_id, "--wait")
    assert done.out == f"{cli.camera.device_id} is back.\n"
    assert cli.camera.restarts in (1, 2)
    told = json.loads((await cli("reboot", cli.bad.mac, "--wait", "--json")).out)
    assert (told["mac_address"], told["status"]) == (cli.bad.mac, "online")
