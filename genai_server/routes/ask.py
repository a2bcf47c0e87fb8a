"""`POST /ask`: one question, one answer with its metadata."""

from __future__ import annotations

from fastapi import APIRouter, Request

from genai_server.schemas import AnswerResponse, Problem, QuestionRequest

router = APIRouter(tags=["ask"], responses={status: {"model": Problem} for status in (400, 429, 503)})

# The model takes question and history as input, the rest as parameters.
_INPUT = {"question", "history"}


@router.post("/ask", response_model=AnswerResponse)
async def ask(body: QuestionRequest, request: Request) -> dict:
    """Answer one question."""
    predictor, limit_s = request.app.state.predictor, request.app.state.settings.request_timeout_s
    params = body.model_dump(exclude=_INPUT, exclude_none=True)
    params["timeout_s"] = min(params.get("timeout_s", limit_s), limit_s)
    answer = await predictor.answer(body.model_dump(include=_INPUT), params)
    known = {name: predictor.model.info[name] for name in ("model", "model_version", "prompt")}
    return {**answer, **known}
