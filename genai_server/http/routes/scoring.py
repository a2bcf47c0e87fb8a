"""What MLflow's own scoring server accepts and returns: `/invocations`, `/ping`, `/version`.

Reading the request and writing the answer are MLflow's own functions. Its slips are not repeated: docs/http_api.md
lists them, and a test compares both servers.
"""

from __future__ import annotations

import asyncio
import json
import logging

from fastapi import APIRouter, Request, Response
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server
from mlflow.version import VERSION

from genai_server.answer_request import AnswerRequest
from genai_server.answering.answerers import Answerer
from genai_server.answering.predictor import READY
from genai_server.answering.serving import serving_of, versions_of
from genai_server.errors import ModelTimeout
from genai_server.http.disconnect import unless_disconnected
from genai_server.http.problems import RETRY
from genai_server.http.scoring_call import ScoringCall
from genai_server.http.scoring_size import require_size

log = logging.getLogger(__name__)

router = APIRouter(tags=["mlflow"])
JSON = "application/json"
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
    content_type = _normalized(request.headers.get("content-type", ""))
    if not content_type:
        text = f"Name the content type of the body; it can be {', '.join(scoring_server.CONTENT_TYPES)}."
        return Response(text, 415, media_type="text/plain")
    data = await request.body()
    serving, timeout_s = serving_of(request), request.app.state.settings.request_timeout_s
    with serving.predictor.accepted() as model:
        row = AnswerRequest({}, {}, request.state.request_id, "invocations", request.headers.get("traceparent"))
        call = ScoringCall(model.answerer.scoring(), serving, versions_of(model, None), row, timeout_s)
        return await unless_disconnected(request, _predict(data, content_type, call, model.answerer, timeout_s))


def _normalized(content_type: str) -> str:
    """The same type in the one spelling that MLflow knows: small letters, no quotes, nothing empty at the end."""
    return content_type.lower().replace('"', "").rstrip("; \t")


async def _predict(data: bytes, content_type: str, call: ScoringCall, answerer: Answerer, timeout_s: float) -> Response:
    """MLflow's own reading, predicting and writing, on a thread."""

    def score() -> scoring_server.InvocationsResponse:
        require_size(data, content_type, call.slots)
        schema = call.metadata.get_input_schema()
        response: scoring_server.InvocationsResponse = scoring_server.invocations(data, content_type, call, schema)
        return response

    try:
        result = await answerer.score(score, timeout_s)
    except (asyncio.CancelledError, ModelTimeout):
        call.stop()
        raise
    except MlflowException as exc:
        if call.refusal is not None:
            raise call.refusal from exc
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
