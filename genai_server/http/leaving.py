"""Ends the work for a caller who closed the connection. A stream needs nothing of this: it is closed by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from genai_server.errors import CallerLeft

Result = TypeVar("Result")


async def while_wanted(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """What `work` returns or raises; it is cancelled when the caller is gone first. The body has been read before.

    Raises:
        CallerLeft: the caller is gone.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise CallerLeft("The caller closed the connection.")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait((working, leaving))


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
