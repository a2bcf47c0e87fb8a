"""Writes the traces that wait in the spool to MLflow: a program of its own, which `tracer.py` starts with the file.

The server writes to its stdin how many traces it may write now; it ends soon after its input does. Many traces go in
one call, as MLflow does it for spans that come over OTLP, at a tenth of the cost of spans that are started and ended
one by one. A trace gets its ids from the server, so writing it twice stores it once. What MLflow refuses now is tried
again; a trace that it never takes is dropped and counted.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import secrets
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.append(str(Path(__file__).resolve().parents[2]))  # at its end: nothing of ours hides a library

from genai_server.runtime.logs import Outage, set_up
from genai_server.tracing.spool import Spool

if TYPE_CHECKING:
    from mlflow.entities import Span

log = logging.getLogger(__name__)

BATCH = 10  # traces a transaction: others wait for SQLite's lock meanwhile
NICE = 5  # not more: beside a busy engine the lowest priority means minutes, with the lock held
RETRY_S = 5.0
LAST_S = 5.0  # after the end of the input


def main(spool_file: Path) -> None:
    lower_priority()
    set_up((os.environ.get("LOG_FORMAT") or "text").lower(), "warning")
    # The server decided what is sampled; here everything is written, and nobody waits long for a dead MLflow.
    os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true"}
    writer, paused_until = Writer(spool_file), 0.0
    writer.is_open()  # seconds of CPU, better now than at the first trace
    while (count := _allowed()) is not None:
        if time.monotonic() >= paused_until and not writer.write_first(count):
            paused_until = time.monotonic() + RETRY_S
    writer.write_first(sys.maxsize, LAST_S)


def lower_priority() -> None:
    """Let the engine go first. Linux may weigh sessions before processes, and we are alone in ours."""
    os.nice(NICE)
    with suppress(OSError):
        if os.getsid(0) == os.getpid():
            Path("/proc/self/autogroup").write_text(str(NICE))


def _allowed() -> int | None:
    """How many traces may be written now; None where the server has ended. Only its last line counts."""
    line = os.read(sys.stdin.fileno(), 4096)
    return int(line.split()[-1]) if line else None


class Writer:
    """Moves traces from the spool to MLflow; an outage is logged once."""

    def __init__(self, spool_file: Path):
        self._file = spool_file
        self._spool: Spool | None = None
        self._mlflow_outage = Outage(log, "Traces are written to MLflow again.")
        self._spool_outage = Outage(log, "The trace spool can be used again.")
        self._record_outage = Outage(log, "")

    def write_first(self, count: int, within_s: float = float("inf")) -> bool:
        """Write the oldest; False if there is no use in going on now."""
        end = time.monotonic() + within_s
        try:
            spool = self._spool = self._spool or Spool(self._file)
            while count > 0 and time.monotonic() < end and (waiting := spool.first(min(count, BATCH))):
                if not self._is_settled(spool, waiting):
                    return False
                count -= len(waiting)
        except sqlite3.Error as exc:
            self._spool_outage.begin(f"Traces wait: {self._file} cannot be used ({exc}).")
            return False
        self._spool_outage.end()
        return True

    def _is_settled(self, spool: Spool, waiting: Mapping[int, str]) -> bool:
        """Write these, but drop those that MLflow never takes; False if it takes nothing now.

        One that MLflow never takes is one that fails before and after another one is taken.
        """
        if not self._failure(spool, waiting):
            return True
        if not self.is_open():
            return False
        if len(waiting) > 1:
            return all(self._is_settled(spool, {number: line}) for number, line in waiting.items())
        if not self.is_open([_trial()]):
            return False
        if failure := self._failure(spool, waiting):
            self._record_outage.begin(f"A trace was dropped, as all like it are: MLflow does not take it ({failure}).")
            spool.drop(*waiting)
        return True

    def _failure(self, spool: Spool, waiting: Mapping[int, str]) -> str:
        """Write these and remove them from the spool; returns why not, without any text of a caller, or nothing."""
        try:
            write([json.loads(line) for line in waiting.values()], _experiment_id())
        except Exception as exc:  # noqa: BLE001 - whatever one record leads to, the others are to be written
            _experiment_id.cache_clear()
            return f"{type(exc).__name__} {getattr(exc, 'error_code', '')}".strip()
        self._mlflow_outage.end()
        spool.remove(list(waiting))
        return ""

    def is_open(self, trials: Sequence[Mapping[str, Any]] = ()) -> bool:
        """Whether MLflow answers now, and takes a trace that has nothing in it to refuse. It is removed again."""
        try:
            write(trials, _experiment_id())
        except NotImplementedError:
            self._mlflow_outage.begin("Traces wait: this MLflow takes no spans; use 3.4 or later, with a database.")
            return False
        except Exception as exc:  # noqa: BLE001 - whatever it is, the traces wait
            _experiment_id.cache_clear()
            why = (str(exc).splitlines() or [""])[0]
            self._mlflow_outage.begin(f"Traces wait: MLflow takes none ({type(exc).__name__}: {why}).")
            return False
        _remove(trials)
        return True


def _trial() -> dict[str, Any]:
    times = dict.fromkeys(("start_ns", "begun_ns", "first_token_ns", "end_ns"), time.time_ns())
    ids = {"trace_id": secrets.token_hex(16), "span_id": secrets.token_hex(8)}
    empty: dict[str, Any] = {"attributes": {}, "tags": {}, "inputs": {}, "outputs": {}}
    return ids | times | empty | {"traceparent": None, "error_type": None, "name": "a trial of the trace writer"}


def _remove(trials: Sequence[Mapping[str, Any]]) -> None:
    import mlflow

    ids = [f"tr-{record['trace_id']}" for record in trials]
    if ids:
        with suppress(mlflow.MlflowException):  # it may stay, and says what it is
            mlflow.MlflowClient().delete_traces(_experiment_id(), trace_ids=ids)


@functools.cache
def _experiment_id() -> str:
    """Of the experiment, which is made where it is not there."""
    import mlflow

    logging.getLogger("alembic").setLevel(logging.WARNING)
    return mlflow.set_experiment(os.environ["MLFLOW_EXPERIMENT_NAME"]).experiment_id


def write(records: Sequence[Mapping[str, Any]], experiment_id: str) -> None:
    """Traces: each is the request, and below it what was done. One that failed has an error, and nothing below it."""
    from mlflow.tracing.client import TracingClient

    client, traces = TracingClient(), [(record, list(_spans(record))) for record in records]
    client.log_spans(experiment_id, [span for _, spans in traces for span in spans])
    for record, spans in traces:
        if spans and spans[0].parent_id:
            _complete(spans[0].trace_id, record)


def _spans(record: Mapping[str, Any]) -> Iterator[Span]:
    """The request first; none where the caller's trace is not sampled."""
    from opentelemetry.trace import Status, StatusCode

    caller = _caller(record["traceparent"])
    if caller.is_valid and not caller.trace_flags.sampled:
        return
    trace_id = caller.trace_id if caller.is_valid else int(record["trace_id"], 16)
    root_id = int(record["span_id"], 16)
    tags = {"mlflow.traceName": record["name"], **record["tags"]}
    attributes = {
        "mlflow.spanType": "CHAT_MODEL", "mlflow.spanInputs": record["inputs"], "mlflow.spanOutputs": record["outputs"],
        **record["attributes"], **{f"mlflow.traceTag.{name}": value for name, value in tags.items()},
    }  # fmt: skip
    status = Status(StatusCode.ERROR if record["error_type"] else StatusCode.OK)
    times = record["start_ns"], record["end_ns"]
    yield _span(record["name"], (trace_id, root_id), caller.span_id or None, times, attributes, status)
    for number, (name, start, end) in enumerate(_phases(record), 1):
        ids, times = (trace_id, root_id ^ number), (record[start], record[end])
        yield _span(name, ids, root_id, times, {"mlflow.spanType": "LLM"}, Status(StatusCode.OK))


def _span(
    name: str, ids: tuple[int, int], parent_id: int | None, times: tuple[int, int], more: Mapping[str, Any], status: Any
) -> Span:
    """A finished span, as MLflow makes it of one that came over OTLP."""
    from mlflow.entities import Span
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext

    trace_id, span_id = ids
    attributes = {"mlflow.traceRequestId": f"tr-{trace_id:032x}", **more}
    return Span(
        ReadableSpan(
            name, SpanContext(trace_id, span_id, False), SpanContext(trace_id, parent_id, True) if parent_id else None,
            Resource.get_empty(), {key: json.dumps(value, ensure_ascii=False) for key, value in attributes.items()},
            start_time=times[0], end_time=times[1], status=status,
        )
    )  # fmt: skip


def _phases(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, start and end of each: waiting (if any), reading the prompt, writing the answer."""
    if record["error_type"]:
        return []
    phases = [("prefill", "begun_ns", "first_token_ns"), ("decode", "first_token_ns", "end_ns")]
    return [("queue", "start_ns", "begun_ns"), *phases] if record["begun_ns"] > record["start_ns"] else phases


def _complete(trace_id: str, record: Mapping[str, Any]) -> None:
    """What MLflow leaves out of a caller's trace: the tags, and its end.

    A trace is in progress until its root arrives, which a caller may send elsewhere, or never. One whose root
    comes later is the caller's again: MLflow then takes over what the caller says.
    """
    from mlflow.entities.trace_state import TraceState
    from mlflow.tracing.client import TracingClient

    client = TracingClient()
    for name, value in record["tags"].items():
        client.set_trace_tag(trace_id, name, value)
    info = client.get_trace_info(trace_id)
    if info.state == TraceState.IN_PROGRESS:
        info.state = TraceState.ERROR if record["error_type"] else TraceState.OK
        client.start_trace(info)


def _caller(traceparent: str | None) -> Any:
    """The caller's span; not valid where it sent none, or nonsense."""
    from opentelemetry.trace import get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    sent = {"traceparent": traceparent} if traceparent else {}
    return get_current_span(TraceContextTextMapPropagator().extract(sent)).get_span_context()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
