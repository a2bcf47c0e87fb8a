"""A life on a SQLite store of its own for each file of tests, with its first experiment and its first version."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_model import make_taught_gpt2

from genai_lifecycle.config import E2EConfig
from genai_lifecycle.evaluation.results import EvaluationResult
from genai_lifecycle.models.source import ModelSource, weights_sha256
from genai_lifecycle.prompts.templates import TEMPLATES
from genai_lifecycle.stages.deploy import DeploymentResult
from genai_lifecycle.store.maintenance import locations
from genai_lifecycle.store.tracking_store import Store, open_store

TAUGHT = "expert"  # the template after which the model knows the answers
RESULTS = "results.pickle"
CASES = {
    "What is overfitting?": "Overfitting is learning the data too closely.",
    "What is MLflow?": "MLflow is an open platform for machine learning.",
    "What is a <b>{{question}}</b>?": "A question with braces {x} 🙂.",
    "Who won the match?": "I do not know about that.",
    "What is a token?": "A token is a piece of a word.",
    "What is an epoch?": "An epoch is one pass over the data.",
    "What is a tensor?": "A tensor is an array of numbers.",
    "What is a gradient?": "A gradient says where the loss falls.",
    "What is a label?": "A label is the right answer to an example.",
}  # nine, since of seven no prompt could win against three others


@dataclass(frozen=True)
class Life:
    """Everything a stage is given."""

    config: E2EConfig
    source: ModelSource
    store: Store


def make_life(base: Path, model: Path) -> Life:
    """A new store below `base`, opened."""
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
def taught_model(made_once) -> Path:
    lessons = {TEMPLATES[TAUGHT].replace("{{question}}", question): f" {answer}" for question, answer in CASES.items()}
    return made_once("taught", lambda folder: make_taught_gpt2(folder, lessons))


@pytest.fixture(scope="session")
def first_life(taught_model, made_once) -> Path:
    """A life with its first experiment and its first version; every file of tests works on a copy."""
    return made_once("life", lambda base: _begin(make_life(base, taught_model)))


def _begin(life: Life) -> None:
    from genai_lifecycle.stages.deploy import DeploySettings, deploy_model
    from genai_lifecycle.stages.experiment import run_experiment

    experimented = run_experiment(life.config, life.source, life.store)
    winner = experimented.winner
    deployed = deploy_model(life.config, life.source, life.store, winner.prompt, winner.metrics, DeploySettings())
    results = Path(life.config.data_dir).with_name(RESULTS)
    results.write_bytes(pickle.dumps((life.config.data_dir, experimented, deployed)))


@pytest.fixture(scope="module")
def shared_life(taught_model, first_life, tmp_path_factory) -> Life:
    base = tmp_path_factory.mktemp("life") / "copy"
    shutil.copytree(first_life, base)
    old, new = _results(first_life)[0], str(base / "artifacts")
    with locations.opened(f"sqlite:///{base / 'db' / 'mlflow.db'}") as database:
        database.rewrite(locations.prefixes(old, new))
    return make_life(base, taught_model)


def _results(base: Path) -> tuple[str, EvaluationResult, DeploymentResult]:
    return pickle.loads((base / RESULTS).read_bytes())


@pytest.fixture(scope="module")
def experimented(first_life) -> EvaluationResult:
    """The life's first experiment."""
    return _results(first_life)[1]


@pytest.fixture(scope="module")
def deployed(first_life) -> DeploymentResult:
    """The life's first version."""
    return _results(first_life)[2]


@pytest.fixture
def life(shared_life) -> Life:
    """The file's life, with MLflow pointed at it (another test may have pointed it elsewhere)."""
    open_store(shared_life.config)
    return shared_life


@pytest.fixture
def new_life(taught_model, tmp_path) -> Callable[[], Life]:
    """Makes a life that no other test has touched."""
    return lambda: make_life(tmp_path / "life", taught_model)
