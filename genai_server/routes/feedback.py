"""`POST /feedback`: what people say of an answer."""

from __future__ import annotations

from fastapi import APIRouter, Request

from genai_server.errors import BadQuestion
from genai_server.schemas import FeedbackRequest, FeedbackResponse, Problem

router = APIRouter(tags=["feedback"], responses={status: {"model": Problem} for status in (400, 401, 413, 422)})


@router.post("/feedback", response_model=FeedbackResponse)
async def feedback(body: FeedbackRequest, request: Request) -> FeedbackResponse:
    """Keep a score or a comment: on the answer's trace, or in the local ledger."""
    if body.value is None and not body.comment:
        raise BadQuestion("The feedback is empty.", "Send a value or a comment.", param="value")
    return FeedbackResponse(kept=await request.app.state.feedback.keep(body.model_dump()))
