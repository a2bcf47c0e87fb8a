"""One request of /invocations, as the model that MLflow's own function calls: within the server's limits, with each row
counted and traced as an answer of its own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException

from genai_server.answer import AnswerVersions
from genai_server.answer_request import AnswerRequest
from genai_server.answering.answerers import Scoring
from genai_server.answering.model_output import answer_of
from genai_server.answering.serving import Serving
from genai_server.errors import ClientDisconnected, ServerError
from genai_server.limits import MAX_TIMEOUT_S
from genai_server.prompts.selection import QUESTION


class ScoringCall:
    """Stands between MLflow's function and the model.

    Args:
        request: without a question; every row has its own.
    """

    def __init__(
        self, scoring: Scoring, serving: Serving, versions: AnswerVersions, request: AnswerRequest, timeout_s: float
    ):
        self.metadata = scoring.metadata
        self.slots = serving.predictor.slots
        self._scoring, self._serving, self._versions, self._timeout_s = scoring, serving, versions, timeout_s
        self._request, self._started_ns = request, time.time_ns()
        self.refusal: ServerError | None = None  # which MLflow's function would turn into an error of its own

    def predict(self, data: Any, params: Any = None) -> Any:
        try:
            with self.slots.hold(_question_count(data), held=1):
                return self._answers(data, params)
        except ServerError as exc:
            self.refusal = exc
            raise

    def stop(self) -> None:
        """The caller has disconnected."""
        self._scoring.stop()
        self._serving.metrics.cancelled()

    def _answers(self, data: Any, params: Any) -> Any:
        try:
            answers = self._scoring.predict(data, self._limited(params))
        except Exception as exc:
            self._trace_failure(params, exc.error_code if isinstance(exc, MlflowException) else type(exc).__name__)
            raise
        if self._scoring.is_stopped:
            self._trace_failure(params, ClientDisconnected.code)
        else:
            self._record(data, params, answers)
        return answers

    def _limited(self, params: Any) -> Any:
        """With the server's timeout where the model has that parameter; wrong parameters are the model's to refuse."""
        schema = self.metadata.get_params_schema()
        if schema is None or all(param.name != "timeout_s" for param in schema.params):
            return params
        if not isinstance(params, dict | None):
            return params
        timeout_s = (params or {}).get("timeout_s")
        is_too_long = isinstance(timeout_s, int | float) and self._timeout_s < timeout_s <= MAX_TIMEOUT_S
        return {**(params or {}), "timeout_s": self._timeout_s} if timeout_s is None or is_too_long else params

    def _record(self, data: Any, params: Any, answers: Any) -> None:
        """Each row in the metrics, and as a trace."""
        ended_ns, rows = time.time_ns(), _rows(answers)
        for question, row in zip(_questions(data, len(rows)), rows, strict=True):
            answer = answer_of(row)
            self._serving.metrics.answer(answer)
            took_ns = int(answer.usage.total_s * 1e9) if answer.usage else ended_ns
            row_ended_ns = min(self._started_ns + took_ns, ended_ns)
            request = self._row_request(question, params)
            self._serving.tracer.answered(request, answer, self._versions, self._started_ns, row_ended_ns)

    def _trace_failure(self, params: Any, error_type: str) -> None:
        """All rows are one trace."""
        request = self._row_request({}, params)
        self._serving.tracer.failed(request, error_type, self._versions, self._started_ns, time.time_ns())

    def _row_request(self, question: Mapping[str, Any], params: Any) -> AnswerRequest:
        return replace(self._request, question=question, params=params if isinstance(params, Mapping) else {})


def _rows(data: Any) -> list[Any]:
    """One item for each row, of what MLflow hands to a model or a model returns; one of all that is something else."""
    if isinstance(data, Mapping) and isinstance(column := data.get(QUESTION), list | np.ndarray):
        data = column
    if isinstance(data, pd.DataFrame):
        data = data.to_dict("records")
    data = data.tolist() if isinstance(data, np.ndarray) else data
    return data if isinstance(data, list) else [data]


def _question_count(data: Any) -> int:
    """Questions in what MLflow read from the request; a model that is not ours may see something else in it."""
    columns = list(data.values()) if isinstance(data, Mapping) else [data]
    sized = [column for column in columns if isinstance(column, list | pd.DataFrame) or np.ndim(column) > 0]
    return max(1, *map(len, sized)) if sized else 1


def _questions(data: Any, count: int) -> list[Mapping[str, Any]]:
    """Question and history of each row; empty where the model was sent something else."""
    rows = _rows(data)
    if len(rows) != count:
        return [{}] * count
    questions = [row if isinstance(row, Mapping) else {QUESTION: row} for row in rows]
    return [{name: row[name] for name in (QUESTION, "history") if name in row} for row in questions]
