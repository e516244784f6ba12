"""Stopping: at once, with code 0, whatever the daemon is doing."""

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.process import daemon, launch, write_toml
from tests.support.waiting import eventually

IDLE_STOP_S = 1.0
BUSY_STOP_S = 3.0
AUTO = "/api/v1/onboarding/auto"


async def timed_stop(process, number=signal.SIGTERM):
    began = time.monotonic()
    code = await process.stop(number)
    return code, time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_signal_ends_an_idle_daemon_within_a_second_with_code_0_and_a_clean_marker(world, tmp_path, number):
    async with daemon(world, tmp_path) as process:
        assert not (world.state_dir / "clean-shutdown").exists()
        code, seconds = await timed_stop(process, number)
        assert code == 0
        assert seconds < IDLE_STOP_S
        assert (world.state_dir / "clean-shutdown").exists()
        assert [entry["event"] for entry in process.entries()][-1] == "stopping"
        assert "Traceback" not in process.text()


async def test_it_ends_within_a_second_while_it_verifies_a_camera_that_does_not_answer(world, tmp_path):
    patient = {"auto_onboard": {"verification_timeout_sec": 60}}
    async with daemon(world, tmp_path, **patient) as process, world.camera(1) as camera:
        camera.answer_now.clear()
        await camera.say()
        await camera.asked.wait()
        code, seconds = await timed_stop(process)
        assert (code, seconds < IDLE_STOP_S) == (0, True), seconds
    stages = [row[0] for row in world.rows("SELECT stage FROM onboarding_audit")]
    assert stages == ["discovered"], "what was not finished is not written as finished or failed"


async def test_it_ends_within_a_second_with_a_hundred_idle_connections(world, tmp_path):
    async with daemon(world, tmp_path) as process, _connections(process, 100, b"") as idle:
        await eventually(lambda: len(process.descriptors()) > 100)
        code, seconds = await timed_stop(process)
        assert (code, seconds < IDLE_STOP_S) == (0, True), seconds
        for reader, _ in idle:
            assert await reader.read() == b"", "the daemon has closed the connection"


async def test_it_ends_within_3_seconds_with_requests_that_never_arrive_whole(world, tmp_path):
    half = b"POST /api/v1/onboarding/auto/enable HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
    async with daemon(world, tmp_path) as process, _connections(process, 20, half):
        await eventually(lambda: len(process.descriptors()) > 20)
        code, seconds = await timed_stop(process)
        assert (code, seconds < BUSY_STOP_S) == (0, True), seconds


@pytest.mark.parametrize("fault", ["frozen", "gone"])
async def test_it_ends_within_3_seconds_while_the_broker_does_not_answer(world, tmp_path, fault):
    async with daemon(world, tmp_path) as process:
        if fault == "frozen":
            world.broker.freeze()
        else:
            await world.broker.stop()
            await process.logged("mqtt not connected")
        code, seconds = await timed_stop(process)
        assert (code, seconds < BUSY_STOP_S) == (0, True), seconds
        assert "Traceback" not in process.text()


async def test_it_ends_within_3_seconds_while_it_connects_to_a_frozen_broker(world, tmp_path):
    world.broker.freeze()
    async with daemon(world, tmp_path, connected=False) as process:
        await eventually(lambda: any("socket" in what for what in process.descriptors().values()))
        code, seconds = await timed_stop(process)
        assert (code, seconds < BUSY_STOP_S) == (0, True), seconds


async def test_it_ends_in_the_midst_of_fifty_onboardings_and_goes_on_with_them_after_the_next_start(world, tmp_path):
    async with world.fleet(50) as fleet:
        async with daemon(world, tmp_path) as process:
            await eventually(lambda: world.rows("SELECT count(*) FROM cameras")[0][0] > 5)
            code, seconds = await timed_stop(process)
            assert (code, seconds < BUSY_STOP_S) == (0, True), seconds
        async with daemon(world, tmp_path):
            await eventually(lambda: world.rows("SELECT count(*) FROM cameras")[0][0] == 50)
    paired = world.rows("SELECT mac_address FROM onboarding_audit WHERE stage = 'paired'")
    assert sorted(row[0] for row in paired) == sorted(camera.mac for camera in fleet.cameras)


@pytest.mark.parametrize("moment_s", [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35])
async def test_sigterm_ends_a_start_at_any_moment(world, tmp_path, moment_s):
    process = await launch(world, tmp_path)
    try:
        await asyncio.sleep(moment_s)
        code, seconds = await timed_stop(process)
        # Before the program has come to take the signal, the signal itself ends it; systemd holds both for clean.
        assert code in (0, -signal.SIGTERM)
        assert seconds < IDLE_STOP_S
        assert "Traceback" not in process.text()
    finally:
        await process.kill()


async def test_sigterm_ends_a_start_that_hangs_on_a_slow_disk(world, tmp_path):
    # A configuration that comes through a pipe which nobody writes to: the thread that reads it cannot be cancelled.
    os.mkfifo(tmp_path / "config.toml")
    process = await launch(world, tmp_path, config=tmp_path / "config.toml")
    try:
        await _handles(process, signal.SIGTERM)
        code, seconds = await timed_stop(process)
        assert (code, seconds < IDLE_STOP_S) == (0, True), seconds
    finally:
        await process.kill()


async def _handles(process, number):
    """Return once the process has a handler for a signal."""

    def caught():
        status = Path(f"/proc/{process.pid}/status").read_text()
        mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
        return int(mask, 16) >> (number - 1) & 1

    await eventually(caught, what="the signal is handled")


@contextlib.asynccontextmanager
async def _connections(process, count, opening):
    """Many TCP connections on which a part of a request, or nothing, was sent."""
    host, port = process.api.url.removeprefix("http://").split(":")
    opened = await asyncio.gather(*(asyncio.open_connection(host, int(port)) for _ in range(count)))
    for _, writer in opened:
        writer.write(opening)
    try:
        yield opened
    finally:
        for _, writer in opened:
            writer.close()


async def test_a_restart_keeps_toggle_tokens_cameras_and_keys(world, tmp_path):
    """The kill switch stays thrown although the configuration says on; what the limiter has spent stays spent."""
    slow = {"auto_onboard": {"burst_size": 5, "max_per_minute": 1}}
    async with daemon(world, tmp_path, **slow) as process, world.fleet(3) as fleet:
        await eventually(lambda: world.rows("SELECT count(*) FROM cameras")[0][0] == 3)
        before = (await process.api.get("/api/v1/espcam/paired")).data["cameras"]
        assert (await process.api.post(f"{AUTO}/disable")).status == 200
        made = await process.admin.post("/api/v1/keys", json={"name": "kept", "scope": "admin"})
        assert await process.stop() == 0
    async with daemon(world, tmp_path, **slow) as process:
        status = (await process.api.get(f"{AUTO}/status")).data
        assert (status["enabled"], status["running"]) == (False, False)
        assert 2 <= status["tokens"] < 3
        assert (status["metrics"]["attempts"], status["metrics"]["success"]) == (3, 3)
        after = (await process.api.get("/api/v1/espcam/paired")).data["cameras"]
        assert {camera["mac_address"] for camera in after} == {camera.mac for camera in fleet.cameras}
        fixed = ("mac_address", "container_id", "position", "paired_at", "name", "firmware_version")
        assert [[camera[name] for name in fixed] for camera in after] == [
            [camera[name] for name in fixed] for camera in before
        ]
        key = {"X-API-Key": made.data["secret"]}
        assert (await process.api.get("/api/v1/keys", headers=key)).status == 200


async def test_two_daemons_on_one_state_folder_never_run_at_once_and_the_first_is_not_disturbed(world, tmp_path):
    async with daemon(world, tmp_path) as first:
        second = await launch(world, tmp_path, config=write_toml(tmp_path / "second.toml", world.tree()))
        assert await second.ended() == 1
        assert second.text() == (
            f"error: another daemon uses the state folder {world.state_dir}\n"
            "  stop it (systemctl stop pi-orchestrator), or choose another with --state-dir\n"
        )
        assert (await first.api.get("/readyz")).status == 200
        assert not (world.state_dir / "clean-shutdown").exists()
