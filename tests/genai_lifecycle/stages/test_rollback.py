"""Rollback of the registered model: champion and previous change places."""

from __future__ import annotations

import json
import time

import pytest

from genai_lifecycle.errors import Busy, NotFound, TrackingUnavailable
from genai_lifecycle.stages.rollback import RollbackSettings, roll_back
from genai_lifecycle.store import model_registry
from genai_server.registry import alias_moves


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
        roll_back(config, RollbackSettings())
    model_registry.promote(model_registry.by_version(name, "2"))
    (result,) = roll_back(config, RollbackSettings())
    assert (result.alias, result.version, result.replaced) == ("champion", "1", "2")
    assert champion(name) == ("1", "2")
    roll_back(config, RollbackSettings())
    assert champion(name) == ("2", "1")


@pytest.fixture
def three(store, make_config) -> str:
    """A registered model with three versions, the second of them champion."""
    import mlflow

    name = make_config().registered_model_name
    mlflow.MlflowClient().create_registered_model(name)
    for _ in range(3):
        mlflow.MlflowClient().create_model_version(name, "/nowhere/model")
    for number in ("1", "2"):
        model_registry.promote(model_registry.by_version(name, number))
    return name


def test_what_became_of_a_version_stands_beside_it(three):
    assert champion(three) == ("2", "1")
    tags = model_registry.by_version(three, "2").tags
    assert (tags["champion.how"], tags["champion.former"]) == ("test", "1") and tags["champion.since"].endswith("Z")
    model_registry.swap_champion(three)
    tags = model_registry.by_version(three, "1").tags
    assert (tags["champion.how"], tags["champion.former"]) == ("rollback", "2")


@pytest.mark.parametrize("call", ["set_alias", "tag_version"])
def test_an_error_in_the_middle_is_made_good_by_the_same_command(three, make_config, monkeypatch, call):
    original = getattr(model_registry, call)

    def failing(name, what, value):
        if (call, what) in (("set_alias", "previous"), ("tag_version", "1")):
            raise TrackingUnavailable("The MLflow server stopped answering.")
        original(name, what, value)

    monkeypatch.setattr(model_registry, call, failing)
    with pytest.raises(TrackingUnavailable):
        roll_back(make_config(), RollbackSettings())
    assert champion(three) == {"set_alias": ("1", "1"), "tag_version": ("2", "1")}[call]
    monkeypatch.undo()
    (result,) = roll_back(make_config(), RollbackSettings())
    assert (result.version, result.replaced) == ("1", "2") and champion(three) == ("1", "2")


def test_a_former_version_that_was_deleted_is_no_way_back(three, make_config):
    import mlflow

    mlflow.MlflowClient().delete_model_version(three, "1")
    with pytest.raises(NotFound, match="before the champion"):
        roll_back(make_config(), RollbackSettings())
    mlflow.MlflowClient().delete_model_version(three, "2")
    model_registry.promote(model_registry.by_version(three, "3"))
    assert champion(three) == ("3", None)


def test_the_former_one_that_is_promoted_when_the_champion_was_deleted_is_not_its_own_former(three):
    import mlflow

    mlflow.MlflowClient().delete_model_version(three, "2")
    assert champion(three) == (None, "1")
    model_registry.promote(model_registry.by_version(three, "1"))
    assert champion(three) == ("1", None)


def test_while_another_program_moves_the_aliases_nothing_is_moved(three, make_config, monkeypatch):
    import mlflow

    monkeypatch.setattr(alias_moves, "PATIENCE_S", 0.1)
    claim = {"host": "elsewhere", "pid": 1, "started": "", "until_ms": int(time.time() * 1000) + 60_000, "note": {}}
    mlflow.MlflowClient().set_registered_model_tag(three, "lifecycle.lease.theirs", json.dumps(claim))
    with pytest.raises(Busy, match="Another command moves these aliases") as refused:
        roll_back(make_config(), RollbackSettings())
    assert "run the same command again" in refused.value.hint and champion(three) == ("2", "1")


def test_a_prompt_or_model_that_is_not_there(store, make_config):
    with pytest.raises(NotFound, match="before the champion"):
        roll_back(make_config(), RollbackSettings())
    with pytest.raises(NotFound, match="no prompt 'none'"):
        roll_back(make_config(), RollbackSettings(prompt=("none",)))
