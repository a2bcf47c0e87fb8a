"""Rollback of the registered model: champion and previous change places."""

from __future__ import annotations

import dataclasses

import pytest

from genai_lifecycle.errors import NotFound
from genai_lifecycle.stages.rollback import roll_back
from genai_lifecycle.tracking import model_registry


def champion(name: str) -> tuple[str | None, str | None]:
    found = [model_registry.by_alias(name, alias) for alias in ("champion", "previous")]
    return tuple(version and version.version for version in found)


def test_the_former_champion_comes_back_and_again(store, make_config):
    import mlflow

    config = make_config()
    name = config.registered_model_name
    client = mlflow.MlflowClient()
    client.create_registered_model(name)
    for _ in range(2):
        client.create_model_version(name, "/nowhere/model")
    model_registry.set_alias(name, "champion", "1")
    with pytest.raises(NotFound, match="before the champion is recorded"):
        roll_back(config)
    model_registry.promote(model_registry.by_version(name, "2"))
    (result,) = roll_back(config)
    assert (result.alias, result.version, result.replaced) == ("champion", "1", "2")
    assert champion(name) == ("1", "2")
    roll_back(config)
    assert champion(name) == ("2", "1")


def test_a_prompt_or_model_that_is_not_there(store, make_config):
    with pytest.raises(NotFound, match="before the champion"):
        roll_back(make_config())
    with pytest.raises(NotFound, match="no prompt 'none'"):
        roll_back(dataclasses.replace(make_config(), prompt=("none",)))
