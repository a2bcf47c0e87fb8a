"""What a closed model or a busy hour leaves behind is given back to the system; else a server only ever grows."""

from __future__ import annotations

import ctypes
import gc
import sys


def give_back() -> None:
    """Call it on a thread, once nothing refers any more to what was used.

    A model is full of cycles, and after `gc.freeze` the collector comes by seldom; since what was loaded first is
    frozen, it takes a few milliseconds at most. Then glibc is asked for the pages that are free.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:  # musl has none
        trim(0)
