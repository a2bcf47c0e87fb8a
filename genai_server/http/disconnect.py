"""Ends the work for a caller who closed the connection. A stream does not need this: its response closes it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from genai_server.errors import ClientDisconnected

Result = TypeVar("Result")


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """What `work` returns or raises; cancelled when the caller disconnects first. The body must have been read before.

    Raises:
        ClientDisconnected: the caller has closed the connection.
    """
    working, disconnect = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((working, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnected("The caller closed the connection.")
        return working.result()
    finally:
        working.cancel()
        disconnect.cancel()
        await asyncio.wait((working, disconnect))


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
