"""Server-sent events: framing, keep-alive comments, and the end of the work when the caller is gone.

The headers go out at once: whoever waits for a first token sees that the connection lives.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any, Protocol

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

KEEP_ALIVE_S = 15.0  # a proxy closes a connection on which nothing comes; nginx after 60 s
# Proxies are not to keep, join or compress the pieces.
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
# A stream in the OpenAPI document: what every event is.
CONTENT = {
    "text/event-stream": {
        "schema": {
            "type": "object",
            "required": ["data"],
            "properties": {"data": {"type": "string", "description": "JSON"}, "event": {"type": "string"}},
        }
    }
}


def event(data: Any, name: str | None = None) -> bytes:
    """One event; `data` as JSON, a string as it stands."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return format_sse_event(data_str=text, event=name)


class Closeable(Protocol):
    """What makes the events; it is closed when nobody reads them any more."""

    async def aclose(self) -> None: ...


class EventResponse(EventSourceResponse):
    """A stream of events with keep-alive comments.

    Args:
        work: closed at the end, also where the caller left before a single event was asked for.
    """

    def __init__(self, events: AsyncGenerator[bytes, None], work: Closeable):
        super().__init__(_with_keep_alive(events), headers=HEADERS)
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._work.aclose()


async def _with_keep_alive(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """`events`, with a comment whenever nothing has come for a while."""
    following = asyncio.ensure_future(anext(events))
    try:
        while True:
            done, _ = await asyncio.wait({following}, timeout=KEEP_ALIVE_S)
            if not done:
                yield KEEPALIVE_COMMENT
                continue
            try:
                yield following.result()
            except StopAsyncIteration:
                return
            following = asyncio.ensure_future(anext(events))
    finally:
        following.cancel()
        await asyncio.wait({following})
        await events.aclose()
