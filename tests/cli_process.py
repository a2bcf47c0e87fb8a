"""e2e_mlflow.py in a process of its own, without the seconds that its imports take.

Each run is a fork of one clean process that has imported MLflow, torch and the rest and done nothing else
(multiprocessing's forkserver). What a test wants to know of the imports themselves needs `subprocess`.
"""

from __future__ import annotations

import atexit
import importlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from conftest import REPO

PRELOADED = ["mlflow", "mlflow.store.tracking.sqlalchemy_store", "mlflow.genai", "torch", "transformers",
             "transformers.models.gpt2.modeling_gpt2", "scipy.stats", "matplotlib.figure", "langchain_core.prompts",
             "langchain_core.language_models.llms"]  # fmt: skip
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(PRELOADED)


def run_cli(
    arguments: Sequence[str], output: Path, killed_at: tuple[str, int] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run to the end; `returncode` is negative after a signal, as subprocess has it.

    Args:
        output: a folder for what it writes.
        killed_at: dotted name of a function and the number of its call at which the process is killed.
    """
    files = [output / "stdout", output / "stderr"]
    process = _forks.Process(
        target=_run, args=(list(arguments), [str(path) for path in files], os.environ | environment, killed_at)
    )
    process.start()
    process.join()
    out, err = (path.read_text("utf-8") for path in files)
    return subprocess.CompletedProcess(list(arguments), process.exitcode, out, err)


def _run(
    arguments: list[str], files: Sequence[str], environment: Mapping[str, str], killed_at: tuple[str, int] | None
) -> None:
    for stream, path in zip((1, 2), files, strict=True):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(REPO)
    sys.argv = ["e2e_mlflow.py", *arguments]
    if killed_at:
        _kill_at(*killed_at)
    runpy.run_path("e2e_mlflow.py", run_name="__main__")
    atexit._run_exitfuncs()  # multiprocessing leaves them out; the entry's own ends the process


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
