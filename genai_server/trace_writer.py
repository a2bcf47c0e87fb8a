"""Writes traces to MLflow: a program of its own, fed by `tracing.py` with one JSON record a line on stdin.

It imports nothing of ours, runs at the lowest priority, and ends when its input does. A trace that MLflow does not
take is lost, and the next one is tried.
"""

import contextlib
import json
import logging
import os
import sys


def main() -> None:
    os.nice(19)
    # The server decided what is sampled; here everything is written, and nobody waits long for a dead MLflow.
    os.environ.pop("MLFLOW_TRACE_SAMPLING_RATIO", None)
    os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
    os.environ |= {"MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    import mlflow

    logging.getLogger("alembic").setLevel(logging.WARNING)
    known = False
    for line in sys.stdin:
        try:
            if not known:
                mlflow.set_experiment(os.environ["MLFLOW_EXPERIMENT_NAME"])
                known = True
            write(json.loads(line))
        except mlflow.MlflowException as exc:
            sys.stderr.write(f"trace not written: {str(exc).splitlines()[0]}\n")


def write(record: dict) -> None:
    """One trace: the request, and below it what was done. One that failed has an error, and nothing below it."""
    import mlflow

    with _continued(record["traceparent"]):
        root = mlflow.start_span_no_context(
            record["name"],
            span_type="CHAT_MODEL",
            inputs=record["inputs"],
            attributes=record["attributes"],
            tags=record["tags"],
            start_time_ns=record["start_ns"],
        )
        for name, start, end in _phases(record):
            span = mlflow.start_span_no_context(name, span_type="LLM", parent_span=root, start_time_ns=record[start])
            span.end(end_time_ns=record[end])
        status = "ERROR" if record["error_type"] else "OK"
        root.end(outputs=record["outputs"], status=status, end_time_ns=record["end_ns"])
    if record["traceparent"]:
        _complete(root.trace_id, record)


def _phases(record: dict) -> list[tuple[str, str, str]]:
    """Name, start and end of each: waiting (if any), reading the prompt, writing the answer."""
    if record["error_type"]:
        return []
    phases = [("prefill", "begun_ns", "first_token_ns"), ("decode", "first_token_ns", "end_ns")]
    return [("queue", "start_ns", "begun_ns"), *phases] if record["begun_ns"] > record["start_ns"] else phases


def _complete(trace_id: str, record: dict) -> None:
    """What MLflow leaves out of a caller's trace: the tags, and its end.

    A trace is in progress until its root arrives, which a caller may send elsewhere, or never. One whose root
    comes later is the caller's again: MLflow then takes over what the caller says.
    """
    import mlflow
    from mlflow.entities.span import NO_OP_SPAN_TRACE_ID
    from mlflow.entities.trace_state import TraceState
    from mlflow.tracing.client import TracingClient

    if trace_id == NO_OP_SPAN_TRACE_ID:
        return
    for name, value in record["tags"].items():
        mlflow.MlflowClient().set_trace_tag(trace_id, name, value)
    info = TracingClient().get_trace_info(trace_id)
    if info.state == TraceState.IN_PROGRESS:
        info.state = TraceState.ERROR if record["error_type"] else TraceState.OK
        TracingClient().start_trace(info)


def _continued(traceparent: str | None) -> contextlib.AbstractContextManager:
    """Inside the caller's trace where it sent a valid one."""
    if not traceparent:
        return contextlib.nullcontext()
    from mlflow.tracing.distributed import set_tracing_context_from_http_request_headers

    return set_tracing_context_from_http_request_headers({"traceparent": traceparent})


if __name__ == "__main__":
    main()
