"""Who may ask: allowed hosts, and keys on every route but the probes.

Pure ASGI: a refused request never reaches a route.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Collection, Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from genai_server.errors import Unauthorized, UnknownHost
from genai_server.problems import response_for

# Probes tell no secrets, and what calls them has no key.
OPEN_PATHS = frozenset(
    ("/health", "/health/live", "/health/ready", "/livez", "/readyz", "/startupz", "/healthz", "/ping")
)


WEBHOOK_PATH = "/admin/webhook"  # MLflow sends no key; its signature stands in for one


class KeyRequired:
    """Refuse every request without one of the keys; without keys everything is open.

    `open_paths` ask for no key: the probes, and where there is such a route, the webhook, which is signed.

    A key comes as `Authorization: Bearer KEY`, as `X-API-Key: KEY`, or as the password of HTTP Basic, which is what a
    browser asks a person for.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], open_paths: Collection[str] = OPEN_PATHS):
        self.app, self._keys, self._open = app, [key.encode() for key in keys], open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._keys or scope["path"] in self._open or self._is_known(scope):
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


class HostAllowed:
    """Refuse what was meant for another host, as a page of another site does that has its name point here.

    Hosts are compared without their port; `*.example.com` is all below it, `*` is any.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str]):
        self.app, self._allowed = app, [host.lower() for host in allowed]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_allowed(_host_of(Headers(scope=scope))):
            await self.app(scope, receive, send)
            return
        refusal = UnknownHost("The Host header names another host.", "Use a name that ALLOWED_HOSTS has.")
        await response_for(scope["path"], refusal)(scope, receive, send)

    def _is_allowed(self, host: str) -> bool:
        return any(
            pattern in ("*", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))
            for pattern in self._allowed
        )


def _host_of(headers: Headers) -> str:
    host = headers.get("host", "").lower()
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


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
