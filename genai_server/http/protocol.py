"""uvicorn's HTTP protocol with the two time limits that it lacks: for a request's head, and for what nobody reads.

uvicorn closes a connection that is idle after an answer; one that never sends a whole request head stays for ever, and
so does one whose peer stops reading. The time for a body is in `limits.py`.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_TIMEOUT_S = 10.0
UNREAD_TIMEOUT_S = 30.0


class TimedProtocol(H11Protocol):
    """Closes a connection whose next request has no whole head in time."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._expect_head()
        else:
            self._stop_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that uvicorn may listen on. Raises OSError where the address cannot be had.

    The kernel drops a connection on which data wait unread for too long (TCP_USER_TIMEOUT, RFC 5482; Linux).
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNREAD_TIMEOUT_S * 1000))
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    return listening
