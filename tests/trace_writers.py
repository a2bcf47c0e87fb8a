"""The server's trace writer as a fork, and at ordinary priority: cores busy with tests leave little to a lower one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import forked
import pytest

from genai_server.tracing import tracer as tracing


class _Programs:
    """What `tracing` uses of `subprocess`."""

    PIPE, DEVNULL, TimeoutExpired = forked.PIPE, forked.DEVNULL, forked.TimeoutExpired

    @staticmethod
    def Popen(command, **given) -> forked.Popen:
        return forked.Popen(command, prepare=_keep_priority, **given)


def _keep_priority() -> None:
    os.nice = lambda _: 0
    os.getsid = lambda _: 0  # nor its session's


@contextmanager
def forked_writers() -> Iterator[None]:
    """Every writer that is started inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing, "subprocess", _Programs)
        yield
