"""Loads a model from MLflow's registry or from a folder, with what is known about it. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from genai_server.answering.answerers import answerer_of
from genai_server.answering.predictor import LoadedModel


def load_from_mlflow(model_uri: str, tracking_uri: str | None) -> LoadedModel:
    """Load a registered version or a folder. Raises MlflowException when it does not exist."""
    import mlflow

    if tracking_uri:
        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_registry_uri(tracking_uri)
    answerer = answerer_of(mlflow.pyfunc.load_model(model_uri))
    info = _info(model_uri, answerer.prompt) | {"engine": dict(answerer.describe())}
    return LoadedModel(answerer, info)


def resolve(model_uri: str, tracking_uri: str | None) -> str:
    """Address of the version that an alias names now; any other address as it stands."""
    import mlflow

    name, separator, alias = model_uri.removeprefix("models:/").partition("@")
    if not model_uri.startswith("models:/") or not separator:
        return model_uri
    version = mlflow.MlflowClient(tracking_uri, tracking_uri).get_model_version_by_alias(name, alias)
    return f"models:/{name}/{version.version}"


def _info(model_uri: str, prompt: Mapping[str, Any]) -> dict[str, Any]:
    info = {
        "model": model_uri.rstrip("/").rpartition("/")[2],
        "model_uri": model_uri,
        "model_version": None,
        "model_alias": None,
        "prompt": f"{prompt.get('name')}/{prompt.get('version')}" if prompt else "",
        "turn_format": prompt.get("turn_format"),
        "run_id": None,
        "base_model": None,
        "weights_sha256": None,
    }
    return info | _registered(model_uri)


def _registered(model_uri: str) -> dict[str, Any]:
    """What the registry knows of a `models:/NAME/VERSION` or `models:/NAME@ALIAS` address."""
    import mlflow

    name, separator, alias = model_uri.removeprefix("models:/").partition("@")
    name, _, number = name.partition("/")
    if not model_uri.startswith("models:/") or not (alias or number):
        return {}
    client = mlflow.MlflowClient()
    found = client.get_model_version_by_alias(name, alias) if separator else client.get_model_version(name, number)
    return {
        "model": name,
        "model_version": str(found.version),
        "model_alias": alias or None,
        "run_id": found.run_id,
        "base_model": found.tags.get("model"),
        "weights_sha256": found.tags.get("weights_sha256"),
    }


def as_told(loaded: LoadedModel, identity: Mapping[str, Any]) -> LoadedModel:
    """A model from a folder, with what MODEL_INFO_FILE says of it; where that says nothing, as it was."""
    if not identity:
        return loaded
    model = identity["model"]
    told = {"model": model.get("name"), "model_version": model.get("version"), "model_alias": model.get("alias")}
    told |= {name: identity.get(name) for name in ("run_id", "base_model", "weights_sha256")}
    return replace(loaded, info={**loaded.info, **told})
