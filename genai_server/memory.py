"""What a closed model leaves behind is given back to the system; without this a server grows by a megabyte a reload."""

from __future__ import annotations

import ctypes
import gc
import sys

from genai_server.daemon import run_in_daemon


def give_back() -> None:
    """Call it on the event loop once nothing refers to the model any more.

    A model is full of cycles, and after `gc.freeze` the collector comes by seldom; since what was loaded first is
    frozen, there is little left for it to look at. Then glibc keeps what was freed, in an arena for each thread.
    """
    gc.collect()
    if sys.platform.startswith("linux"):
        run_in_daemon(_trim)


def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if trim is not None:
        trim(0)
