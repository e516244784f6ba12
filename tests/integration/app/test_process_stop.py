"""Stopping: promptly and with code 0 in every state of the daemon."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.support.process import daemon, launch, write_toml
from tests.support.waiting import eventually

AUTO = "/api/v1/onboarding/auto"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_signal_stops_idle_daemon_cleanly(rig, tmp_path, number):
    async with daemon(rig, tmp_path) as process:
        assert not (rig.state_dir / "clean-shutdown").exists()
        code = await process.stop(number)
        assert code == 0
        assert (rig.state_dir / "clean-shutdown").exists()
        assert [entry["event"] for entry in process.entries()][-1] == "stopping"
        assert "Traceback" not in process.text()


async def test_stop_during_verification_leaves_attempt_discovered(rig, tmp_path):
    sections = {"auto_onboard": {"verification_timeout_sec": 60}}
    async with daemon(rig, tmp_path, **sections) as process, rig.camera(1) as camera:
        camera.answer_now.clear()
        await camera.publish_status()
        await camera.request_received.wait()
        code = await process.stop()
        assert code == 0
    stages = [row[0] for row in rig.rows("SELECT stage FROM onboarding_audit")]
    assert stages == ["discovered"], "an unfinished attempt is not recorded as paired or failed"


async def test_stop_with_100_idle_connections(rig, tmp_path):
    async with daemon(rig, tmp_path) as process, _connections(process, 100, b"") as idle:
        await eventually(lambda: len(process.descriptors()) > 100)
        code = await process.stop()
        assert code == 0
        for reader, _ in idle:
            assert await reader.read() == b"", "the daemon has closed the connection"


async def test_stop_with_incomplete_requests(rig, tmp_path):
    incomplete = b"POST /api/v1/onboarding/auto/enable HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
    async with daemon(rig, tmp_path) as process, _connections(process, 20, incomplete):
        await eventually(lambda: len(process.descriptors()) > 20)
        code = await process.stop()
        assert code == 0


@pytest.mark.parametrize("fault", ["frozen", "gone"])
async def test_stop_with_hanging_broker(rig, tmp_path, fault):
    async with daemon(rig, tmp_path) as process:
        if fault == "frozen":
            rig.broker.freeze()
        else:
            await rig.broker.stop()
            await process.logged("mqtt not connected")
        code = await process.stop()
        assert code == 0
        assert "Traceback" not in process.text()


async def test_stop_while_connecting_to_frozen_broker(rig, tmp_path):
    rig.broker.freeze()
    async with daemon(rig, tmp_path, connected=False) as process:
        await eventually(lambda: any("socket" in target for target in process.descriptors().values()))
        code = await process.stop()
        assert code == 0


async def test_fifty_onboardings_continue_after_stop(rig, tmp_path):
    async with rig.fleet(50) as fleet:
        async with daemon(rig, tmp_path) as process:
            await eventually(lambda: rig.rows("SELECT count(*) FROM cameras")[0][0] > 5)
            code = await process.stop()
            assert code == 0
        async with daemon(rig, tmp_path):
            await eventually(lambda: rig.rows("SELECT count(*) FROM cameras")[0][0] == 50)
    paired = rig.rows("SELECT mac_address FROM onboarding_audit WHERE stage = 'paired'")
    assert sorted(row[0] for row in paired) == sorted(camera.mac for camera in fleet.cameras)


@pytest.mark.parametrize("moment_s", [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35])
async def test_sigterm_during_start_ends_daemon(rig, tmp_path, moment_s):
    process = await launch(rig, tmp_path)
    try:
        await asyncio.sleep(moment_s)
        code = await process.stop()
        # Without a handler yet, the signal itself ends the process; systemd counts both as a clean exit.
        assert code in (0, -signal.SIGTERM)
        assert "Traceback" not in process.text()
    finally:
        await process.kill()


async def test_sigterm_ends_start_on_slow_disk(rig, tmp_path):
    # The configuration is a pipe without a writer: the thread that reads it cannot be cancelled.
    os.mkfifo(tmp_path / "config.toml")
    process = await launch(rig, tmp_path, config=tmp_path / "config.toml")
    try:
        await _wait_for_handler(process, signal.SIGTERM)
        code = await process.stop()
        assert code == 0
    finally:
        await process.kill()


async def _wait_for_handler(process, number):
    """Wait until the process has a handler for a signal."""

    def has_handler():
        status = Path(f"/proc/{process.pid}/status").read_text()
        mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
        return int(mask, 16) >> (number - 1) & 1

    await eventually(has_handler, what="the signal is handled")


@contextlib.asynccontextmanager
async def _connections(process, count, opening):
    """TCP connections on which `opening` was sent: part of a request, or nothing."""
    host, port = process.api.url.removeprefix("http://").split(":")
    opened = await asyncio.gather(*(asyncio.open_connection(host, int(port)) for _ in range(count)))
    for _, writer in opened:
        writer.write(opening)
    try:
        yield opened
    finally:
        for _, writer in opened:
            writer.close()


async def test_restart_keeps_state(rig, tmp_path):
    """Auto-onboarding stays disabled although the configuration enables it; used limiter tokens stay used."""
    slow = {"auto_onboard": {"burst_size": 5, "max_per_minute": 1}}
    async with daemon(rig, tmp_path, **slow) as process, rig.fleet(3) as fleet:
        await eventually(lambda: rig.rows("SELECT count(*) FROM cameras")[0][0] == 3)
        before = (await process.api.get("/api/v1/espcam/paired")).data["cameras"]
        assert (await process.api.post(f"{AUTO}/disable")).status == 200
        created = await process.admin.post("/api/v1/keys", json={"name": "kept", "scope": "admin"})
        assert await process.stop() == 0
    async with daemon(rig, tmp_path, **slow) as process:
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
        key = {"X-API-Key": created.data["secret"]}
        assert (await process.api.get("/api/v1/keys", headers=key)).status == 200


async def test_second_daemon_on_state_folder_is_refused(rig, tmp_path):
    async with daemon(rig, tmp_path) as first:
        second = await launch(rig, tmp_path, config=write_toml(tmp_path / "second.toml", rig.tree()))
        assert await second.ended() == 1
        assert second.text() == (
            f"error: another daemon uses the state folder {rig.state_dir}\n"
            "  stop it (systemctl stop pi-orchestrator), or choose another with --state-dir\n"
        )
        assert (await first.api.get("/readyz")).status == 200
        assert not (rig.state_dir / "clean-shutdown").exists()
