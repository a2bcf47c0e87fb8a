"""Python programs in processes of their own, without the seconds that their imports take.

Stands in the place of the standard library's `subprocess`, as much of it as is used here. Each process is a fork of
one clean process that has imported MLflow, torch and the rest and nothing of ours (multiprocessing's forkserver).
What a test wants to know of the imports themselves, or of the real interpreter's start, needs `subprocess`.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver, reduction
from pathlib import Path
from subprocess import DEVNULL, PIPE, CompletedProcess, TimeoutExpired

import mlflow_tables

__all__ = ["DEVNULL", "PIPE", "CompletedProcess", "Popen", "TimeoutExpired", "run"]

REPO = Path(__file__).resolve().parents[1]
PRELOADED = ["mlflow", "mlflow.store.tracking.sqlalchemy_store", "mlflow.genai", "torch", "transformers",
             "transformers.models.gpt2.modeling_gpt2", "scipy.stats", "matplotlib.figure", "langchain_core.prompts",
             "langchain_core.language_models.llms", "fastapi", "uvicorn", "flask", "pandas"]  # fmt: skip
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(PRELOADED)


class Popen:
    """A running program; `returncode` is negative after a signal.

    Args:
        command: an interpreter, its flags, then a file, `-m MODULE` or `-c CODE`, then arguments.
        stdin: PIPE, or nothing to read.
        stdout, stderr: an open file or DEVNULL; ours by default.
        prepare: called in the fork before the program; a function of a module.
    """

    def __init__(
        self, command: Sequence[str], *, cwd=None, env=None, stdin=None, stdout=None, stderr=None,
        start_new_session: bool = False, prepare: Callable[[], None] | None = None,
    ):  # fmt: skip
        self.args, self.stdin = command, None
        theirs = os.open(os.devnull, os.O_RDONLY)
        if stdin == PIPE:
            os.close(theirs)
            theirs, ours = os.pipe()
            self.stdin = os.fdopen(ours, "wb")
        nowhere = os.open(os.devnull, os.O_WRONLY)
        outputs = [nowhere if file == DEVNULL else number if file is None else file.fileno()
                   for number, file in ((1, stdout), (2, stderr))]  # fmt: skip
        self._process = _forks.Process(
            target=_become,
            args=(
                [str(word) for word in command[1:]], str(cwd or Path.cwd()), dict(env or os.environ),
                [_HandedOver(fd) for fd in (theirs, *outputs)], start_new_session, prepare, mlflow_tables.template,
            ),
        )  # fmt: skip
        before = sys.path[:]
        sys.path.append(str(Path(__file__).parent))  # handed over, so that the fork finds this module
        try:
            self._process.start()
        finally:
            sys.path[:] = before
        self.pid = self._process.pid
        os.close(theirs)
        os.close(nowhere)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise TimeoutExpired(self.args, timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    command: Sequence[str], *, cwd=None, env=None, timeout: float | None = None, capture_output: bool = False,
    text: bool = True, check: bool = False, prepare: Callable[[], None] | None = None,
) -> CompletedProcess[str]:  # fmt: skip
    """Run a program to its end; what it wrote is always captured, as text."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out, tempfile.TemporaryFile("w+", encoding="utf-8") as err:
        process = Popen(command, cwd=cwd, env=env, stdout=out, stderr=err, prepare=prepare)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        out.seek(0)
        err.seek(0)
        done = CompletedProcess(command, code, out.read(), err.read())
    if check:
        done.check_returncode()
    return done


class _HandedOver:
    """A file descriptor; becomes the number that it has in the fork."""

    def __init__(self, fd: int):
        self._fd = fd

    def __reduce__(self):
        return _received, (reduction.DupFd(self._fd),)


def _received(handed_over) -> int:
    return handed_over.detach()


# --- in the fork ----------------------------------------------------------------------------------


def _become(
    words: list[str], cwd: str, environment: Mapping[str, str], streams: Sequence[int], new_session: bool,
    prepare: Callable[[], None] | None, template: Path | None,
) -> None:  # fmt: skip
    if new_session:
        os.setsid()
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    forkserver._forkserver.ensure_running = lambda: None  # a fork of ours is served by the process that serves us
    if template:
        mlflow_tables.copy_from(template)
    if prepare:
        prepare()
    try:
        _run_program(words)
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out


def _run_program(words: list[str]) -> None:
    """As the interpreter does it: what it finds first on its path, and which words are the program's."""
    flags = []
    while words[0] in ("-I", "-P", "-B"):
        flags.append(words.pop(0))
    sys.path[:] = [path for path in sys.path if path.startswith(sys.prefix) or not _is_ours(path)]
    program = words[0]
    if "-I" not in flags and "-P" not in flags:
        sys.path.insert(0, os.getcwd() if program in ("-c", "-m") else str(Path(program).resolve().parent))
    sys.argv = ["-c" if program == "-c" else program, *words[1:]]
    if program == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif program == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_path(program, run_name="__main__")


def _is_ours(path: str) -> bool:
    return path == "" or Path(path).is_relative_to(REPO)
