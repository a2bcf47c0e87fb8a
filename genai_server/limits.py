"""Refuses a body whose declared length is too large, in the shape of its route's family.

A body without a declared length is counted while it is read, by FastAPI's own `max_body_size`.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from genai_server.errors import TooLarge
from genai_server.problems import response_for


class DeclaredLength:
    """Look at Content-Length before anything is read. Pure ASGI."""

    def __init__(self, app: ASGIApp, most: int):
        self.app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        declared = Headers(scope=scope).get("content-length", "") if scope["type"] == "http" else ""
        if declared.isdigit() and int(declared) > self._most:
            refusal = TooLarge(f"The body is larger than {self._most} bytes.", "Send less, or set MAX_BODY_BYTES.")
            await response_for(scope["path"], refusal)(scope, receive, send)
            return
        await self.app(scope, receive, send)
