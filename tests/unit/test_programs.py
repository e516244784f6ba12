"""Programs that are asked: bounded, cut off, and without anything of our environment."""

import asyncio
import contextlib
import signal
import time
from pathlib import Path

import pytest

from pi_orchestrator.net import programs
from pi_orchestrator.net.programs import NotInstalledError, ProgramError
from tests.support import programs as scripts
from tests.support.waiting import eventually


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """`await asked(script)` → the answer of a program that does this."""

    async def ask(script, *arguments, within_s=5.0, max_bytes=4096):
        scripts.install(monkeypatch, tmp_path, oracle=script)
        return await programs.ask("oracle", *arguments, within_s=within_s, max_bytes=max_bytes)

    return ask


def descriptors():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def is_alive(file):
    pid = int(file.read_text())
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_what_it_wrote_and_how_it_ended(asked):
    answer = await asked("echo said; printf 'first\\nsecond' >&2; exit 4")
    assert (answer.code, answer.output, answer.complaint) == (4, b"said\n", "first")


async def test_arguments_are_no_shells_business(asked):
    answer = await asked("printf '%s|' \"$@\"", "a b", "$HOME", "`id`", "; rm -rf x", "")
    assert answer.output == b"a b|$HOME|`id`|; rm -rf x||"


async def test_it_gets_the_c_locale_and_nothing_that_may_hold_a_key(asked, monkeypatch):
    monkeypatch.setenv("API_KEY", "a-secret-key")
    monkeypatch.setenv("PIORCH_MQTT__PASSWORD", "another")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    answer = await asked("exec env")
    told = dict(line.split("=", 1) for line in answer.output.decode().splitlines())
    assert told["LC_ALL"] == "C"
    assert told.keys() <= {"PATH", "LC_ALL", "PWD", "SHLVL", "_", "OLDPWD", "DBUS_SYSTEM_BUS_ADDRESS"}


async def test_it_has_nothing_to_read(asked):
    assert (await asked("cat; echo end")).output == b"end\n"


async def test_what_is_not_installed_is_told_apart(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotInstalledError):
        await programs.ask("oracle", within_s=1, max_bytes=1)
    (tmp_path / "oracle").write_text("#!/bin/sh\n")
    with pytest.raises(NotInstalledError):
        await programs.ask("oracle", within_s=1, max_bytes=1)


async def test_what_cannot_be_started_is_an_error_with_its_reason(monkeypatch, tmp_path):
    scripts.install(monkeypatch, tmp_path)
    (tmp_path / "oracle").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "oracle").chmod(0o755)
    with pytest.raises(ProgramError, match="oracle cannot be started: Exec format error"):
        await programs.ask("oracle", within_s=1, max_bytes=1)


async def test_one_that_hangs_is_ended_with_all_that_it_started(asked, tmp_path):
    began = time.monotonic()
    with pytest.raises(ProgramError, match="did not answer within 0.3 s"):
        await asked(f"sleep 60 & echo $! >{tmp_path}/child; sleep 60", within_s=0.3)
    assert time.monotonic() - began < 3
    await eventually(lambda: not is_alive(tmp_path / "child"))


async def test_one_that_ends_and_leaves_its_output_open_is_not_waited_for(asked, tmp_path):
    with pytest.raises(ProgramError, match="did not answer within"):
        await asked(f"sleep 60 & echo $! >{tmp_path}/child", within_s=0.3)
    await eventually(lambda: not is_alive(tmp_path / "child"))


async def test_one_that_writes_without_end_is_ended_at_the_limit(asked, tmp_path):
    with pytest.raises(ProgramError, match="wrote more than 4 KiB"):
        await asked(f"echo $$ >{tmp_path}/pid; exec yes")
    await eventually(lambda: not is_alive(tmp_path / "pid"))


async def test_the_limit_itself_is_allowed_and_complaints_are_cut(asked):
    answer = await asked("head -c 4096 /dev/zero; head -c 200000 /dev/zero | tr '\\0' x >&2")
    assert len(answer.output) == 4096
    assert answer.complaint == "x" * 200


async def test_whoever_gives_up_ends_it(asked, tmp_path):
    task = asyncio.create_task(asked(f"echo $$ >{tmp_path}/pid; exec sleep 60"))
    await eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: not is_alive(tmp_path / "pid"))


async def test_one_that_was_killed_says_so_by_its_code(asked):
    assert (await asked("kill -9 $$")).code == -signal.SIGKILL


async def test_asking_many_times_leaves_nothing_behind(asked):
    await asked("echo x")
    before = descriptors()
    for script in ("echo x", "exit 1", "exec yes") * 5:
        with contextlib.suppress(ProgramError):
            await asked(script)
    assert descriptors() == before
