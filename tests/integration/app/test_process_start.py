"""The start of the daemon as a process."""

import os
import signal

from tests.support.process import daemon, patched
from tests.support.waiting import eventually

COLLECTOR_STATE = """
import gc, os, signal
from pathlib import Path
def write_state(*_):
    Path(os.environ["STATE_FILE"]).write_text(f"{gc.isenabled()} {gc.get_freeze_count() > 0}")
signal.signal(signal.SIGUSR2, write_state)
"""


async def test_garbage_collector_after_start_is_enabled(rig, tmp_path):
    state = tmp_path / "collector"
    async with daemon(rig, tmp_path, command=patched(COLLECTOR_STATE), env={"STATE_FILE": str(state)}) as process:

        def is_collecting():
            os.kill(process.pid, signal.SIGUSR2)
            return state.exists() and state.read_text() == "True True"

        await eventually(is_collecting)
