"""Server-sent events: framing, keep-alive comments, and the end of the work when the caller is gone.

The headers go out at once: whoever waits for a first token sees that the connection lives.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Protocol

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

PING_EVERY_S = 15.0
PING = b": ping\n\n"
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
    return f"{f'event: {name}' + chr(10) if name else ''}data: {text}\n\n".encode()


class Closeable(Protocol):
    """What makes the events; it is closed when nobody reads them any more."""

    async def aclose(self) -> None: ...


class EventResponse(StreamingResponse):
    """A stream of events with keep-alive comments.

    Args:
        work: closed at the end, also where the caller left before a single event was asked for.
    """

    def __init__(self, events: AsyncIterator[bytes], work: Closeable):
        super().__init__(_kept_alive(events), media_type="text/event-stream", headers=HEADERS)
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._work.aclose()


async def _kept_alive(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """`events`, with a comment whenever nothing has come for a while."""
    waiting: asyncio.Task | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({waiting}, timeout=PING_EVERY_S)
            if not done:
                yield PING
                continue
            finished, waiting = waiting, None
            try:
                yield finished.result()
            except StopAsyncIteration:
                return
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.wait({waiting})
        await events.aclose()
