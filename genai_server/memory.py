"""What a closed model or a busy hour leaves behind is given back to the system; else a server only ever grows."""

from __future__ import annotations

import ctypes
import gc
import sys

_M_ARENA_MAX = -8  # malloc.h of glibc
MOST_ARENAS = 2  # of glibc's heap; by default eight a core, each of which keeps what its threads have freed


def limit_arenas() -> None:
    """Call it once, before there are threads."""
    _glibc("mallopt", _M_ARENA_MAX, MOST_ARENAS)


def give_back() -> None:
    """Call it on a thread, once nothing refers any more to what was used.

    A model is full of cycles, and after `gc.freeze` the collector comes by seldom; since what was loaded first is
    frozen, it takes a few milliseconds at most. Then glibc is asked for the pages that are free.
    """
    gc.collect()
    _glibc("malloc_trim", 0)


def _glibc(name: str, *values: int) -> None:
    """Nothing where the C library is another one."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
    if function is not None:
        function(*values)
