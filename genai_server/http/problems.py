"""Errors in the shape that the clients of each family of routes read.

`/v1/*` gets OpenAI's error object, `/invocations` MLflow's, everything else problem+json (RFC 9457).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from genai_server.errors import ServerError

RETRY = {"Retry-After": "1"}  # seconds
OPENAI_PREFIX, MLFLOW_PATH = "/v1/", "/invocations"
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 408: "body_timeout", 413: "request_too_large"}
MAX_ERRORS, MAX_PLACE_CHARACTERS = 20, 100  # wrong fields, and characters of a field's name: callers choose both
_NO_TEXT = "is no valid text: it has half of a character in it, a lone surrogate such as \\ud800"
_NO_OBJECT = ("model_attributes_type", "missing")  # what pydantic says of the whole body; curl alone sends a form
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_MLFLOW_CODES = {
    400: "BAD_REQUEST", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "ENDPOINT_NOT_FOUND",
    413: "BAD_REQUEST", 429: "REQUEST_LIMIT_EXCEEDED", 503: "TEMPORARILY_UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip


class ProblemResponse(JSONResponse):
    """JSON that may quote a caller: half of a character (a lone surrogate) becomes a question mark."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def install(app: FastAPI) -> None:
    """Answer every kind of error of this app in its family's shape."""
    app.exception_handler(ServerError)(_refused)
    app.exception_handler(RequestValidationError)(_malformed)
    app.exception_handler(HTTPException)(_http_error)
    app.exception_handler(Exception)(_failed)


def response_for(path: str, error: ServerError) -> ProblemResponse:
    """The response to a request for `path` that was refused with `error`."""
    headers = dict(RETRY) if error.status in (429, 503) else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    response = _response(path, error.status, error.code, error.sentence, error.param, headers)
    if error.status == 401:  # a line of its own: Chromium reads one challenge a line, and asks the person for this one
        response.headers.append("WWW-Authenticate", 'Basic realm="a key as the password", charset="UTF-8"')
    return response


def _response(
    path: str,
    status: int,
    code: str,
    sentence: str,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
    errors: list[dict[str, Any]] | None = None,
) -> ProblemResponse:
    if path.startswith(OPENAI_PREFIX):
        return ProblemResponse(openai_error(status, code, sentence, param), status, headers)
    if path == MLFLOW_PATH:
        return ProblemResponse({"error_code": _mlflow_code(status), "message": sentence}, status, headers)
    body = {"type": "about:blank", "title": code.replace("_", " "), "status": status, "detail": sentence}
    body |= {"instance": path, "code": code} | ({"errors": errors} if errors else {})
    return ProblemResponse(body, status, headers, media_type="application/problem+json")


def openai_error(status: int, code: str, sentence: str, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object; also sent inside a stream that has begun."""
    kind = _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": sentence, "type": kind, "param": param, "code": code}}


def _mlflow_code(status: int) -> str:
    return _MLFLOW_CODES.get(status, "INTERNAL_ERROR" if status >= 500 else "BAD_REQUEST")


async def _refused(request: Request, exc: ServerError) -> ProblemResponse:
    return response_for(request.url.path, exc)


async def _malformed(request: Request, exc: RequestValidationError) -> ProblemResponse:
    """One sentence about the first thing that is wrong; the caller's text is not repeated."""
    errors = [
        {"loc": [str(part)[:MAX_PLACE_CHARACTERS] for part in e["loc"]], "msg": _message(e), "type": e["type"]}
        for e in exc.errors()[:MAX_ERRORS]
    ]
    first = errors[0]
    place = ".".join(part for part in first["loc"] if part != "body")
    sentence = f"{place or 'the body'}: {first['msg']}."
    if first["type"] == "json_invalid" or (first["type"] in _NO_OBJECT and not place):
        place, sentence = "", "The body is no JSON object. Send one, with the header Content-Type: application/json."
    path = request.url.path
    status = 400 if path.startswith(OPENAI_PREFIX) else 422
    return _response(path, status, "malformed_request", sentence, place or None, errors=errors)


def _message(error: Mapping[str, Any]) -> str:
    """Pydantic's message, except for one that nobody understands."""
    return _NO_TEXT if error["type"] == "string_unicode" else error["msg"]


async def _failed(request: Request, exc: Exception) -> ProblemResponse:
    """A fault of ours: the log has the traceback, the caller gets a sentence without it."""
    response = response_for(request.url.path, ServerError("The server failed.", "The log names the request's id."))
    response.headers.update(request.state.headers)
    return response


async def _http_error(request: Request, exc: HTTPException) -> ProblemResponse:
    """Unknown paths and methods, and what Starlette refuses by itself."""
    code = _HTTP_CODES.get(exc.status_code, "refused")
    headers = {"Allow": _allowed(request)} if exc.status_code == 405 else exc.headers
    return _response(request.url.path, exc.status_code, code, f"{exc.detail}.", headers=headers)


def _allowed(request: Request) -> str:
    """Every method that the path takes; Starlette names those of the first route that matches."""
    methods: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        if route.methods and route.path and compile_path(route.path)[0].match(request.url.path):
            methods |= set(route.methods)
    return ", ".join(sorted(methods))
