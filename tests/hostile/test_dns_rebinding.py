"""A web page whose own name was made to point here asks with that name in the Host header: it gets nothing.

Only for this machine the server answers to localhost's names alone; a container that is published on a loopback
address likewise.
"""

from __future__ import annotations

import pytest
from conftest import StandIn
from fastapi.testclient import TestClient

from genai_server.answering.predictor import LoadedModel
from genai_server.http.app import create_app
from genai_server.model_info import ModelInfo
from genai_server.settings import ServerSettings

INFO = ModelInfo(model="m", model_version="1", prompt="")
THEIRS = [
    "evil.example", "evil.example:5001", "localhost.evil.example", "127.0.0.1.evil.example", "evil.example:127.0.0.1",
    "localhost.", "localhost@evil.example", "0.0.0.0", "127.1", "[::ffff:127.0.0.1]", "[::2]", "2130706433", "",
]  # fmt: skip
OURS = ["localhost", "LOCALHOST:5001", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:5001"]
ONLY_HERE = [{}, {"HOST": "::1"}, {"HOST": "localhost"}, {"HOST": "0.0.0.0", "PUBLISHED_HOST": "127.0.0.1"}]


def client_of(environment: dict[str, str]) -> TestClient:
    settings = ServerSettings.from_env(environment)
    return TestClient(create_app(settings, lambda *_: LoadedModel(StandIn({"answer": "a"}), INFO)))


@pytest.mark.parametrize("environment", ONLY_HERE)
def test_only_localhosts_names_are_answered_to(environment):
    with client_of(environment) as client:
        for path in ("/", "/livez", "/openapi.json", "/prompts", "/nothing", "/ask", "/admin/reload"):
            for host in THEIRS:
                refused = client.post(path, json={"question": "a"}, headers={"host": host})
                assert refused.status_code == 400 and refused.json()["code"] == "unknown_host", (path, host)
                assert "ALLOWED_HOSTS" in refused.json()["detail"]
        for host in OURS:
            assert client.get("/livez", headers={"host": host}).status_code == 200, host


def test_the_address_it_listens_on_is_a_name_of_ours():
    with client_of({"HOST": "127.0.0.5"}) as client:
        for host, status in (("127.0.0.5:5001", 200), ("localhost", 200), ("127.0.0.6", 400)):
            assert client.get("/livez", headers={"host": host}).status_code == status


def test_a_name_that_is_allowed_comes_beside_localhosts():
    with client_of({"ALLOWED_HOSTS": "model.example,*.inner.example"}) as client:
        for host in ("model.example", "a.inner.example:80", *OURS):
            assert client.get("/livez", headers={"host": host}).status_code == 200, host
        for host in ("inner.example", *THEIRS):
            assert client.get("/livez", headers={"host": host}).status_code == 400, host


@pytest.mark.parametrize("environment", [{"ALLOWED_HOSTS": "*"}, {"HOST": "0.0.0.0", "API_KEYS": "a-key-of-this-test"}])
def test_every_name_where_that_was_said_or_where_keys_protect_it(environment):
    with client_of(environment) as client:
        for host in ("evil.example", "", *OURS):
            assert client.get("/livez", headers={"host": host}).status_code == 200, host
