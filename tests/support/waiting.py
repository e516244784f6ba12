"""Wait for a condition with a timeout, instead of a fixed sleep."""

import asyncio
import inspect
import time

HANG_S = 45.0
"""Default timeout of waits, long enough for a slow machine under load."""


async def eventually(condition, *, within=HANG_S, what=""):
    """Return the first truthy value of `condition()` (plain or async); AssertionError after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            text = what() if callable(what) else what
            raise AssertionError(f"not within {within} s: {text or inspect.getsource(condition).strip()}")
        await asyncio.sleep(0.01)
