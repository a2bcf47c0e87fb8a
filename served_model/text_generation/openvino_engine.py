"""The OpenVINO engine as its callers see it: a child process that is started, fed, watched and restarted.

The computing itself is in `openvino_worker.py`. One thread writes jobs into a pipe, so that no caller waits for it;
another one reads what comes back. When the process ends unasked, the jobs under way fail with the cause, and the engine
counts as unhealthy until a new process is ready. After `MAX_FAILURES` in a row it stays down, and `failure` says why.

Not fork-safe: a forked child has neither the reading thread nor a pipe of its own, so using the engine there raises;
load the model in the child instead.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import queue
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
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
MAX_FAILURES = 3  # in a row
FIRST_PAUSE_S = 0.5  # between the second and the third; doubles
STEADY_S = 10.0  # a process that lived so long did not fail at its start
WATCH_EVERY_S = 5.0
MAX_FRAME_MESSAGES = 256  # written at once
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

    def cancel(self, jobs: Sequence[Job]) -> None:
        self._process.cancel(jobs)

    def is_healthy(self) -> bool:
        return self._process.is_ready()

    def failure(self) -> str:
        return self._process.failure

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
    """The child process, the jobs it has, and the threads that write to it and read what it says."""

    def __init__(self, settings: dict[str, Any]):
        self._settings = settings
        self._lock = threading.Lock()  # of the jobs; never held while something is waited for
        self._sending = threading.Lock()  # the pipe is not closed under the writing thread
        self._jobs: dict[int, Job] = {}
        self._ids = itertools.count(1)
        self._outbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._connection: Connection | None = None
        self._child: subprocess.Popen | None = None
        self._stderr: Any = None
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._failures = 0  # in a row: starts that failed, and processes that ended early without an answer
        self._ready_since = 0.0
        self._running = self._waiting = self._cancelled = self._restarts = 0
        self._cache_usage = 0.0
        self._owner = os.getpid()
        self.version = ""
        self.failure = ""  # why it is down for good

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
        for target in (self._read, self._write, self._watch):
            threading.Thread(target=target, name=f"engine-{target.__name__.strip('_')}", daemon=True).start()

    def add(self, job: Job, fields: dict[str, Any]) -> None:
        """Hand a job over; returns at once. Raises EngineFailed where nobody could take it."""
        if os.getpid() != self._owner:
            raise EngineFailed("The model was loaded before this process was forked; load it again here.")
        with self._lock:
            if self._stopping.is_set():
                raise EngineFailed(self.failure or "The model was closed.")
            if not self._ready.is_set():
                raise EngineFailed("The engine is being restarted; try again in a few seconds.")
            number = job.number = next(self._ids)
            left_s = max(0.0, job.deadline - time.monotonic())
            self._jobs[number] = job  # before sending: the answer may come at once
            self._outbox.put({"add": {"id": number, "group": job.group or -number, "left_s": left_s, **fields}})
        job.when_cancelled(lambda: self._cancel([number]))

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Cancel many jobs with one message."""
        self._cancel([job.number for job in jobs if job.mark_cancelled()])

    def is_ready(self) -> bool:
        return self._ready.is_set() and os.getpid() == self._owner

    def load(self) -> Load:
        return Load(self._running, self._waiting, self._cancelled, self._restarts, self._cache_usage)

    def stop(self) -> None:
        """Close the pipe, on which the child ends; kill it where it does not. May be called twice."""
        was_ready = self._ready.is_set()
        self._stopping.set()
        self._ready.clear()
        self._outbox.put(None)
        if os.getpid() != self._owner or self._child is None:
            return
        if self._connection:
            # shutdown first: closing alone would leave the reading thread in its recv for good
            _shut_down(self._connection)
        if not was_ready:  # it is starting, on a pipe that nobody else knows yet
            self._child.kill()
        try:
            self._child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._stderr.close()

    # --- the child ---

    def _spawn(self) -> None:
        """A child that is ready. Raises EngineFailed where there is no memory, file or time for one."""
        try:
            connection = self._launch()
        except OSError as exc:
            if self._stderr is not None:
                self._stderr.close()
            raise EngineFailed(f"The OpenVINO engine could not start: {exc.strerror or exc}.") from exc
        try:
            self._greet(connection)
        except EngineFailed:
            connection.close()
            self._child.kill()
            self._child.wait()
            raise
        self._connection = connection  # only now: nothing is written before the settings
        self._ready_since = time.monotonic()
        self._ready.set()

    def _launch(self) -> Connection:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._stderr = tempfile.TemporaryFile()
            # -P: the worker's own folder stays off sys.path; -B: nothing is written beside an artifact.
            command = [sys.executable, "-P", "-B", str(WORKER), str(theirs.fileno())]
            self._child = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=self._stderr, env=worker_environment(),
                # Ctrl-C in a terminal is for the parent, which ends the child when its own work is done.
                start_new_session=True,
            )  # fmt: skip
            return Connection(ours.detach())

    def _greet(self, connection: Connection) -> None:
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

    def _write(self) -> None:
        """The writing thread: only here is the pipe waited for when it is full."""
        while (message := self._outbox.get()) is not None:
            frame = [message]
            while len(frame) < MAX_FRAME_MESSAGES and not self._outbox.empty():
                if (message := self._outbox.get()) is None:
                    return
                frame.append(message)
            # jobs that failed with the process before this one are nobody's any more
            frame = [message for message in frame if "cancel" in message or message["add"]["id"] in self._jobs]
            try:
                with self._sending:
                    self._connection.send_bytes(json.dumps(frame).encode())
            except OSError as exc:  # the child has ended; the reading thread fails its jobs and starts another one
                log.debug("not sent: %s", exc)

    def _cancel(self, numbers: Sequence[int]) -> None:
        with self._lock:
            known = [number for number in numbers if number in self._jobs]
            self._cancelled += len(known)
        if known:
            self._outbox.put({"cancel": known})

    def _read(self) -> None:
        """The reading thread: gives every job its tokens, and restarts the engine when the child has ended."""
        try:
            while not self._stopping.is_set():
                try:
                    self._take(json.loads(self._connection.recv_bytes()))
                except (EOFError, OSError):
                    self._restart()
        except Exception as exc:  # without this thread every caller would wait for nothing
            self._give_up(f"The engine's answers cannot be read ({type(exc).__name__}: {exc}).")
            raise
        finally:
            self._fail_all(EngineFailed(self.failure or "The model was closed."))

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
                self._failures = 0
                job.extend(ids)
            if isinstance(end, dict):
                _end_specially(job, end)
            elif end:
                job.end(end)

    def _restart(self) -> None:
        """Fail what was under way, and start another child; give up after too many failures in a row."""
        if self._stopping.is_set():
            return
        self._ready.clear()
        cause = f"The engine ended under the request ({self._last_words()}); it may be sent again."
        log.error("%s", cause)
        self._fail_all(EngineFailed(cause))
        with self._sending:  # soon: the other end is closed
            self._connection.close()
        if time.monotonic() - self._ready_since >= STEADY_S:
            self._failures = 0
        self._failures += 1
        while not self._is_restarted():
            pass
        if self._stopping.is_set():  # closed meanwhile, when there was no child to end
            self.stop()

    def _is_restarted(self) -> bool:
        """One try; True also where there will be no other."""
        if self._failures >= MAX_FAILURES:
            self._give_up(f"The engine failed {self._failures} times in a row.")
            return True
        # no pause after the first failure: an engine that answered until now is back at once
        pause_s = FIRST_PAUSE_S * 2 ** (self._failures - 2) if self._failures > 1 else 0.0
        if self._stopping.wait(pause_s):
            return True
        try:
            self._spawn()
        except EngineFailed as exc:
            self._failures += 1
            log.error("The engine could not be restarted: %s", exc.message)
            return False
        self._restarts += 1
        log.warning("The engine was restarted.")
        return True

    def _give_up(self, why: str) -> None:
        """Down for good: whoever serves this model has to end, or load it again."""
        log.error("%s It stays down; load the model again.", why)
        self.failure = why
        self._stopping.set()
        self._ready.clear()
        self._outbox.put(None)
        if self._child is not None and self._child.poll() is None:
            self._child.kill()

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
            with self._lock:
                is_late = any(job.deadline < limit for job in self._jobs.values())
            if is_late and self._child.poll() is None:
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
