"""MLflow's prompt registry: a prompt that has not changed gets no new version; `production` marks the winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from genai_lifecycle.results import PromptRef
from genai_lifecycle.tracking.seam import seam

PRODUCTION = "production"
# What a server without a prompt registry says: an older one has no such route, a restricted one no such feature.
_NO_REGISTRY = {"ENDPOINT_NOT_FOUND", "FEATURE_DISABLED", "NOT_IMPLEMENTED"}


@seam
def register_all(templates: Mapping[str, str], commit_message: str) -> list[PromptRef]:
    """The current version of every template, registered where it is new or has changed.

    On a tracking server that keeps no prompts, every version is None.
    """
    from mlflow.exceptions import MlflowException

    try:
        return [_ensure(name, template, commit_message) for name, template in templates.items()]
    except MlflowException as exc:
        if _has_no_registry(exc):
            return [PromptRef(name, None, template) for name, template in templates.items()]
        raise


def _has_no_registry(exc: Exception) -> bool:
    status = getattr(exc, "get_http_status_code", lambda: None)()
    return getattr(exc, "error_code", "") in _NO_REGISTRY or (status == 404 and "API request" in str(exc))


def _ensure(name: str, template: str, commit_message: str) -> PromptRef:
    import mlflow

    latest = mlflow.genai.load_prompt(f"prompts:/{name}@latest", allow_missing=True, cache_ttl_seconds=0)
    if latest is None or latest.template != template:
        latest = mlflow.genai.register_prompt(name=name, template=template, commit_message=commit_message)
    return PromptRef(name, int(latest.version), template)


@seam
def put_in_production(winner: PromptRef, others: Sequence[PromptRef]) -> None:
    """Give the winner's version the alias `production` and take it from the other prompts of the experiment.

    The winner gets it first, so that there is always a prompt in production.
    """
    import mlflow

    if winner.version is None:
        return
    mlflow.genai.set_prompt_alias(winner.name, PRODUCTION, winner.version)
    for prompt in others:
        if prompt.name != winner.name and _production_version(prompt.name) is not None:
            mlflow.genai.delete_prompt_alias(prompt.name, PRODUCTION)


@seam
def in_production(names: Sequence[str]) -> list[PromptRef]:
    """The versions that have the alias `production` among these prompts; empty where there is no registry."""
    from mlflow.exceptions import MlflowException

    try:
        found = [_production_version(name) for name in names]
    except MlflowException as exc:
        if _has_no_registry(exc):
            return []
        raise
    return [prompt for prompt in found if prompt is not None]


def _production_version(name: str) -> PromptRef | None:
    import mlflow

    # cache_ttl_seconds=0: another process may have moved the alias a moment ago.
    found = mlflow.genai.load_prompt(f"prompts:/{name}@{PRODUCTION}", allow_missing=True, cache_ttl_seconds=0)
    return PromptRef(name, int(found.version), found.template) if found else None
