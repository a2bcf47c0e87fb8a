"""Who may ask: keys on every route but the probes. Pure ASGI: a refused request never reaches a route."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from genai_server.errors import Unauthorized
from genai_server.problems import response_for

# Probes tell no secrets, and what calls them has no key.
OPEN_PATHS = frozenset(
    ("/health", "/health/live", "/health/ready", "/livez", "/readyz", "/startupz", "/healthz", "/ping")
)


class KeyRequired:
    """Refuse every request without one of the keys; without keys everything is open.

    A key comes as `Authorization: Bearer KEY`, as `X-API-Key: KEY`, or as the password of HTTP Basic, which is what a
    browser asks a person for.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]):
        self.app, self._keys = app, [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._keys or scope["path"] in OPEN_PATHS or self._is_known(scope):
            await self.app(scope, receive, send)
            return
        refusal = Unauthorized(
            "This server needs a key.", "Send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
        )
        await response_for(scope["path"], refusal)(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        given = _key_of(Headers(scope=scope)).encode()
        # every key is compared, in constant time: how long it takes tells nothing
        return any([hmac.compare_digest(given, key) for key in self._keys])


def _key_of(headers: Headers) -> str:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        return _basic_password(value)
    return headers.get("x-api-key", "")


def _basic_password(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
