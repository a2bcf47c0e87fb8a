"""MODEL_INFO_FILE: who a model is that is served from a folder."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict

import pytest
from conftest import StandIn
from fastapi import FastAPI

from genai_server.answering.predictor import LoadedModel
from genai_server.errors import SettingsError
from genai_server.http.app import create_app
from genai_server.model_info import ModelInfo
from genai_server.runtime.environment import model_identity
from genai_server.settings import ServerSettings

MANIFEST = {
    "model": {"name": "m", "version": "3", "alias": "champion", "uri": "models:/m/3"},
    "run_id": "r1", "base_model": "gpt2", "weights_sha256": "0" * 64, "files": {},
}  # fmt: skip


FOLDER = "/app/model"
TOLD = {"model": "m", "model_version": "3", "model_alias": "champion", "run_id": "r1", "base_model": "gpt2"}


@pytest.fixture
def environment(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(MANIFEST))
    return {"MODEL_INFO_FILE": str(path), "MLFLOW_MODEL_URI": FOLDER}


def loaded(uri: str, tracking_uri: str | None) -> LoadedModel:
    return LoadedModel(StandIn({}), ModelInfo(model="model", model_uri=uri, model_version=None, prompt="p/1"))


def info_of(app: FastAPI, uri: str | None = None) -> dict[str, object]:
    """Of the model the server was started with, or of another one that was loaded later."""
    predictor = app.state.serving.predictor
    asyncio.run(predictor.start() if uri is None else predictor.reload(uri))
    return asdict(predictor.model.info)


def test_the_folder_that_the_server_was_started_with(environment, monkeypatch):
    app = create_app(ServerSettings.from_env(environment), loaded)
    monkeypatch.setenv("MODEL_INFO_FILE", "/nothing")  # the environment was read once, at the start
    info = info_of(app)
    assert TOLD.items() <= info.items() and info["weights_sha256"] == "0" * 64
    assert (info["model_uri"], info["prompt"]) == (FOLDER, "p/1")
    assert info_of(app, FOLDER) == info


def test_other_models_are_not_mistaken_for_it(environment):
    app = create_app(ServerSettings.from_env(environment), loaded)
    assert info_of(app, "/app/other")["model"] == "model"
    app = create_app(ServerSettings.from_env(environment | {"MLFLOW_MODEL_URI": "models:/m@champion"}), loaded)
    assert info_of(app)["model"] == "model"


def test_no_file_is_named():
    assert model_identity({}) is model_identity({"MODEL_INFO_FILE": ""}) is None


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model": "m"}', '{"model": {"version": "3"}}'])
def test_a_file_that_tells_nothing_is_named(tmp_path, text):
    (tmp_path / "file").write_text(text)
    for path in (tmp_path / "file", tmp_path / "missing"):
        with pytest.raises(SettingsError, match="MODEL_INFO_FILE"):
            model_identity({"MODEL_INFO_FILE": str(path)})
