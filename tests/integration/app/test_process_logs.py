"""Log output: JSON lines by default, plain lines on a terminal, and no Python warnings."""

import asyncio
import json
import os
import pty
import re

import pytest

from tests.support.process import SHORT_KEEPALIVE, daemon, patched
from tests.support.waiting import eventually


def debug_settings(*options):
    return {"command": patched(SHORT_KEEPALIVE, *options), "logging": {"level": "debug"}}


async def run_usual_events(rig, process):
    """Cause the usual events of a daemon: onboarding, failures, a dropped message, a lost broker, stop."""
    async with rig.fleet(4, faults=["bad-json:1", "wrong-mac:1"]):
        await process.logged("camera onboarded", count=2)
        await process.logged("onboarding failed", count=2)
        await rig.publish("camera/status/%%%", {})
        await process.logged("status message dropped")
        await process.api.get("/nowhere")
        await rig.broker.stop()
        await process.logged("mqtt not connected")
        await rig.broker.start()
        await process.logged("mqtt connected", count=2)
    assert await process.stop() == 0


async def test_log_lines_are_json_objects(rig, tmp_path):
    async with daemon(rig, tmp_path, **debug_settings()) as process:
        await run_usual_events(rig, process)
    lines = process.text().splitlines()
    assert len(lines) > 10
    for line in lines:
        entry = json.loads(line)
        assert {"timestamp", "level", "component", "event"} <= entry.keys(), entry
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", entry["timestamp"])
        assert entry["level"] in ("debug", "info", "warning", "error", "critical")


async def test_development_mode_raises_no_warning(rig, tmp_path):
    async with daemon(rig, tmp_path, **debug_settings("-X", "dev")) as process:
        await run_usual_events(rig, process)
    plain_lines = [line for line in process.text().splitlines() if not line.startswith("{")]
    assert plain_lines == [], "unclosed resource, coroutine not awaited, or deprecated call"
    # asyncio's debug mode logs its findings, such as a pending task that was destroyed, as errors.
    asyncio_entries = [entry for entry in process.entries() if entry["component"] == "asyncio"]
    assert [entry for entry in asyncio_entries if entry["level"] in ("error", "critical")] == []


async def test_journald_lines_have_priority(rig, tmp_path):
    async with daemon(rig, tmp_path, ready=False, env={"JOURNAL_STREAM": "8:1"}) as process:
        await eventually(lambda: "mqtt connected" in process.text())
        await rig.broker.stop()
        await eventually(lambda: "mqtt not connected" in process.text())
        levels = {}
        for line in process.text().splitlines():
            priority, entry = re.fullmatch(r"<(\d)>(\{.*\})", line).groups()
            levels[json.loads(entry)["level"]] = int(priority)
        assert levels == {"info": 6, "warning": 4}


@pytest.mark.parametrize(("style", "plain"), [("auto", True), ("console", True), ("json", False)])
async def test_terminal_log_is_text_unless_json(rig, tmp_path, style, plain):
    ours, theirs = pty.openpty()
    try:
        async with daemon(rig, tmp_path, ready=False, stderr=theirs, logging={"format": style}) as process:
            text = ""
            os.set_blocking(ours, False)

            def is_connected():
                nonlocal text
                try:
                    text += os.read(ours, 65536).decode()
                except BlockingIOError:
                    return False
                return "mqtt connected" in text

            await eventually(is_connected)
            assert await process.stop() == 0
    finally:
        os.close(ours)
        os.close(theirs)
    first = text.splitlines()[0]
    assert first.startswith("{") is not plain
    if plain:
        assert "ready" in text
        assert "127.0.0.1" in text


async def test_closed_log_reader_does_not_stop_daemon(rig, tmp_path):
    """`run 2>&1 | head -1`: the pipe breaks, the daemon continues."""
    reading, writing = os.pipe()
    async with daemon(rig, tmp_path, ready=False, stderr=writing, http={"listen": ["127.0.0.1:0"]}) as process:
        os.close(writing)
        try:
            first = await asyncio.to_thread(os.read, reading, 65536)
            assert b"admin key" in first
        finally:
            os.close(reading)
        await eventually((rig.state_dir / "orchestrator.db").exists)
        async with rig.fleet(1):
            await eventually(lambda: rig.rows("SELECT count(*) FROM cameras") == [(1,)])
        assert process.code is None
        assert await process.stop() == 0
