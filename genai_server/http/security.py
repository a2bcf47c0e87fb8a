"""Who may do what: allowed hosts, a caller's key on every route but the probes, an admin key for changes.

Pure ASGI: a refused request never reaches a route.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Collection, Iterator, Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from genai_server.errors import Forbidden, ServerError, Unauthorized, UnknownHost
from genai_server.http.problems import response_for

# Probes tell no secrets, and what calls them has no key.
OPEN_PATHS = frozenset(
    ("/health", "/health/live", "/health/ready", "/livez", "/readyz", "/startupz", "/healthz", "/ping")
)

WEBHOOK_PATH = "/admin/webhook"  # MLflow sends no key; its signature stands in for one
READING = frozenset(("GET", "HEAD", "OPTIONS"))
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


def needs_admin_key(method: str, path: str) -> bool:
    """Whether a request changes what the server answers with: its model, or a prompt. New routes below these paths
    are closed to callers from the start."""
    if path == "/prompts" or path.startswith("/prompts/"):
        return method not in READING
    return path.startswith("/admin/")


class KeyCheck:
    """Refuse every request without a key, and without an admin key where `needs_admin_key` says so.

    An admin key is a caller's too. Without any keys everything is open but what needs an admin key. `open_paths` ask
    for no key: the probes, and where there is such a route, the webhook, which is signed.

    A key comes as `Authorization: Bearer KEY`, as `X-API-Key: KEY`, or as the password of HTTP Basic, which is what a
    browser asks a person for. Any of them may be the right one: a proxy may send an Authorization of its own.
    """

    def __init__(
        self, app: ASGIApp, keys: Sequence[str], admin_keys: Sequence[str], open_paths: Collection[str] = OPEN_PATHS
    ):
        self.app, self._open = app, open_paths
        self._keys, self._admin_keys = _encoded(keys), _encoded(admin_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        handler = self.app if refusal is None else response_for(scope["path"], refusal)
        await handler(scope, receive, send)

    def _refusal(self, scope: Scope) -> ServerError | None:
        if scope["path"] in self._open:
            return None
        presented = list(_keys_of(Headers(scope=scope)))
        is_caller, is_admin = _is_one_of(presented, self._keys), _is_one_of(presented, self._admin_keys)
        if (self._keys or self._admin_keys) and not (is_caller or is_admin):
            return Unauthorized(
                "This server needs a key.", "Send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
            )
        if is_admin or not needs_admin_key(scope["method"], scope["path"]):
            return None
        if not self._admin_keys:
            return Forbidden("This route is closed.", "Set ADMIN_KEYS or ADMIN_KEYS_FILE on the server to open it.")
        return Forbidden("This route needs an admin key.", "Send one of the server's ADMIN_KEYS.")


def _encoded(keys: Sequence[str]) -> list[bytes]:
    return [key.encode() for key in keys]


def _is_one_of(presented: Sequence[bytes], keys: Sequence[bytes]) -> bool:
    # every pair is compared, in constant time: how long it takes tells nothing
    return any([hmac.compare_digest(one, key) for one in presented for key in keys])


class HostCheck:
    """Refuse requests for another host: with DNS rebinding, a page of another site asks this server by its own name.

    Hosts are compared without their port; `*.example.com` is all below it, `*` is any. This machine's own names are
    always taken: no other site has them, and the health check and whoever started the server ask by them.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str]):
        self.app, self._allowed = app, [*LOCAL_NAMES, *(host.lower() for host in allowed)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_allowed(_host_of(Headers(scope=scope))):
            await self.app(scope, receive, send)
            return
        refusal = UnknownHost("The Host header names another host.", "Use localhost, or a name that ALLOWED_HOSTS has.")
        await response_for(scope["path"], refusal)(scope, receive, send)

    def _is_allowed(self, host: str) -> bool:
        return any(
            pattern in ("*", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))
            for pattern in self._allowed
        )


def _host_of(headers: Headers) -> str:
    host = headers.get("host", "").lower()
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


def _keys_of(headers: Headers) -> Iterator[bytes]:
    """Everything in the headers that may be a key."""
    for header in headers.getlist("authorization"):
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "bearer":
            yield value.strip().encode()
        elif scheme.lower() == "basic":
            yield _basic_password(value).encode()
    yield from _encoded(headers.getlist("x-api-key"))


def _basic_password(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
