"""Traces of a share of the requests, put into a spool that a process of its own writes to MLflow.

A request costs a dictionary; twice a second a thread puts what came into the spool, and tells the writer how many
traces to write now: all of them while nobody asks, else few, since writing one costs milliseconds of the CPU that the
engine works on. Neither a busy nor a dead MLflow is felt by an answer. What waits survives a restart; what does not
fit is dropped and counted.
"""

from __future__ import annotations

import json
import logging
import os
import random
import secrets
import sqlite3
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genai_server.trace_spool import Spool

if TYPE_CHECKING:
    from genai_server.serving import Asked

log = logging.getLogger(__name__)

WRITER = Path(__file__).with_name("trace_writer.py")
HELD_LIMIT = 1000  # traces in memory, while the spool is full or out of order
GATHER_S = 0.5
QUIET_COUNT = 200  # traces to write at once while nobody asks
# Else every so often: so many, or this part of what waits where that is more, so that no load outruns the writer.
BUSY_TICKS, BUSY_COUNT, BUSY_SHARE = 4, 10, 30
PROVIDER = "mlflow.pyfunc"
STOP_TIMEOUT_S = 5.0
RESTART_S = 60.0  # between two starts of a writer that ends by itself

# OpenTelemetry's names for what a caller asked for (semantic conventions for GenAI, status Development).
_PARAMS = {
    "max_new_tokens": "gen_ai.request.max_tokens", "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p", "top_k": "gen_ai.request.top_k", "seed": "gen_ai.request.seed",
    "stop": "gen_ai.request.stop_sequences",
}  # fmt: skip


class Tracer:
    """Samples requests and hands them on. With a ratio of 0 there is neither spool nor writer.

    Args:
        spool_file: where traces wait, for one MLflow experiment.
        environment: of the writer, on top of ours: MLflow's address and the name of the experiment.
        is_busy: whether a question is under way.
    """

    def __init__(
        self, ratio: float, with_texts: bool = False, spool_file: Path = Path("traces.db"),
        environment: Mapping[str, str] | None = None, is_busy: Callable[[], bool] = lambda: False,
    ):  # fmt: skip
        self._ratio, self._with_texts = ratio, with_texts
        self._file, self._environment = spool_file, dict(environment or {})
        self._is_busy = is_busy
        self._held: deque[dict[str, Any]] = deque()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._put_what_comes, name="traces", daemon=True)
        self._spool: Spool | None = None
        self._writer: subprocess.Popen | None = None
        self._started_s = 0.0  # when the writer was, on the monotonic clock
        self._told: str | None = None
        self.dropped, self.waiting = 0, 0  # traces that did not fit; that MLflow does not have yet

    def start(self) -> None:
        """Start the writer, if anything is sampled and the spool can be opened."""
        if self._ratio == 0:
            return
        try:
            self._spool = Spool(self._file)
        except (sqlite3.Error, OSError) as exc:
            log.error("Requests are not traced: %s cannot be used (%s).", self._file, exc)
            return
        self._start_writer()
        self._thread.start()

    def _start_writer(self) -> None:
        self._started_s = time.monotonic()
        self._writer = subprocess.Popen(
            [sys.executable, "-P", str(WRITER), str(self._file)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            env=os.environ | self._environment, start_new_session=True,
        )  # fmt: skip
        os.set_blocking(self._writer.stdin.fileno(), False)

    def stop(self) -> None:
        """Let the writer go on for a few seconds; what it does not finish waits for the next start."""
        if self._spool is None:
            return
        self._ending.set()
        self._thread.join()
        self._writer.stdin.close()
        try:
            self._writer.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._writer.kill()
            self._writer.wait()
        self._count()
        if self.waiting:
            log.warning("%d traces wait in %s for the next start.", self.waiting, self._file)
        self._spool.close()
        self._spool = None

    def answered(
        self, asked: Asked, answer: Mapping[str, Any], info: Mapping[str, Any], started_ns: int, ended_ns: int
    ) -> None:
        """Take a finished request; costs microseconds, whatever MLflow does."""
        if self._is_sampled():
            self._put(self._record(asked, answer, info, started_ns, ended_ns))

    def failed(self, asked: Asked, error_type: str, info: Mapping[str, Any], started_ns: int, ended_ns: int) -> None:
        """Take a request that the model did not answer; `error_type` is a word for programs, no text."""
        if self._is_sampled():
            record = self._record(asked, {"finish_reason": "error"}, info, started_ns, ended_ns)
            told = {"attributes": record["attributes"] | {"error.type": error_type}, "error_type": error_type}
            self._put(record | told)

    def _is_sampled(self) -> bool:
        return self._spool is not None and random.random() < self._ratio

    def _put(self, record: dict[str, Any]) -> None:
        if len(self._held) < HELD_LIMIT:
            self._held.append(record)
        else:
            self.dropped += 1

    def _record(
        self, asked: Asked, answer: Mapping[str, Any], info: Mapping[str, Any], started_ns: int, ended_ns: int
    ) -> dict[str, Any]:
        first_ns = started_ns + int(answer.get("first_token_s", 0) * 1e9)
        begun_ns = started_ns + int(answer.get("queued_s", 0) * 1e9)
        return {
            "trace_id": secrets.token_hex(16),  # made here: a trace that is written twice is there once
            "span_id": secrets.token_hex(8),
            "name": f"{asked.operation} {info['model']}",
            "start_ns": started_ns,
            "begun_ns": min(begun_ns, first_ns, ended_ns),
            "first_token_ns": min(first_ns, ended_ns),
            "end_ns": ended_ns,
            "attributes": attributes(asked, answer, info),
            "tags": {
                "request_id": asked.request_id,
                "model_version": str(info["model_version"]),
                "prompt": info["prompt"],
            },
            "traceparent": asked.traceparent,
            "error_type": None,
            "inputs": dict(asked.question) if self._with_texts else {},
            "outputs": {"answer": answer.get("answer")} if self._with_texts else {},
        }

    def _put_what_comes(self) -> None:
        """The thread between memory and the spool."""
        is_last, ticks = False, 0
        while not is_last:
            is_last = self._ending.wait(GATHER_S)
            is_quiet = not self._held and not self._is_busy()
            self._put_all()
            self._count()
            ticks = 0 if is_quiet else ticks + 1
            if self.waiting and ticks % BUSY_TICKS == 0:
                self._let_write(QUIET_COUNT if is_quiet else max(BUSY_COUNT, self.waiting // BUSY_SHARE))
            if self._writer.poll() is not None:
                self._start_again()

    def _start_again(self) -> None:
        self._tell_once("The trace writer has ended; traces wait in the spool, and it is started again every minute.")
        if time.monotonic() - self._started_s >= RESTART_S:
            ended = self._writer
            with suppress(OSError):  # no process to be had now: in a minute again
                self._start_writer()
                ended.stdin.close()

    def _let_write(self, count: int) -> None:
        with suppress(OSError):  # it is stuck, or has ended
            os.write(self._writer.stdin.fileno(), f"{count}\n".encode())

    def _put_all(self) -> None:
        """What cannot be put now is held for the next time."""
        records = list(self._held)
        if not records:
            return
        try:
            self._spool.put(json.dumps(record, default=str) for record in records)
        except sqlite3.Error as exc:
            self._tell_once(f"The trace spool takes nothing: {exc}.")
            return
        for _ in records:
            self._held.popleft()

    def _count(self) -> None:
        with suppress(sqlite3.Error):
            self.waiting = len(self._held) + len(self._spool)

    def _tell_once(self, what: str) -> None:
        if what != self._told:
            self._told = what
            log.error("%s", what)


def attributes(asked: Asked, answer: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of the root span, by OpenTelemetry's GenAI names; no texts."""
    wanted = {_PARAMS[name]: value for name, value in asked.params.items() if name in _PARAMS}
    return {
        "gen_ai.operation.name": asked.operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": info["model"],
        "gen_ai.response.model": info["model"],
        "gen_ai.response.id": asked.request_id,
        "gen_ai.response.finish_reasons": [answer.get("finish_reason", "stop")],
        "gen_ai.response.time_to_first_chunk": answer.get("first_token_s"),
        "gen_ai.usage.input_tokens": answer.get("prompt_tokens"),
        "gen_ai.usage.output_tokens": answer.get("completion_tokens"),
        "gen_ai.prompt.name": info["prompt"],
        **wanted,
    }
