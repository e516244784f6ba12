"""What the daemon writes: JSON lines for machines, plain lines on a terminal, and no warnings of Python's."""

import asyncio
import json
import os
import pty
import re
import sys

import pytest

from tests.support.process import COMMAND, daemon
from tests.support.waiting import eventually


def a_full_life(world):
    return {"logging": {"level": "debug"}, "mqtt": {"keepalive_s": 5}}


async def live(world, process):
    """Everything that usually happens to a daemon."""
    async with world.fleet(4, faults=["bad-json:1", "wrong-mac:1"]):
        await process.logged("camera onboarded", count=2)
        await process.logged("onboarding failed", count=2)
        await world.publish("camera/status/%%%", {})
        await process.logged("status message dropped")
        await process.api.get("/nowhere")
        await world.broker.stop()
        await process.logged("mqtt not connected")
        await world.broker.start()
        await process.logged("mqtt connected", count=2)
    assert await process.stop() == 0


async def test_every_line_is_a_json_object_with_time_level_component_and_event(world, tmp_path):
    async with daemon(world, tmp_path, **a_full_life(world)) as process:
        await live(world, process)
    lines = process.text().splitlines()
    assert len(lines) > 10
    for line in lines:
        entry = json.loads(line)
        assert {"timestamp", "level", "component", "event"} <= entry.keys(), entry
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", entry["timestamp"])
        assert entry["level"] in ("debug", "info", "warning", "error", "critical")


async def test_a_whole_life_in_pythons_development_mode_raises_no_warning(world, tmp_path):
    command = (sys.executable, "-X", "dev", *COMMAND[1:])
    async with daemon(world, tmp_path, command=command, **a_full_life(world)) as process:
        await live(world, process)
    strays = [line for line in process.text().splitlines() if not line.startswith("{")]
    assert strays == [], "a resource was not closed, a coroutine not awaited, or something deprecated was used"
    # What asyncio's debug mode finds, such as a task destroyed while it waits, is told as an error.
    asyncio_says = [entry for entry in process.entries() if entry["component"] == "asyncio"]
    assert [entry for entry in asyncio_says if entry["level"] in ("error", "critical")] == []


async def test_under_journald_each_line_carries_its_priority(world, tmp_path):
    async with daemon(world, tmp_path, ready=False, env={"JOURNAL_STREAM": "8:1"}) as process:
        await eventually(lambda: "mqtt connected" in process.text())
        await world.broker.stop()
        await eventually(lambda: "mqtt not connected" in process.text())
        levels = {}
        for line in process.text().splitlines():
            priority, entry = re.fullmatch(r"<(\d)>(\{.*\})", line).groups()
            levels[json.loads(entry)["level"]] = int(priority)
        assert levels == {"info": 6, "warning": 4}


@pytest.mark.parametrize(("style", "plain"), [("auto", True), ("console", True), ("json", False)])
async def test_on_a_terminal_the_log_is_for_people_unless_json_is_asked_for(world, tmp_path, style, plain):
    ours, theirs = pty.openpty()
    try:
        async with daemon(world, tmp_path, ready=False, stderr=theirs, logging={"format": style}) as process:
            text = ""
            os.set_blocking(ours, False)

            def has_come():
                nonlocal text
                try:
                    text += os.read(ours, 65536).decode()
                except BlockingIOError:
                    return False
                return "mqtt connected" in text

            await eventually(has_come)
            assert await process.stop() == 0
    finally:
        os.close(ours)
        os.close(theirs)
    first = text.splitlines()[0]
    assert first.startswith("{") is not plain
    if plain:
        assert "ready" in text
        assert "127.0.0.1" in text


async def test_the_log_of_a_reader_that_has_gone_does_not_stop_the_daemon(world, tmp_path):
    """`run 2>&1 | head -1`: the pipe breaks, the daemon goes on."""
    reading, writing = os.pipe()
    async with daemon(world, tmp_path, ready=False, stderr=writing, http={"listen": ["127.0.0.1:0"]}) as process:
        os.close(writing)
        try:
            first = await asyncio.to_thread(os.read, reading, 65536)
            assert b"admin key" in first
        finally:
            os.close(reading)
        await eventually((world.state_dir / "orchestrator.db").exists)
        async with world.fleet(1):
            await eventually(lambda: world.rows("SELECT count(*) FROM cameras") == [(1,)])
        assert process.code is None
        assert await process.stop() == 0
