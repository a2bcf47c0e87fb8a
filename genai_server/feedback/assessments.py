"""Puts feedback onto traces, as MLflow's assessments. One thread calls MLflow, so that no caller has to wait.

Only feedback since the start is handled here. The ledger has everything, and `--mode import-feedback` puts the rest
onto its traces. Both leave the line's id on the assessment, so that neither repeats the other.
"""

from __future__ import annotations

import logging
import sched
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from genai_server.registry.filters import equals
from genai_server.runtime.logs import Outage

log = logging.getLogger(__name__)

ENTRY_METADATA = "lifecycle.feedback_id"  # of an assessment: the ledger's line that it was made from
LIMIT = 1000  # that wait; what comes then is in the ledger only
# A trace is written a while after its answer, and an MLflow may be down for a while; then it is import-feedback's.
RETRY_AFTER_S = (3.0, 30.0, 300.0)
SLOW_S = 1.0  # while a call takes longer than this, nobody waits for the calls after it
ON_TRACE, NO_TRACE, FAILED = "on trace", "no trace", "failed"


@dataclass(frozen=True)
class Entry:
    """One person's feedback on an answer."""

    id: str  # of its line in the ledger
    time_ms: int  # Unix time
    request_id: str
    name: str
    value: bool | int | float | str | None
    comment: str | None
    source: str


class Assessments:
    """Entries on their way to a trace.

    Args:
        experiment: name of the MLflow experiment that the traces are in.
        traces_waiting: how many MLflow does not have yet.
        tracking_uri: where they are; None = MLflow's own setting.
    """

    def __init__(self, experiment: str, traces_waiting: Callable[[], int], tracking_uri: str | None):
        self._experiment, self._traces_waiting, self._tracking_uri = experiment, traces_waiting, tracking_uri
        self._room = threading.BoundedSemaphore(LIMIT)
        self._calls = sched.scheduler(time.monotonic)
        self._wake, self._ending = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._began_s: float | None = None  # the call under way, on the monotonic clock
        self._outage = Outage(log, "MLflow takes feedback again.")

    def add(self, entry: Entry) -> Future[bool] | None:
        """A future for whether it is on its trace after the first try; None where there is no use in waiting."""
        if not self._room.acquire(blocking=False):
            return None
        first: Future[bool] = Future()
        self._calls.enter(0, 0, self._try, (entry, first, RETRY_AFTER_S))
        if self._thread is None:
            # a daemon: one that is stuck with a dead MLflow must not keep the process
            self._thread = threading.Thread(target=self._work, name="feedback", daemon=True)
            self._thread.start()
        self._wake.set()
        return first if self._is_answering() else None

    def stop(self) -> None:
        """Nothing more is tried. A call that is stuck ends with the process."""
        self._ending.set()
        self._wake.set()

    def _is_answering(self) -> bool:
        began_s = self._began_s
        return not self._outage.is_on and (began_s is None or time.monotonic() - began_s < SLOW_S)

    def _work(self) -> None:
        while not self._ending.is_set():
            next_s = self._calls.run(blocking=False)
            self._wake.wait(next_s)
            self._wake.clear()

    def _try(self, entry: Entry, first: Future[bool], retry_after_s: tuple[float, ...]) -> None:
        if self._ending.is_set():
            return
        self._began_s = time.monotonic()
        outcome = self._outcome(entry)
        self._began_s = None
        if not first.done() and first.set_running_or_notify_cancel():
            first.set_result(outcome == ON_TRACE)
        # most requests may not be traced at all: what is not there after the first pause must be among those that wait
        may_come = outcome == FAILED or retry_after_s == RETRY_AFTER_S or self._traces_waiting()
        if outcome != ON_TRACE and retry_after_s and may_come:
            self._calls.enter(retry_after_s[0], 0, self._try, (entry, first, retry_after_s[1:]))
        else:
            self._room.release()

    def _outcome(self, entry: Entry) -> str:
        try:
            is_on_trace = put(entry, self._experiment, self._tracking_uri)
        except Exception as exc:  # noqa: BLE001 - whatever MLflow raises, the entry is in the ledger, and others follow
            self._outage.begin(f"Feedback stays in the ledger while MLflow takes none ({type(exc).__name__}).")
            return FAILED
        self._outage.end()
        return ON_TRACE if is_on_trace else NO_TRACE


def put(entry: Entry, experiment_name: str, tracking_uri: str | None = None) -> bool:
    """Attach it to the trace that has the request's id as a tag, unless it is there; False where there is no trace."""
    import mlflow
    from mlflow.entities import AssessmentSource, Feedback
    from mlflow.tracing.client import TracingClient

    client = mlflow.MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name(experiment_name)
    if experiment is None:
        return False
    where = equals("tags.request_id", entry.request_id)
    matches = client.search_traces(locations=[experiment.experiment_id], filter_string=where, include_spans=False)
    traces = [trace for trace in matches if trace.info.tags.get("request_id") == entry.request_id]
    if not traces:
        return False
    if not any(_is_same(entry, assessment) for assessment in traces[0].info.assessments):
        feedback = Feedback(
            name=entry.name, value=entry.value, rationale=entry.comment, create_time_ms=entry.time_ms,
            source=AssessmentSource(source_type="HUMAN", source_id=entry.source), metadata={ENTRY_METADATA: entry.id},
        )  # fmt: skip
        TracingClient(tracking_uri).log_assessment(traces[0].info.trace_id, feedback)
    return True


def _is_same(entry: Entry, assessment: Any) -> bool:
    """Whether it was put there before, by the caller or by a call that MLflow answered too late."""
    fields = (assessment.name, assessment.value, assessment.rationale, assessment.source.source_id)
    return fields == (entry.name, entry.value, entry.comment, entry.source)
