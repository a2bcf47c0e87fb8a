"""Refuses a body whose declared length is too large, or that does not come in time, in the shape of its route's family.

A body without a declared length is counted while it is read, by FastAPI's own `max_body_size`.
"""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genai_server.errors import TooLarge
from genai_server.http.problems import response_for

BODY_TIMEOUT_S = 30.0  # for all of it


class BodyTimeout:
    """Wait for a body only so long. Pure ASGI."""

    def __init__(self, app: ASGIApp, timeout_s: float = BODY_TIMEOUT_S):
        self.app, self._timeout_s = app, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        is_whole = False

        async def receive_in_time() -> Message:
            nonlocal is_whole
            if is_whole:  # what comes now is the caller's leaving
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as exc:
                late = f"The body was not here within {self._timeout_s:g} s"
                raise HTTPException(408, late, {"Connection": "close"}) from exc
            is_whole = not message.get("more_body", False)
            return message

        await self.app(scope, receive_in_time, send)


class BodyLimit:
    """Look at Content-Length before anything is read. Pure ASGI."""

    def __init__(self, app: ASGIApp, max_bytes: int):
        self.app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        declared = Headers(scope=scope).get("content-length", "") if scope["type"] == "http" else ""
        if declared.isdigit() and int(declared) > self._max_bytes:
            refusal = TooLarge(f"The body is larger than {self._max_bytes} bytes.", "Send less, or set MAX_BODY_BYTES.")
            await response_for(scope["path"], refusal)(scope, receive, send)
            return
        await self.app(scope, receive, send)
