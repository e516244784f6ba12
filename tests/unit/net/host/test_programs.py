"""Running programs: limits of time and output, environment, errors."""

import asyncio
import contextlib
import signal
from pathlib import Path

import pytest

from pi_orchestrator.net.host import programs
from pi_orchestrator.net.host.programs import NotInstalledError, ProgramError
from tests.support import programs as scripts
from tests.support.waiting import eventually


@pytest.fixture
def run_script(monkeypatch, tmp_path):
    """`await run_script(script)` → result of a program with this shell script."""

    async def run(script, *arguments, timeout_s=5.0, max_bytes=4096):
        scripts.install(monkeypatch, tmp_path, example=script)
        return await programs.run("example", *arguments, timeout_s=timeout_s, max_bytes=max_bytes)

    return run


def descriptors():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def is_alive(file):
    pid = int(file.read_text())
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_result_has_output_code_and_error_text(run_script):
    result = await run_script("echo output; printf 'first\\nsecond' >&2; exit 4")
    assert (result.exit_code, result.output, result.error_text) == (4, b"output\n", "first")


async def test_arguments_are_not_expanded(run_script):
    result = await run_script("printf '%s|' \"$@\"", "a b", "$HOME", "`id`", "; rm -rf x", "")
    assert result.output == b"a b|$HOME|`id`|; rm -rf x||"


async def test_environment_has_c_locale_and_no_secrets(run_script, monkeypatch):
    monkeypatch.setenv("API_KEY", "a-secret-key")
    monkeypatch.setenv("PIORCH_MQTT__PASSWORD", "another")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    result = await run_script("exec env")
    environment = dict(line.split("=", 1) for line in result.output.decode().splitlines())
    assert environment["LC_ALL"] == "C"
    assert environment.keys() <= {"PATH", "LC_ALL", "PWD", "SHLVL", "_", "OLDPWD", "DBUS_SYSTEM_BUS_ADDRESS"}


async def test_stdin_is_empty(run_script):
    assert (await run_script("cat; echo end")).output == b"end\n"


async def test_missing_or_not_executable_program_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotInstalledError):
        await programs.run("example", timeout_s=1, max_bytes=1)
    (tmp_path / "example").write_text("#!/bin/sh\n")
    with pytest.raises(NotInstalledError):
        await programs.run("example", timeout_s=1, max_bytes=1)


async def test_start_failure_has_reason(monkeypatch, tmp_path):
    scripts.install(monkeypatch, tmp_path)
    (tmp_path / "example").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "example").chmod(0o755)
    with pytest.raises(ProgramError, match="example cannot be started: Exec format error"):
        await programs.run("example", timeout_s=1, max_bytes=1)


async def test_hanging_program_is_killed_with_children(run_script, tmp_path):
    with pytest.raises(ProgramError, match="did not answer within 0.3 s"):
        await run_script(f"sleep 600 & echo $! >{tmp_path}/child; sleep 600", timeout_s=0.3)
    await eventually(lambda: not is_alive(tmp_path / "child"))


async def test_child_holding_output_is_killed(run_script, tmp_path):
    with pytest.raises(ProgramError, match="did not answer within"):
        await run_script(f"sleep 60 & echo $! >{tmp_path}/child", timeout_s=0.3)
    await eventually(lambda: not is_alive(tmp_path / "child"))


async def test_endless_output_is_stopped_at_limit(run_script, tmp_path):
    with pytest.raises(ProgramError, match="wrote more than 4 KiB"):
        await run_script(f"echo $$ >{tmp_path}/pid; exec yes")
    await eventually(lambda: not is_alive(tmp_path / "pid"))


async def test_output_at_limit_is_allowed(run_script):
    result = await run_script("head -c 4096 /dev/zero; head -c 200000 /dev/zero | tr '\\0' x >&2")
    assert len(result.output) == 4096
    assert result.error_text == "x" * 200


async def test_cancelled_run_kills_program(run_script, tmp_path):
    task = asyncio.create_task(run_script(f"echo $$ >{tmp_path}/pid; exec sleep 60"))
    await eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: not is_alive(tmp_path / "pid"))


async def test_killed_program_has_signal_code(run_script):
    assert (await run_script("kill -9 $$")).exit_code == -signal.SIGKILL


async def test_repeated_runs_leak_nothing(run_script):
    await run_script("echo x")
    before = descriptors()
    for script in ("echo x", "exit 1", "exec yes") * 5:
        with contextlib.suppress(ProgramError):
            await run_script(script)
    assert descriptors() == before
