"""What a person reads of an experiment and of an evaluation."""

from __future__ import annotations

from dataclasses import replace

from genai_lifecycle.cli.text.evaluation import of_evaluation, of_experiment
from genai_lifecycle.evaluation.results import EvaluationResult, PromptResult
from genai_lifecycle.evaluation.statistics import Interval, Verdict
from genai_lifecycle.store.prompt_registry import PromptRef

HALF = Interval(0.5, 0.4, 0.6)
PROMPT = PromptRef("qa", 1, "{{question}}", "simple")
METRICS = {"ended_rate": 1.0, "tokens_per_second": 812.4}
ITEM = PromptResult(PROMPT.label, PROMPT, "3", "r2", "qa-eval", METRICS, {"token_f1": HALF, "repetition": HALF})
VERDICT = Verdict("win", "qa/1 simple", "qa/3 expert", "token_f1", Interval(0.11, 0.03, 0.19))
RESULT = EvaluationResult("r1", (ITEM,), VERDICT, 4, 4, 3, "none", None, ("the key x is left out",), 2.0, 1.0)


def test_an_experiment_names_every_template_and_what_follows():
    lines = of_experiment(replace(RESULT, in_production=PROMPT, reused=0)).splitlines()[1:]
    assert lines[0] == "Experiment  4 cases, 1 prompts, 4 answers, run r1"
    assert lines[1].split() == "qa/1 simple token_f1 0.500 [0.400, 0.600] ended 100% 812 tokens/s".split()
    assert lines[2].startswith("  win: qa/1 simple") and lines[-2] == "  qa/1 simple is in production"


def test_an_evaluation_names_the_runs_and_what_was_left_out():
    text = of_evaluation(RESULT)
    assert "4 cases, 1 prompts, 4 answers, run r1, 3 answers from before" in text
    assert "token_f1 0.500 [0.400, 0.600]" in text and "repetition" not in text
    assert "    experiment qa-eval, run r2\n" in text
    assert "Left out: the key x is left out" in text and text.endswith(
        "2 s answering and scoring, 1 s MLflow's own writing"
    )
