"""Ctrl-C that is not lost: a library that swallows the KeyboardInterrupt only puts it off to our next step.

Python raises it wherever the program happens to be, also inside a finaliser or a callback, where it is printed
and forgotten. So it is remembered here, and raised again by `check` between two steps of long work.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_remembered = False


@contextmanager
def remembered() -> Iterator[None]:
    """Remember a Ctrl-C from here on; raises KeyboardInterrupt at the end where nobody has seen it before.

    Does nothing outside the main thread, or where the caller has a handler of its own for SIGINT.
    """
    global _remembered
    _remembered = False
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler and _set(_remember)
    try:
        yield
        check()
    finally:
        if ours:
            _set(signal.default_int_handler)


def check() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed, whoever has swallowed it."""
    if _remembered:
        raise KeyboardInterrupt


def _remember(number: int, frame: object) -> None:
    global _remembered
    _remembered = True
    raise KeyboardInterrupt


def _set(handler) -> bool:
    try:
        signal.signal(signal.SIGINT, handler)
    except ValueError:  # not the main thread: Python has no signals here
        return False
    return True
