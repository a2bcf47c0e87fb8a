"""MLflow's webhook: signed by MLflow's own function, and delivered by a real `mlflow server`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import httpx
import mlflow_server
import pytest
from conftest import StandIn, free_port
from fastapi.testclient import TestClient
from listening import listening
from mlflow import MlflowClient
from mlflow.entities.webhook import WebhookAction, WebhookEntity, WebhookEvent
from mlflow.webhooks.delivery import _generate_hmac_signature
from stand_in_server import wait_until

from genai_server.answering.answerers import ThreadAnswerer
from genai_server.answering.predictor import LoadedModel
from genai_server.errors import BadQuestion, Conflict, WrongSignature
from genai_server.http.app import create_app
from genai_server.http.webhook import TOLERANCE_S, AliasFollower, check, version_moved_to
from genai_server.model_info import ModelInfo
from genai_server.settings import ServerSettings

SECRET, KEY, NOW = "the-webhooks-secret", "secret-key-1", 1_800_000_000
FOLLOWED = ("m", "champion")
PATH = "/admin/webhook"


def event(name: str = "m", alias: str = "champion", version: str = "2", **other) -> bytes:
    data = {"name": name, "alias": alias, "version": version}
    return json.dumps({"entity": "model_version_alias", "action": "created", "data": data} | other).encode()


def signed(body: bytes, secret: str = SECRET, at: float = NOW, delivery_id: str = "d-1") -> dict[str, str]:
    """The headers that MLflow sends, its own function signing."""
    timestamp = str(int(at))
    return {
        "X-MLflow-Delivery-Id": delivery_id, "X-MLflow-Timestamp": timestamp, "Content-Type": "application/json",
        "X-MLflow-Signature": _generate_hmac_signature(secret, delivery_id, timestamp, body.decode()),
    }  # fmt: skip


# --- is it genuine ---


@pytest.mark.parametrize("away_s", [0, TOLERANCE_S, -TOLERANCE_S])
def test_what_mlflow_signed_within_minutes_is_genuine(away_s):
    check(SECRET, signed(event()), event(), NOW + away_s)


@pytest.mark.parametrize("away_s", [TOLERANCE_S + 1, -TOLERANCE_S - 1, 10**9])
def test_an_old_one_is_refused(away_s):
    with pytest.raises(WrongSignature, match="old"):
        check(SECRET, signed(event()), event(), NOW + away_s)


@pytest.mark.parametrize(
    "changed",
    [
        {"X-MLflow-Delivery-Id": "d-2"}, {"X-MLflow-Timestamp": str(NOW + 1)}, {"X-MLflow-Timestamp": "soon"},
        {"X-MLflow-Signature": ""}, {"X-MLflow-Signature": "v1,"}, {"X-MLflow-Signature": "v1,\u00e4"},
        {"X-MLflow-Signature": signed(event())["X-MLflow-Signature"].removeprefix("v1,")},
        {"X-MLflow-Signature": signed(event(), secret="another-secret")["X-MLflow-Signature"]},
        {"X-MLflow-Signature": signed(event(version="3"))["X-MLflow-Signature"]},
    ],
)  # fmt: skip
def test_any_change_is_a_wrong_signature(changed):
    with pytest.raises(WrongSignature, match="signature"):
        check(SECRET, signed(event()) | changed, event(), NOW)


def test_without_its_headers_it_is_refused():
    with pytest.raises(WrongSignature):
        check(SECRET, {}, event(), NOW)


# --- is it about us ---


def test_the_version_that_our_alias_names_now():
    assert version_moved_to(event(), FOLLOWED) == "2"


@pytest.mark.parametrize(
    "body",
    [
        event(name="other"), event(alias="candidate"), event(action="deleted"), event(entity="model_version"),
        event(entity="prompt_alias"), b'{"entity": "registered_model", "action": "created", "data": {"name": "m"}}',
    ],
)  # fmt: skip
def test_other_events_are_not_about_us(body):
    assert version_moved_to(body, FOLLOWED) is None


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"5", b"{}", event(data=None), event(data={"name": "m"})])
def test_what_is_no_event_is_a_bad_request(body):
    with pytest.raises(BadQuestion, match="no event"):
        version_moved_to(body, FOLLOWED)


# --- following it ---


class Predictor:
    """Counts the reloads; each takes until it is let go."""

    def __init__(self, error: Exception | None = None):
        self.error, self.reloads, self.go_on = error, 0, asyncio.Event()

    async def reload(self, *, waits: bool):
        assert waits
        self.reloads += 1
        await self.go_on.wait()
        if self.error:
            raise self.error


@pytest.mark.parametrize(("moves", "reloads"), [(1, 1), (2, 2), (5, 2)])
def test_moves_during_a_load_are_followed_by_one_more(moves, reloads):
    async def scenario():
        predictor = Predictor()
        follower = AliasFollower(predictor)
        for _ in range(moves):
            follower.follow()
            await asyncio.sleep(0)
        assert predictor.reloads == 1
        predictor.go_on.set()
        await follower._following
        return predictor.reloads

    assert asyncio.run(scenario()) == reloads


def test_a_version_that_cannot_be_served_is_logged_and_the_next_move_followed(caplog):
    async def scenario():
        predictor = Predictor(Conflict("The version cannot be served: golden.", "The running one goes on."))
        predictor.go_on.set()
        follower = AliasFollower(predictor)
        for _ in range(2):
            follower.follow()
            await follower._following
        return predictor.reloads

    assert asyncio.run(scenario()) == 2 and "golden" in caplog.text


# --- over HTTP ---


class Registry:
    """The alias names one of its versions; `loads` counts what was loaded."""

    def __init__(self):
        self.version, self.loads = "1", 0

    def load(self, uri: str, tracking_uri: str | None) -> LoadedModel:
        assert uri == "models:/m@champion"
        self.loads += 1
        info = ModelInfo("m", uri, self.version)
        return LoadedModel(StandIn({"answer": self.version}), info)

    def resolve(self, uri: str, tracking_uri: str | None) -> str:
        return f"models:/m/{self.version}"


@pytest.fixture
def registry():
    return Registry()


def client_of(registry: Registry, **settings) -> TestClient:
    given = {"model_uri": "models:/m@champion", "webhook_secret": SECRET, "api_keys": (KEY,)} | settings
    return TestClient(create_app(ServerSettings(**given), registry.load, resolve_model=registry.resolve))


@pytest.fixture
def client(registry):
    with client_of(registry) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200, 60)
        yield client


def send(client: TestClient, body: bytes, **signing) -> httpx.Response:
    return client.post(PATH, content=body, headers=signed(body, at=time.time(), **signing))


def version(client: TestClient) -> str:
    return client.get("/health/live").headers["x-model-version"]


def test_a_moved_alias_is_loaded_without_a_key(client, registry):
    registry.version = "2"
    response = send(client, event())
    assert response.status_code == 202 and response.json()["status"] == "loading" and "2" in response.json()["detail"]
    wait_until(lambda: version(client) == "2", 60)


def test_one_that_is_sent_again_is_ignored(client, registry):
    registry.version = "2"
    headers = signed(event(), at=time.time())
    assert client.post(PATH, content=event(), headers=headers).status_code == 202
    wait_until(lambda: version(client) == "2", 60)
    registry.version = "3"
    again = client.post(PATH, content=event(), headers=headers)
    assert again.status_code == 200 and again.json() == {"status": "ignored", "detail": "This webhook came before."}
    assert registry.loads == 2


def test_an_event_about_something_else_loads_nothing(client, registry):
    for body in (event(alias="candidate"), event(name="other"), event(action="deleted")):
        response = send(client, body)
        assert response.status_code == 200 and response.json()["status"] == "ignored"
    assert registry.loads == 1


def test_a_wrong_signature_loads_nothing_and_a_key_does_not_stand_in_for_it(client, registry):
    assert send(client, event(), secret="another-secret").status_code == 401
    for headers in ({}, {"x-api-key": KEY}):
        refused = client.post(PATH, content=event(), headers=headers)
        assert refused.status_code == 401 and refused.json()["code"] == "invalid_signature"
    assert registry.loads == 1


def test_a_signed_body_that_is_no_event_is_a_bad_request(client):
    assert send(client, b"{}").status_code == 400


def test_without_a_secret_there_is_no_such_route(registry):
    with client_of(registry, webhook_secret="") as client:
        assert send(client, event()).status_code == 401  # as every unknown path without a key
        assert client.post(PATH, content=event(), headers={"x-api-key": KEY}).status_code == 403  # below /admin
        assert PATH not in client.get("/openapi.json", headers={"x-api-key": KEY}).json()["paths"]
    with client_of(registry, webhook_secret="", api_keys=()) as client:
        assert send(client, event()).status_code == 403


def test_it_works_without_keys_too(registry):
    with client_of(registry, api_keys=()) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200, 60)
        assert send(client, event()).status_code == 202
        assert client.post("/admin/reload", json={}).status_code == 403


# --- from a real MLflow server ---


class Pyfunc:
    def predict(self, questions, params):
        return [item["question"] for item in questions]


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory) -> Iterator[str]:
    """One that may reach addresses of this machine, which it refuses by default."""
    base = tmp_path_factory.mktemp("mlflow")
    environment = {"MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true"}
    environment["MLFLOW_WEBHOOK_CACHE_TTL"] = "0"  # else it does not know a new webhook for a minute
    flags = [
        "--backend-store-uri", f"sqlite:///{base / 'mlflow.db'}", "--artifacts-destination", str(base / "artifacts"),
        "--host", "127.0.0.1", "--port", str(free_port()), "--workers", "1",
    ]  # fmt: skip
    with mlflow_server.running(flags, base / "log", environment) as url:
        yield url


@pytest.fixture
def served(mlflow_url) -> Iterator[tuple[str, MlflowClient]]:
    """Our server, following the alias in that MLflow; only the loading of the weights is left out."""
    store = MlflowClient(mlflow_url, mlflow_url)
    store.create_registered_model("m")
    for _ in range(2):
        store.create_model_version("m", "s3://nowhere/m")
    store.set_registered_model_alias("m", "champion", "1")

    def load(uri, tracking_uri):
        found = store.get_model_version_by_alias("m", "champion")
        info = ModelInfo("m", uri, str(found.version))
        return LoadedModel(ThreadAnswerer(Pyfunc()), info)

    settings = ServerSettings(
        model_uri="models:/m@champion", tracking_uri=mlflow_url, webhook_secret=SECRET, api_keys=(KEY,)
    )
    with listening(create_app(settings, load)) as url:
        yield url, store


def test_an_alias_that_moves_in_mlflow_moves_the_server(served):
    url, store = served
    moved = WebhookEvent(WebhookEntity.MODEL_VERSION_ALIAS, WebhookAction.CREATED)
    hook = store.create_webhook("serving", f"{url}{PATH}", [moved], secret=SECRET)
    tried = store.test_webhook(hook.webhook_id)
    assert tried.success and tried.response_status == 200 and "ignored" in tried.response_body  # its example's model
    store.set_registered_model_alias("m", "candidate", "2")
    store.set_registered_model_alias("m", "champion", "2")
    wait_until(lambda: httpx.get(f"{url}/livez").headers["x-model-version"] == "2", 60)
