"""What MLflow's own scoring server accepts and returns: `/invocations`, `/ping`, `/version`.

Reading the request and writing the answer are MLflow's own functions. Its slips are not repeated: docs/http_api.md
lists them, and a test compares both servers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from fastapi import APIRouter, Request, Response
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server
from mlflow.version import VERSION

from genai_server.answer_request import AnswerRequest
from genai_server.answering.answerers import Answerer, Scoring, answer_of
from genai_server.answering.places import Places
from genai_server.answering.predictor import READY
from genai_server.answering.serving import Serving, serving_of
from genai_server.errors import CallerLeft, ModelTimeout, ServerError
from genai_server.http.leaving import while_wanted
from genai_server.http.problems import RETRY
from genai_server.http.scoring_size import require_size
from genai_server.prompts.selection import QUESTION

log = logging.getLogger(__name__)

router = APIRouter(tags=["mlflow"])
JSON = "application/json"
LONGEST_S = 3600.0  # timeout_s that a model takes; it refuses a longer one itself
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": {"type": "object"}, "example": {"inputs": ["What is MLflow?"]}},
            "text/csv": {"schema": {"type": "string"}, "example": "question\nWhat is MLflow?\n"},
        },
    }
}


_PREDICTIONS = {
    "description": "What the model returned, one item for each row.",
    "content": {JSON: {"schema": {"type": "object", "required": ["predictions"]}}},
}


@router.post("/invocations", response_class=Response, openapi_extra=_BODY, responses={200: _PREDICTIONS})
async def invocations(request: Request) -> Response:
    """Answer as `mlflow models serve` does: dataframe_split, dataframe_records, instances, inputs, CSV, Parquet."""
    content_type = _as_mlflow_reads_it(request.headers.get("content-type", ""))
    if not content_type:
        text = f"Name the content type of the body; it can be {', '.join(scoring_server.CONTENT_TYPES)}."
        return Response(text, 415, media_type="text/plain")
    data = await request.body()
    serving = serving_of(request)
    with serving.predictor.accepted() as model:
        told = _Told(serving, model.info, request.state.request_id, request.headers.get("traceparent"))
        timeout_s = request.app.state.settings.request_timeout_s
        scored = _Scored(model.answerer.scoring(), timeout_s, told, serving.predictor.places)
        return await while_wanted(request, _predict(data, content_type, scored, model.answerer, timeout_s))


def _as_mlflow_reads_it(content_type: str) -> str:
    """The same type in the one spelling that MLflow knows: small letters, no quotes, nothing empty at the end."""
    return content_type.lower().replace('"', "").rstrip("; \t")


@dataclass(frozen=True)
class _Told:
    """What the metrics and the traces hear of one request: each row is an answer, and a trace."""

    serving: Serving
    info: Mapping[str, Any]
    request_id: str
    traceparent: str | None
    started_ns: int = field(default_factory=time.time_ns)

    def answered(self, data: Any, params: Any, answers: Any) -> None:
        ended_ns = time.time_ns()
        for answer in answers if isinstance(answers, list) else ():
            if isinstance(answer, Mapping):
                self.serving.metrics.answer(answer)
        rows = _rows(answers)
        for question, row in zip(_questions(data, len(rows)), rows, strict=True):
            answer, asked = _answer(row), self._asked(question, params)
            took_ns = int(answer["total_s"] * 1e9) if "total_s" in answer else ended_ns
            done_ns = min(self.started_ns + took_ns, ended_ns)
            self.serving.tracer.answered(asked, answer, self.info, self.started_ns, done_ns)

    def failed(self, params: Any, error_type: str) -> None:
        """All of it, which is one trace."""
        asked = self._asked({}, params)
        self.serving.tracer.failed(asked, error_type, self.info, self.started_ns, time.time_ns())

    def left(self) -> None:
        self.serving.metrics.left()

    def _asked(self, question: Mapping[str, Any], params: Any) -> AnswerRequest:
        params = params if isinstance(params, Mapping) else {}
        return AnswerRequest(question, params, self.request_id, "invocations", self.traceparent)


def _rows(data: Any) -> list:
    """One item for each row, of what MLflow hands to a model or a model returns; one of all that is something else."""
    if isinstance(data, Mapping) and isinstance(column := data.get(QUESTION), list | np.ndarray):
        data = column
    if isinstance(data, pd.DataFrame):
        return data.to_dict("records")
    data = data.tolist() if isinstance(data, np.ndarray) else data
    return data if isinstance(data, list) else [data]


def _count(data: Any) -> int:
    """Questions in what MLflow read from the request; a model that is not ours may see something else in it."""
    columns = list(data.values()) if isinstance(data, Mapping) else [data]
    sized = [column for column in columns if isinstance(column, list | pd.DataFrame) or np.ndim(column) > 0]
    return max(1, *map(len, sized)) if sized else 1


def _questions(data: Any, count: int) -> list[Mapping[str, Any]]:
    """Question and history of each row; empty where the model was sent something else."""
    rows = _rows(data)
    if len(rows) != count:
        return [{}] * count
    asked = [row if isinstance(row, Mapping) else {QUESTION: row} for row in rows]
    return [{name: row[name] for name in (QUESTION, "history") if name in row} for row in asked]


def _answer(row: Any) -> dict[str, Any]:
    """The text, and what is told with it where it can be reckoned with."""
    answer = answer_of(row)
    is_ours = "total_s" in answer and isinstance(row.get("queued_s"), float)
    return {**answer, "queued_s": row["queued_s"]} if is_ours else answer


class _Scored:
    """The model as MLflow's function calls it, within the server's limits and with its answers told."""

    def __init__(self, scoring: Scoring, timeout_s: float, told: _Told, places: Places):
        self.metadata = scoring.metadata
        self._scoring, self._timeout_s, self._told, self._places = scoring, timeout_s, told, places
        self.most_rows = places.most_of_a_request
        self.refusal: ServerError | None = None  # which MLflow's function would turn into an error of its own

    def predict(self, data: Any, params: Any = None) -> Any:
        try:
            with self._places.take(_count(data), held=1):
                return self._answers(data, params)
        except ServerError as exc:
            self.refusal = exc
            raise

    def _answers(self, data: Any, params: Any) -> Any:
        try:
            answers = self._scoring.predict(data, self._in_time(params))
        except Exception as exc:
            self._told.failed(params, exc.error_code if isinstance(exc, MlflowException) else type(exc).__name__)
            raise
        if self._scoring.is_stopped:
            self._told.failed(params, CallerLeft.code)
        else:
            self._told.answered(data, params, answers)
        return answers

    def stop(self) -> None:
        """The caller is gone."""
        self._scoring.stop()
        self._told.left()

    def _in_time(self, params: Any) -> Any:
        """With the server's timeout where the model knows one; wrong parameters are the model's to refuse."""
        schema = self.metadata.get_params_schema()
        if schema is None or all(param.name != "timeout_s" for param in schema.params):
            return params
        given = {} if params is None else params
        if not isinstance(given, dict):
            return params
        wanted = given.get("timeout_s")
        too_long = isinstance(wanted, int | float) and self._timeout_s < wanted <= LONGEST_S
        return {**given, "timeout_s": self._timeout_s} if wanted is None or too_long else params


async def _predict(data: bytes, content_type: str, scored: _Scored, answerer: Answerer, timeout_s: float) -> Response:
    """MLflow's own reading, predicting and writing, on a thread."""

    def scores() -> scoring_server.InvocationsResponse:
        require_size(data, content_type, scored.most_rows)
        return scoring_server.invocations(data, content_type, scored, scored.metadata.get_input_schema())

    try:
        result = await answerer.score(scores, timeout_s)
    except (asyncio.CancelledError, ModelTimeout):
        scored.stop()
        raise
    except MlflowException as exc:
        if scored.refusal is not None:
            raise scored.refusal from exc
        return Response(_without_stack_trace(exc), exc.get_http_status_code(), media_type=JSON)
    except (RecursionError, ValueError) as exc:  # json's; MLflow wraps what the model raises
        body = {"error_code": "BAD_REQUEST", "message": f"The JSON cannot be read: {exc}."}
        return Response(json.dumps(body), 400, media_type=JSON)
    return Response(result.response, result.status, media_type=result.mimetype)


def _without_stack_trace(exc: MlflowException) -> str:
    body = json.loads(exc.serialize_as_json())
    if trace := body.pop("stack_trace", None):
        log.warning("/invocations failed: %s", body.get("error_code"))
        log.debug("%s", trace)
    return json.dumps(body)


@router.get("/ping", response_class=Response, responses={503: {"description": "Not ready."}})
async def ping(request: Request) -> Response:
    """200 once the model is ready, else 503: MLflow's server is not there before its model is."""
    ready = serving_of(request).predictor.status == READY
    return Response("\n", 200, media_type=JSON) if ready else Response("\n", 503, RETRY, media_type=JSON)


@router.get("/version", response_class=Response)  # a text that MLflow calls JSON
async def version() -> Response:
    """MLflow's version."""
    return Response(VERSION, media_type=JSON)
