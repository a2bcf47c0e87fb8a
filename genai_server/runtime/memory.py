"""Gives the memory that a closed model or a busy hour leaves behind back to the system; else a server only grows."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading

_M_MMAP_THRESHOLD = -3  # malloc.h of glibc
LARGE_BLOCK_BYTES = 128 * 1024  # glibc's own first value, which it raises up to 32 MiB as large blocks come and go


def unmap_large_blocks() -> None:
    """Call it once at the start: large blocks, such as bodies of a megabyte, go back to the system when they are freed.

    Left to itself, glibc soon puts them into its heap, where a small block above one keeps it for good.
    """
    _glibc("mallopt", _M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def give_back() -> None:
    """Call it on a thread, once nothing refers any more to what was used.

    A model is full of cycles, and after `gc.freeze` the collector comes by seldom; since what was loaded first is
    frozen, it takes a few milliseconds at most. Then glibc is asked for the pages that are free.
    """
    gc.collect()
    _glibc("malloc_trim", 0)


def _glibc(name: str, *values: int) -> None:
    """Nothing where the C library is another one; musl has neither function."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
    if function is not None:
        function(*values)


class IdleTrimmer:
    """Gives memory back when it is asked to, on one thread that starts with the server.

    A thread of its own for each time would not do: where memory is short, a new thread can die before it says that it
    runs, and `Thread.start` then waits for ever, on the event loop.
    """

    def __init__(self) -> None:
        self._is_due, self._is_over = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self) -> None:
        """Returns at once; several calls before the thread wakes count as one."""
        self._is_due.set()

    def stop(self) -> None:
        self._is_over = True
        self._is_due.set()

    def _run(self) -> None:
        while self._is_due.wait() and not self._is_over:
            self._is_due.clear()
            give_back()
