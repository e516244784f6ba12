"""Waiting for something to become true, bounded, instead of sleeping for luck."""

import asyncio
import inspect
import time


async def eventually(condition, *, within=10.0, what=""):
    """Return the first truthy value of `condition()` (plain or async); AssertionError after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what or inspect.getsource(condition).strip()}")
        await asyncio.sleep(0.01)
