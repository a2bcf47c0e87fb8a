"""MLflow's webhooks: checking the signature, reading whether the alias that we follow has moved, and following it.

Signed as mlflow/webhooks/delivery.py does, by the rules of Standard Webhooks: HMAC-SHA256 over delivery id, timestamp
and body. A webhook that comes twice is followed once: after a rollback the second one would undo it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
from collections.abc import Mapping

from mlflow.webhooks.constants import (
    WEBHOOK_DELIVERY_ID_HEADER,
    WEBHOOK_SIGNATURE_HEADER,
    WEBHOOK_SIGNATURE_VERSION,
    WEBHOOK_TIMESTAMP_HEADER,
)

from genai_server.answering.predictor import Predictor
from genai_server.errors import BadQuestion, Conflict, NotReady, WrongSignature

log = logging.getLogger(__name__)

TOLERANCE_S = 300  # between MLflow's clock and ours, its retries included; Standard Webhooks' own value
MOVED = ("model_version_alias", "created")  # entity and action; also sent when an alias moves


def check(secret: str, headers: Mapping[str, str], body: bytes, now_s: float) -> None:
    """Raises WrongSignature unless the body was signed with `secret` within the last minutes."""
    delivery_id, timestamp, signature = (
        headers.get(name, "")
        for name in (WEBHOOK_DELIVERY_ID_HEADER, WEBHOOK_TIMESTAMP_HEADER, WEBHOOK_SIGNATURE_HEADER)
    )
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    digest = base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()
    if not hmac.compare_digest(f"{WEBHOOK_SIGNATURE_VERSION},{digest}".encode(), signature.encode()):
        raise WrongSignature("The webhook's signature is wrong.", "Give MLflow's webhook the secret of this server.")
    if abs(now_s - float(timestamp)) > TOLERANCE_S:  # a number: it was signed
        raise WrongSignature(f"The webhook is more than {TOLERANCE_S} s old.", "Compare both clocks.")


class Deliveries:
    """The ids of recent webhooks; older ones are refused by their timestamp."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}  # id -> when

    def is_new(self, delivery_id: str, now_s: float) -> bool:
        """False for one that came before."""
        self._seen = {known: since for known, since in self._seen.items() if now_s - since <= 2 * TOLERANCE_S}
        return self._seen.setdefault(delivery_id, now_s) == now_s


def version_moved_to(body: bytes, followed: tuple[str, str]) -> str | None:
    """The version that the alias (model name, alias) names now; None where the event is about something else."""
    try:
        event = json.loads(body)
        if (event["entity"], event["action"]) != MOVED:
            return None
        moved = event["data"]
        return str(moved["version"]) if (moved["name"], moved["alias"]) == followed else None
    except (ValueError, LookupError, TypeError) as exc:
        raise BadQuestion("The body is no event of MLflow.") from exc


class AliasFollower:
    """Has the predictor look up its address again, one load at a time; a move during a load leads to another one."""

    def __init__(self, predictor: Predictor):
        self._predictor = predictor
        self._has_moved = False
        self._following: asyncio.Task[None] | None = None

    def follow(self) -> None:
        """Returns at once; the outcome is in the log and in /model/info."""
        self._has_moved = True
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        while self._has_moved:
            self._has_moved = False
            try:
                await self._predictor.reload(waits=True)
            except (Conflict, NotReady) as exc:
                log.error("The alias moved, but %s", exc.sentence)
