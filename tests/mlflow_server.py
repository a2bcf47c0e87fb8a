"""A real MLflow server in one forked process: what `mlflow server` starts as another program, it becomes itself."""

from __future__ import annotations

import os
import runpy
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import forked

from genai_lifecycle.serving.processes import ask


@contextmanager
def running(flags: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """`mlflow server` with these flags, ready, until the end of the block; yields its address.

    Args:
        flags: `--port` among them, its number as the next word.
        environment: variables on top of ours.
    """
    url = f"http://127.0.0.1:{flags[flags.index('--port') + 1]}"
    more = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | dict(environment or {})  # saves nine processes
    command = [sys.executable, "-P", "-m", "mlflow", "server", *flags]
    with log.open("w") as output:
        server = forked.Popen(
            command, cwd=log.parent, env=os.environ | more, stdout=output, stderr=output, prepare=_in_one_process
        )
    try:
        _wait_until_ready(url, server, log)
        yield url
    finally:
        server.terminate()
        server.wait(30)


def _wait_until_ready(url: str, server: forked.Popen, log: Path, timeout_s: float = 180.0) -> None:
    deadline = time.monotonic() + timeout_s
    while ask(f"{url}/health")[0] != 200:
        assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.1)


def _in_one_process() -> None:
    import mlflow.server

    mlflow.server._exec_cmd = _become


def _become(command: Sequence[str], *, extra_env: Mapping[str, str], **_: object) -> None:
    """Run the command `python -m uvicorn ...` here, with MLflow's server imported anew, as one that serves."""
    os.environ.update(extra_env)
    for name in [name for name in sys.modules if f"{name}.".startswith("mlflow.server.")]:
        del sys.modules[name]
    assert list(command[1:3]) == ["-m", "uvicorn"], command
    sys.argv = list(command[2:])
    runpy.run_module("uvicorn", run_name="__main__", alter_sys=True)
