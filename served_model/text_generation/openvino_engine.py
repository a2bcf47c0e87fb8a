"""The OpenVINO engine as its callers see it: a child process that is started, fed, watched and started afresh.

The computing itself is in `openvino_worker.py`. Jobs are handed over a pipe; one thread reads what comes back. When
the process ends unasked, the jobs under way fail with the cause, the engine counts as unhealthy until a new
process is ready, and after `MAX_CRASHES` in `CRASH_WINDOW_S` it stays down.

Not fork-safe: a forked child has neither the reading thread nor a pipe of its own, so using the engine there raises;
load the model in the child instead.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .checkpoint import Limits
from .engine import STALLED_AFTER_S, Job, Load, check_ids, most_new_tokens, rows_to_score
from .errors import EngineFailed
from .sampling import Sampling

log = logging.getLogger(__name__)

WORKER = Path(__file__).with_name("openvino_worker.py")
START_TIMEOUT_S = 120.0  # a large model on a slow disk; an ordinary one is ready in a second
STOP_TIMEOUT_S = 3.0
MAX_CRASHES, CRASH_WINDOW_S = 3, 60.0
WATCH_EVERY_S = 5.0
# Groups of scored texts; those of answers are positive, and single jobs have the negative of their number.
_score_groups = itertools.count(10**12)
_LARGE_PAGES = "glibc.malloc.hugetlb=1"  # glibc 2.35 and later; others ignore it
_STDERR_TAIL = 600  # characters of the process's last words that are told


class OpenVINOEngine:
    """Continuous batching over a converted checkpoint.

    Args:
        ir: folder with openvino_model.xml.
        threads: of the computing process.
        precision: of the weights, as recorded at deploy; fp32 keeps its cache in fp32 too, so that an answer is
            the same alone and in a crowd.
    """

    name = "openvino"

    def __init__(self, ir: Path, limits: Limits, threads: int, precision: str):
        self.limits, self.threads, self.precision = limits, threads, precision
        settings = {
            "ir": str(ir), "threads": threads, "eos_ids": sorted(limits.eos_ids), "window": limits.window,
            "kv_cache_precision": "f32" if precision == "fp32" else "u8", "prefix_caching": False,
        }  # fmt: skip
        self._process = _Process(settings)
        # The thread that reads the pipe holds `_process` only, so that a dropped model is collected.
        self._finalizer = weakref.finalize(self, self._process.stop)
        self._process.start()

    def submit(self, job: Job) -> None:
        check_ids(job.prompt, self.limits)
        new = most_new_tokens(job, self.limits)
        if new < 1:
            job.end("length")
            return
        self._process.add(job, _generation(job, new))

    def log_likelihoods(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        group = next(_score_groups)
        scored = [_Scored(row, group) for row in rows_to_score(prompts, answers, self.limits)]
        for job in scored:
            self._process.add(job, {"ids": job.prompt, "score": True})
        return [job.mean_from(len(prompt)) for job, prompt in zip(scored, prompts, strict=True)]

    def is_healthy(self) -> bool:
        return self._process.is_ready()

    def load(self) -> Load:
        return self._process.load()

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name, "version": self._process.version, "precision": self.precision,
            "threads": self.threads, "process": self._process.pid,
        }  # fmt: skip

    def close(self) -> None:
        self._finalizer()


def worker_environment() -> dict[str, str]:
    """This process's, with large pages for the weights where the kernel gives them to whoever asks.

    A step reads all weights: with pages of 4 KiB it waits for the page tables again and again.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc.hugetlb" not in tunables:
        tunables = f"{tunables}:{_LARGE_PAGES}".lstrip(":")
    return {**os.environ, "GLIBC_TUNABLES": tunables}


def _generation(job: Job, new_tokens: int) -> dict[str, Any]:
    sampling = job.sampling
    # The pipeline repeats itself when it is given no seed.
    seed = sampling.seed if sampling.seed >= 0 else random.SystemRandom().randrange(2**31)
    return {
        "ids": job.prompt, "max_new_tokens": new_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p,
        "top_k": sampling.top_k, "repetition_penalty": sampling.repetition_penalty, "seed": seed,
    }  # fmt: skip


class _Scored(Job):
    """A text whose log-probabilities are wanted; the caller waits for it."""

    def __init__(self, ids: Sequence[int], group: int):
        self._done = threading.Event()
        super().__init__(ids, Sampling(timeout_s=3600.0), self._done.set, group=group)
        self.log_probs: list[float] = []

    def mean_from(self, start: int) -> float:
        while not self._done.wait(WATCH_EVERY_S):
            self.check_alive()
        self.check_alive()
        wanted = self.log_probs[start:]
        return sum(wanted) / len(wanted)


class _Process:
    """The child process, the jobs it has, and the thread that reads what it says."""

    def __init__(self, settings: dict[str, Any]):
        self._settings = settings
        self._lock = threading.Lock()  # of sending, and of the fields below
        self._jobs: dict[int, Job] = {}
        self._ids = itertools.count(1)
        self._connection: Connection | None = None
        self._child: subprocess.Popen | None = None
        self._stderr: Any = None
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._crashes: deque[float] = deque(maxlen=MAX_CRASHES)
        self._running = self._waiting = self._cancelled = self._restarts = 0
        self._cache_usage = 0.0
        self._owner = os.getpid()
        self.version = ""

    # --- for the engine ---

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Start the child and wait until it is ready. Raises EngineFailed with its last words when it is not."""
        try:
            self._spawn()
        except EngineFailed:
            self.stop()
            raise
        for target in (self._read, self._watch):
            threading.Thread(target=target, name=f"engine-{target.__name__.strip('_')}", daemon=True).start()

    def add(self, job: Job, fields: dict[str, Any]) -> None:
        if os.getpid() != self._owner:
            raise EngineFailed("The model was loaded before this process was forked; load it again here.")
        with self._lock:
            if self._stopping.is_set():
                raise EngineFailed("The engine is down and stays down; load the model again.")
            if not self._ready.is_set():
                raise EngineFailed("The engine is being started afresh; try again in a few seconds.")
            number = next(self._ids)
            left_s = max(0.0, job.deadline - time.monotonic())
            self._jobs[number] = job  # before sending: the answer may come at once
            try:
                self._send({"add": {"id": number, "group": job.group or -number, "left_s": left_s, **fields}})
            except EngineFailed:
                del self._jobs[number]
                raise
        job.when_cancelled(lambda: self._cancel(number))

    def is_ready(self) -> bool:
        return self._ready.is_set() and os.getpid() == self._owner

    def load(self) -> Load:
        return Load(self._running, self._waiting, self._cancelled, self._restarts, self._cache_usage)

    def stop(self) -> None:
        """Close the pipe, on which the child ends; kill it where it does not. May be called twice."""
        self._stopping.set()
        self._ready.clear()
        if os.getpid() != self._owner or self._child is None:
            return
        if self._connection:
            # shutdown first: closing alone would leave the reading thread in its recv for good
            _shut_down(self._connection)
        try:
            self._child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._stderr.close()

    # --- the child ---

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        self._stderr = tempfile.TemporaryFile()
        # -P: the worker's own folder stays off sys.path; -B: nothing is written beside an artifact.
        command = [sys.executable, "-P", "-B", str(WORKER), str(theirs.fileno())]
        with theirs:
            self._child = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=self._stderr, env=worker_environment(),
                # Ctrl-C in a terminal is for the parent, which ends the child when its own work is done.
                start_new_session=True,
            )  # fmt: skip
        self._connection = Connection(ours.detach())
        self._greet()
        self._ready.set()

    def _greet(self) -> None:
        connection = self._connection
        try:
            connection.send_bytes(json.dumps(self._settings).encode())
            if not connection.poll(START_TIMEOUT_S):
                raise EngineFailed(f"The OpenVINO engine was not ready within {START_TIMEOUT_S:.0f} s.")
            self.version = json.loads(connection.recv_bytes())["ready"]
        except (EOFError, OSError) as exc:
            raise EngineFailed(f"The OpenVINO engine could not start: {self._last_words()}") from exc

    def _last_words(self) -> str:
        code = self._child.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip()[-_STDERR_TAIL:].splitlines()
        self._stderr.close()
        ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return f"{ended}; {lines[-1]}" if lines else f"{ended}."

    # --- the pipe ---

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._connection.send_bytes(json.dumps(message).encode())
        except OSError as exc:  # the child has ended; the reading thread fails its jobs and starts another one
            raise EngineFailed("The engine has just ended; it is being started afresh, try again.") from exc

    def _cancel(self, number: int) -> None:
        with self._lock:
            if number not in self._jobs:
                return
            self._cancelled += 1
            try:
                self._send({"cancel": number})
            except EngineFailed as exc:
                log.debug("not cancelled: %s", exc)

    def _read(self) -> None:
        """The reading thread: gives every job its tokens, and mends the engine when the child has ended."""
        while not self._stopping.is_set():
            try:
                self._take(json.loads(self._connection.recv_bytes()))
            except (EOFError, OSError):
                if not self._stopping.is_set():
                    self._mend()
        self._fail_all(EngineFailed("The model was closed."))

    def _take(self, message: dict[str, Any]) -> None:
        self._running, self._waiting = message["running"], message["waiting"]
        self._cache_usage = message["cache_usage"]
        for number, ago_s in message["begun"]:
            if job := self._jobs.get(number):
                job.begin(ago_s)
        for number, ids, end in message["events"]:
            job = self._jobs.get(number) if end is None else self._jobs.pop(number, None)
            if job is None:
                continue
            if ids:
                job.extend(ids)
            if isinstance(end, dict):
                _end_specially(job, end)
            elif end:
                job.end(end)

    def _mend(self) -> None:
        """Fail what was under way, and start another child; give up after too many crashes in a row."""
        self._ready.clear()
        cause = EngineFailed(f"The engine ended under the request ({self._last_words()}); it may be sent again.")
        log.error("%s", cause.message)
        self._fail_all(cause)
        self._crashes.append(time.monotonic())
        if len(self._crashes) == MAX_CRASHES and self._crashes[-1] - self._crashes[0] < CRASH_WINDOW_S:
            log.error("The engine ended %d times within %.0f s; it stays down.", MAX_CRASHES, CRASH_WINDOW_S)
            self._stopping.set()
            return
        try:
            self._connection.close()
            self._spawn()
            self._restarts += 1
            if self._stopping.is_set():  # closed meanwhile, when there was no child to end
                self.stop()
                return
            log.warning("The engine was started afresh.")
        except EngineFailed as exc:
            log.error("The engine could not be started afresh: %s", exc.message)
            self._stopping.set()

    def _fail_all(self, error: Exception) -> None:
        with self._lock:
            jobs, self._jobs = list(self._jobs.values()), {}
        self._running, self._waiting, self._cache_usage = 0, 0, 0.0
        for job in jobs:
            job.fail(error)

    def _watch(self) -> None:
        """The watching thread: a child that keeps no deadline hangs, and is killed, which the reader sees."""
        while not self._stopping.wait(WATCH_EVERY_S):
            limit = time.monotonic() - STALLED_AFTER_S
            if any(job.deadline < limit for job in list(self._jobs.values())) and self._child.poll() is None:
                log.error("The engine has not answered in time; it is killed.")
                self._child.kill()


def _end_specially(job: Job, end: dict[str, Any]) -> None:
    if "log_probs" in end:
        job.log_probs = end["log_probs"]
        job.end("stop")
    else:
        job.fail(EngineFailed(f"The engine refused the job: {end['error']}"))


def _shut_down(connection: Connection) -> None:
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as both_ways:
            both_ways.shutdown(socket.SHUT_RDWR)
    except OSError as exc:
        log.debug("the engine's pipe was closed already: %s", exc)
