"""A model that says nothing does not become champion, not even as the first one; one that answers badly may.

Whole lives in processes of their own, on torch: what is tested is the same on both engines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli_process import arguments_for, run_cli
from conftest import make_cases
from tiny_model import make_dialogpt, make_gpt2, make_taught_gpt2

from genai_lifecycle.prompts.templates import TEMPLATES

pytestmark = pytest.mark.slow


QUESTIONS = ("What is overfitting?", "What is MLflow?", "Who won the match?")  # of make_cases
PROMPTS = [text.replace("{{question}}", question) for text in TEMPLATES.values() for question in QUESTIONS]
NAME = "hostile-model"


@dataclass(frozen=True)
class Life:
    """One model on a store of its own."""

    base: Path
    model: Path

    def run(self, mode: str, *more: str):
        return run_cli(arguments_for(
            mode, "--model", str(self.model), "--registered-model-name", NAME, "--tracking-uri", self.uri,
            "--data-dir", str(self.base / "artifacts"), "--cases", str(make_cases(self.base / "cases.jsonl")),
            "--engine", "torch", "--max-new-tokens", "40", *more,
        ))  # fmt: skip

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.base / 'mlflow.db'}"

    def version(self, alias: str):
        from genai_lifecycle.store import model_registry

        self.connect()
        return model_registry.by_alias(NAME, alias)

    def connect(self):
        import mlflow

        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        return mlflow


@pytest.fixture(scope="module")
def silent(tmp_path_factory) -> Life:
    """Random weights, after `--mode all`."""
    base = tmp_path_factory.mktemp("silent")
    return Life(base, make_gpt2(base / "model"))


def test_random_weights_do_not_become_champion(silent):
    done = silent.run("all")
    assert done.returncode == 16, done.stderr
    assert "0 of 3 questions got an answer, the others nothing, one token over and over" in done.stderr
    assert all(way in done.stderr for way in ("--registered-model-name", "--override-gate", "gate.yaml"))
    assert "Traceback" not in done.stderr
    assert silent.version("champion") is None
    tags = silent.version("candidate").tags
    assert (tags["lifecycle.test"], tags["gate.decision"], tags["gate.forced"]) == ("passed", "refused", "false")


def test_whoever_wants_them_says_so_and_it_stays_on_record(silent):
    done = silent.run("test", "--override-gate")
    assert done.returncode == 0, done.stderr
    assert "Gate: refused (overridden): 0 of 3 questions got an answer" in done.stdout
    tags = silent.version("champion").tags
    assert (tags["gate.decision"], tags["gate.forced"]) == ("refused", "true")
    verdict = silent.connect().artifacts.load_dict(f"runs:/{tags['lifecycle.test_run']}/decision.json")
    assert (verdict["allowed"], verdict["passed"], verdict["forced"]) == (True, False, True)


def loops(folder: Path) -> Path:
    """Fills its length with a phrase over and over, as GPT-2 does where nobody tuned it."""
    return make_taught_gpt2(folder, dict.fromkeys(PROMPTS, " I don't know." * 12))


def ends(folder: Path) -> Path:
    """Answers every question alike, in a few words, and ends."""
    return make_taught_gpt2(folder, dict.fromkeys(PROMPTS, " No idea."))


def chats(folder: Path) -> Path:
    """A DialoGPT: its turns end with the end-of-text token."""
    settings = (make_dialogpt(folder / "settings") / "config.json").read_text("utf-8")
    made = make_taught_gpt2(folder / "model", {f"{prompt}<|endoftext|>": "I'm not sure." for prompt in PROMPTS})
    (made / "config.json").write_text(settings, "utf-8")
    return made


@pytest.mark.parametrize("make", [loops, ends, chats])
def test_a_model_that_answers_badly_is_usable(make: Callable[[Path], Path], tmp_path):
    life = Life(tmp_path, make(tmp_path / "made"))
    done = life.run("all")
    assert done.returncode == 0, done.stderr
    assert "3 of 3 questions got an answer: 1.00 is at least 0.5" in done.stdout
    assert "champion is version 1" in done.stdout
    assert ("dialogue turns" in done.stdout) == (make is chats)
