"""Server-sent events: framing, keep-alive comments, and the end of the work when the caller is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse

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


def response(events: AsyncIterator[bytes]) -> StreamingResponse:
    """A stream of events with keep-alive comments. When the caller goes, `events` is closed."""
    return StreamingResponse(_kept_alive(events), media_type="text/event-stream", headers=HEADERS)


async def begun(pieces: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The same pieces, the first one made already: what is refused is refused before the response begins."""
    first = await anext(pieces)
    return _after(first, pieces)


async def _after(first: Any, pieces: AsyncIterator[Any]) -> AsyncIterator[Any]:
    try:
        yield first
        async for piece in pieces:
            yield piece
    finally:
        await pieces.aclose()


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
