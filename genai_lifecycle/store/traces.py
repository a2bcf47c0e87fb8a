"""One trace for each answer, written after the batch that made it, with the exact times of its spans."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from genai_lifecycle.errors import TrackingUnavailable
from genai_lifecycle.store import runs
from genai_lifecycle.store.prompt_registry import PromptRef
from genai_lifecycle.store.seam import seam

FLUSH_BASE_S, FLUSH_PER_TRACE_S = 15.0, 0.3  # measured on SQLite: 0.03 s a trace of four spans


@dataclass(frozen=True)
class Step:
    """One child span: what went in and out, and when (nanoseconds since the epoch)."""

    name: str
    kind: str  # MLflow's span type, for example PARSER, LLM, EVALUATOR
    start_ns: int
    end_ns: int
    inputs: Mapping[str, object]
    outputs: Mapping[str, object]
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class AnswerTrace:
    """A whole trace: the root span `answer` and its steps in order."""

    question: str
    answer: str
    steps: Sequence[Step]
    tags: Mapping[str, str]
    inputs: Mapping[str, object] | None = None  # of the root span; None = the question alone
    model_id: str | None = None  # the LoggedModel that answered


@seam
def write(traces: Sequence[AnswerTrace], run_id: str, prompt: PromptRef) -> None:
    """Hand traces to MLflow's background writer, linked to the run and the prompt version."""
    import mlflow

    for trace in traces:
        root = mlflow.start_span_no_context(
            "answer",
            span_type="CHAIN",
            inputs={"question": trace.question} if trace.inputs is None else dict(trace.inputs),
            tags=dict(trace.tags) | runs.linked(prompt),
            metadata={"mlflow.sourceRun": run_id} | ({"mlflow.modelId": trace.model_id} if trace.model_id else {}),
            start_time_ns=trace.steps[0].start_ns,
        )
        for step in trace.steps:
            span = mlflow.start_span_no_context(
                step.name,
                span_type=step.kind,
                parent_span=root,
                inputs=dict(step.inputs),
                attributes=dict(step.attributes),
                start_time_ns=step.start_ns,
            )
            span.end(outputs=dict(step.outputs), end_time_ns=step.end_ns)
        root.end(outputs={"answer": trace.answer}, end_time_ns=trace.steps[-1].end_ns)


@seam
def flush(expected: int, stored: Callable[[], int] | None = None) -> None:
    """Wait until the background writer is done, `expected` traces being under way.

    Args:
        stored: how many the store has by now; while that number grows, there is no hurry.

    Raises:
        TrackingUnavailable: it takes much longer than such a number of traces ever does.
    """
    import mlflow

    timeout_s = FLUSH_BASE_S + FLUSH_PER_TRACE_S * expected
    worker = threading.Thread(target=mlflow.flush_trace_async_logging, daemon=True)
    worker.start()
    worker.join(timeout_s)
    before = 0
    while worker.is_alive() and stored and (now := stored()) > before:
        before = now
        worker.join(timeout_s)
    if worker.is_alive():
        raise TrackingUnavailable(
            f"MLflow did not store {expected} traces within {timeout_s:.0f} s.",
            hint="Is the MLflow server still running? Run the same command again once it answers.",
        )


@seam
def count(run_ids: Sequence[str], experiment_id: str) -> int:
    """How many traces the store has for these runs."""
    import mlflow

    client = mlflow.MlflowClient()
    total = 0
    for run_id in run_ids:
        token = None
        while True:
            page = client.search_traces(
                locations=[experiment_id],
                run_id=run_id,
                include_spans=False,
                max_results=500,
                page_token=token,
            )
            total += len(page)
            token = page.token
            if not token:
                break
    return total
