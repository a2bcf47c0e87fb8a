"""One life on a SQLite store of its own, shared by the tests of the stages: its experiment and its deployment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_model import make_taught_gpt2

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.model_source import ModelSource, weights_sha256
from genai_lifecycle.prompts.templates import TEMPLATES
from genai_lifecycle.results import DeploymentResult, ExperimentResult
from genai_lifecycle.tracking.store import Store, open_store

TAUGHT = "qa-expert"  # the prompt after which the model knows the answers
CASES = {
    "What is overfitting?": "Overfitting is learning the data too closely.",
    "What is MLflow?": "MLflow is an open platform for machine learning.",
    "What is a <b>{{question}}</b>?": "A question with braces {x} 🙂.",
    "Who won the match?": "I do not know about that.",
    "What is a token?": "A token is a piece of a word.",
}


@dataclass(frozen=True)
class Life:
    """Everything a stage is given."""

    config: E2EConfig
    source: ModelSource
    store: Store


def make_life(base: Path, model: Path) -> Life:
    """A new store below `base`, opened."""
    import json

    base.mkdir(parents=True, exist_ok=True)
    cases = base / "cases.jsonl"
    cases.write_text("".join(json.dumps({"question": q, "reference": a}) + "\n" for q, a in CASES.items()), "utf-8")
    uri = f"sqlite:///{base / 'db' / 'mlflow.db'}"
    config = E2EConfig(
        cases=cases, backend_store_uri=uri, tracking_uri=uri, data_dir=str(base / "artifacts"),
        staging_dir=base / "staging", log_dir=base / "logs", max_new_tokens=40,
    )  # fmt: skip
    source = ModelSource("taught", "folder", str(model), None, "plain", weights_sha256(model))
    return Life(config, source, open_store(config))


@pytest.fixture(scope="session")
def taught_model(tmp_path_factory) -> Path:
    lessons = {TEMPLATES[TAUGHT].replace("{{question}}", question): f" {answer}" for question, answer in CASES.items()}
    return make_taught_gpt2(tmp_path_factory.mktemp("taught") / "model", lessons)


@pytest.fixture(scope="session")
def shared_life(taught_model, tmp_path_factory) -> Life:
    return make_life(tmp_path_factory.mktemp("life"), taught_model)


@pytest.fixture(scope="session")
def experimented(shared_life) -> ExperimentResult:
    """The life's first experiment."""
    from genai_lifecycle.stages.experiment import run_experiment

    open_store(shared_life.config)
    return run_experiment(shared_life.config, shared_life.source, shared_life.store)


@pytest.fixture(scope="session")
def deployed(shared_life, experimented) -> DeploymentResult:
    """The life's first version."""
    from genai_lifecycle.stages.deploy import deploy_model

    open_store(shared_life.config)
    metrics = experimented.scores[0].metrics
    return deploy_model(shared_life.config, shared_life.source, shared_life.store, experimented.winner, metrics)


@pytest.fixture
def life(shared_life) -> Life:
    """The shared life, with MLflow pointed at it (another test may have pointed it elsewhere)."""
    open_store(shared_life.config)
    return shared_life


@pytest.fixture
def new_life(taught_model, tmp_path) -> Callable[[], Life]:
    """Makes a life that no other test has touched."""
    return lambda: make_life(tmp_path / "life", taught_model)
