"""Progress: a few plain lines where there is no terminal, a bar that is gone afterwards where there is one."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from genai_lifecycle.runtime.progress import PLAIN_LINES, steps


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("total", "by"), [(100, 1), (100, 32), (3, 1), (1, 1)])
def test_plain_lines_are_few_and_end_with_the_whole(caplog, monkeypatch, total, by):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with steps("Answering", total) as advance:
        done = 0
        while done < total:
            count = min(by, total - done)
            done += count
            advance(count)
    assert caplog.messages[-1] == f"Answering: {total} of {total}"
    assert len(caplog.messages) == min(PLAIN_LINES, -(-total // by))
    assert sys.stderr.getvalue() == ""


def test_a_bar_on_a_terminal(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with steps("Answering", 4) as advance:
        advance(1)
        advance(3)
    assert "Answering" in sys.stderr.getvalue() and "| 0/4" in sys.stderr.getvalue()
    assert sys.stderr.getvalue().endswith("\r")  # wiped when it is done
    assert caplog.messages == []


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_an_error_passes_through(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    with pytest.raises(KeyboardInterrupt):
        with steps("Answering", 4) as advance:
            advance(1)
            raise KeyboardInterrupt
