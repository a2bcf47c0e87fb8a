"""Ctrl-C that is neither lost nor raised where it does harm.

Python raises KeyboardInterrupt wherever the program happens to be. In a finaliser it is printed and forgotten; amid
a query it leaves a cursor, and with it the database's lock, to the frames that its traceback holds; between the
begin of a run and our taking note of it, the run would stay open. There it is held back and raised by `deliver`,
as soon as the call is over. A library that swallows it elsewhere only puts it off to the next step of long work.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

LAST_WORD = 3  # this Ctrl-C is raised wherever the program is: something does not come to its end

_presses = 0
_is_held = False
_holders = 0


@contextmanager
def remembered() -> Iterator[None]:
    """Remember a Ctrl-C from here on; raises KeyboardInterrupt at the end where nobody has seen it before.

    Does nothing outside the main thread, or where the caller has a handler of its own for SIGINT.
    """
    global _presses, _is_held
    _presses, _is_held = 0, False
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler and _set(_remember)
    try:
        yield
        check()
    finally:
        if ours:
            _set(signal.default_int_handler)


@contextmanager
def held() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the block, for work of milliseconds that must be done whole or not at all."""
    global _holders
    _holders += 1
    try:
        yield
    finally:
        _holders -= 1
    deliver()


def deliver() -> None:
    """Raise the KeyboardInterrupt that was held back, if there is one; in the main thread only, as Python does."""
    global _is_held
    if _is_held and not _holders and threading.current_thread() is threading.main_thread():
        _is_held = False
        raise KeyboardInterrupt


def handled() -> None:
    """Ctrl-C was the way to end what runs in the foreground, and it has ended: nobody need hear of it again."""
    global _presses, _is_held
    _presses, _is_held = 0, False


def check() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed, whoever has swallowed it."""
    if _presses:
        raise KeyboardInterrupt


def _remember(number: int, frame: FrameType | None) -> None:
    global _presses, _is_held
    _presses += 1
    _is_held = _presses < LAST_WORD and (_holders > 0 or _does_harm(frame))
    if not _is_held:
        raise KeyboardInterrupt


def _does_harm(frame: FrameType | None) -> bool:
    """Whether a finaliser or a database session is under way."""
    while frame:
        if frame.f_code.co_name == "__del__" or _is_database(frame.f_globals.get("__name__") or ""):
            return True
        frame = frame.f_back
    return False


def _is_database(module: str) -> bool:
    """SQLAlchemy and what MLflow builds on it; not MLflow's stores of files, which may take minutes."""
    return module.startswith(("sqlalchemy.", "mlflow.store.")) and ("sqlalchemy" in module or ".db" in module)


def _set(handler) -> bool:
    try:
        signal.signal(signal.SIGINT, handler)
    except ValueError:  # not the main thread: Python has no signals here
        return False
    return True
