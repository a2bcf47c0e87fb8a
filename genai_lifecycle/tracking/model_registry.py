"""Model versions and their aliases: `candidate`, `champion`, `previous`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from genai_lifecycle.errors import NotFound
from genai_lifecycle.tracking.seam import seam

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"


@dataclass(frozen=True)
class ModelVersion:
    """One registered version."""

    name: str
    version: str
    source: str  # where its files are, for example models:/m-0123
    tags: Mapping[str, str]


@seam
def register(name: str, model_id: str, run_id: str, tags: Mapping[str, str]) -> ModelVersion:
    """Make a new version of `name` from a logged model."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    try:
        client.create_registered_model(name)
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(name, f"models:/{model_id}", run_id, dict(tags), model_id=model_id)
    return ModelVersion(name, str(made.version), made.source, dict(tags))


@seam
def by_alias(name: str, alias: str) -> ModelVersion | None:
    """The version that has the alias, or None."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        found = mlflow.MlflowClient().get_model_version_by_alias(name, alias)
    except MlflowException as exc:
        # MLflow says INVALID_PARAMETER_VALUE for a missing alias, RESOURCE_DOES_NOT_EXIST for a missing model.
        if exc.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
            return None
        raise
    return ModelVersion(name, str(found.version), found.source, dict(found.tags))


def candidate(name: str) -> ModelVersion:
    """The version that waits for its test. Raises NotFound when nothing was deployed yet."""
    found = by_alias(name, CANDIDATE)
    if found is None:
        raise NotFound(f"There is no candidate version of {name!r}.", hint="Run --mode deploy first.")
    return found


@seam
def set_alias(name: str, alias: str, version: str) -> None:
    import mlflow

    mlflow.MlflowClient().set_registered_model_alias(name, alias, version)


@seam
def tag_version(name: str, version: str, tags: Mapping[str, str]) -> None:
    import mlflow

    for key, value in tags.items():
        mlflow.MlflowClient().set_model_version_tag(name, version, key, value)


def promote(candidate: ModelVersion) -> tuple[str, str | None]:
    """Make a version that passed its test the champion; returns (champion, previous).

    `previous` moves first: a process killed between the two leaves a champion that did pass, and the same
    command then does the rest. A version that is the champion already moves nothing.
    """
    champion = by_alias(candidate.name, CHAMPION)
    if champion is not None and champion.version != candidate.version:
        set_alias(candidate.name, PREVIOUS, champion.version)
    if champion is None or champion.version != candidate.version:
        set_alias(candidate.name, CHAMPION, candidate.version)
    previous = by_alias(candidate.name, PREVIOUS)
    return candidate.version, previous.version if previous else None
