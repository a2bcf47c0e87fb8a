"""What a closed model or a busy hour leaves behind is given back to the system; else a server only ever grows."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading


def give_back() -> None:
    """Call it on a thread, once nothing refers any more to what was used.

    A model is full of cycles, and after `gc.freeze` the collector comes by seldom; since what was loaded first is
    frozen, it takes a few milliseconds at most. Then glibc is asked for the pages that are free.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:  # musl has none
        trim(0)


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
        """Returns at once; asked again before it came to it, it gives back once."""
        self._is_due.set()

    def stop(self) -> None:
        self._is_over = True
        self._is_due.set()

    def _run(self) -> None:
        while self._is_due.wait() and not self._is_over:
            self._is_due.clear()
            give_back()
