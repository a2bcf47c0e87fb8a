"""`POST /feedback`: what people say of an answer."""

from __future__ import annotations

from fastapi import APIRouter, Request

from genai_server.answering.serving import serving_of
from genai_server.errors import BadQuestion, StorageFailed
from genai_server.http.schemas.ask import FeedbackRequest, FeedbackResponse, Problem

router = APIRouter(tags=["feedback"], responses={status: {"model": Problem} for status in (400, 401, 413, 422, 503)})


@router.post("/feedback")
async def feedback(body: FeedbackRequest, request: Request) -> FeedbackResponse:
    """Keep a score or a comment: in the local ledger, and on the answer's trace."""
    if body.value is None and not body.comment:
        raise BadQuestion("The feedback is empty.", "Send a value or a comment.", param="value")
    metrics = serving_of(request).metrics
    try:
        kept = await request.app.state.feedback.keep(body.model_dump())
    except StorageFailed:
        metrics.feedback("nowhere")
        raise
    metrics.feedback(kept)
    return FeedbackResponse(kept=kept)
