"""Around every request: its id, who answered, how long it took, one line in the log. Pure ASGI, streams untouched."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genai_server.runtime.metrics import Metrics

log = logging.getLogger("genai_server.access")

_ID = re.compile(r"[\x21-\x7e]{1,128}")
NO_ROUTE = "unmatched"
# A caller may write any word there, and labels of metrics stay for ever.
METHODS, OTHER_METHOD = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"), "other"


class RequestContext:
    """Take or make `X-Request-ID`; add the model and prompt version to every response; count and log it.

    Args:
        versions: headers that say who answers now.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, versions: Callable[[], Mapping[str, str]]):
        self.app, self._metrics, self._versions = app, metrics, versions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _id_of(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        headers = {"X-Request-ID": request_id, **self._versions()}
        scope["state"]["headers"] = headers  # the response to an unhandled exception does not pass here
        started, status = time.perf_counter(), 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(headers)
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            self._record(scope, request_id, status, time.perf_counter() - started)

    def _record(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", NO_ROUTE)
        method = scope["method"] if scope["method"] in METHODS else OTHER_METHOD
        self._metrics.request(method, route, status, seconds)
        fields = {"method": method, "route": route, "status": status, "request_id": request_id}
        log.info(
            "%s %s %d %.3f s %s", method, route, status, seconds, request_id,
            extra={"fields": fields | {"seconds": round(seconds, 4)}},
        )  # fmt: skip


def _id_of(scope: Scope) -> str:
    """The caller's own id where it is a plain one, else a new one."""
    request_id = Headers(scope=scope).get("x-request-id", "")
    return request_id if _ID.fullmatch(request_id) else uuid.uuid4().hex
