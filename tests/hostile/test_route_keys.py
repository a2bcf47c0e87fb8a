"""Every route of the app, asked without a key, with a caller's and with an admin's: who gets in is what is promised.

The routes come from the app itself. `-s` prints the table of what was answered, one row a route.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import mlflow
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from stand_in_server import wait_until
from starlette.routing import Mount

from genai_server.answering.model_loader import load_from_mlflow
from genai_server.http.app import create_app
from genai_server.settings import ServerSettings

CALLER, ADMIN, SECRET = "callers-key-1", "admins-key-1", "the-webhooks-secret"
SENT = {"no key": "", "caller's key": CALLER, "admin key": ADMIN}
PROBES = frozenset(
    ("/health", "/health/live", "/health/ready", "/livez", "/readyz", "/startupz", "/healthz", "/ping")
)  # fmt: skip
IN = "in"  # not refused for want of a key, whatever else the request lacks

Route = tuple[str, str]


def promised(method: str, path: str) -> tuple[str, str, str]:
    """What no key, a caller's and an admin's get, written down here a second time, on purpose."""
    if path in PROBES:
        return IN, IN, IN
    if path == "/admin/webhook":  # a signature stands in for a key, and none of these requests has one
        return "401", "401", "401"
    if path.startswith("/admin/") or (path.startswith("/prompts") and method in ("POST", "PUT", "DELETE")):
        return "401", "403", IN
    return "401", IN, IN


def every_route(app: FastAPI) -> Iterator[Route]:
    for route in iter_route_contexts(app.routes):
        original = getattr(route, "original_route", route)
        if isinstance(original, Mount):
            yield "GET", f"{original.path}/index.html"
            continue
        assert route.path and route.methods, f"a route of a kind that this test does not know: {original}"
        for method in route.methods:
            yield method, route.path


@pytest.fixture(scope="module")
def app_of(tmp_path_factory, saved_tiny) -> Iterator[Callable[..., FastAPI]]:
    """The app with these keys on a real model and an MLflow; only where the model lies is not looked up."""
    base = tmp_path_factory.mktemp("keys")
    mlflow.MlflowClient(f"sqlite:///{base / 'mlflow.db'}").search_experiments()  # makes the tables
    model = load_from_mlflow(str(saved_tiny), None)
    close, model.answerer.close = model.answerer.close, lambda: None  # it serves every app
    yield lambda **keys: create_app(settings_of(base, **keys), lambda *_: model)
    close()


def settings_of(base: Path, **keys: object) -> ServerSettings:
    return ServerSettings(
        model_uri="models:/m@champion", tracking_uri=f"sqlite:///{base / 'mlflow.db'}", webhook_secret=SECRET,
        prompt_refresh_s=0, prompt_file=str(base / "prompt.json"), feedback_file=str(base / "feedback.jsonl"), **keys,
    )  # fmt: skip


def answered(app: FastAPI) -> Mapping[Route, tuple[str, ...]]:
    """What each route answers to no key, a caller's key and an admin key."""
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200)
        return {route: tuple(outcome(client, route, key) for key in SENT.values()) for route in every_route(client.app)}


def outcome(client: TestClient, route: Route, key: str) -> str:
    method, path = route
    path = re.sub(r"{[^}]*}", "m", path)
    response = client.request(method, path, json={}, headers={"x-api-key": key} if key else {})
    assert response.status_code < 500, (route, response.text)
    if response.status_code not in (401, 403):
        return IN
    if response.content and not path.startswith(("/v1/", "/invocations")):
        problem = response.json()
        assert problem["status"] == response.status_code and problem["detail"].endswith(".")
    return str(response.status_code)


def table(outcomes: Mapping[Route, tuple[str, ...]]) -> str:
    """In Markdown, in order of the paths."""
    rows = [f"| `{method} {path}` | {' | '.join(outcomes[method, path])} |" for method, path in _sorted(outcomes)]
    below = "in: no key is missing. The webhook takes MLflow's signature in the place of a key."
    return "\n".join([f"| route | {' | '.join(SENT)} |", "|---|---|---|---|", *rows, "", below])


def _sorted(outcomes: Mapping[Route, tuple[str, ...]]) -> list[Route]:
    return sorted(outcomes, key=lambda route: (route[1], route[0]))


def test_each_key_opens_what_it_is_for(app_of):
    outcomes = answered(app_of(api_keys=(CALLER,), admin_keys=(ADMIN,)))
    print(f"\n\n{table(outcomes)}\n")  # noqa: T201 - what `-s` is for
    assert outcomes == {route: promised(*route) for route in outcomes}
    assert len(outcomes) > 35 and {got for row in outcomes.values() for got in row} == {"401", "403", IN}


def test_without_admin_keys_nobody_is_an_admin(app_of):
    for keys in ({"api_keys": (CALLER, ADMIN)}, {"api_keys": (CALLER,)}):
        outcomes = answered(app_of(**keys))
        for route in outcomes:
            no_key, caller, admin = promised(*route)
            known = "403" if admin != caller else admin
            assert outcomes[route] == (no_key, caller, known if len(keys["api_keys"]) == 2 else no_key), route


def test_admin_keys_alone_close_every_route(app_of):
    outcomes = answered(app_of(admin_keys=(ADMIN,)))
    for route in outcomes:
        no_key, _, admin = promised(*route)
        assert outcomes[route] == (no_key, no_key, admin), route


def test_without_keys_only_what_needs_an_admin_is_closed(app_of):
    outcomes = answered(app_of())
    for route in outcomes:
        _, caller, admin = promised(*route)
        assert outcomes[route] == ("403" if admin != caller else caller,) * 3, route


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", "/prompts/m"), ("POST", "/prompts/m/new"), ("BREW", "/prompts"), ("post", "/prompts"),
        ("GET", "/admin/"), ("GET", "/admin/new"), ("POST", "/admin//reload"), ("POST", "/admin/reload/"),
        ("OPTIONS", "/admin/reload"), ("HEAD", "/admin/rollback"),
    ],
)  # fmt: skip
def test_what_is_not_a_route_yet_is_closed_to_callers_already(app_of, method, path):
    with TestClient(app_of(api_keys=(CALLER,), admin_keys=(ADMIN,))) as client:
        assert client.request(method, path, headers={"x-api-key": CALLER}).status_code == 403
        assert client.request(method, path, headers={"x-api-key": ADMIN}).status_code in (404, 405, 422)


@pytest.mark.parametrize(
    "body", [b"", b"no json", b"x" * 2_000_000, b'{"version": "1"}', b'{"model_uri": "/tmp/theirs"}']
)
def test_a_callers_key_is_refused_before_the_body_is_read(app_of, body):
    with TestClient(app_of(api_keys=(CALLER,), admin_keys=(ADMIN,))) as client:
        for path in ("/admin/reload", "/prompts"):
            refused = client.post(path, content=body, headers={"x-api-key": CALLER})
            assert refused.status_code == 403 and refused.json()["code"] == "forbidden"
            assert refused.json()["detail"] == "This route needs an admin key. Send one of the server's ADMIN_KEYS."


def test_the_document_says_which_key_each_route_takes(app_of):
    with TestClient(app_of(api_keys=(CALLER,), admin_keys=(ADMIN,))) as client:
        document = client.get("/openapi.json", headers={"x-api-key": CALLER}).json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            schemes = {name for way in operation["security"] for name in way}
            assert schemes <= document["components"]["securitySchemes"].keys()
            no_key, caller, _ = promised(method.upper(), path)
            if no_key == IN or path == "/admin/webhook":
                assert not schemes, (method, path)
            elif caller == "403":
                assert schemes == {"admin-bearer", "admin-key", "admin-password"} and "403" in operation["responses"]
                assert "ADMIN_KEYS" in operation["description"]
            else:
                assert schemes == {"bearer", "key", "password"} and "403" not in operation["responses"], (method, path)
