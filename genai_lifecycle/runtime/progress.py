"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from genai_lifecycle.runtime import interruption

log = logging.getLogger(__name__)

PLAIN_LINES = 4  # how many lines a task of any size writes where there is no terminal


@contextmanager
def steps(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of steps just done; it raises KeyboardInterrupt after Ctrl-C."""
    if sys.stderr.isatty():
        with _bar(title, total) as advance:
            yield _interruptible(advance)
    else:
        yield _interruptible(_lines(title, total))


def _interruptible(told: Callable[[int], object]) -> Callable[[int], None]:
    def advance(count: int) -> None:
        interruption.check()
        told(count)

    return advance


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    with tqdm(total=total, desc=title, leave=False) as bar, logging_redirect_tqdm():
        yield bar.update


def _lines(title: str, total: int) -> Callable[[int], None]:
    done = 0
    told = 0

    def advance(count: int) -> None:
        nonlocal done, told
        done += count
        if done * PLAIN_LINES // total > told:
            told = done * PLAIN_LINES // total
            log.info("%s: %d of %d", title, done, total)

    return advance
