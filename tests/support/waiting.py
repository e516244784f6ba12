"""Wait for a condition with a timeout, instead of a fixed sleep."""

import asyncio
import inspect
import time

HANG_S = 45.0
"""Default timeout of waits, long enough for a slow machine under load."""
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.1


async def eventually(condition, *, within=HANG_S, what=""):
    """Return the first truthy value of `condition()` (plain or async); AssertionError after `within` seconds.

    The pause grows with the duration of the condition: requests and queries use at most a fifth of the time.
    """
    deadline = time.monotonic() + within
    while True:
        started = time.monotonic()
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        now = time.monotonic()
        if now > deadline:
            text = what() if callable(what) else what
            raise AssertionError(f"not within {within} s: {text or inspect.getsource(condition).strip()}")
        await asyncio.sleep(min(max(4 * (now - started), _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S))
