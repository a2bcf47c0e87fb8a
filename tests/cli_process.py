"""e2e_mlflow.py in a process of its own (a fork, see forked.py), which can be killed at an exact place.

What a test wants to know of the imports themselves needs `subprocess`.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import forked

REPO = Path(__file__).resolve().parents[1]


def arguments_for(mode: str, *words: str) -> list[str]:
    """`--mode MODE` with those of the flags that the mode knows: a test gives every mode of a life the same ones."""
    from genai_lifecycle.cli.main import MODES

    known, taken = [], True
    for word in words:
        if word.startswith("-"):
            taken = word in (*MODES[mode].flags, "-v")
        known += [word] if taken else []
    return ["--mode", mode, *known]


def run_cli(
    arguments: Sequence[str], *, killed_at: tuple[str, int] | None = None, cwd: Path = REPO, **environment: str
) -> forked.CompletedProcess[str]:
    """Run to the end; `returncode` is negative after a signal, as subprocess has it.

    Args:
        killed_at: dotted name of a function and the number of its call at which the process is killed.
    """
    return forked.run(_command(arguments), cwd=cwd, env=os.environ | environment, prepare=_prepared(killed_at))


def start_cli(arguments: Sequence[str], output, errors) -> forked.Popen:
    """Start it; what it writes goes to the two open files."""
    return forked.Popen(_command(arguments), cwd=REPO, stdout=output, stderr=errors, prepare=_prepared(None))


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, str(REPO / "e2e_mlflow.py"), *arguments]


def _prepared(killed_at: tuple[str, int] | None) -> functools.partial:
    return functools.partial(_prepare, killed_at)


def _prepare(killed_at: tuple[str, int] | None) -> None:
    """In the fork: the process that tests a version is a fork as well, and the Hub's client looks where it would."""
    from huggingface_hub import constants

    from genai_lifecycle.stages import test as verify

    verify.subprocess = forked
    if "HF_HOME" in os.environ:  # the client has read its environment before the fork
        constants.HF_HUB_CACHE = str(Path(os.environ["HF_HOME"], "hub"))
    if killed_at:
        _kill_at(*killed_at)


def _kill_at(dotted: str, number: int) -> None:
    """Put a function in the place of ours that kills the process at its call number `number`."""
    module, _, name = dotted.rpartition(".")
    target = importlib.import_module(module)
    original, calls = getattr(target, name), []

    def killing(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(target, name, killing)
