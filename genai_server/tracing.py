"""Traces of a share of the requests, handed to a process of its own that writes them to MLflow.

Writing a trace costs tens of milliseconds of CPU and waits for MLflow. The writer is a niced process behind a bounded
queue, so that neither a busy nor a dead MLflow is felt by an answer: what does not fit is dropped and counted.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import random
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genai_server.serving import Asked

log = logging.getLogger(__name__)

WRITER = Path(__file__).with_name("trace_writer.py")
QUEUE_LIMIT = 1000
PROVIDER = "mlflow.pyfunc"
STOP_TIMEOUT_S = 5.0
_END = None

# OpenTelemetry's names for what a caller asked for (semantic conventions for GenAI, status Development).
_PARAMS = {
    "max_new_tokens": "gen_ai.request.max_tokens", "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p", "top_k": "gen_ai.request.top_k", "seed": "gen_ai.request.seed",
    "stop": "gen_ai.request.stop_sequences",
}  # fmt: skip


class Tracer:
    """Samples requests and hands them on. With a ratio of 0 there is no writer."""

    def __init__(self, ratio: float, with_texts: bool = False, environment: Mapping[str, str] | None = None):
        self._ratio, self._with_texts = ratio, with_texts
        self._queue: queue.Queue[dict | None] = queue.Queue(QUEUE_LIMIT)
        self._environment = dict(environment or {})
        self._thread: threading.Thread | None = None
        self._writer: subprocess.Popen | None = None
        self.dropped = 0

    def start(self) -> None:
        """Start the writer, if anything is sampled."""
        if self._ratio > 0:
            self._writer = subprocess.Popen(
                [sys.executable, "-P", str(WRITER)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                env=os.environ | self._environment, start_new_session=True,
            )  # fmt: skip
            self._thread = threading.Thread(target=self._hand_over, name="traces", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Let the writer finish what it has, for a few seconds."""
        if self._writer is None:
            return
        try:
            self._queue.put(_END, timeout=STOP_TIMEOUT_S)
            self._writer.wait(STOP_TIMEOUT_S)
        except (queue.Full, subprocess.TimeoutExpired):
            self._writer.kill()
            self._writer.wait()

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
        return self._writer is not None and random.random() < self._ratio

    def _put(self, record: dict[str, Any]) -> None:
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def _record(
        self, asked: Asked, answer: Mapping[str, Any], info: Mapping[str, Any], started_ns: int, ended_ns: int
    ) -> dict[str, Any]:
        first_ns = started_ns + int(answer.get("first_token_s", 0) * 1e9)
        begun_ns = started_ns + int(answer.get("queued_s", 0) * 1e9)
        return {
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

    def _hand_over(self) -> None:
        """The thread between the queue and the writer, which blocks where the writer is slow."""
        while (record := self._queue.get()) is not _END:
            try:
                self._writer.stdin.write(json.dumps(record).encode() + b"\n")
                self._writer.stdin.flush()
            except OSError:
                log.error("The trace writer has ended; requests are not traced any more.")
                return
        self._writer.stdin.close()


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
