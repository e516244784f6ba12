"""Threads and processes to which file permissions apply, although the tests run as root."""

import asyncio
import ctypes
import itertools
import struct
from concurrent.futures import ThreadPoolExecutor

_VERSION_3 = 0x20080522
_PR_CAPBSET_DROP = 24


def unprivileged():
    """Make `asyncio.to_thread` use a thread without capabilities, so that file modes apply as for the daemon."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, initializer=drop_capabilities))


def drop_capabilities():
    """Drop the capabilities of this thread; other threads keep theirs."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(struct.pack("=Ii", _VERSION_3, 0), bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def drop_bounding_set():
    """Keep programs that this thread executes from getting capabilities; needs CAP_SETPCAP."""
    libc = ctypes.CDLL(None)
    next(number for number in itertools.count() if libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) != 0)
