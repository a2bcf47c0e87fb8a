"""What the servers wrote into MLflow: their requests, the feedback on them; and the run that a prompt was measured in.

`genai_server/tracing/tracer.py` writes the traces. They are read page by page, newest first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from genai_lifecycle.store import runs
from genai_lifecycle.store.seam import seam
from genai_server.registry.filters import equals

PAGE = 200  # traces with their spans in memory together
ENTRY_METADATA = "lifecycle.feedback_id"  # of an assessment: the ledger's entry that it was made from
REQUEST_TAG = "request_id"
_SOURCE_TYPE = "HUMAN"


@dataclass(frozen=True)
class GeneratedAnswer:
    """An answer, of a server or of an experiment. None: not measured, or not kept."""

    text: str | None
    finish_reason: str
    prompt_tokens: int | None
    answer_tokens: int | None


@dataclass(frozen=True)
class StoredFeedback:
    """A person's feedback on an answer, as MLflow has it."""

    name: str
    value: Any  # bool, number, text; None where there is a comment only
    comment: str | None
    source: str
    entry_id: str | None = None  # where it was imported: the ledger's entry


@dataclass(frozen=True)
class ServedRequest:
    """One request that a server traced."""

    trace_id: str
    request_id: str
    start_ms: int  # Unix time
    latency_ms: float
    model: str
    model_version: str
    prompt: str  # name/version
    error: str | None  # the server's word for it
    answer: GeneratedAnswer
    question: str | None  # None: the traces have no texts
    has_history: bool  # the question is one of a conversation
    feedback: tuple[StoredFeedback, ...]


@dataclass(frozen=True)
class BaselineRun:
    """A run in which a prompt and a model were measured, with a trace for each answer."""

    run_id: str
    experiment_id: str
    start_ms: int


@seam
def experiment_id(name: str) -> str | None:
    """The experiment of this name, or None."""
    import mlflow

    experiment = mlflow.MlflowClient().get_experiment_by_name(name)
    return experiment.experiment_id if experiment else None


# --- requests -------------------------------------------------------------------------------------


def pages(experiment: str, start_ms: int, end_ms: int) -> Iterator[list[ServedRequest]]:
    """The requests that began from `start_ms` to before `end_ms`, newest first."""
    where = f"timestamp_ms >= {start_ms} and timestamp_ms < {end_ms} and tags.{REQUEST_TAG} IS NOT NULL"
    for page in _pages(experiment, filter_string=where):
        yield [request for trace in page for request in _requests(trace)]


def _pages(experiment: str, **search: Any) -> Iterator[list[Any]]:
    token = None
    while True:
        page, token = _page(experiment, token, search)
        yield page
        if not token:
            return


@seam
def _page(experiment: str, token: str | None, search: Mapping[str, Any]) -> tuple[list[Any], str | None]:
    import mlflow

    traces = mlflow.MlflowClient().search_traces(
        locations=[experiment], order_by=["timestamp_ms DESC"], max_results=PAGE, page_token=token, **search
    )
    return list(traces), traces.token


def _requests(trace: Any) -> Iterator[ServedRequest]:
    """Usually one; a caller that sends its own trace may ask several times in it."""
    spans = [span for span in trace.data.spans if span.get_attribute("gen_ai.response.id")]
    feedback = tuple(_feedback(trace.info))
    for span in spans:
        is_tagged = span.get_attribute("gen_ai.response.id") == trace.info.tags.get(REQUEST_TAG)
        yield _request(trace.info, span, feedback if is_tagged else ())


def _request(info: Any, span: Any, feedback: tuple[StoredFeedback, ...]) -> ServedRequest:
    attributes, inputs, outputs = span.attributes, _mapping(span.inputs), _mapping(span.outputs)
    reasons = attributes.get("gen_ai.response.finish_reasons") or ["unknown"]
    answer = GeneratedAnswer(
        outputs.get("answer"), str(reasons[0]), attributes.get("gen_ai.usage.input_tokens"),
        attributes.get("gen_ai.usage.output_tokens"),
    )  # fmt: skip
    return ServedRequest(
        trace_id=info.trace_id,
        request_id=attributes["gen_ai.response.id"],
        start_ms=span.start_time_ns // 1_000_000,
        latency_ms=(span.end_time_ns - span.start_time_ns) / 1e6,
        model=str(attributes.get("gen_ai.response.model") or "unknown"),
        model_version=info.tags.get("model_version", ""),
        prompt=str(attributes.get("gen_ai.prompt.name") or "unknown"),
        error=attributes.get("error.type"),
        answer=answer,
        question=inputs.get("question"),
        has_history=bool(inputs.get("history")),
        feedback=feedback,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


# --- feedback -------------------------------------------------------------------------------------


def _feedback(info: Any) -> Iterator[StoredFeedback]:
    """People's feedback, without what they withdrew; an expected answer that was noted in MLflow's UI as well."""
    for item in info.assessments:
        is_valid = getattr(item, "valid", True) is not False
        if is_valid and item.source.source_type == _SOURCE_TYPE:
            entry_id = (item.metadata or {}).get(ENTRY_METADATA)
            yield StoredFeedback(item.name, item.value, item.rationale, item.source.source_id, entry_id)


@seam
def trace_of(experiment: str, request_id: str) -> tuple[str, tuple[StoredFeedback, ...]] | None:
    """(trace id, its feedback) of the request, or None."""
    import mlflow

    traces = mlflow.MlflowClient().search_traces(
        locations=[experiment], filter_string=equals(f"tags.{REQUEST_TAG}", request_id), max_results=PAGE,
        include_spans=False,
    )  # fmt: skip
    info = next((trace.info for trace in traces if trace.info.tags.get(REQUEST_TAG) == request_id), None)
    return (info.trace_id, tuple(_feedback(info))) if info else None


@seam
def attach(trace_id: str, feedback: StoredFeedback, time_ms: int) -> None:
    """Put feedback on a trace, with the time at which it was given, as the server does."""
    import mlflow
    from mlflow.entities import AssessmentSource, Feedback

    mlflow.log_assessment(
        trace_id,
        Feedback(
            name=feedback.name, value=feedback.value, rationale=feedback.comment, create_time_ms=time_ms,
            source=AssessmentSource(source_type=_SOURCE_TYPE, source_id=feedback.source),
            metadata={ENTRY_METADATA: feedback.entry_id} if feedback.entry_id else None,
        ),
    )  # fmt: skip


# --- baseline -------------------------------------------------------------------------------------


@seam
def baseline(prompt: str, model: str, version: str) -> BaselineRun | None:
    """The newest run that measured the prompt (name/version) with this model version, or one of the same weights.

    An evaluation names the version; an experiment, which comes before there is a version, names the weights.
    """
    import mlflow

    client = mlflow.MlflowClient()
    alternatives = [{"prompt": prompt, "model_name": model, "model_version": version}]
    if weights := _weights(client, model, version):
        alternatives.append({"prompt": prompt, "weights_sha256": weights})
    everywhere = [item.experiment_id for item in client.search_experiments()]
    matches = []
    for params in alternatives:
        same = " and ".join(equals(f"params.{name}", value) for name, value in params.items())
        newest = client.search_runs(
            everywhere,
            filter_string=f"tags.`{runs.STAGE_TAG}` = '{runs.EVALUATE}' and {same} and attributes.status = 'FINISHED'",
            order_by=["attributes.start_time DESC"],
            max_results=20,
        )
        matches += [item for item in newest if params.items() <= item.data.params.items()][:1]
    if not matches:
        return None
    newest = max(matches, key=lambda item: item.info.start_time).info
    return BaselineRun(newest.run_id, newest.experiment_id, newest.start_time)


def _weights(client: Any, model: str, version: str) -> str | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version(model, version).tags.get("weights_sha256")
    except MlflowException as exc:
        if exc.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
            return None
        raise


def baseline_answers(run: BaselineRun) -> Iterator[list[GeneratedAnswer]]:
    """The answers of the run, page by page."""
    for page in _pages(run.experiment_id, run_id=run.run_id):
        yield [_answer_of(trace) for trace in page]


def _answer_of(trace: Any) -> GeneratedAnswer:
    generate = next((span for span in trace.data.spans if span.name == "generate"), None)
    outputs = _mapping(generate.outputs if generate else None)
    usage = trace.info.token_usage or {}
    return GeneratedAnswer(
        outputs.get("answer"), str(outputs.get("finish_reason", "unknown")), usage.get("input_tokens"),
        usage.get("output_tokens"),
    )  # fmt: skip
