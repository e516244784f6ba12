"""Event loop lag, of the daemon and of a bare loop.

`daemon ARGS` is `pi-orchestrator ARGS` that starts to measure at SIGUSR1 and writes the result to $LAG_FILE at SIGUSR2.
`bare` only measures: for each input line with seconds, it prints the result for that time.
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

EVERY_S = 0.005


class Look:
    """Records the lag of a 5 ms timer; a long pause counts for every missed tick."""

    def __init__(self, loop):
        self._loop = loop
        self._due = loop.time() + EVERY_S
        self._late, self._pauses, self._began = [], [], 0.0
        self._timer = loop.call_at(self._due, self._wake)
        gc.callbacks.append(self._collector)

    def end(self):
        """Stop, and return the result in ms."""
        self._timer.cancel()
        gc.callbacks.remove(self._collector)
        late = [seconds * 1000 for seconds in self._late]
        longest = max(self._pauses, default=0.0) * 1000
        return {"p50_ms": quantile(late, 0.5), "p99_ms": quantile(late, 0.99), "most_ms": max(late), "gc_ms": longest}

    def _wake(self):
        now = self._loop.time()
        while self._due <= now:
            self._late.append(now - self._due)
            self._due += EVERY_S
        self._timer = self._loop.call_at(self._due, self._wake)

    def _collector(self, phase, _info):
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self._pauses.append(time.perf_counter() - self._began)


def daemon():
    looks = []

    def end(*_):
        partial = Path(os.environ["LAG_FILE"] + ".partial")
        partial.write_text(json.dumps(looks.pop().end()))
        partial.rename(os.environ["LAG_FILE"])

    signal.signal(signal.SIGUSR1, lambda *_: looks.append(Look(asyncio.get_running_loop())))
    signal.signal(signal.SIGUSR2, end)
    from pi_orchestrator.app.main import main

    sys.exit(main())


def bare():
    async def see(seconds):
        look = Look(asyncio.get_running_loop())
        await asyncio.sleep(seconds)
        return look.end()

    for line in sys.stdin:
        print(json.dumps(asyncio.run(see(float(line)))), flush=True)


if __name__ == "__main__":
    {"daemon": daemon, "bare": bare}[sys.argv.pop(1)]()
