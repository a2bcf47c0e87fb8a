"""Threads that the end of the process does not wait for: MLflow, a disk or a model may block them for ever."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)
PREFIX = "work-"  # of the names of threads that may hang


def run_in_daemon(call: Callable[[], T]) -> asyncio.Future[T]:
    """What `call` returns or raises. Cancelling the future leaves the thread to itself."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            outcome, failure = call(), None
        except BaseException as exc:  # noqa: BLE001 - handed to whoever waits for it
            outcome, failure = None, exc
        try:
            loop.call_soon_threadsafe(_hand_over, result, outcome, failure)
        except RuntimeError:
            log.debug("the event loop has ended before its work")

    threading.Thread(target=run, name=f"{PREFIX}daemon", daemon=True).start()
    return result


def _hand_over(result: asyncio.Future[Any], outcome: Any, failure: BaseException | None) -> None:
    if result.cancelled():
        return
    if failure is None:
        result.set_result(outcome)
    else:
        result.set_exception(failure)


def is_work_left(within_s: float = 1.0) -> bool:
    """Whether a thread is still at work after so many seconds, at the end of the process."""
    end = time.monotonic() + within_s
    while is_left := any(thread.name.startswith(PREFIX) for thread in threading.enumerate()):
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    return is_left
