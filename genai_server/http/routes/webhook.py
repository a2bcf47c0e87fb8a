"""`POST /admin/webhook`: MLflow says that an alias moved. There only with WEBHOOK_SECRET; signed, so without a key."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request, Response
from mlflow.webhooks.constants import WEBHOOK_DELIVERY_ID_HEADER

from genai_server.http.schemas.ask import Problem, WebhookResponse
from genai_server.http.security import WEBHOOK_PATH
from genai_server.http.webhook import check, version_moved_to

router = APIRouter(tags=["admin"], responses={status: {"model": Problem} for status in (400, 401, 413)})
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object"},
                "example": {
                    "entity": "model_version_alias", "action": "created", "timestamp": "2026-01-01T00:00:00+00:00",
                    "data": {"name": "langchain-e2e-model", "alias": "champion", "version": "2"},
                },
            }
        },
    }
}  # fmt: skip


@router.post(WEBHOOK_PATH, openapi_extra=_BODY, responses={202: {"model": WebhookResponse}})
async def webhook(request: Request, response: Response) -> WebhookResponse:
    """Load the version that the alias names now, beside the running one. Answered at once; the log tells the rest."""
    body, settings = await request.body(), request.app.state.settings
    now_s = time.time()
    check(settings.webhook_secret, request.headers, body, now_s)
    version = version_moved_to(body, settings.followed)
    if version is None:
        name, alias = settings.followed
        return WebhookResponse(status="ignored", detail=f"Only a move of the alias {alias} of {name} is followed.")
    if not request.app.state.deliveries.is_new(request.headers[WEBHOOK_DELIVERY_ID_HEADER], now_s):
        return WebhookResponse(status="ignored", detail="This webhook came before.")
    request.app.state.follower.follow()
    response.status_code = 202
    return WebhookResponse(status="loading", detail=f"Version {version} is loaded and checked; then it answers.")
