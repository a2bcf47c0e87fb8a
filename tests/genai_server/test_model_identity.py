"""MODEL_INFO_FILE: who a model is that is served from a folder."""

from __future__ import annotations

import json

import pytest

from genai_server.errors import SettingsError
from genai_server.registry import _told
from genai_server.settings import model_identity

MANIFEST = {
    "model": {"name": "m", "version": "3", "alias": "champion", "uri": "models:/m/3"},
    "run_id": "r1", "base_model": "gpt2", "weights_sha256": "0" * 64, "files": {},
}  # fmt: skip


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(MANIFEST))
    monkeypatch.setenv("MODEL_INFO_FILE", str(path))
    monkeypatch.setenv("MLFLOW_MODEL_URI", "/app/model")
    return path


def test_the_folder_that_the_server_was_started_with(manifest):
    assert _told("/app/model") == {
        "model": "m", "model_version": "3", "model_alias": "champion", "run_id": "r1", "base_model": "gpt2",
        "weights_sha256": "0" * 64,
    }  # fmt: skip


def test_other_models_are_not_mistaken_for_it(manifest, monkeypatch):
    assert _told("/app/other") == {}
    monkeypatch.setenv("MLFLOW_MODEL_URI", "models:/m@champion")
    assert _told("models:/m@champion") == {}


def test_no_file_is_named():
    assert model_identity({}) == model_identity({"MODEL_INFO_FILE": ""}) == {}


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model": "m"}', '{"model": {"version": "3"}}'])
def test_a_file_that_tells_nothing_is_named(tmp_path, text):
    (tmp_path / "file").write_text(text)
    for path in (tmp_path / "file", tmp_path / "missing"):
        with pytest.raises(SettingsError, match="MODEL_INFO_FILE"):
            model_identity({"MODEL_INFO_FILE": str(path)})
