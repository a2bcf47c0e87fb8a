"""Traces of a share of the requests, put into a spool that a process of its own writes to MLflow.

A request costs a dictionary. Twice a second a thread moves the new ones into the spool and tells the writer how many
traces to write now: all of them while the server is idle, else a few, since writing one costs milliseconds of the CPU
that the engine works on. A busy or dead MLflow or a full disk never delays an answer. Waiting traces survive a restart;
those that find no room are dropped and counted.
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

from genai_server.runtime.logs import Outage
from genai_server.tracing.spool import Spool

if TYPE_CHECKING:
    from genai_server.answer import Answer, AnswerVersions
    from genai_server.answer_request import AnswerRequest

log = logging.getLogger(__name__)

WRITER = Path(__file__).with_name("writer.py")
MAX_RECORDS, MAX_CHARACTERS = 1000, 8_000_000  # of traces in memory, while the spool is full or out of order
GATHER_S = 0.5
QUIET_COUNT = 200  # traces to write at once while nobody asks
# Else every so often: so many, or this part of what waits where that is more, so that no load outruns the writer.
BUSY_TICKS, BUSY_COUNT, BUSY_SHARE = 4, 10, 30
PROVIDER = "mlflow.pyfunc"
STOP_TIMEOUT_S = 5.0
KILL_TIMEOUT_S = 1.0
RESTART_S = 60.0  # between two starts of a writer that ends by itself, and two looks at a file that does not serve

# OpenTelemetry's names for what a caller asked for (semantic conventions for GenAI, status Development).
_PARAMS = {
    "max_new_tokens": "gen_ai.request.max_tokens", "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p", "top_k": "gen_ai.request.top_k", "seed": "gen_ai.request.seed",
    "stop": "gen_ai.request.stop_sequences",
}  # fmt: skip


class WriterProcess(subprocess.Popen[bytes]):
    """The program `writer.py`, which writes as many traces as it is allowed to."""

    def __init__(self, spool_file: Path, environment: Mapping[str, str]):
        super().__init__(
            [sys.executable, "-P", str(WRITER), str(spool_file)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            env={**os.environ, **environment}, start_new_session=True,
        )  # fmt: skip
        assert self.stdin is not None  # for the type checker: it is a pipe
        self._input = self.stdin
        os.set_blocking(self._input.fileno(), False)

    def allow(self, count: int) -> None:
        """So many traces may be written now."""
        with suppress(OSError, ValueError):  # it is stuck, or has ended; or we are at the end ourselves
            os.write(self._input.fileno(), f"{count}\n".encode())

    def close_input(self) -> None:
        """It ends soon after."""
        self._input.close()

    def end(self, within_s: float) -> None:
        """Let it go on for so long, then kill it."""
        self.close_input()
        try:
            self.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            with suppress(subprocess.TimeoutExpired):
                self.wait(KILL_TIMEOUT_S)


class Tracer:
    """Samples requests and hands them on. With a ratio of 0 there is neither spool nor writer.

    Args:
        spool_file: where traces wait, for one MLflow experiment.
        environment: of the writer, on top of ours: MLflow's address and the name of the experiment.
        is_busy: whether a question is under way.
        on_write_failure: called for each time that the spool takes nothing.
    """

    def __init__(
        self, ratio: float, with_texts: bool = False, spool_file: Path = Path("traces.db"),
        environment: Mapping[str, str] | None = None, is_busy: Callable[[], bool] = lambda: False,
        on_write_failure: Callable[[], object] = lambda: None,
    ):  # fmt: skip
        self._ratio, self._with_texts = ratio, with_texts
        self._file, self._environment = spool_file, dict(environment or {})
        self._is_busy, self._on_write_failure = is_busy, on_write_failure
        self._records: deque[dict[str, Any]] = deque()  # as they came
        self._lines: deque[str] = deque()  # as the spool takes them
        self._ending, self._putting = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._spool: Spool | None = None
        self._writer: WriterProcess | None = None
        self._tried_s = 0.0  # to open the spool and start the writer, on the monotonic clock
        self._spool_outage = Outage(log, "Traces are put into the spool again.")
        self._writer_outage = Outage(log, "The trace writer runs again.")
        self._record_outage = Outage(log, "")
        self._dropped = self._spool_dropped = 0
        self.waiting = 0  # traces that MLflow does not have yet

    @property
    def dropped(self) -> int:
        """Traces that found no room, or that could not be stored."""
        return self._dropped + self._spool_dropped

    def start(self) -> None:
        """Start the writer, if anything is sampled. A spool that cannot be opened is tried again every minute."""
        if self._ratio == 0:
            return
        self._open()
        self._thread.start()

    def _open(self) -> None:
        self._tried_s = time.monotonic()
        try:
            self._spool = self._spool or Spool(self._file)
            self._writer = WriterProcess(self._file, self._environment)
        except (sqlite3.Error, OSError) as exc:
            self._on_write_failure()
            self._spool_outage.begin(f"Requests are not traced: {self._file} cannot be used ({exc}).")

    def stop(self) -> None:
        """Let the writer go on for a few seconds; what it does not finish waits for the next start."""
        if self._ratio == 0 or self._ending.is_set():
            return
        end_s = time.monotonic() + STOP_TIMEOUT_S
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_TIMEOUT_S)
        if self._writer is not None:
            self._writer.end(max(0.0, end_s - time.monotonic()))
        if self._thread.is_alive():  # the disk hangs; it ends with the process
            return
        self._drop_unwritten()
        self._count()
        if self.waiting:
            log.warning("%d traces wait in %s for the next start.", self.waiting, self._file)
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _drop_unwritten(self) -> None:
        """What the spool did not take until the end."""
        if lost := len(self._records) + len(self._lines):
            self._dropped += lost
            self._records.clear()
            self._lines.clear()
            log.error("%d traces are lost: %s took nothing until the end.", lost, self._file)

    def answered(
        self, request: AnswerRequest, answer: Answer, versions: AnswerVersions, started_ns: int, ended_ns: int
    ) -> None:
        """Take a finished request; costs microseconds, whatever MLflow does."""
        if self._is_sampled():
            self._put(self._record(request, answer, versions, started_ns, ended_ns))

    def failed(
        self, request: AnswerRequest, error_type: str, versions: AnswerVersions, started_ns: int, ended_ns: int
    ) -> None:
        """Take a request that the model did not answer; `error_type` is a word for programs, no text."""
        if self._is_sampled():
            record = self._record(request, None, versions, started_ns, ended_ns)
            record["attributes"]["error.type"] = record["error_type"] = error_type
            self._put(record)

    def _is_sampled(self) -> bool:
        return self._thread.is_alive() and random.random() < self._ratio

    def _put(self, record: dict[str, Any]) -> None:
        if len(self._records) + len(self._lines) < MAX_RECORDS:
            self._records.append(record)
        else:
            self._dropped += 1

    def _record(
        self, request: AnswerRequest, answer: Answer | None, versions: AnswerVersions, started_ns: int, ended_ns: int
    ) -> dict[str, Any]:
        usage = answer.usage if answer else None
        first_ns = started_ns + int((usage.first_token_s if usage else 0) * 1e9)
        begun_ns = started_ns + int((usage.queued_s or 0 if usage else 0) * 1e9)
        return {
            "trace_id": secrets.token_hex(16),  # made here: a trace that is written twice is there once
            "span_id": secrets.token_hex(8),
            "name": f"{request.operation} {versions.model}",
            "start_ns": started_ns,
            "begun_ns": min(begun_ns, first_ns, ended_ns),
            "first_token_ns": min(first_ns, ended_ns),
            "end_ns": ended_ns,
            "attributes": attributes(request, answer, versions),
            "tags": {
                "request_id": request.request_id,
                "model_version": str(versions.model_version),
                "prompt": versions.prompt,
            },
            "traceparent": request.traceparent,
            "error_type": None,
            "inputs": dict(request.question) if self._with_texts else {},
            "outputs": {"answer": answer.text if answer else None} if self._with_texts else {},
        }

    def _run(self) -> None:
        """The thread between memory and the spool."""
        is_last, ticks = False, 0
        while not is_last:
            is_last = self._ending.wait(GATHER_S)
            is_quiet = not self._records and not self._is_busy()
            self._put_all()
            self._count()
            ticks = 0 if is_quiet else ticks + 1
            if self._writer is not None and self.waiting and ticks % BUSY_TICKS == 0:
                self._writer.allow(QUIET_COUNT if is_quiet else max(BUSY_COUNT, self.waiting // BUSY_SHARE))
            if not is_last:
                self._mend()

    def _mend(self) -> None:
        """Open and start again what does not serve, every minute."""
        has_ended = self._writer is not None and self._writer.poll() is not None
        if has_ended:
            self._writer_outage.begin("The trace writer has ended; it is started again every minute.")
        if (has_ended or self._writer is None) and time.monotonic() - self._tried_s >= RESTART_S:
            ended = self._writer
            self._open()
            if ended is not None and self._writer is not ended:
                ended.close_input()
        elif not has_ended and time.monotonic() - self._tried_s >= RESTART_S:
            self._writer_outage.end()

    def _put_all(self) -> None:
        """What cannot be put now is held for the next time."""
        with self._putting:
            for _ in range(len(self._records)):
                self._take(self._records.popleft())
            if not self._lines or self._spool is None:
                return
            try:
                self._spool.put(self._lines)
            except sqlite3.Error as exc:
                self._on_write_failure()
                self._spool_outage.begin(f"The trace spool takes nothing: {exc}.")
            else:
                self._lines.clear()
                self._spool_outage.end()

    def _take(self, record: dict[str, Any]) -> None:
        """As a line that can be stored, whatever a caller has written; else it is dropped, and the others go on."""
        try:
            line = as_line(record)
        except Exception as exc:  # noqa: BLE001 - what a caller sent may be of any kind
            self._dropped += 1
            self._record_outage.begin(f"A trace was dropped, as all like it are: it is no JSON ({type(exc).__name__}).")
            return
        if sum(map(len, self._lines)) + len(line) > MAX_CHARACTERS:
            self._dropped += 1
        else:
            self._lines.append(line)

    def _count(self) -> None:
        waiting = len(self._records) + len(self._lines)
        if self._spool is not None:
            with suppress(sqlite3.Error):
                waiting += len(self._spool)
                self._spool_dropped = self._spool.dropped
        self.waiting = waiting


def as_line(record: Mapping[str, Any]) -> str:
    """JSON that every database takes: half a character (a lone surrogate) becomes a question mark."""
    return json.dumps(record, ensure_ascii=False, default=str).encode("utf-8", "replace").decode()


def attributes(request: AnswerRequest, answer: Answer | None, versions: AnswerVersions) -> dict[str, Any]:
    """Attributes of the root span, by OpenTelemetry's GenAI names; no texts. Without an answer the request failed."""
    usage = answer.usage if answer else None
    return {
        "gen_ai.operation.name": request.operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": versions.model,
        "gen_ai.response.model": versions.model,
        "gen_ai.response.id": request.request_id,
        "gen_ai.response.finish_reasons": [answer.finish_reason if answer else "error"],
        "gen_ai.response.time_to_first_chunk": usage and usage.first_token_s,
        "gen_ai.usage.input_tokens": usage and usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage and usage.completion_tokens,
        "gen_ai.prompt.name": versions.prompt,
        **{_PARAMS[name]: value for name, value in request.params.items() if name in _PARAMS},
    }
