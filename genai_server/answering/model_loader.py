"""Loads a model from MLflow's registry or from a folder, with what is known about it. Knows no HTTP."""

from __future__ import annotations

from dataclasses import replace

from genai_server.answering.answerers import answerer_of
from genai_server.answering.predictor import LoadedModel
from genai_server.model_info import ModelIdentity, ModelInfo


def load_from_mlflow(model_uri: str, tracking_uri: str | None) -> LoadedModel:
    """Load a registered version or a folder. Raises MlflowException when it does not exist."""
    import mlflow

    if tracking_uri:
        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_registry_uri(tracking_uri)
    answerer = answerer_of(mlflow.pyfunc.load_model(model_uri))
    prompt = answerer.prompt
    info = ModelInfo(
        model=model_uri.rstrip("/").rpartition("/")[2], model_uri=model_uri, engine=answerer.describe(),
        prompt=str(prompt) if prompt else "", turn_format=prompt.turn_format if prompt else None,
    )  # fmt: skip
    return with_identity(LoadedModel(answerer, info), _registered_identity(model_uri))


def with_identity(loaded: LoadedModel, identity: ModelIdentity | None) -> LoadedModel:
    """The same model under another identity; None changes nothing."""
    return replace(loaded, info=loaded.info.identified_as(identity)) if identity else loaded


def resolve(model_uri: str, tracking_uri: str | None) -> str:
    """Address of the version that an alias names now; any other address as it stands."""
    import mlflow

    name, separator, alias = model_uri.removeprefix("models:/").partition("@")
    if not model_uri.startswith("models:/") or not separator:
        return model_uri
    version = mlflow.MlflowClient(tracking_uri, tracking_uri).get_model_version_by_alias(name, alias)
    return f"models:/{name}/{version.version}"


def _registered_identity(model_uri: str) -> ModelIdentity | None:
    """What the registry says of a `models:/NAME/VERSION` or `models:/NAME@ALIAS` address; None for any other."""
    import mlflow

    name, separator, alias = model_uri.removeprefix("models:/").partition("@")
    name, _, number = name.partition("/")
    if not model_uri.startswith("models:/") or not (alias or number):
        return None
    client = mlflow.MlflowClient()
    version = client.get_model_version_by_alias(name, alias) if separator else client.get_model_version(name, number)
    tags = version.tags
    return ModelIdentity(
        name, str(version.version), alias or None, version.run_id, tags.get("model"), tags.get("weights_sha256")
    )
