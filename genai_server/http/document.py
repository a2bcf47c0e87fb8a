"""The OpenAPI document beyond what FastAPI knows: who answers, which key each route asks for, and every error in the
shape of its route's family (`problems.py`)."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from fastapi import FastAPI

from genai_server.http.problems import MLFLOW_PATH, OPENAI_PREFIX
from genai_server.http.security import OPEN_PATHS, WEBHOOK_PATH, needs_admin_key

TITLE = "Causal language model server"
DESCRIPTION = "Answers questions with a model from MLflow's registry. Errors are problem+json (RFC 9457)."
JSON, PROBLEM, TEXT = "application/json", "application/problem+json", "text/plain"

_ERRORS = {
    400: "The request is wrong, or meant for another host.", 401: "No key, or a wrong one.",
    403: "It takes an admin key.", 404: "Another model was named.", 409: "It cannot be done now.",
    413: "The body is too large, or has too many questions.", 415: "Another content type is wanted.",
    422: "A field is wrong.",
    429: "Too many questions wait already; ask again after Retry-After.",
    503: "The model is loading, the server is stopping, or it cannot store this; ask again after Retry-After.",
    504: "A model without batching of its own did not answer in time.",
}  # fmt: skip
_STRING, _NULLABLE = {"type": "string"}, {"type": ["string", "null"]}
_SCHEMAS = {
    "OpenAIError": {
        "type": "object", "description": "An error, as OpenAI's clients read it.", "required": ["error"],
        "properties": {
            "error": {
                "type": "object", "required": ["message", "type", "param", "code"],
                "properties": {"message": _STRING, "type": _STRING, "param": _NULLABLE, "code": _NULLABLE},
            }
        },
    },
    "MLflowError": {
        "type": "object", "description": "An error, as MLflow's clients read it.",
        "required": ["error_code", "message"], "properties": {"error_code": _STRING, "message": _STRING},
    },
}  # fmt: skip
_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}


def _ways_to_send(prefix: str, whose: str) -> dict[str, dict[str, str]]:
    return {
        f"{prefix}bearer": {"type": "http", "scheme": "bearer", "description": whose},
        f"{prefix}key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": whose},
        f"{prefix}password": {"type": "http", "scheme": "basic", "description": f"{whose} As the password; any name."},
    }


_KEYS = _ways_to_send("", "One of API_KEYS, or of ADMIN_KEYS.")
_ADMIN_KEYS = _ways_to_send("admin-", "One of ADMIN_KEYS.")


def openapi_document(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """In place of `app.openapi`: FastAPI's document, completed once, with the name of the model that answers now."""
    generate: Callable[[], dict[str, Any]] = app.openapi
    cached: list[dict[str, Any]] = []

    def document() -> dict[str, Any]:
        if not cached:
            cached.append(_complete(deepcopy(generate()), app.state.settings.has_keys))
        model = app.state.serving.predictor.model
        answering = f" Now answering: {model.info}." if model else ""
        return cached[0] | {"info": cached[0]["info"] | {"description": DESCRIPTION + answering}}

    return document


def _complete(document: dict[str, Any], asks_for_keys: bool) -> dict[str, Any]:
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(_SCHEMAS)
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which we never send
        components["schemas"].pop(name, None)
    for schema in components["schemas"].values():
        _correct(schema)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _add_summary(operation)
            _add_errors(path, method, operation)
            _add_keys(path, method, operation, asks_for_keys)
    components["securitySchemes"] = _ADMIN_KEYS | (_KEYS if asks_for_keys else {})
    return document


def _add_keys(path: str, method: str, operation: dict[str, Any], asks_for_keys: bool) -> None:
    """Which key the route asks for. An admin key also where there is none: such a route is closed, never open."""
    if _takes_admin_key(path, method):
        operation["security"] = [{name: []} for name in _ADMIN_KEYS]
        operation["description"] += " Needs one of the server's ADMIN_KEYS."
    elif asks_for_keys:
        is_open = path in OPEN_PATHS or path == WEBHOOK_PATH
        operation["security"] = [] if is_open else [{name: []} for name in _KEYS]


def _takes_admin_key(path: str, method: str) -> bool:
    return path != WEBHOOK_PATH and needs_admin_key(method.upper(), path)


def _correct(schema: Any) -> None:
    """Two things that FastAPI leaves inexact: a mapping whose keys have a pattern takes no other keys, and a bound like
    2**63 is no rounded float."""
    if isinstance(schema, dict):
        if "patternProperties" in schema:
            schema.setdefault("additionalProperties", False)
        for name in _BOUNDS & schema.keys():
            if isinstance(schema[name], float) and schema[name].is_integer():
                schema[name] = int(schema[name])
        for part in schema.values():
            _correct(part)
    elif isinstance(schema, list):
        for part in schema:
            _correct(part)


def _add_summary(operation: dict[str, Any]) -> None:
    """In the list of routes, in place of the function's name."""
    operation["summary"] = operation["description"].partition(".")[0]


def _add_errors(path: str, method: str, operation: dict[str, Any]) -> None:
    """What the routes name stays: their statuses, in the family's shape; every route may meet a wrong host or key."""
    responses = operation["responses"]
    responses.update(
        {
            str(status): {"description": _ERRORS[status], "content": _content(path, status)}
            for status in _statuses(path, method, operation)
        }
    )
    if path.startswith(OPENAI_PREFIX):
        responses.pop("422", None)  # 400 there
    operation["responses"] = dict(sorted(responses.items()))


def _statuses(path: str, method: str, operation: dict[str, Any]) -> set[int]:
    """Statuses of errors: those that the route names, those of its family, and what every route may meet."""
    if path in OPEN_PATHS:  # a probe's 503 is its own
        return {400}
    statuses = {400, 401} | {int(status) for status in operation["responses"] if int(status) in _ERRORS}
    statuses |= {403} if _takes_admin_key(path, method) else set()
    statuses |= {413} if "requestBody" in operation else set()
    if path.startswith(OPENAI_PREFIX):
        statuses = statuses - {422} | ({404, 429, 503, 504} if method == "post" else {404, 503})
    return statuses | {415, 429, 503, 504} if path == MLFLOW_PATH else statuses


def _content(path: str, status: int) -> dict[str, Any]:
    if path.startswith(OPENAI_PREFIX):
        media, schema = JSON, "OpenAIError"
    elif path == MLFLOW_PATH:
        media, schema = JSON, "MLflowError"
    else:
        media, schema = PROBLEM, "Problem"
    content = {media: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return content | {TEXT: {"schema": _STRING}} if (path, status) == (MLFLOW_PATH, 415) else content
