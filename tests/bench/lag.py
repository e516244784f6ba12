"""How late an event loop is: the daemon with an eye on its own loop, and a bare loop beside it.

`daemon ARGS` is `pi-orchestrator ARGS` that begins to look at USR1 and at USR2 writes what it saw to $LAG_FILE.
`bare` does nothing else: a line with seconds → what it saw in them.
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
    """Asks to be woken every 5 ms and notes how late it was; a long pause is late for every time that fell into it."""

    def __init__(self, loop):
        self._loop = loop
        self._due = loop.time() + EVERY_S
        self._late, self._pauses, self._began = [], [], 0.0
        self._timer = loop.call_at(self._due, self._wake)
        gc.callbacks.append(self._collector)

    def end(self):
        """What was seen, in ms."""
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
    from pi_orchestrator.cli.main import main

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
