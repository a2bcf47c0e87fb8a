"""Deny by default: every route of the app, walked, and the three ways to show a key."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from genai_server.answering.answerers import ThreadAnswerer
from genai_server.answering.predictor import LoadedModel
from genai_server.http.app import create_app
from genai_server.http.security import OPEN_PATHS, WEBHOOK_PATH
from genai_server.model_info import ModelInfo
from genai_server.settings import ServerSettings

KEYS = ("first-key-1234", "second-key-1234")
INFO = ModelInfo(model="m", model_version="7", prompt="")


class Pyfunc:
    def predict(self, questions, params):
        return [item["question"] for item in questions]


def app_of(**settings) -> FastAPI:
    return create_app(ServerSettings(**settings), lambda *_: LoadedModel(ThreadAnswerer(Pyfunc()), INFO))


@pytest.fixture(scope="module")
def client():
    with TestClient(app_of(api_keys=KEYS), raise_server_exceptions=False, follow_redirects=False) as client:
        yield client


def every_route(app: FastAPI) -> Iterator[tuple[str, str]]:
    """(method, a path that matches) of every route, every file of a mounted folder among them."""
    for route in iter_route_contexts(app.routes):
        original = getattr(route, "original_route", route)
        if isinstance(original, Mount):
            assert isinstance(original.app, StaticFiles), "teach this test to walk the new mount"
            for folder in original.app.all_directories:
                yield from (
                    ("GET", f"{original.path}/{file.relative_to(folder)}") for file in files_below(folder)
                )  # fmt: skip
            yield from (("GET", original.path), ("GET", f"{original.path}/"))
            continue
        assert route.path and route.methods, f"a route of a kind that this test does not know: {original}"
        for method in {*route.methods, "HEAD", "OPTIONS"}:
            yield method, route.path.replace("{name:path}", "m").replace("{name}", "m").replace("{alias}", "m")


def files_below(folder) -> list:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_no_route_but_the_open_ones_answers_without_a_key(client):
    walked = list(every_route(client.app))
    paths = {path for _, path in walked}
    assert not any("{" in path for path in paths), "a path parameter that this test does not fill in"
    # the walk has seen the routes of every module, and the mount
    assert {"/ask", "/ask/stream", "/v1/chat/completions", "/v1/models/m", "/invocations", "/feedback"} <= paths
    assert {"/metrics", "/admin/reload", "/docs", "/openapi.json", "/", "/static/swagger/swagger-ui.css"} <= paths
    open_to_all = {
        (method, path) for method, path in walked if client.request(method, path).status_code != 401
    }  # fmt: skip
    assert {path for _, path in open_to_all} <= OPEN_PATHS
    assert OPEN_PATHS <= paths


def test_a_page_of_an_allowed_origin_may_use_every_method_that_a_route_has():
    """A browser asks before each PUT and DELETE whether it may, and without a key."""
    origin = "https://a.example"
    with TestClient(app_of(api_keys=KEYS, cors_origins=(origin,))) as client:
        walked = {(method, path) for method, path in every_route(client.app) if method not in ("HEAD", "OPTIONS")}
        assert {"PUT", "DELETE"} <= {method for method, _ in walked}
        for method, path in walked:
            asked = {"origin": origin, "access-control-request-method": method,
                     "access-control-request-headers": "authorization,content-type"}  # fmt: skip
            assert client.options(path, headers=asked).status_code == 200, (method, path)


def test_the_webhook_is_signed_and_the_only_route_that_a_secret_adds():
    settings = {"api_keys": KEYS, "webhook_secret": "the-webhooks-secret", "model_uri": "models:/m@champion"}
    app, without = app_of(**settings), app_of(**settings | {"webhook_secret": ""})
    assert set(every_route(app)) - set(every_route(without)) == {
        (method, WEBHOOK_PATH) for method in ("POST", "HEAD", "OPTIONS")
    }
    with TestClient(app, raise_server_exceptions=False) as client:
        open_to_all = {path for method, path in every_route(app) if client.request(method, path).status_code < 400}
        assert open_to_all <= OPEN_PATHS
        unsigned = client.post(WEBHOOK_PATH, json={})
        assert unsigned.status_code == 401 and unsigned.json()["code"] == "invalid_signature"


def test_what_is_open_tells_no_secret_and_runs_nothing(client):
    for path in OPEN_PATHS:
        assert client.get(path).status_code in (200, 503)
        text = client.get(path).text
        assert not any(key in text for key in KEYS)
        assert client.post(path).status_code == 405


@pytest.mark.parametrize(
    "path", ["/nothing", "/Health", "/health/", "/health/../ask", "//ask", "/ask/", "/docs/oauth2"]
)
def test_unknown_and_crooked_paths_are_closed_too(client, path):
    assert client.get(path).status_code == 401


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_taken_as_bearer_header_or_password(client, key):
    for headers in (
        {"authorization": f"Bearer {key}"}, {"authorization": f"bearer {key}"}, {"x-api-key": key},
        {"authorization": basic("anybody", key)}, {"authorization": basic("", key)},
        # a proxy's own Authorization, or one that a browser still has
        {"authorization": basic("proxy", "its-password"), "x-api-key": key},
        {"authorization": "Bearer of-the-proxy", "x-api-key": key}, {"authorization": "", "x-api-key": key},
        {"authorization": f"Bearer {key}", "x-api-key": "wrong-key-1234"},
        [("authorization", basic("proxy", "its-password")), ("authorization", f"Bearer {key}")],
        [("x-api-key", "wrong-key-1234"), ("x-api-key", key)],
    ):  # fmt: skip
        answered = client.post("/ask", json={"question": "a"}, headers=headers)
        assert answered.status_code == 200, headers


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"authorization": ""}, {"authorization": "Bearer"}, {"authorization": "Bearer "},
        {"authorization": "Bearer wrong-key-1234"}, {"authorization": f"Bearer {KEYS[0][:-1]}"},
        {"authorization": f"Bearer {KEYS[0]}x"}, {"authorization": f"Bearer {KEYS[0].upper()}"},
        {"authorization": f"Bearer {','.join(KEYS)}"}, {"authorization": f"Token {KEYS[0]}"},
        {"authorization": KEYS[0]}, {"x-api-key": ""}, {"x-api-key": "wrong-key-1234"},
        {"authorization": basic(KEYS[0], "wrong-key-1234")}, {"authorization": basic(KEYS[0], "")},
        {"authorization": "Basic !!!"}, {"authorization": "Basic /w=="},
        {"x-api-key": "sch\u00fcssel".encode("latin-1")}, {"cookie": f"api_key={KEYS[0]}"},
        {"authorization": basic("proxy", "its-password"), "x-api-key": "wrong-key-1234"},
    ],
)  # fmt: skip
def test_a_wrong_key_is_no_key(client, headers):
    refused = client.post("/ask", json={"question": "a"}, headers=headers)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert "Basic" in refused.headers["www-authenticate"]  # a browser then asks the person
    assert refused.json()["code"] == "invalid_api_key" and not any(key in refused.text for key in KEYS)


def test_a_key_in_the_address_is_none(client):
    assert client.get("/metrics", params={"api_key": KEYS[0], "key": KEYS[0]}).status_code == 401


def test_the_keys_are_looked_at_before_the_body(client):
    for body in (b"not json", b"x" * 2_000_000):
        assert client.post("/ask", content=body).status_code == 401


def test_keys_from_a_file_and_from_the_environment_count_alike(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# of the team\nfirst-from-file\n\n  second-from-file  \n")
    settings = ServerSettings.from_env({"API_KEYS": "from-the-environment", "API_KEYS_FILE": str(file)})
    with TestClient(app_of(api_keys=settings.api_keys)) as client:
        for key in ("first-from-file", "second-from-file", "from-the-environment"):
            assert client.get("/docs", headers={"x-api-key": key}).status_code == 200
        for key in ("# of the team", "", "  second-from-file  x"):
            assert client.get("/docs", headers={"x-api-key": key}).status_code == 401
