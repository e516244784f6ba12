"""`demo`: shows cameras being onboarded, and leaves no file behind."""

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import socket
from pathlib import Path

import aiohttp
import pytest

from tests.support.process import COMMAND, command, start
from tests.support.rig import Api
from tests.support.waiting import HANG_S, eventually

MAC = re.compile(r"(?:[0-9A-F]{2}:){5}[0-9A-F]{2}")


@contextlib.asynccontextmanager
async def demo(folder, *args, stdout=None):
    """A running demo; its output is in `folder`/out, and TMPDIR is in `folder`, so that leftover files are found."""
    (folder / "tmp").mkdir(exist_ok=True)
    env = {"TMPDIR": str(folder / "tmp"), "TERM": "xterm"}
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = await start(COMMAND, "demo", *args, env=env, cwd=folder, stdout=stdout or out, stderr=err)
    process.folder = folder
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def output(folder):
    return (folder / "out").read_text()


async def wait_for_end(process):
    """Wait for the end of a demo; returns (exit code, stderr)."""
    async with asyncio.timeout(HANG_S):
        return await process.wait(), (process.folder / "err").read_text()


async def test_demo_pairs_cameras_and_ends_clean(tmp_path):
    async with demo(tmp_path, "--count", "3", "--port", "0") as process:
        await eventually(lambda: len(_paired_macs(output(tmp_path))) == 3)
        assert len(set(_paired_macs(output(tmp_path)))) == 3
        text = output(tmp_path)
        urls = re.findall(r"http://127\.0\.0\.1:\d+/\S*", text)
        async with aiohttp.ClientSession() as session:
            for url in urls:
                if "disable" not in url:
                    assert (await Api(session, url).get("")).status == 200, url
        assert any("disable" in url for url in urls), "the page shows the auto-onboarding switch"
        state = Path(re.search(r"state +(\S+)", text)[1])
        assert (state / "admin.key").exists()
        assert state.is_relative_to(tmp_path)
        arguments = re.search(r"pi.orchestrator (cameras list --url .*?) \\\n +(--state-dir .*)", text)
        listed = await command(*" ".join(arguments.groups()).split())
        assert (listed.code, len(listed.out.splitlines())) == (0, 4)
        process.send_signal(signal.SIGINT)
        assert await wait_for_end(process) == (0, "")
    assert list((tmp_path / "tmp").iterdir()) == []
    text = output(tmp_path).replace(str(tmp_path), "")
    assert [line for line in text.splitlines() if len(line) > 80] == []


def _paired_macs(text):
    return [MAC.search(line)[0] for line in text.splitlines() if MAC.search(line) and "auto-onboard" in line]


async def test_two_demos_end_after_duration(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    async with contextlib.AsyncExitStack() as stack:
        args = ("--count", "2", "--port", "0", "--duration", "8")
        processes = [await stack.enter_async_context(demo(folder, *args)) for folder in folders]
        for process in processes:
            assert await wait_for_end(process) == (0, "")
    for folder in folders:
        assert len(_paired_macs(output(folder))) == 2
        assert output(folder).splitlines()[-1] == "Stopping."
        assert list((folder / "tmp").iterdir()) == []


async def test_demo_state_folder_is_kept(tmp_path):
    for _ in range(2):
        async with demo(tmp_path, "--count", "2", "--port", "0", "--state-dir", str(tmp_path / "kept")) as process:
            await eventually(lambda: len(_paired_macs(output(tmp_path))) == 2)
            process.send_signal(signal.SIGTERM)
            assert await wait_for_end(process) == (0, "")
    assert (tmp_path / "kept" / "orchestrator.db").exists()
    assert (tmp_path / "kept" / "clean-shutdown").exists()


async def test_demo_on_terminal_redraws_table(tmp_path):
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    text = ""

    def is_redrawn():
        nonlocal text
        with contextlib.suppress(BlockingIOError):
            text += os.read(ours, 65536).decode()
        return "2 paired, 0 waiting" in text and text.count("\x1b[J") > 1

    try:
        async with demo(tmp_path, "--count", "2", "--port", "0", stdout=theirs) as process:
            await eventually(is_redrawn)
            process.send_signal(signal.SIGINT)
            assert (await wait_for_end(process))[0] == 0
    finally:
        os.close(ours)
        os.close(theirs)
    assert "POSITION" in text
    assert re.search(r"^  page +http://127\.0\.0\.1:\d+/\r?$", text, re.M), "the address of the page"


async def test_demo_with_closed_output_ends(tmp_path):
    reading, writing = os.pipe()
    async with demo(tmp_path, "--count", "1", "--port", "0", stdout=writing) as process:
        os.close(writing)
        first = await asyncio.to_thread(os.read, reading, 65536)
        assert first.startswith(b"Pi Orchestrator")
        os.close(reading)
        assert await wait_for_end(process) == (0, "")
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_demo_port_in_use_has_remedy(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with demo(tmp_path, "--port", str(port)) as process:
            code, err = await wait_for_end(process)
    assert code == 1
    assert err.splitlines()[0] == f"error: cannot listen on 127.0.0.1:{port}: Address already in use"
    assert err.splitlines()[1:] == [
        f"  stop the program that uses port {port} (see: ss -ltnp), or change --port",
    ]
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("args", [["--count", "0"], ["--count", "-1"], ["--fault", "nonsense:1"], ["--port", "70000"]])
async def test_demo_wrong_arguments_are_refused_before_it_listens(args):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = await command("demo", "--port", taken.getsockname()[1], *args, "--duration", "1")
    assert done.code == 2, done
    assert "Traceback" not in done.err
    assert done.err


async def test_demo_fault_is_visible(tmp_path):
    """The refusal of a camera that reports a wrong MAC is in the events."""
    args = ("--count", "2", "--port", "0", "--fault", "wrong-mac:1")
    async with demo(tmp_path, *args) as process, aiohttp.ClientSession() as session:
        await eventually(lambda: len(_paired_macs(output(tmp_path))) == 1)
        url = re.search(r"http://127\.0\.0\.1:\d+", output(tmp_path))[0]

        async def error_codes():
            answer = await Api(session, url).get("/api/v1/onboarding/auto/events", params={"stage": "failed"})
            return [event["error_code"] for event in json.loads(answer.body)["data"]["events"]]

        assert set(await eventually(error_codes)) == {"MAC_MISMATCH"}  # the camera is retried
        process.send_signal(signal.SIGINT)
        assert (await wait_for_end(process))[0] == 0
