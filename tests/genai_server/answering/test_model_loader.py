"""Loading from a real registry and from a folder, with what is known about a version."""

from __future__ import annotations

import asyncio

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from genai_server.answering.model_loader import load_from_mlflow


@pytest.fixture(scope="module")
def registered(tmp_path_factory, saved_tiny):
    """(address of a SQLite registry with version 1 as @champion, and the folder it was registered from)."""
    base = tmp_path_factory.mktemp("registry")
    folder, uri = saved_tiny, f"sqlite:///{base / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri, uri)
    client.create_registered_model("tiny")
    for version in ("1", "2"):
        made = client.create_model_version(
            "tiny", f"file://{folder}", tags={"model": "tiny/gpt2", "weights_sha256": version * 64}
        )
        assert str(made.version) == version
    client.set_registered_model_alias("tiny", "champion", "2")
    yield uri, folder
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


@pytest.mark.parametrize(
    ("address", "version", "alias"),
    [("models:/tiny/1", "1", None), ("models:/tiny/2", "2", None), ("models:/tiny@champion", "2", "champion")],
)
def test_a_registered_version_with_what_the_registry_knows(registered, address, version, alias):
    uri, _ = registered
    loaded = load_from_mlflow(address, uri)
    assert (loaded.info.model, loaded.info.model_version, loaded.info.model_alias) == ("tiny", version, alias)
    assert loaded.info.model_uri == address and loaded.info.prompt == "qa-simple/3"
    assert (loaded.info.base_model, loaded.info.weights_sha256) == ("tiny/gpt2", version * 64)
    assert loaded.info.engine["name"] == "torch"
    answer = asyncio.run(loaded.answerer.ask({"question": "What is MLflow?"}, {"max_new_tokens": 8}))
    loaded.answerer.close()
    assert answer.token_ids == loaded.answerer.golden[0].token_ids


def test_an_alias_is_looked_up_anew_at_every_load(registered):
    uri, _ = registered
    client = mlflow.MlflowClient(uri, uri)
    client.set_registered_model_alias("tiny", "moving", "1")
    versions = []
    for version in ("2", None):
        loaded = load_from_mlflow("models:/tiny@moving", uri)
        versions.append(loaded.info.model_version)
        loaded.answerer.close()
        if version:
            client.set_registered_model_alias("tiny", "moving", version)
    assert versions == ["1", "2"]


def test_a_folder_has_a_name_and_no_version(registered):
    _, folder = registered
    loaded = load_from_mlflow(f"{folder}/", None)
    loaded.answerer.close()
    assert (loaded.info.model, loaded.info.model_version) == (folder.name, None)
    assert loaded.info.model_alias is loaded.info.run_id is loaded.info.weights_sha256 is None


@pytest.mark.parametrize("address", ["models:/tiny/9", "models:/tiny@nobody", "models:/nothing/1", "models:/tiny@"])
def test_what_is_not_registered_is_told(registered, address):
    with pytest.raises(MlflowException):
        load_from_mlflow(address, registered[0])


def test_a_folder_without_a_model_is_told(registered, tmp_path):
    with pytest.raises(MlflowException):
        load_from_mlflow(str(tmp_path), None)
