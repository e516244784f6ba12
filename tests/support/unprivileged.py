"""Threads to which file permissions apply, although the tests run as root."""

import asyncio
import ctypes
import struct
from concurrent.futures import ThreadPoolExecutor

_VERSION_3 = 0x20080522


def unprivileged():
    """Make `asyncio.to_thread` use a thread without capabilities, so that file modes apply as for the daemon."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, initializer=_drop))


def _drop():
    # Capabilities are per thread; other threads keep theirs.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(struct.pack("=Ii", _VERSION_3, 0), bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset")
