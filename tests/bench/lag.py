"""Event loop lag, of the daemon and of a bare loop.

`daemon ARGS` runs `pi-orchestrator ARGS`. SIGUSR1 starts the measurement; SIGUSR2 stops it and writes the result to
$LAG_FILE.
`bare` runs an idle event loop: each line of stdin is a duration in seconds; it measures for that duration and prints
the result as JSON.
"""

import asyncio
import gc
import json
import os
import signal
import sys
import time
from pathlib import Path

from tests.bench.report import quantile

TICK_INTERVAL_S = 0.005


class LagRecorder:
    """Records how late each tick of a timer is; a blocked loop counts once for every missed tick."""

    def __init__(self, loop):
        self._loop = loop
        self._due = loop.time() + TICK_INTERVAL_S
        self._lags, self._gc_pauses, self._gc_started = [], [], 0.0
        self._timer = loop.call_at(self._due, self._on_tick)
        gc.callbacks.append(self._on_gc)

    def stop(self):
        """Stop recording, and return the result in ms."""
        self._timer.cancel()
        gc.callbacks.remove(self._on_gc)
        lags = [seconds * 1000 for seconds in self._lags]
        longest_gc = max(self._gc_pauses, default=0.0) * 1000
        return {"p50_ms": quantile(lags, 0.5), "p99_ms": quantile(lags, 0.99), "max_ms": max(lags), "gc_ms": longest_gc}

    def _on_tick(self):
        now = self._loop.time()
        while self._due <= now:
            self._lags.append(now - self._due)
            self._due += TICK_INTERVAL_S
        self._timer = self._loop.call_at(self._due, self._on_tick)

    def _on_gc(self, phase, _info):
        if phase == "start":
            self._gc_started = time.perf_counter()
        else:
            self._gc_pauses.append(time.perf_counter() - self._gc_started)


def daemon():
    recorders = []

    def write_result(*_):
        partial = Path(os.environ["LAG_FILE"] + ".partial")
        partial.write_text(json.dumps(recorders.pop().stop()))
        partial.rename(os.environ["LAG_FILE"])

    signal.signal(signal.SIGUSR1, lambda *_: recorders.append(LagRecorder(asyncio.get_running_loop())))
    signal.signal(signal.SIGUSR2, write_result)
    from pi_orchestrator.app.main import main

    sys.exit(main())


def bare():
    async def measure(seconds):
        recorder = LagRecorder(asyncio.get_running_loop())
        await asyncio.sleep(seconds)
        return recorder.stop()

    for line in sys.stdin:
        print(json.dumps(asyncio.run(measure(float(line)))), flush=True)


if __name__ == "__main__":
    {"daemon": daemon, "bare": bare}[sys.argv.pop(1)]()
